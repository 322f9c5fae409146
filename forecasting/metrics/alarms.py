"""Alarms: is a low or high event foretold in time, and how often is there an alarm for nothing?

An event lasts 15 minutes or longer beyond a threshold, and ends after 15 minutes without a reading beyond it. An alarm
is active at a window whose score exceeds a threshold chosen on validation; once raised it is raised again after 30
minutes at the earliest. An event is detected where an alarm is active somewhere from `horizon_minutes` to 15 minutes
before its onset. An alarm is false where no event begins within the horizon. Left out are windows whose last reading is
missing or already beyond the threshold, and events that could not be foretold: with a gap in the horizon before
their onset, or without a window in the time in which they would have to be detected; and windows followed by
such events only. Events after the consensus of Battelino et al. 2023.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecasting.errors import InsufficientData

EVENT_MINUTES = 15  # how long an event lasts at least, and how long its end
LEAD_MINUTES = 15  # an alarm later than this before the onset comes too late
REARM_MINUTES = 30
MINUTES_PER_DAY = 1440


@dataclass(frozen=True)
class AlarmRule:
    """What is foretold: glucose below or above a threshold, at most `horizon_minutes` ahead.

    filled_bins: missing readings in a row that are no gap, as windows fill them
    """

    threshold_mg_dl: float
    direction: Literal["below", "above"]
    horizon_minutes: int = 60
    filled_bins: int = 1

    def is_beyond(self, readings: np.ndarray) -> np.ndarray:
        """(steps,) bool; in whole mg/dL, as 10.0 mmol/L is 180.16 mg/dL but no high. False where missing."""
        whole = np.rint(readings)
        return whole < self.threshold_mg_dl if self.direction == "below" else whole > self.threshold_mg_dl


LOW = AlarmRule(70.0, "below")
HIGH = AlarmRule(180.0, "above")


@dataclass(frozen=True)
class AlarmScores:
    """What alarms were worth to one person, or to several.

    leads: minutes from the first active alarm to the onset, for each detected event
    """

    events: int
    detected: int
    alarms: int
    false_alarms: int
    scorable_days: float
    leads: tuple[float, ...]

    @property
    def sensitivity(self) -> float:
        """Share of events detected; NaN without events."""
        return _ratio(self.detected, self.events)

    @property
    def precision(self) -> float:
        """Share of alarms that an event followed; NaN without alarms."""
        return _ratio(self.alarms - self.false_alarms, self.alarms)

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and precision; NaN where either is, 0 where both are."""
        both = self.sensitivity + self.precision
        return 2 * self.sensitivity * self.precision / both if both else 0.0

    @property
    def false_per_day(self) -> float:
        """False alarms per day of scorable time; NaN without any."""
        return _ratio(self.false_alarms, self.scorable_days)

    @property
    def median_lead(self) -> float:
        """Minutes; NaN where nothing was detected."""
        return float(np.median(self.leads)) if self.leads else float("nan")


@dataclass(frozen=True)
class AlarmCase:
    """One person's scorable windows and events, ready to be scored at any threshold.

    steps:    (n,) when each window's forecast was made, ascending; scores: (n,)
    is_right: (n,) bool, whether an event begins within the horizon, so that an alarm is not false
    onsets:   (events,) step of the first reading beyond the threshold
    chances:  (events, 2) first and one-past-last of the windows in time to detect the event
    """

    sampling_minutes: int
    steps: np.ndarray
    scores: np.ndarray
    is_right: np.ndarray
    onsets: np.ndarray
    chances: np.ndarray

    @classmethod
    def of(
        cls,
        origins: np.ndarray,
        scores: np.ndarray,
        readings: np.ndarray,
        sampling_minutes: int,
        rule: AlarmRule = LOW,
    ) -> "AlarmCase":
        """Find what can be scored; arguments as `score_alarms` takes them."""
        horizon = rule.horizon_minutes // sampling_minutes
        is_open = ~np.isnan(readings[origins]) & ~rule.is_beyond(readings[origins])
        steps = origins[is_open]
        onsets = find_events(readings, sampling_minutes, rule)
        chances = _chances(steps, onsets, horizon, _steps(LEAD_MINUTES, sampling_minutes))
        counts = ~_follows_gap(readings, onsets, horizon, rule.filled_bins) & (chances[:, 1] > chances[:, 0])
        is_right = _is_followed(steps, onsets[counts], horizon)
        kept = is_right | ~_is_followed(steps, onsets[~counts], horizon)
        chances = _chances(steps[kept], onsets[counts], horizon, _steps(LEAD_MINUTES, sampling_minutes))
        return cls(sampling_minutes, steps[kept], scores[is_open][kept], is_right[kept], onsets[counts], chances)

    def at(self, threshold: float) -> AlarmScores:
        """Scores of alarms that are active where the score exceeds the threshold."""
        active = np.flatnonzero(self.scores > threshold)
        raised = active[_raised(self.steps[active], _steps(REARM_MINUTES, self.sampling_minutes))]
        begin, end = np.searchsorted(active, self.chances.T)
        hit = end > begin
        leads = (self.onsets[hit] - self.steps[active[begin[hit]]]) * self.sampling_minutes
        return AlarmScores(
            events=len(self.onsets),
            detected=int(hit.sum()),
            alarms=len(raised),
            false_alarms=int((~self.is_right[raised]).sum()),
            scorable_days=len(self.steps) * self.sampling_minutes / MINUTES_PER_DAY,
            leads=tuple(leads.astype(float).tolist()),
        )


