"""The plain network learns by the students' loop, and forecasts through the one Forecaster."""

import numpy as np

from forecasting.cgm import GlucoseSeries
from forecasting.metrics import rmse
from forecasting.windows import WindowShape, cut_windows
from trainer.plain import fit_plain
from trainer.progress import unheard
from trainer.settings import ModelSettings, TrainingSettings
from trainer.time_llm import spec_of

SHAPE = WindowShape(context_length=12, prediction_length=4, history_length=12)


def test_it_learns_a_wave_and_is_the_same_for_a_seed():
    steps = np.arange(4000)
    glucose = (150 + 50 * np.sin(steps / 12)).astype(np.float32)
    series = GlucoseSeries("a", np.datetime64("2025-03-01T00:00:00"), 5, glucose)
    parts = [cut_windows(series, SHAPE, part) for part in ("train", "validation", "test")]
    settings = TrainingSettings(epochs=6, batch_size=64, learning_rate=3e-3, seed=3)
    spec = spec_of("plain", ModelSettings(), SHAPE)
    first, again = (fit_plain(spec, *parts[:2], settings, unheard).predict_windows(parts[2]) for _ in range(2))
    assert (first.outputs == again.outputs).all()
    last = parts[2].context[:, -1:]
    assert rmse(parts[2].target, first.mean) < 0.3 * rmse(parts[2].target, np.repeat(last, 4, axis=1))
