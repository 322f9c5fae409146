"""All fourteen backbones at their true size with random weights: one step, export where a student, one forecast."""

import resource

import numpy as np
import pytest
import torch

from forecasting.bundle import write_bundle
from forecasting.forecaster import Forecaster
from forecasting.windows import WindowShape
from trainer.catalogue import BACKBONES
from trainer.export import export_onnx
from trainer.fit import Examples, forecast_loss
from trainer.settings import TEACHER_DEFAULTS, ModelSettings
from trainer.teacher import build_model

pytestmark = pytest.mark.slow
SHAPE = WindowShape()
# published parameter counts, reference table of the backbones (BERT family with its pooler)
PARAMETERS = {
    "llama": 6_607_343_616,
    "gpt2": 124_439_808,
    "opt-125m": 125_239_296,
    "bert": 109_482_240,
    "bert-large": 335_141_888,
    "distilbert": 66_362_880,
    "tinybert": 14_350_248,
    "bert-tiny": 4_385_920,
    "bert-mini": 11_170_560,
    "bert-small": 28_763_648,
    "bert-medium": 41_373_184,
    "minilm": 22_713_216,
    "mobilebert": 24_844_544,
    "albert": 11_683_584,
}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_catalogue_knows_the_true_size(name):
    from transformers import AutoModel

    from trainer.backbones import true_config

    row = BACKBONES[name]
    with torch.device("meta"):
        model = AutoModel.from_config(true_config(row))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model.config.num_hidden_layers == row.num_layers
    assert model.config.hidden_size == row.hidden_dim
    assert model.get_input_embeddings().weight.shape[1] == row.embed_dim


@pytest.mark.parametrize("name", BACKBONES)
def test_it_trains_a_step_and_forecasts_at_true_size(name, tmp_path):
    large = name == "llama"
    settings = ModelSettings(
        **{**TEACHER_DEFAULTS, "backbone": name, "num_prototypes": 50, "d_ff": 32},
        weights="random",
        num_layers=4 if large else None,
        dtype="bfloat16" if large else "float32",
    )
    built = build_model("small-population", settings, SHAPE, 1)
    x, ids = torch.randn(2, 36, 5), torch.randint(4, 20, (2, built.spec.prompt.length))
    trained = [p for p in built.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3)
    before = [p.detach().clone() for p in trained[-2:]]
    examples = Examples(x, ids, torch.randn(2, 12))
    forecast_loss(built.model(x, ids), examples, torch.tensor(built.spec.quantiles), 0.0).backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, trained[-2:], strict=True))
    forecasts = built.forecaster().predict(np.full((1, 36), 120.0) + np.arange(36), np.array([600.0]))
    assert np.isfinite(forecasts.mean).all()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 20 * 2**20  # KiB: 20 GiB


@pytest.mark.parametrize("name", [n for n, row in BACKBONES.items() if "student" in row.roles])
def test_a_student_of_true_size_exports_and_is_served(name, tmp_path):
    settings = ModelSettings(backbone=name, weights="random", d_ff=32)
    built = build_model("small-population", settings, SHAPE, 1)
    assert export_onnx(built.model, built.spec, tmp_path / "model.onnx") <= 1e-3
    served = Forecaster.open(write_bundle(tmp_path, built.spec, {}, {}))
    rng = np.random.default_rng(1)
    context, minute = np.clip(150 + rng.normal(0, 5, (32, 36)).cumsum(axis=1), 40, 400), np.full(32, 600.0)
    together = served.predict(context, minute)
    for row in (0, 31):
        alone = served.predict(context[row : row + 1], minute[row : row + 1])
        assert np.abs(alone.mean - together.mean[row]).max() < 1e-4
        assert np.abs(alone.quantiles - together.quantiles[row]).max() < 1e-4
