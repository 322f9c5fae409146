"""What a backbone costs: parameters, what training changes, and the size of the exported student."""

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel

from forecasting.prompts import PromptSpec
from forecasting.windows import WindowShape
from trainer.backbones import LoadedBackbone, true_config
from trainer.catalogue import Backbone
from trainer.export import export_onnx
from trainer.fit import Examples, forecast_loss
from trainer.settings import TEACHER_DEFAULTS, ModelSettings
from trainer.teacher import best_device, build_model
from trainer.time_llm import TimeLLM

BYTES = 4  # of a float32
STEP_WINDOWS = 32
FOLDED_AWAY = ("prototypes.", "reprogramming.")


@dataclass(frozen=True)
class ModelSize:
    """Counts at true size with the default settings; student figures are None where the matrix says no student."""

    backbone: int
    teacher_trained: int
    student_trained: int | None
    student_exported_bytes: int | None


def size_of(row: Backbone) -> ModelSize:
    """Counted on tensors without storage, so that LLaMA costs no more than BERT-tiny."""
    with torch.device("meta"):
        body = AutoModel.from_config(true_config(row))
    count = sum(p.numel() for p in body.parameters())
    teacher = _on_meta(row, ModelSettings(**{**TEACHER_DEFAULTS, "backbone": row.name}))  # type: ignore[arg-type]
    if "student" not in row.roles:
        return ModelSize(count, _trained(teacher), None, None)
    settings = ModelSettings(backbone=row.name)
    student = _on_meta(row, settings)
    return ModelSize(count, _trained(teacher), _trained(student), BYTES * exported_parameters(student))


def exported_parameters(student: TimeLLM) -> int:
    """Values in the exported file: the words are not read, prototypes and all that meets them become constants."""
    words = student.backbone.get_input_embeddings().weight
    kept = [p for name, p in student.named_parameters() if p is not words and not name.startswith(FOLDED_AWAY)]
    return sum(tensor.numel() for tensor in (*kept, *constants_of(student)))


def constants_of(model: TimeLLM) -> list[Tensor]:
    """What the folded reprogramming keeps: its constants, and the output map where that stays apart."""
    folded, out = model.fold(), model.reprogramming.out
    apart = folded.mixture is None
    kept = (folded.scores, folded.bias, folded.mixture, folded.values, out.bias, out.weight if apart else None)
    return [tensor for tensor in kept if tensor is not None]


def _on_meta(row: Backbone, settings: ModelSettings) -> TimeLLM:
    with torch.device("meta"):
        body = AutoModel.from_config(true_config(row))
        body.pooler = None
        width = body.get_input_embeddings().weight.shape[1]
        loaded = LoadedBackbone(body, None, width, body.config.hidden_size, {})
        return TimeLLM(settings, WindowShape(), PromptSpec(), loaded, seed=0)


def _trained(model: TimeLLM) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Cost:
    """What a backbone costs on this machine. Times are medians after a warm-up; RSS is of the whole process."""

    weights: str
    parameters: int
    trained: int
    step_windows: int
    step_seconds: float
    forecast_seconds: float
    exported_bytes: int | None
    export_difference_mg_dl: float | None
    peak_rss_bytes: int


def measure_cost(row: Backbone, settings: ModelSettings, seed: int = 1) -> Cost:
    """Load it, train a few steps on random windows, forecast, and export it where the matrix says student."""
    shape = WindowShape()
    built = build_model("check-population", settings, shape, seed)
    device = best_device()
    examples = _random_examples(built.model, shape, len(built.spec.channels))
    examples = examples.rows(torch.arange(STEP_WINDOWS), device)
    levels = torch.tensor(settings.quantiles, device=device)
    optimiser = torch.optim.AdamW([p for p in built.model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        forecast_loss(built.model(examples.x, examples.prompt_ids), examples, levels, 0.0).backward()
        optimiser.step()

    step_seconds = _median_seconds(step)
    forecaster = built.forecaster()
    context, minute = np.full((1, shape.context_length), 140.0), np.array([600.0])
    forecast_seconds = _median_seconds(lambda: forecaster.predict(context, minute))
    size, difference = None, None
    if "student" in row.roles:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            difference, size = export_onnx(built.model, built.spec, path), path.stat().st_size
    return Cost(
        built.backbone.origin["weights"],
        sum(p.numel() for p in built.model.parameters()),
        _trained(built.model),
        STEP_WINDOWS,
        step_seconds,
        forecast_seconds,
        size,
        difference,
        1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


def _random_examples(model: TimeLLM, shape: WindowShape, channels: int) -> Examples:
    ids = None
    if model.prompt.kind != "none":
        ids = torch.randint(1, 20, (STEP_WINDOWS, model.prompt.length))
    x = torch.randn(STEP_WINDOWS, shape.context_length, channels)
    return Examples(x, ids, torch.randn(STEP_WINDOWS, shape.prediction_length))


def _median_seconds(work: Callable[[], object], times: int = 3) -> float:
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)
