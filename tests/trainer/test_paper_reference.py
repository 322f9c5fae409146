"""In revin mode with the paper's prompt, the model forecasts what the paper's forward pass does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from families import tiny, write_tiny
from paper_reference import paper_forecast

from benchmarks.paper_form import PaperForm, instance_norm
from forecasting.encoding import Normalisation
from forecasting.prompts import write_prompts
from forecasting.windows import WindowShape
from trainer.backbones import load_backbone
from trainer.catalogue import BACKBONES
from trainer.settings import ModelSettings
from trainer.teacher import build_model


@pytest.mark.parametrize(
    "shape", [WindowShape(), WindowShape(context_length=6, prediction_length=9)], ids=["36/12", "6/9"]
)
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_model_is_the_papers(name, shape, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKBONES, name, tiny(name))
    monkeypatch.setitem(sys.modules["trainer.catalogue"]._BY_NAME, name, tiny(name))
    sizes = {"patch_len": 6, "stride": 8 if shape.context_length == 6 else 3, "num_heads": 4, "d_ff": 8}
    settings = ModelSettings(
        backbone=name,
        weights=str(write_tiny(name, tmp_path / name)),
        bypass=False,
        prompt="paper",
        prototypes="vocabulary",
        num_prototypes=10,
        freeze="backbone",
        normalisation=Normalisation(kind="revin"),
        quantiles=(),
        **sizes,
    )
    built = build_model("small-population", settings, shape, 7)
    with torch.no_grad():  # prototypes that differ, so that attention to them matters
        built.model.prototypes.mix.weight.mul_(40)
    rng = np.random.default_rng(2)
    for _ in range(5):
        window = np.clip(150 + rng.normal(0, 9, shape.context_length).cumsum(), 40, 400)
        (prompt,) = write_prompts(window[None], shape.prediction_length, "paper")
        ids = built.tokenizer.encode(prompt).ids
        assert len(ids) < built.spec.prompt.length  # ours is padded, the paper's is not
        ours = built.forecaster().predict(window[None], np.array([np.nan]))
        with torch.inference_mode():
            papers = paper_forecast(
                window,
                ids,
                dict(built.model.state_dict()),
                built.model.backbone,
                prediction_length=shape.prediction_length,
                **sizes,
            )
        assert np.abs(papers - window.mean()).max() > 0.5  # it says something
        assert np.abs(ours.mean[0] - papers).max() < 1e-4


def test_the_reference_sees_a_change_in_every_part(tmp_path):
    """The reference must be able to disagree: each weight moves its forecast."""
    settings = ModelSettings(
        backbone="bert-tiny",
        weights="random",
        bypass=False,
        prompt="paper",
        prototypes="vocabulary",
        num_prototypes=10,
        normalisation=Normalisation(kind="revin"),
        quantiles=(),
        d_ff=8,
    )
    built = build_model("small-population", settings, WindowShape(), 7)
    window = np.clip(150 + np.random.default_rng(3).normal(0, 9, 36).cumsum(), 40, 400)
    sizes = {"patch_len": 6, "stride": 3, "num_heads": 8, "d_ff": 8, "prediction_length": 12}
    weights = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    ours = [n for n in weights if not n.startswith("backbone") and n != "reprogramming.key.bias"]  # softmax ignores it
    with torch.inference_mode():
        plain = paper_forecast(window, [4, 5, 6], weights, built.model.backbone, **sizes)
        for name in ours:
            changed = {**weights, name: weights[name] + 0.5 * torch.randn_like(weights[name])}
            assert (
                np.abs(paper_forecast(window, [4, 5, 6], changed, built.model.backbone, **sizes) - plain).max() > 1e-4
            ), name


def test_the_baseline_of_the_speed_benchmarks_is_the_papers(tmp_path, monkeypatch):
    """benchmarks/paper_form.py, batched, against the reference, window by window."""
    monkeypatch.setitem(BACKBONES, "bert", tiny("bert"))
    folder = write_tiny("bert", tmp_path / "bert")
    settings = ModelSettings(backbone="bert", weights=str(folder), prompt="paper", bypass=False)
    sizes = {"patch_len": 6, "stride": 3, "num_heads": 4, "d_ff": 8}
    torch.manual_seed(5)
    form = PaperForm(load_backbone(tiny("bert"), settings, 1), 36, 12, num_prototypes=10, **sizes).eval()
    with torch.no_grad():
        form.mapping.weight.mul_(40)
    names = {"mapping": "prototypes.mix", "conv": "patching.conv", "head": "head.project"}
    weights = {}
    for name, tensor in form.state_dict().items():
        part, _, rest = name.partition(".")
        weights[f"{names.get(part, 'reprogramming.' + part)}.{rest}"] = tensor
    context = torch.from_numpy(np.clip(150 + np.random.default_rng(4).normal(0, 9, (3, 36)).cumsum(1), 40, 400)).float()
    normalised, mean, deviation = instance_norm(context)
    ids = torch.randint(1, 100, (3, 15))
    with torch.inference_mode():
        found = form.forecast(normalised, ids) * deviation + mean
        for row in range(3):
            expected = paper_forecast(
                context[row].numpy(), ids[row].tolist(), weights, form.backbone, prediction_length=12, **sizes
            )
            assert np.abs(expected - context[row].mean().item()).max() > 0.5
            assert np.abs(found[row].numpy() - expected).max() < 1e-3
        assert form(context).shape == (3, 12)
