"""A training among others: what is run, when it is stopped, and what became of it. Knows nothing of Ray."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Trial:
    """A resumable training: epochs(**arguments) yields the validation loss of each epoch, those it has kept at once.

    group:  trials are compared within it
    length: the most epochs it can have
    student, teacher: what telemetry tells trials apart by; their names and groups may name a patient
    """

    name: str
    group: str
    length: int
    epochs: Callable[..., Iterator[float]]
    arguments: dict[str, Any]
    student: str = ""
    teacher: str = ""


@dataclass(frozen=True)
class Stopping:
    """Asynchronous successive halving (ASHA; Li et al., MLSys 2020, algorithm 2).

    From `grace_epochs` on, and at each `reduction` times as many, only the best 1 / reduction go on.
    """

    grace_epochs: int
    reduction: int


Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Ended:
    """What became of a trial. error: why it failed; losses: validation loss by epoch."""

    name: str
    status: Status
    losses: tuple[float, ...]
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Heard:
    """Who hears of trials while they run.

    epoch: name, epoch, validation loss; retry: name, why its process ended; end: what became of it
    """

    epoch: Callable[[str, int, float], None]
    retry: Callable[[str, str], None]
    end: Callable[[Ended], None]
