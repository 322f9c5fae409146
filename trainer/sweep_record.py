"""What a sweep leaves on disk: its trials and what became of them. Everything after training is made from this."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from forecasting.bundle import POPULATION
from forecasting.errors import IntegrityError
from forecasting.metrics import Scores
from trainer.kept import write_text
from trainer.settings import SweepSettings
from trainer.trials import Status

RECORD, PUBLISHED, BOARD = "sweep.json", "published.json", "leaderboard.html"


class TrialRecord(BaseModel):
    """One trial.

    patient:    None for the population
    teacher:    "" for a student alone
    losses:     validation loss by epoch
    validation: {horizon: scores} of the exported student, mean over patients; of finished trials
    folder:     of the bundle; of finished trials
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    patient: str | None
    teacher: str
    student: str
    teacher_weight: float
    learning_rate: float
    seed: int
    status: Status
    error: str = ""
    seconds: float = 0.0
    losses: tuple[float, ...] = ()
    validation: dict[str, Scores] = {}
    folder: Path | None = None

    @property
    def target(self) -> str:
        return self.patient or POPULATION

    @property
    def loss(self) -> float:
        """The lowest validation loss: what trials are chosen by."""
        return min(self.losses, default=float("inf"))

    @property
    def configuration(self) -> tuple[str, str, float, float]:
        """What is varied beside patient and seed."""
        return self.student, self.teacher, self.teacher_weight, self.learning_rate


class SweepRecord(BaseModel):
    """A sweep whose trials have ended.

    skipped:   {target: why it has no trial}
    baselines: {target: {arm: {horizon: scores}}} on the validation part
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: SweepSettings
    key: str
    dataset: str
    trials: tuple[TrialRecord, ...]
    skipped: dict[str, str]
    baselines: dict[str, dict[str, dict[str, Scores]]]

    @property
    def failed(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if trial.status == "failed"]

    @property
    def targets(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(trial.target for trial in self.trials))

    def ranked(self, target: str) -> list[TrialRecord]:
        """The trials of a target: finished ones from the best, then the others."""
        own = [trial for trial in self.trials if trial.target == target]
        return sorted(own, key=lambda trial: (trial.status != "finished", trial.loss))

    def best(self, target: str) -> TrialRecord | None:
        """The finished trial of lowest validation loss; None where none finished."""
        first = self.ranked(target)[0]
        return first if first.status == "finished" else None


def write_record(record: SweepRecord, folder: Path) -> None:
    """Keep a record, of which the registry knows nothing yet."""
    (folder / PUBLISHED).unlink(missing_ok=True)
    write_text(folder / RECORD, record.model_dump_json(indent=1) + "\n")


def read_record(folder: Path) -> SweepRecord | None:
    """The record in a sweep's folder, None where the sweep has not ended. Raises IntegrityError where it is damaged."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return SweepRecord.model_validate_json(path.read_text())
    except ValidationError as error:
        raise IntegrityError(
            f"{path} is not the record of a sweep of this version; remove it to sweep again"
        ) from error


def mark_published(folder: Path, versions: dict[str, str]) -> None:
    """Note that the registry has everything: {target: model/version}."""
    write_text(folder / PUBLISHED, json.dumps(versions, indent=1) + "\n")


def pending_sweeps(runs: Path) -> list[Path]:
    """Sweeps that ended, and that the registry does not have."""
    ended = sorted(path.parent for path in (runs / "sweeps").glob(f"*/{RECORD}"))
    return [folder for folder in ended if not (folder / PUBLISHED).is_file()]