def score_alarms(
    origins: np.ndarray,
    scores: np.ndarray,
    readings: np.ndarray,
    sampling_minutes: int,
    threshold: float,
    rule: AlarmRule = LOW,
) -> AlarmScores:
    """Score one person's alarms at one threshold; for several thresholds keep the `AlarmCase`.

    origins:  (n,) int, ascending: steps of the timeline at which a forecast was made. Each stands for one step of
              scorable time, so none should have been thinned out.
    scores:   (n,) higher where an event is likelier: the maximum over steps within the horizon of P(beyond the
              threshold); for an alarm on the level itself, minus the last reading (plus, for highs)
    readings: (steps,) mg/dL, NaN where missing: the person's timeline on the grid
    """
    return AlarmCase.of(origins, scores, readings, sampling_minutes, rule).at(threshold)


def pooled(scores: Iterable[AlarmScores]) -> AlarmScores:
    """Several people's scores as one: every count summed, so who has more events weighs more."""
    everyone = list(scores)
    return AlarmScores(
        events=sum(s.events for s in everyone),
        detected=sum(s.detected for s in everyone),
        alarms=sum(s.alarms for s in everyone),
        false_alarms=sum(s.false_alarms for s in everyone),
        scorable_days=sum(s.scorable_days for s in everyone),
        leads=tuple(lead for s in everyone for lead in s.leads),
    )


def sweep_thresholds(cases: Sequence[AlarmCase], thresholds: Sequence[float]) -> list[AlarmScores]:
    """The pooled scores of several people at each threshold, in its order."""
    return [pooled(case.at(threshold) for case in cases) for threshold in thresholds]


def best_threshold(cases: Sequence[AlarmCase], thresholds: Sequence[float]) -> float:
    """The threshold with the greatest pooled F1, the highest of equals; to be chosen on validation.

    Raises InsufficientData where F1 is defined at none: no events, or no alarms at any threshold.
    """
    ranked = [(s.f1, t) for s, t in zip(sweep_thresholds(cases, thresholds), thresholds, strict=True)]
    defined = [pair for pair in ranked if not math.isnan(pair[0])]
    if not defined:
        raise InsufficientData(
            f"no F1 at any of {len(thresholds)} thresholds: there are no events or no alarms; "
            "give more people or lower thresholds"
        )
    return float(max(defined)[1])


def sensitivity_at(false_per_day: float, sweep: Iterable[AlarmScores]) -> float:
    """The greatest sensitivity of a threshold sweep with at most so many false alarms per day.

    Not interpolated: what a threshold of the sweep reaches. 0 where all of them raise more false alarms, as never
    raising an alarm is always possible; NaN without events.
    """
    scores = list(sweep)
    if not any(s.events for s in scores):
        return float("nan")
    return max((s.sensitivity for s in scores if s.false_per_day <= false_per_day), default=0.0)


def find_events(readings: np.ndarray, sampling_minutes: int, rule: AlarmRule = LOW) -> np.ndarray:
    """(steps,) mg/dL → (events,) int: the step of each event's first reading beyond the threshold.

    The readings of its first 15 minutes follow each other without a gap. Missing readings are none beyond the
    threshold: 15 minutes of them end an event too.
    """
    needed = _steps(EVENT_MINUTES, sampling_minutes)
    starts, ends = _runs(rule.is_beyond(readings))
    is_apart = starts - np.concatenate([[-needed], ends[:-1]]) >= needed
    spell = np.cumsum(is_apart)  # runs with less than 15 minutes between them are of one spell, and so of one event
    lasts = ends - starts >= needed
    return starts[lasts][np.unique(spell[lasts], return_index=True)[1]]


def _chances(steps: np.ndarray, onsets: np.ndarray, horizon: int, lead: int) -> np.ndarray:
    """(events, 2): first and one-past-last index of the windows made from horizon to lead before each onset."""
    return np.stack([np.searchsorted(steps, onsets - horizon), np.searchsorted(steps, onsets - lead, "right")], axis=1)


def _follows_gap(readings: np.ndarray, onsets: np.ndarray, horizon: int, filled_bins: int) -> np.ndarray:
    """(events,) bool: more readings in a row than are filled are missing in the horizon before the onset.

    Nothing was read before the timeline begins.
    """
    padded = np.concatenate([np.full(horizon + filled_bins + 1, np.nan), readings])
    is_gap = np.zeros(len(padded) + 1, np.int64)
    for start, end in zip(*_runs(np.isnan(padded)), strict=True):
        is_gap[start + 1 : end + 1] = end - start > filled_bins
    before = np.cumsum(is_gap)
    onset_in_padded = onsets + horizon + filled_bins + 1
    return before[onset_in_padded] > before[onset_in_padded - horizon]


def _is_followed(steps: np.ndarray, onsets: np.ndarray, horizon: int) -> np.ndarray:
    """(n,) bool: an event begins after the step, at most the horizon later."""
    return np.searchsorted(onsets, steps + horizon, "right") > np.searchsorted(onsets, steps, "right")


def _raised(steps: np.ndarray, rearm: int) -> list[int]:
    """Indices of the active windows at which an alarm is raised: the first, and each first one after re-arming."""
    following = np.searchsorted(steps, steps + rearm).tolist()
    raised, k = [], 0
    while k < len(following):
        raised.append(k)
        k = following[k]
    return raised


def _runs(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) bool → first and one-past-last step of each run of true ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]


def _steps(minutes: int, sampling_minutes: int) -> int:
    """Steps that cover so many minutes."""
    return -(-minutes // sampling_minutes)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
