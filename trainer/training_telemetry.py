"""Prometheus series of training on a Ray cluster, each declared once, and what they tell of trials. Needs no Ray.

They appear at the metrics port of the machine where the driver runs (`ray start --metrics-export-port`), with Ray's
prefix and labels of its own; WorkerId tells drivers, that is sweeps, apart. No label ever names a patient, nor a
trial or a sweep, whose names may hold one. What Ray 2.60 makes of them:

- a gauge is there while what it tells of goes on, and up to 30 s after that, also where the driver was killed
- a counter or a histogram appears with its first event, not before, and stays until its machine leaves the cluster
- a histogram's buckets are exact and its _sum is not: every value counts as the middle of its bucket
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from trainer.trials import Ended, Status, Trial

PREFIX = "ray_"  # Ray's, of every series of a user
ARM = ("student", "teacher")  # backbones; teacher "" for a student alone
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}

State = Literal["waiting", "running"] | Status
TRIAL_STATES: tuple[State, ...] = ("waiting", "running", "finished", "stopped", "failed")
EPOCH_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
TRIAL_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)


@dataclass(frozen=True)
class Series:
    """One series. name: without Ray's prefix and the suffixes of its kind; buckets: of a histogram"""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """The names it has in Prometheus."""
        return tuple(f"{PREFIX}{self.name}{suffix}" for suffix in SUFFIXES[self.kind])


TRIALS = Series("glucast_trials", "gauge", f"Trials by status: {', '.join(TRIAL_STATES)}", ("status",))
EPOCHS = Series("glucast_trial_epochs", "counter", "Epochs of trials, those kept from an earlier run too", ARM)
RETRIES = Series(
    "glucast_trial_retries",
    "counter",
    "Trials that went on in another process: theirs, or its machine, was lost, or it raised an unforeseen error",
    ("reason",),
)
EPOCH_TIME = Series("glucast_trial_epoch_seconds", "histogram", "Time of an epoch of a trial", ARM, EPOCH_SECONDS)
TRIAL_TIME = Series(
    "glucast_trial_seconds",
    "histogram",
    "Time of a trial in the process where it ended",
    (*ARM, "status"),
    TRIAL_SECONDS,
)
BEST_LOSS = Series(
    "glucast_best_validation_loss", "gauge", "Lowest validation loss so far, mean over the patients begun", ARM
)
JOB_DONE = Series(
    "glucast_job_done_ratio", "gauge", "Part that is done of a teacher's training, or of its forecasts", ("work",)
)

SERIES = (TRIALS, EPOCHS, RETRIES, EPOCH_TIME, TRIAL_TIME, BEST_LOSS, JOB_DONE)


def exported() -> set[str]:
    """Every name that Prometheus may know; what dashboards and rules may use."""
    return {name for series in SERIES for name in series.exported}


Reason = Literal["lost", "raised"]
Record = Callable[[Series, float, Mapping[str, str]], None]  # sets a gauge, adds to a counter, observes for a histogram


class TrialTelemetry:
    """What the series tell of trials that run side by side."""

    def __init__(self, trials: Iterable[Trial], record: Record) -> None:
        self._trials = {trial.name: trial for trial in trials}
        self._record = record
        self._states: dict[str, State] = dict.fromkeys(self._trials, "waiting")
        self._best: dict[tuple[str, str], dict[str, float]] = {}  # of each arm, by group
        self._tell_states()

    def began(self, name: str) -> None:
        """A process took the trial up."""
        self._change(name, "running")

    def epoch(self, name: str, loss: float, seconds: float) -> None:
        """An epoch that it had not told of before."""
        arm = _arm_of(self._trials[name])
        self._record(EPOCHS, 1, arm)
        self._record(EPOCH_TIME, seconds, arm)
        self._record(BEST_LOSS, self._mean_of_best(self._trials[name], loss), arm)

    def retry(self, name: str, reason: Reason) -> None:
        """Its process ended; it waits for another."""
        self._record(RETRIES, 1, {"reason": reason})
        self._change(name, "waiting")

    def ended(self, ended: Ended) -> None:
        """What became of it."""
        self._record(TRIAL_TIME, ended.seconds, _arm_of(self._trials[ended.name]) | {"status": ended.status})
        self._change(ended.name, ended.status)

    def close(self) -> None:
        """None waits or runs any longer, whatever happened."""
        self._states = {name: state for name, state in self._states.items() if state not in ("waiting", "running")}
        self._tell_states()

    def _mean_of_best(self, trial: Trial, loss: float) -> float:
        best = self._best.setdefault((trial.student, trial.teacher), {})
        best[trial.group] = min(loss, best.get(trial.group, loss))
        return fmean(best.values())

    def _change(self, name: str, state: State) -> None:
        self._states[name] = state
        self._tell_states()

    def _tell_states(self) -> None:
        count = Counter(self._states.values())
        for state in TRIAL_STATES:
            self._record(TRIALS, count[state], {"status": state})


def _arm_of(trial: Trial) -> dict[str, str]:
    return dict(zip(ARM, (trial.student, trial.teacher), strict=True))
