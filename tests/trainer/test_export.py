"""The exported file forecasts what the model does."""

from pathlib import Path

import numpy as np
import pytest

from forecasting.bundle import write_bundle
from forecasting.forecaster import Forecaster
from forecasting.windows import WindowShape
from trainer.export import export_onnx
from trainer.settings import ModelSettings
from trainer.teacher import build_model, save_weights


@pytest.fixture(scope="module", params=["none", "statistics"])
def exported(request, tmp_path_factory):
    settings = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=16, d_ff=16, prompt=request.param)
    built = build_model("small-population", settings, WindowShape(), 3)
    folder = tmp_path_factory.mktemp("bundle")
    difference = export_onnx(built.model, built.spec, folder / "model.onnx")
    save_weights(built, folder)
    return built, difference, write_bundle(folder, built.spec, {}, {})


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    context = np.clip(150 + rng.normal(0, 5, (count, 36)).cumsum(axis=1), 40, 400)
    return context, np.where(rng.random(count) < 0.5, np.nan, rng.uniform(0, 1440, count))


def test_the_file_and_the_model_agree(exported):
    built, difference, bundle = exported
    assert difference <= 1e-3
    served, trained = Forecaster.open(bundle).predict(*windows(37)), built.forecaster().predict(*windows(37))
    assert np.abs(served.mean - trained.mean).max() <= 1e-3
    assert np.abs(served.quantiles - trained.quantiles).max() <= 1e-3


def test_the_file_says_nothing_of_the_machine_it_was_made_on(exported):
    content = (exported[2].folder / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content


@pytest.mark.parametrize("size", [1, 2, 3, 5, 32])
def test_an_exported_forecast_does_not_depend_on_its_batch_mates(exported, size):
    forecaster = Forecaster.open(exported[2])
    context, minute = windows(32)
    together = forecaster.predict(context, minute)
    apart = forecaster.predict(context[:size], minute[:size])
    assert np.abs(apart.mean - together.mean[:size]).max() < 1e-4
    assert np.abs(apart.quantiles - together.quantiles[:size]).max() < 1e-4


def test_the_vocabulary_stays_out_of_a_file_that_reads_no_prompt(exported):
    built, _, bundle = exported
    size = (bundle.folder / "model.onnx").stat().st_size
    vocabulary = built.backbone.word_embeddings.numel() * 4
    assert (size > vocabulary) == (built.spec.prompt.kind != "none")
