"""All fourteen backbones, each through the real loading code: build, step, save, load strictly, forecast, export."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from families import NAMES, tiny, write_tiny

from forecasting.bundle import write_bundle
from forecasting.errors import InvalidSetting
from forecasting.forecaster import Forecaster
from forecasting.windows import WindowShape
from trainer.catalogue import BACKBONES
from trainer.export import export_onnx
from trainer.fit import Examples, forecast_loss
from trainer.settings import ModelSettings
from trainer.teacher import BuiltModel, build_model, save_weights

SHAPE = WindowShape(context_length=12, prediction_length=6)
CAUSAL = ("llama", "gpt2", "opt-125m")


@pytest.fixture(autouse=True)
def small_catalogue(monkeypatch):
    for name in NAMES:
        row = tiny(name)
        monkeypatch.setitem(BACKBONES, name, row)
        for key in (name, *row.aliases):
            monkeypatch.setitem(sys.modules["trainer.catalogue"]._BY_NAME, key.lower(), row)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def folder(name, tmp_path):
    return write_tiny(name, tmp_path / name)


def built(name: str, folder: Path, **more) -> BuiltModel:
    kinds = {"num_prototypes": 8, "d_ff": 8, "num_heads": 2, "patch_len": 4, "stride": 4, **more}
    return build_model("small-population", ModelSettings(backbone=name, weights=str(folder), **kinds), SHAPE, 1)


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return np.clip(150 + rng.normal(0, 6, (count, 12)).cumsum(axis=1), 40, 400), np.full(count, 480.0)


TEACHER_KIND = {"prompt": "statistics", "prototypes": "vocabulary", "freeze": "backbone"}


def test_it_trains_a_step_saves_and_loads_strictly(name, folder, tmp_path):
    model = built(name, folder, **TEACHER_KIND)
    context, minute = windows(8)
    before = model.forecaster().predict(context, minute)
    x = torch.randn(8, 12, 5)
    ids = torch.randint(4, 20, (8, model.spec.prompt.length))
    optimiser = torch.optim.SGD([p for p in model.model.parameters() if p.requires_grad], lr=0.1)
    loss = forecast_loss(
        model.model(x, ids), Examples(x, ids, torch.randn(8, 6)), torch.tensor(model.spec.quantiles), 0.0
    )
    loss.backward()
    optimiser.step()
    after = model.forecaster().predict(context, minute)
    assert np.isfinite(after.mean).all()
    assert np.abs(after.mean - before.mean).max() > 1e-3
    save_weights(model, tmp_path)
    again = built(name, folder, **TEACHER_KIND)
    from safetensors.torch import load_file

    again.model.load_trained(load_file(tmp_path / "weights.safetensors"))
    assert np.array_equal(again.forecaster().predict(context, minute).mean, after.mean)


@pytest.mark.parametrize("prompt", ["none", "statistics"])
def test_its_forecast_does_not_depend_on_its_batch_mates(name, folder, prompt):
    forecaster = built(name, folder, prompt=prompt).forecaster()
    context, minute = windows(32)
    together = forecaster.predict(context, minute)
    for row in (0, 31):
        alone = forecaster.predict(context[row : row + 1], minute[row : row + 1])
        assert np.abs(alone.mean - together.mean[row]).max() < 1e-4


def test_the_last_patch_can_see_the_first_and_causal_models_never_the_other_way(name, folder):
    model = built(name, folder).model.eval()
    embedded = torch.randn(1, model.num_patches, model.backbone.get_input_embeddings().weight.shape[1])
    changed_last, changed_first = embedded.clone(), embedded.clone()
    changed_last[:, -1] = torch.randn_like(embedded[:, -1])  # a constant would vanish in the layer norm
    changed_first[:, 0] = torch.randn_like(embedded[:, 0])
    with torch.inference_mode():
        plain, last, first = (
            model.backbone(inputs_embeds=e).last_hidden_state for e in (embedded, changed_last, changed_first)
        )
    assert (first[:, -1] - plain[:, -1]).abs().max() > 1e-6
    reaches_back = (last[:, 0] - plain[:, 0]).abs().max() > 1e-6
    assert bool(reaches_back) == (name not in CAUSAL)


def test_every_part_of_the_context_reaches_the_forecast(name, folder):
    model = built(name, folder, prompt="statistics", prototypes="vocabulary").model
    x = torch.randn(1, 12, 5, requires_grad=True)
    ids = torch.full((1, model.prompt.length), 5)
    model.eval()(x, ids).sum().backward()
    assert (x.grad.abs().sum(dim=(0, 2)) > 0).all()


def one_step(model: BuiltModel) -> tuple[torch.Tensor, torch.Tensor, int]:
    """A training step on prompts of unequal length: outputs, all gradients, and how many numbers it kept for them."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(5, 12, 5, generator=generator)
    ids = torch.randint(1, 20, (5, model.model.prompt.length), generator=generator)
    for row, length in enumerate((3, 5, 9, 7, 11)):
        ids[row, length:] = model.model.prompt.pad_id
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    model.model.train()
    model.model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model.model(x, ids)
    (outputs**2).sum().backward()
    gradients = [p.grad.flatten() for p in model.model.parameters() if p.grad is not None]
    return outputs.detach(), torch.cat(gradients), sum(kept)


