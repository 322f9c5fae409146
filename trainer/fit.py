"""The one training loop: plain PyTorch, no framework around it."""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch raises where a file holds more than tensors
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from forecasting.bundle import ModelSpec
from forecasting.encoding import encode
from forecasting.errors import InsufficientData, IntegrityError, InvalidSetting
from forecasting.events import events_known
from forecasting.prompts import tokenise, write_prompts
from forecasting.windows import Windows
from trainer.kept import whole_file
from trainer.peers import ALONE, Peers
from trainer.progress import Progress, Report
from trainer.settings import TrainingSettings
from trainer.time_llm import Folded, TimeLLM


@dataclass(frozen=True)
class Examples:
    """Windows as tensors, normalised.

    x: (n, context_length, channels); prompt_ids: (n, prompt length) or None
    target: (n, prediction_length), NaN where there is no truth
    teacher: (n, prediction_length, 1 + quantiles), or (n, prediction_length, 1) where the mean alone is taught; or None
    """

    x: Tensor
    prompt_ids: Tensor | None
    target: Tensor
    teacher: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, rows: Tensor, device: torch.device) -> "Examples":
        """These rows on a device; on their way to a GPU through pinned memory, so that copies overlap with work."""

        def take(values: Tensor) -> Tensor:
            taken = values[rows]
            return taken.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else taken.to(device)

        def take_some(values: Tensor | None) -> Tensor | None:
            return None if values is None else take(values)

        return Examples(take(self.x), take_some(self.prompt_ids), take(self.target), take_some(self.teacher))


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

    teacher_mg_dl: (n, prediction_length, 1 + quantiles) or (n, prediction_length, 1), in the order of the windows
    """
    history = windows.history if spec.knows_history else None
    events = _events_of(windows, spec)
    minutes = spec.shape.sampling_minutes
    encoded = encode(windows.context, windows.minute_of_day, minutes, spec.normalisation, history, events, spec.inputs)
    prompt_ids = None
    if tokenizer is not None:
        prompts = write_prompts(windows.context, spec.shape.prediction_length, spec.prompt.kind)
        prompt_ids = torch.from_numpy(tokenise(tokenizer, prompts, spec.prompt))
    teacher = None if teacher_mg_dl is None else torch.from_numpy(encoded.normalise(teacher_mg_dl))
    return Examples(
        torch.from_numpy(encoded.x), prompt_ids, torch.from_numpy(encoded.normalise(windows.target)), teacher
    )


def _events_of(windows: Windows, spec: ModelSpec) -> np.ndarray | None:
    """(n, context_length, 3); None for a model without inputs. Raises InsufficientData where nothing is recorded."""
    if not spec.inputs:
        return None
    if windows.timeline.events is None or not events_known(windows.timeline.events, spec.inputs):
        raise InsufficientData(
            f"{spec.model} is to know {' and '.join(spec.inputs)}, of which these data hold nothing; leave inputs out"
        )
    return windows.events


def forecast_loss(
    outputs: Tensor, examples: Examples, levels: Tensor, teacher_weight: float, peers: Peers = ALONE
) -> Tensor:
    """(1 − w) · truth + w · teacher, on mean and quantiles.

    outputs: (batch, prediction_length, 1 + quantiles). Truth: squared error on the mean and pinball loss on the
    quantiles, where there is a target. Teacher: squared error on what it teaches, at every step; where that is the mean
    alone, quantiles learn from the truth as if there were no teacher.
    """
    squared, pinball, count = _truth_sums(outputs, examples.target, levels)
    if examples.teacher is None or teacher_weight == 0:
        return peers.mean(squared + pinball, count)
    taught = examples.teacher
    own = 0.0 if taught.shape[-1] == 1 else teacher_weight  # of the quantiles
    truth = peers.mean((1 - teacher_weight) * squared + (1 - own) * pinball, count)
    imitated = ((outputs[..., : taught.shape[-1]] - taught) ** 2).sum()
    return truth + teacher_weight * peers.mean(imitated, torch.tensor(taught.numel(), device=outputs.device))


def _truth_sums(outputs: Tensor, target: Tensor, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over real targets of the mean's squared error and of the quantiles' pinball loss, and how many there are."""
    real = ~torch.isnan(target)
    y = torch.where(real, target, 0.0)
    squared = ((outputs[..., 0] - y) ** 2 * real).sum()
    if not len(levels):
        return squared, torch.zeros_like(squared), real.sum()
    gap = y[..., None] - outputs[..., 1:]
    pinball = torch.maximum(levels * gap, (levels - 1) * gap).mean(-1)
    return squared, (pinball * real).sum(), real.sum()


