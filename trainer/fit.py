"""The one training loop: plain PyTorch, no framework around it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from forecasting.bundle import ModelSpec
from forecasting.encoding import encode
from forecasting.errors import InsufficientData, InvalidSetting
from forecasting.prompts import tokenise, write_prompts
from forecasting.windows import Windows
from trainer.progress import Progress, Report
from trainer.settings import TrainingSettings
from trainer.time_llm import Folded, TimeLLM

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Examples:
    """Windows as tensors, normalised.

    x: (n, context_length, channels); prompt_ids: (n, prompt length) or None
    target: (n, prediction_length), NaN where there is no truth
    teacher: (n, prediction_length, 1 + quantiles) or None
    """

    x: Tensor
    prompt_ids: Tensor | None
    target: Tensor
    teacher: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, rows: Tensor, device: torch.device) -> "Examples":
        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows].to(device)

        return Examples(
            self.x[rows].to(device), take(self.prompt_ids), self.target[rows].to(device), take(self.teacher)
        )


@dataclass(frozen=True)
class Fitted:
    """How training went: losses by epoch, and the epoch whose weights were kept (from 1)."""

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int


def build_examples(
    windows: Windows, spec: ModelSpec, tokenizer: Tokenizer | None, teacher_mg_dl: np.ndarray | None = None
) -> Examples:
    """Encode windows once, with the functions that serving uses.

    teacher_mg_dl: (n, prediction_length, 1 + quantiles), in the order of the windows
    """
    encoded = encode(windows.context, windows.minute_of_day, spec.shape.sampling_minutes, spec.normalisation)
    prompt_ids = None
    if tokenizer is not None:
        prompts = write_prompts(windows.context, spec.shape.prediction_length, spec.prompt.kind)
        prompt_ids = torch.from_numpy(tokenise(tokenizer, prompts, spec.prompt))
    teacher = None if teacher_mg_dl is None else torch.from_numpy(encoded.normalise(teacher_mg_dl))
    return Examples(
        torch.from_numpy(encoded.x), prompt_ids, torch.from_numpy(encoded.normalise(windows.target)), teacher
    )


def forecast_loss(outputs: Tensor, examples: Examples, levels: Tensor, teacher_weight: float) -> Tensor:
    """(1 − w) · truth + w · teacher, on mean and quantiles.

    outputs: (batch, prediction_length, 1 + quantiles). Truth: squared error on the mean and pinball loss on the
    quantiles, where there is a target. Teacher: squared error on both, at every step.
    """
    truth = _truth_loss(outputs, examples.target, levels)
    if examples.teacher is None or teacher_weight == 0:
        return truth
    return (1 - teacher_weight) * truth + teacher_weight * F.mse_loss(outputs, examples.teacher)


def _truth_loss(outputs: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    real = ~torch.isnan(target)
    count = real.sum().clamp(min=1)
    y = torch.where(real, target, 0.0)
    squared = ((outputs[..., 0] - y) ** 2 * real).sum() / count
    if not len(levels):
        return squared
    gap = y[..., None] - outputs[..., 1:]
    pinball = torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)
    return squared + (pinball * real).sum() / count


def fit(
    model: TimeLLM,
    train: Examples,
    validation: Examples,
    levels: tuple[float, ...],
    training: TrainingSettings,
    report: Report,
    teacher_weight: float = 0.0,
) -> Fitted:
    """Train, and leave the model with the weights of its best epoch by validation loss (truth alone).

    Reproducible bit for bit on a CPU for a given seed and number of threads.
    Raises InsufficientData where a part is empty, InvalidSetting where the loss diverges.
    """
    if not len(train) or not len(validation):
        raise InsufficientData("there are no windows to train on or to validate with; give more data")
    device = next(model.parameters()).device
    quantile_levels = torch.tensor(levels, device=device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    steps_per_epoch = -(-len(train) // training.batch_size)
    total = steps_per_epoch * training.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_schedule(total, training.warmup_share))
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    best, best_loss, best_epoch = _copy_of(model), float("inf"), 0
    train_losses: list[float] = []
    validation_losses: list[float] = []
    for epoch in range(1, training.epochs + 1):
        model.train()
        losses = []
        for step, rows in enumerate(_batches(len(train), training.batch_size, generator), 1):
            batch = train.rows(rows, device)
            loss = forecast_loss(model(batch.x, batch.prompt_ids), batch, quantile_levels, teacher_weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, training.clip_norm)
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
            report(Progress((epoch - 1) * steps_per_epoch + step, total))
        train_losses.append(float(torch.stack(losses).mean()))
        validation_losses.append(validation_loss(model, validation, quantile_levels, device))
        if not np.isfinite([train_losses[-1], validation_losses[-1]]).all():
            raise InvalidSetting(
                f"the loss of epoch {epoch} is not a number: training diverged; lower the learning rate "
                f"({training.learning_rate:g}) or the clip norm ({training.clip_norm:g})"
            )
        if validation_losses[-1] < best_loss:
            best_loss, best_epoch = validation_losses[-1], epoch
            best = _copy_of(model)
        note = f"epoch {epoch}: loss {train_losses[-1]:.4f}, validation {validation_losses[-1]:.4f}"
        report(Progress(epoch * steps_per_epoch, total, note))
        if epoch - best_epoch >= training.patience:
            break
    model.load_trained(best)
    report(Progress(total, total))
    return Fitted(tuple(train_losses), tuple(validation_losses), best_epoch)


def _copy_of(model: TimeLLM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.trained_tensors().items()}


def rate_schedule(total_steps: int, warmup_share: float) -> Callable[[int], float]:
    """Share of the learning rate at a step: a straight rise, then a half cosine to 1 %."""
    warmup = max(1, round(total_steps * warmup_share))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress)))

    return share


@torch.inference_mode()
def validation_loss(model: TimeLLM, examples: Examples, levels: Tensor, device: torch.device) -> float:
    """Truth loss over all validation windows; none is dropped, batches count by their number of real targets."""
    folded = Folded(model)
    total, count = 0.0, 0
    for rows in torch.arange(len(examples)).split(EVALUATION_BATCH):
        batch = examples.rows(rows, device)
        real = int((~torch.isnan(batch.target)).sum())
        total += float(_truth_loss(folded(batch.x, batch.prompt_ids), batch.target, levels)) * real
        count += real
    return total / max(count, 1)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    yield from torch.randperm(count, generator=generator).split(size)