def test_a_frozen_causal_prompt_is_read_without_gradients_and_changes_none(name, folder):
    model = built(name, folder, **TEACHER_KIND)
    assert model.model.prompt_is_constant == (name in CAUSAL)
    apart, gradients_apart, kept_apart = one_step(model)
    model.model.prompt_is_constant = False
    together, gradients, kept = one_step(model)
    assert (apart - together).abs().max() < 1e-5
    assert (gradients_apart - gradients).abs().max() < 1e-5 * gradients.abs().max()
    assert (kept_apart < 0.8 * kept) == (name in CAUSAL)


def test_columns_of_padding_are_cut_off_where_that_changes_nothing(name, folder):
    model = built(name, folder, **TEACHER_KIND).model.eval()
    x, ids = torch.randn(3, 12, 5), torch.full((3, model.prompt.length), 5)
    for row, length in enumerate((4, 7, 2)):
        ids[row, length:] = model.prompt.pad_id
    cut = model.trim(ids)
    if name == "mobilebert":  # its tokens see their neighbours, padding or not
        assert cut is ids
        return
    assert cut.shape == (3, 7)
    with torch.inference_mode():
        assert (model(x, ids) - model(x, cut)).abs().max() < 1e-5
        shifted = torch.cat([ids[:, :7], torch.full((3, 3), 6)], dim=1)
        assert (model(x, ids) - model(x, shifted)).abs().max() > 1e-5  # words, unlike padding, are read


@pytest.mark.parametrize("freeze", ["norms", "nothing"])
def test_a_prompt_whose_reader_is_trained_has_its_gradients(name, folder, freeze):
    assert not built(name, folder, prompt="statistics", freeze=freeze).model.prompt_is_constant


def test_gradient_checkpointing_changes_no_gradient_and_keeps_less(name, folder):
    model = built(name, folder, **TEACHER_KIND)
    plain, gradients, kept = one_step(model)
    if name == "albert":
        with pytest.raises(InvalidSetting, match="gradient_checkpointing is not to be had with AlbertModel"):
            model.model.recompute_layers()
        return
    model.model.recompute_layers()
    again, gradients_again, kept_again = one_step(model)
    assert (plain - again).abs().max() < 1e-5
    assert (gradients - gradients_again).abs().max() < 1e-5 * gradients.abs().max()
    assert kept_again < 0.8 * kept


STUDENTS = [name for name in NAMES if "student" in BACKBONES[name].roles]


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_exports_to_a_file_that_forecasts_the_same(name, folder, tmp_path):
    model = built(name, folder)
    (tmp_path / "bundle").mkdir()
    assert export_onnx(model.model, model.spec, tmp_path / "bundle" / "model.onnx") <= 1e-3
    served = Forecaster.open(write_bundle(tmp_path / "bundle", model.spec, {}, {}))
    context, minute = windows(33)
    together = served.predict(context, minute)
    assert np.abs(together.mean - model.forecaster().predict(context, minute).mean).max() <= 1e-3
    alone = served.predict(context[:1], minute[:1])
    assert np.abs(alone.mean - together.mean[:1]).max() < 1e-4
