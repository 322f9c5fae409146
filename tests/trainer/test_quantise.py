"""Eight-bit weights: smaller, of no account to forecasts, and never kept unnoticed where they are."""

import numpy as np
import pytest

from forecasting.bundle import read_bundle, write_bundle
from forecasting.forecaster import Forecaster
from forecasting.windows import WindowShape
from trainer import distil
from trainer.distil import StudentRun, student_data, train_student
from trainer.export import export_onnx
from trainer.quantise import quantise
from trainer.settings import ModelSettings, TrainingSettings
from trainer.teacher import build_model

SHAPE = WindowShape()
SETTINGS = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=16, d_ff=16, quantise="int8")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> tuple[Forecaster, Forecaster]:
    """A student before and after."""
    folder = tmp_path_factory.mktemp("bundle")
    built = build_model("small-population", SETTINGS, SHAPE, 3)
    export_onnx(built.model, built.spec, folder / "model.onnx")
    before = Forecaster.open(write_bundle(folder, built.spec, {}, {}))
    size = (folder / "model.onnx").stat().st_size
    quantise(folder / "model.onnx")
    assert (folder / "model.onnx").stat().st_size < 0.6 * size
    return before, Forecaster.open(write_bundle(folder, built.spec, {}, {}))


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return np.clip(150 + rng.normal(0, 5, (count, 36)).cumsum(axis=1), 40, 400), rng.uniform(0, 1440, count)


def test_forecasts_move_little_and_do_move(quantised):
    before, after = (forecaster.predict(*windows(64)).outputs for forecaster in quantised)
    assert 0 < np.abs(after - before).max() < 1.0


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_a_forecast_does_not_depend_on_its_batch_mates(quantised, size):
    context, minute = windows(32)
    wild = context.copy()
    wild[size:] = np.random.default_rng(1).uniform(40, 400, wild[size:].shape)  # a batch-wide scale would follow these
    together = quantised[1].predict(wild, minute).outputs[:size]
    assert np.abs(quantised[1].predict(context[:size], minute[:size]).outputs - together).max() < 1e-4


@pytest.mark.parametrize(("limit", "kept"), [(1e9, True), (0.0, False)])
def test_it_is_kept_where_validation_moves_less_than_the_limit(limit, kept, cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "MOST_MOVED_MG_DL", limit)
    data = student_data(cohort, None, SHAPE, 64)
    training = TrainingSettings(epochs=1)
    folders = {}
    for kind in ("none", "int8"):
        student = SETTINGS.model_copy(update={"quantise": kind})
        run = StudentRun("small", None, SHAPE, student, training, 0.0, "", "")
        folders[kind] = tmp_path / kind
        list(train_student(run, data, None, folders[kind]))
    plain, small = (read_bundle(folders[kind]) for kind in ("none", "int8"))
    told = small.metrics["int8"]
    assert told["kept"] is kept
    assert 0 < told["rmse_moved_mg_dl"] < 1.0
    assert "int8" not in plain.metrics
    assert (small.read("model.onnx") == plain.read("model.onnx")) is not kept
    moved = max(
        abs(scores["rmse"] - plain.metrics["validation"][horizon]["rmse"])
        for horizon, scores in small.metrics["validation"].items()
    )
    assert moved == pytest.approx(told["rmse_moved_mg_dl"] if kept else 0.0)
