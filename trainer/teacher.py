"""Train a teacher: a Time-LLM on a large frozen backbone, on everybody's training part."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from forecasting.bundle import Bundle, ModelSpec, read_bundle, write_bundle
from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster, Network
from forecasting.readers.datasets import Cohort
from forecasting.references import model_name
from forecasting.windows import Windows, WindowShape, cut_all, thin
from trainer.backbones import LoadedBackbone, load_backbone, prompt_of, weights_digest
from trainer.catalogue import BACKBONES, Backbone, find_backbone
from trainer.export import export_onnx
from trainer.fit import Training, build_examples, fit, windows_at_once
from trainer.kept import drop_state, fingerprint, state_of, written_whole
from trainer.progress import Report
from trainer.settings import ModelSettings, PipelineSettings, TrainingSettings
from trainer.time_llm import Folded, TimeLLM, spec_of


class TeacherTrainer:
    """Which backbones may be teachers.

    teacher_models: {short name: row of the catalogue}
    """

    def __init__(self) -> None:
        self.teacher_models: dict[str, Backbone] = {n: b for n, b in BACKBONES.items() if "teacher" in b.roles}


@dataclass(frozen=True)
class BuiltModel:
    """A network with what it means and where its backbone came from."""

    model: TimeLLM
    spec: ModelSpec
    backbone: LoadedBackbone

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self.backbone.tokenizer

    def origin(self, settings: ModelSettings) -> dict[str, Any]:
        """What it was built from, for origin.json; names no folder of this machine."""
        described = {"weights": self.backbone.origin["weights"], "backbone": self.spec.backbone}
        return {
            "comment": find_backbone(settings.backbone).comment,
            "backbone": self.backbone.origin,
            "model": settings.model_dump(mode="json") | described,
        }

    def forecaster(self) -> Forecaster:
        """The model behind the face that everything is scored through, run by torch where its weights are."""
        return Forecaster(self.spec, torch_network(self.model), self.tokenizer)


def build_model(name: str, settings: ModelSettings, shape: WindowShape, seed: int) -> BuiltModel:
    """An untrained Time-LLM; everything random in it follows from `seed`."""
    backbone = load_backbone(find_backbone(settings.backbone), settings, seed)
    prompt = prompt_of(settings, backbone, shape)
    model = TimeLLM(settings, shape, prompt, backbone, seed).to(best_device())
    return BuiltModel(model, spec_of(name, settings, shape, prompt), backbone)


def best_device() -> torch.device:
    """The GPU that torch sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_network(model: TimeLLM) -> Network:
    """(x, prompt_ids) → y in NumPy, folded, without gradients, as many windows at once as suit the device."""
    folded = Folded(model)
    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(x: np.ndarray, prompt_ids: np.ndarray | None) -> np.ndarray:
        outputs = []
        for start in range(0, len(x), windows_at_once(device)):
            rows = slice(start, start + windows_at_once(device))
            ids = None if prompt_ids is None else torch.from_numpy(prompt_ids[rows]).to(device)
            outputs.append(folded(torch.from_numpy(x[rows]).to(device), model.trim(ids)).cpu())
        return torch.cat(outputs).numpy()

    return run


def teacher_key(settings: PipelineSettings, train: Windows, validation: Windows) -> str:
    """What a trained teacher depends on."""
    weights = weights_digest(find_backbone(settings.teacher.backbone), settings.teacher)
    parts = (settings.teacher.model_dump(), settings.teacher_training.model_dump(), settings.shape.model_dump())
    return fingerprint("teacher", weights, *parts, train.digest, validation.digest)


def teacher_windows(cohort: Cohort, shape: WindowShape, training: TrainingSettings) -> tuple[Windows, Windows]:
    """Train and validation windows of every patient of the data set."""
    train, validation = cut_all(cohort.everyone, shape, "train"), cut_all(cohort.everyone, shape, "validation")
    at_most = training.max_windows
    return thin(train, at_most), thin(validation, None if at_most is None else -(-at_most // 4))


def export_trained(folder: Path, settings: ModelSettings, seed: int) -> Path:
    """A whole bundle beside a teacher's folder: it can be scored, published and served by itself.

    Raises IntegrityError where the exported file differs from the model.
    """
    built, bundle = open_trained(folder, settings, seed)
    exported = folder.with_name(folder.name + "-exported")
    with written_whole(exported) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        difference = export_onnx(built.model, built.spec, scratch / "model.onnx")
        write_bundle(scratch, built.spec, bundle.metrics | {"export_difference_mg_dl": difference}, bundle.origin)
    return exported


def train_teacher(
    settings: PipelineSettings, dataset: str, train: Windows, validation: Windows, folder: Path, report: Report
) -> Path:
    """Train a teacher and write its folder: weights, tokenizer, meaning and origin, under a manifest.

    Runs in every process of a data-parallel training; the first writes. Goes on from the last whole epoch where an
    equal training was cut off.
    """
    built = build_model(model_name(dataset), settings.teacher, settings.shape, settings.teacher_training.seed)
    training = Training(
        built.model,
        build_examples(train, built.spec, built.tokenizer),
        build_examples(validation, built.spec, built.tokenizer),
        built.spec.quantiles,
        settings.teacher_training,
        report,
    )
    fitted = fit(training, state_of(folder))
    if training.peers.rank:
        return folder
    origin = {
        "kind": "teacher",
        "dataset": dataset,
        **built.origin(settings.teacher),
        "training": settings.teacher_training.model_dump(mode="json"),
        "windows": {"train": train.digest, "validation": validation.digest},
        "best_epoch": fitted.best_epoch,
    }
    with written_whole(folder) as scratch:
        save_weights(built, scratch)
        losses = {"train_loss": list(fitted.train_loss), "validation_loss": list(fitted.validation_loss)}
        write_bundle(scratch, built.spec, losses, origin)
    drop_state(folder)
    return folder


def save_weights(built: BuiltModel, folder: Path) -> None:
    """weights.safetensors with what training changed, and the tokenizer of a model that reads a prompt."""
    save_file(built.model.trained_tensors(), folder / "weights.safetensors")
    if built.tokenizer is not None:
        built.tokenizer.save(str(folder / "tokenizer.json"))


def open_trained(folder: Path, settings: ModelSettings, seed: int) -> tuple[BuiltModel, Bundle]:
    """Rebuild a saved model from its backbone's weights and its own trained tensors, strictly.

    Raises IntegrityError where the folder is damaged or the backbone is not the one it was trained on.
    """
    bundle = read_bundle(folder)
    built = build_model(bundle.spec.model, settings, bundle.spec.shape, seed)
    _check_origin(bundle.origin["backbone"], built.backbone.origin, folder)
    if built.spec != bundle.spec:
        raise IntegrityError(f"{folder.name} was trained with other settings than these; train it again")
    built.model.load_trained(load_file(folder / "weights.safetensors"))
    return built, bundle


def _check_origin(saved: dict[str, Any], found: dict[str, Any], folder: Path) -> None:
    kind = "sha256" if "sha256" in saved else "weights"  # random weights are their seed
    if saved[kind] != found.get(kind):
        raise IntegrityError(
            f"{folder.name} was trained on other weights ({saved['weights']}) than these ({found['weights']}); "
            "give the weights it was trained on"
        )
