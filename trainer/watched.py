"""Forecasts of many windows, a chunk at a time, so that a person can see how far they are."""

import numpy as np

from forecasting.baselines import Predictor
from forecasting.forecaster import Forecasts
from forecasting.windows import Windows
from trainer.progress import Progress, Watch

CHUNK = 2048  # windows between two lines of progress


def predict_watched(predictor: Predictor, windows: Windows, name: str, watch: Watch) -> Forecasts:
    """Forecast all windows; name: what is watched."""
    parts = []
    for start in range(0, len(windows), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(predictor.predict_windows(windows[rows]))
        watch(name, Progress(min(start + CHUNK, len(windows)), len(windows)))
    return Forecasts(np.concatenate([f.outputs for f in parts]), parts[0].levels)
