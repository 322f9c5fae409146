"""Alarms of one stream: what the newest reading says, and what the forecast says of the next 30 minutes.

The score of an expected low is the greatest P(< 70 mg/dL) of the steps within 30 minutes, of an expected high the
greatest P(> 180); the alarm holds while its score reaches its threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL

WITHIN_MINUTES = 30
REARM_SECONDS = 30 * 60


class AlarmKind(Enum):
    """What an alarm says."""

    LOW_NOW = "low now"
    HIGH_NOW = "high now"
    LOW_EXPECTED = "low expected"
    HIGH_EXPECTED = "high expected"


@dataclass(frozen=True)
class Alarm:
    """One alarm that holds.

    minutes_ahead: of the first step that reaches the threshold, 0 for what is so now
    probability:   the greatest within 30 minutes, 1 for what is so now
    is_new:        it begins with this update
    """

    kind: AlarmKind
    minutes_ahead: int
    probability: float
    is_new: bool


class Alarms:
    """Which alarms hold, and which of them are new.

    An alarm that ended is armed again 30 minutes after it last held: until then it is listed where it holds, but not
    as new; where it holds still, or again, from then on, it is new once more. So flicker around a threshold is told
    once in 30 minutes, and what lasts is never passed over. After 30 minutes without an update every alarm is armed.
    """

    def __init__(self, low: float, high: float) -> None:
        """low, high: the scores from which a low and a high are expected."""
        self._low, self._high = low, high
        self._told: set[AlarmKind] = set()  # those that hold and were new once
        self._held_at: dict[AlarmKind, int] = {}  # when these last held, in seconds

    def update(
        self,
        seconds: int,
        glucose_mg_dl: float,
        minutes_ahead: Sequence[int],
        below_low: np.ndarray,
        above_high: np.ndarray,
    ) -> list[Alarm]:
        """What holds with a new forecast; what is so already is not expected any more.

        seconds, glucose_mg_dl: of the newest reading; below_low, above_high: (steps,) P(< 70) and P(> 180) at each of
        `minutes_ahead`, which ascend; empty for a model that gives none
        """
        holds = _now(glucose_mg_dl)
        if AlarmKind.LOW_NOW not in holds and (low := _expected(minutes_ahead, below_low, self._low)):
            holds[AlarmKind.LOW_EXPECTED] = low
        if AlarmKind.HIGH_NOW not in holds and (high := _expected(minutes_ahead, above_high, self._high)):
            holds[AlarmKind.HIGH_EXPECTED] = high
        return self._listed(seconds, holds)

    def quiet(self, seconds: int, glucose_mg_dl: float) -> list[Alarm]:
        """What holds where no forecast could be made: only what is so now. What was expected has ended."""
        return self._listed(seconds, _now(glucose_mg_dl))

    def _listed(self, seconds: int, holds: dict[AlarmKind, tuple[int, float]]) -> list[Alarm]:
        self._told &= holds.keys()
        return [Alarm(kind, *said, self._is_new(kind, seconds)) for kind, said in holds.items()]

    def _is_new(self, kind: AlarmKind, seconds: int) -> bool:
        is_new = seconds - self._held_at.get(kind, -math.inf) >= REARM_SECONDS
        if is_new or kind in self._told:
            self._told.add(kind)
            self._held_at[kind] = seconds
        return is_new


def _now(glucose_mg_dl: float) -> dict[AlarmKind, tuple[int, float]]:
    """{what is so now: (0, 1.0)}, from the newest reading."""
    glucose = round(glucose_mg_dl)  # 10.0 mmol/L is 180.16 mg/dL, and no high
    if glucose < LOW_MG_DL:
        return {AlarmKind.LOW_NOW: (0, 1.0)}
    return {AlarmKind.HIGH_NOW: (0, 1.0)} if glucose > HIGH_MG_DL else {}


def _expected(minutes_ahead: Sequence[int], probabilities: np.ndarray, threshold: float) -> tuple[int, float] | None:
    """(minutes to the first step that reaches the threshold, score) where one does within 30 minutes."""
    near = [
        (p, minutes)
        # strict=False: a model without quantiles gives no probabilities
        for p, minutes in zip(probabilities.tolist(), minutes_ahead, strict=False)
        if minutes <= WITHIN_MINUTES
    ]
    reached = [minutes for p, minutes in near if p >= threshold]
    return (reached[0], max(near)[0]) if reached else None
