"""The model: shapes, quantiles, masks, folding, what is frozen and what is saved."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from paper_reference import reprogram

from forecasting.errors import InvalidSetting
from forecasting.windows import WindowShape
from trainer.layers import Reprogramming, to_patches
from trainer.settings import TEACHER_DEFAULTS, ModelSettings
from trainer.teacher import BuiltModel, build_model
from trainer.time_llm import Folded

SHAPE = WindowShape()


def built(seed: int = 1, **differences) -> BuiltModel:
    settings = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=16, d_ff=16, **differences)
    return build_model("small-population", settings, SHAPE, seed)


def teacher_like() -> BuiltModel:
    kinds = {k: v for k, v in TEACHER_DEFAULTS.items() if k in ("prompt", "freeze")}
    return built(prototypes="vocabulary", **kinds)


def contexts(count: int, seed: int = 0) -> np.ndarray:
    walk = np.random.default_rng(seed).normal(0, 4, (count, SHAPE.context_length)).cumsum(axis=1)
    return np.clip(140 + walk, 40, 400)


@pytest.mark.parametrize(("context", "patch_len", "stride"), [(36, 6, 3), (96, 16, 8), (6, 6, 8), (37, 5, 4)])
def test_the_number_of_patches_is_the_papers(context, patch_len, stride):
    patches = to_patches(torch.randn(2, context, 3), patch_len, stride)
    assert patches.shape == (2, (context - patch_len) // stride + 2, 3 * patch_len)


def test_patches_hold_the_window_and_the_last_one_repeats_its_end():
    x = torch.arange(12.0).reshape(1, 12, 1)
    assert to_patches(x, 6, 3)[0].tolist() == [
        [0, 1, 2, 3, 4, 5],
        [3, 4, 5, 6, 7, 8],
        [6, 7, 8, 9, 10, 11],
        [9, 10, 11, 11, 11, 11],
    ]


def test_quantiles_never_cross():
    forecasts = built().forecaster().predict(contexts(64), np.full(64, 600.0))
    assert (np.diff(forecasts.quantiles, axis=-1) >= 0).all()


@pytest.mark.parametrize("make", [built, teacher_like], ids=["student", "teacher with prompt"])
def test_a_forecast_does_not_depend_on_its_batch_mates(make):
    forecaster = make().forecaster()
    together = forecaster.predict(contexts(32), np.full(32, 600.0))
    for row in (0, 7, 31):
        alone = forecaster.predict(contexts(32)[row : row + 1], np.array([600.0]))
        assert np.abs(alone.mean - together.mean[row]).max() < 1e-4
        assert np.abs(alone.quantiles - together.quantiles[row]).max() < 1e-4


def test_the_prompt_is_read():
    model = teacher_like()
    x, ids = torch.zeros(1, 36, 5), torch.full((1, model.spec.prompt.length), 5)
    other = torch.full_like(ids, 9)
    with torch.inference_mode():
        assert (model.model.eval()(x, ids) - model.model(x, other)).abs().max() > 1e-4


def test_what_stands_behind_the_prompts_padding_is_not_read():
    model = teacher_like()
    x, ids = torch.zeros(1, 36, 5), torch.full((1, model.spec.prompt.length), 5)
    ids[0, 4:] = model.spec.prompt.pad_id
    folded = Folded(model.model)  # the prototypes, which do depend on every word, stay as they are
    with torch.inference_mode():
        before = folded(x, ids)
        model.model.backbone.get_input_embeddings().weight[model.spec.prompt.pad_id] += 1.0
        assert torch.equal(folded(x, ids), before)


@pytest.mark.parametrize("make", [built, teacher_like], ids=["direct", "vocabulary"])
def test_folding_is_exact(make):
    model = make().model.eval()
    x = torch.randn(4, 36, 5)
    ids = torch.full((4, model.prompt.length), 5) if model.prompt.kind != "none" else None
    with torch.inference_mode():
        assert torch.equal(Folded(model)(x, ids), model(x, ids))


@pytest.mark.parametrize("num_prototypes", [4, 400], ids=["values folded into the output", "values apart"])
def test_reprogramming_is_attention_to_the_prototypes(num_prototypes):
    torch.manual_seed(0)
    layer = Reprogramming(d_model=6, num_heads=3, key_dim=8, embed_dim=20, dropout=0.0)
    patches, prototypes = torch.randn(2, 5, 6), 3 * torch.randn(num_prototypes, 20)
    folded = layer.fold(prototypes)
    assert (folded.values is None) == (num_prototypes == 4)
    weights = {f"reprogramming.{name}": tensor for name, tensor in layer.state_dict().items()}
    for row in range(2):
        expected = reprogram(patches[row], prototypes, weights, 3)
        assert (layer(patches, folded)[row] - expected).abs().max() < 1e-5


def test_a_teacher_trains_everything_but_its_backbone():
    names = set(teacher_like().model.trained_tensors())
    assert names
    assert not [n for n in names if n.startswith("backbone")]


def test_norms_can_be_trained_alone():
    names = [n for n in built(freeze="norms").model.trained_tensors() if n.startswith("backbone")]
    assert names
    assert all("norm" in n.lower() for n in names)


def test_the_backbone_stays_in_eval_while_training():
    model = built().model
    model.train()
    assert model.training
    assert not model.backbone.training


def test_one_seed_builds_one_model_and_another_seed_another():
    a, b, c = (built(seed=s).model.trained_tensors() for s in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert any(not torch.equal(a[n], c[n]) for n in a)


@pytest.mark.parametrize("fault", ["missing", "renamed", "another shape"])
def test_a_checkpoint_that_does_not_fit_is_refused(fault):
    model = built().model
    tensors = model.trained_tensors()
    last = tensors.pop("head.project.bias")
    if fault == "renamed":
        tensors["head.bias"] = last
    if fault == "another shape":
        tensors["head.project.bias"] = last[:-1]
    with pytest.raises(InvalidSetting, match="head"):
        model.load_trained(tensors)


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        ({"patch_len": 40}, "the context has 36 steps, a patch 40"),
        ({"num_layers": 3}, "num_layers is 3, BERT-tiny has 2"),
    ],
)
def test_impossible_shapes_are_refused_in_a_sentence(differences, sentence):
    with pytest.raises(InvalidSetting, match=sentence):
        built(**differences)


def test_a_head_wider_than_the_backbone_is_refused():
    settings = ModelSettings(backbone="bert-tiny", weights="random", d_ff=256)
    with pytest.raises(InvalidSetting, match="d_ff is 256, bert-tiny gives 128"):
        build_model("small-population", settings, SHAPE, 1)
