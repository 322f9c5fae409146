"""What an arm costs: what training changes of it, its file, and how fast it forecasts here."""

import time
from collections.abc import Callable
from statistics import median

from safetensors.numpy import load

from forecasting.baselines import Predictor
from forecasting.bundle import Bundle
from forecasting.windows import Windows
from trainer.report import Cost

BATCH = 256  # windows at once, fewer of a model that takes longer than BATCH_SECONDS for them
BATCH_SECONDS = 1.0
REPEATS, REPEAT_SECONDS = 50, 0.3  # of a measurement at most


def cost_of(predictor: Predictor, windows: Windows, bundle: Bundle | None = None) -> Cost:
    """Measured through the face that is scored and served, after a first forecast that is not counted.

    windows: some to forecast; bundle: of a model, whose files are counted
    """
    one = windows[:1]
    single = _median_seconds(lambda: predictor.predict_windows(one))
    many = windows[: max(1, min(BATCH, int(BATCH_SECONDS / single)))]
    batch = _median_seconds(lambda: predictor.predict_windows(many))
    parameters = trained_parameters(bundle) if bundle and bundle.has("weights.safetensors") else None
    size = len(bundle.read("model.onnx")) / 1e6 if bundle and bundle.has("model.onnx") else None
    return Cost(parameters, size, 1000 * single, len(many) / batch)


def trained_parameters(bundle: Bundle) -> int:
    """How many numbers training changed: those in weights.safetensors."""
    return sum(tensor.size for tensor in load(bundle.read("weights.safetensors")).values())


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    taken: list[float] = []
    while len(taken) < REPEATS and (sum(taken) < REPEAT_SECONDS or not taken):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)