class Training:
    """A training that can stop after any epoch and go on later, elsewhere, as if it had not stopped.

    Order of the windows and dropout of an epoch follow from the seed and the epoch's number alone.
    Bit for bit the same on a CPU for a given seed, number of threads and number of peers.
    """

    def __init__(
        self,
        model: TimeLLM,
        train: Examples,
        validation: Examples,
        levels: tuple[float, ...],
        settings: TrainingSettings,
        report: Report,
        teacher_weight: float = 0.0,
    ) -> None:
        """Raises InsufficientData where a part is empty."""
        if not len(train) or not len(validation):
            raise InsufficientData("there are no windows to train on or to validate with; give more data")
        self.model, self.train, self.validation, self.settings, self.report = model, train, validation, settings, report
        self.teacher_weight = teacher_weight
        self.peers = Peers.found()
        if settings.gradient_checkpointing:
            model.recompute_layers()
        self.joined = self.peers.joined(compiled(model) if settings.compile else model)
        self.device = next(model.parameters()).device
        self.levels = torch.tensor(levels, device=self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.steps_per_epoch = -(-len(train) // settings.batch_size)
        self.steps = self.steps_per_epoch * settings.epochs
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, rate_schedule(self.steps, settings.warmup_share)
        )
        self.train_loss: list[float] = []
        self.validation_loss: list[float] = []
        self.best_epoch, self.best = 0, model.trained_tensors()

    @property
    def finished(self) -> bool:
        """All epochs done, or `patience` of them without a better validation loss."""
        done = len(self.validation_loss)
        return done == self.settings.epochs or (done > 0 and done - self.best_epoch >= self.settings.patience)

    def run_epoch(self) -> None:
        """Train for one epoch and validate. Raises InvalidSetting where the loss diverges."""
        epoch = len(self.validation_loss) + 1
        done = (epoch - 1) * self.steps_per_epoch
        self.joined.train()
        torch.manual_seed(epoch_seed(self.settings.seed, epoch, self.peers.rank))
        losses = []
        for step, rows in enumerate(self._batches(epoch), 1):
            losses.append(self.step(self.train.rows(self.peers.share(rows), self.device)))
            self.report(Progress(done + step, self.steps))
        self.train_loss.append(float(self.peers.sum(torch.stack(losses).mean())) / self.peers.count)
        self.validation_loss.append(validation_loss(self.model, self.validation, self.levels, self.device, self.peers))
        self._judge(epoch)

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs beside its arguments: tensors, numbers and lists."""
        return {
            "trained": self.model.trained_tensors(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state of an equal training."""
        self.model.load_trained(state["trained"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.train_loss, self.validation_loss = list(state["train_loss"]), list(state["validation_loss"])

    def fitted(self) -> Fitted:
        """Leaves the model with the weights of its best epoch by validation loss (truth alone)."""
        self.model.load_trained(self.best)
        self.report(Progress(self.steps, self.steps))
        return Fitted(tuple(self.train_loss), tuple(self.validation_loss), self.best_epoch)

    def _batches(self, epoch: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(epoch_seed(self.settings.seed, epoch))
        yield from torch.randperm(len(self.train), generator=generator).split(self.settings.batch_size)

    def step(self, batch: Examples) -> Tensor:
        """Learn from one batch; its loss, without a gradient."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            outputs = self.joined(batch.x, self.model.trim(batch.prompt_ids))
        loss = forecast_loss(outputs.float(), batch, self.levels, self.teacher_weight, self.peers)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        return loss.detach()

    def _judge(self, epoch: int) -> None:
        trained, validated = self.train_loss[-1], self.validation_loss[-1]
        if not np.isfinite([trained, validated]).all():
            raise InvalidSetting(
                f"the loss of epoch {epoch} is not a number: training diverged; lower the learning rate "
                f"({self.settings.learning_rate:g}) or the clip norm ({self.settings.clip_norm:g})"
            )
        if epoch == 1 or validated < self.validation_loss[self.best_epoch - 1]:
            self.best_epoch = epoch
            self.best = {name: tensor.clone() for name, tensor in self.model.trained_tensors().items()}
        note = f"epoch {epoch}: loss {trained:.4f}, validation {validated:.4f}"
        self.report(Progress(epoch * self.steps_per_epoch, self.steps, note))


def epochs(training: Training, saved: Path | None = None) -> Iterator[float]:
    """Train to the end; yields the validation loss of every epoch.

    saved: where the state is kept after each epoch. A state that is there already is gone on from: its epochs are
           yielded again, none is computed again.
    """
    if saved is not None and saved.is_file():
        training.restore(read_state(saved))
        yield from list(training.validation_loss)
    while not training.finished:
        training.run_epoch()
        if saved is not None and training.peers.rank == 0:
            write_state(training.state(), saved)
        yield training.validation_loss[-1]


def fit(training: Training, saved: Path | None = None) -> Fitted:
    """Train to the end, from a saved state where there is one."""
    for _ in epochs(training, saved):
        pass
    return training.fitted()


def write_state(state: dict[str, Any], path: Path) -> None:
    """Keep a state; a kill meanwhile leaves that of the epoch before."""
    content = io.BytesIO()
    torch.save(state, content)  # into a file, it hides the reason of a failed write
    with whole_file(path) as scratch:
        scratch.write_bytes(content.getbuffer())


def read_state(path: Path) -> dict[str, Any]:
    """Tensors, numbers and lists alone: nothing in the file is run. Raises IntegrityError where it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise IntegrityError(f"the training state {path} is damaged; remove it to train from the start") from error


def compiled(model: TimeLLM) -> TimeLLM:
    """The same model through torch.compile, for the forward and backward passes of training.

    Raises InvalidSetting on a CPU without the C++ compiler that it needs.
    """
    compiler = os.environ.get("CXX", "g++")
    if next(model.parameters()).device.type == "cpu" and shutil.which(compiler) is None:
        raise InvalidSetting(
            f"compile needs the C++ compiler {compiler}, which is not here; install it or leave it out"
        )
    return torch.compile(model)  # type: ignore[return-value]


def windows_at_once(device: torch.device) -> int:
    """Windows of a pass without gradients: few stay in a processor's cache, many keep a GPU busy.

    Measured on a CPU with MiniLM: 32 reach 90 % of the machine's product rate, 128 reach 77 % (docs/performance.md).
    """
    return 1024 if device.type == "cuda" else 32


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Of what is random within one epoch of one process."""
    return seed * 1_000_003 + epoch * 1_009 + rank


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
def validation_loss(
    model: TimeLLM, examples: Examples, levels: Tensor, device: torch.device, peers: Peers = ALONE
) -> float:
    """Truth loss over all validation windows; none is dropped, batches count by their number of real targets."""
    folded = Folded(model)
    sums = torch.zeros(2, dtype=torch.float64)  # of losses, of real targets
    for rows in torch.arange(len(examples)).split(windows_at_once(device))[peers.rank :: peers.count]:
        batch = examples.rows(rows, device)
        squared, pinball, count = _truth_sums(folded(batch.x, model.trim(batch.prompt_ids)), batch.target, levels)
        sums += torch.tensor([float(squared + pinball), float(count)])
    total, count = peers.sum(sums.to(device))
    return float(total / count.clamp(min=1))
