"""Lows foretold: alarm thresholds fixed on the validation part, alarms scored on every window of another part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from forecasting.baselines import Predictor
from forecasting.cgm import LOW_MG_DL, GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecasts
from forecasting.metrics import AlarmCase, AlarmRule, AlarmScores, best_threshold, pooled, sensitivity_at
from forecasting.metrics import sweep_thresholds as sweep
from forecasting.metrics.alarms import LEAD_MINUTES
from forecasting.windows import Part, Windows, WindowShape, cut_all
from trainer.progress import Watch, unwatched
from trainer.watched import predict_watched

LEVEL = "level"  # the arm that warns when the last reading is low
HORIZON = 30  # minutes ahead of which a low is foretold
THRESHOLDS = 60  # of each arm that are tried
FALSE_PER_DAY = 1.0  # false alarms a day at which sensitivities are compared
EQUALLY_FALSE = f"{FALSE_PER_DAY:g} false alarm{'' if FALSE_PER_DAY == 1 else 's'} a day"
RESAMPLES = 2_000  # of people


@dataclass(frozen=True)
class LowAlarms:
    """What one arm's alarms were worth.

    threshold: of the score, chosen on the validation part
    people:    {patient: scores at that threshold}
    curve:     scores of everybody together at thresholds of the scored part itself, for comparisons at equal rates
    """

    threshold: float
    people: dict[str, AlarmScores]
    curve: tuple[AlarmScores, ...]

    @property
    def everybody(self) -> AlarmScores:
        """All people as one: who has more events weighs more."""
        return pooled(self.people.values())

    def sensitivity_at(self, false_per_day: float = FALSE_PER_DAY) -> float:
        """The greatest sensitivity with at most so many false alarms a day, whatever threshold that takes."""
        return sensitivity_at(false_per_day, self.curve)

    def as_json(self) -> dict[str, Any]:
        """Scores of everybody, and what each person's follow from; null where a score has no value."""
        names = ("sensitivity", "precision", "f1", "false_per_day", "median_lead")
        scores = {name: getattr(self.everybody, name) for name in names}
        scores |= {
            "threshold": self.threshold,
            f"sensitivity_at_{FALSE_PER_DAY:g}_false_per_day": self.sensitivity_at(),
        }
        told = {name: value if math.isfinite(value) else None for name, value in scores.items()}
        return told | _counts(self.everybody) | {"patients": {p: _counts(own) for p, own in self.people.items()}}


def _counts(scores: AlarmScores) -> dict[str, float]:
    return {name: value for name, value in asdict(scores).items() if name != "leads"}


def low_alarms(
    predictors: Mapping[str, Predictor],
    people: Sequence[GlucoseSeries],
    shape: WindowShape,
    part: Part = "test",
    known: Mapping[str, Forecasts] | None = None,
    watch: Watch = unwatched,
) -> dict[str, LowAlarms]:
    """{arm: its alarms of lows within 30 minutes}, and those of a level alarm, on all windows of a part.

    known: {arm: forecasts of all windows of the part}, where they were made already
    Raises InsufficientData where nobody has a low in the validation part, or steps are too long to warn in time.
    """
    if shape.sampling_minutes > LEAD_MINUTES:
        raise InsufficientData(
            f"steps of {shape.sampling_minutes} min are too long for alarms {LEAD_MINUTES} min ahead"
        )
    parts: tuple[Windows, Windows] = (cut_all(people, shape, "validation"), cut_all(people, shape, part))
    levels = [-windows.context[:, -1].astype(np.float64) for windows in parts]
    found = {LEVEL: _alarms(parts, levels, people, shape)}
    for arm, predictor in predictors.items():
        name = f"of {arm.replace('_', ' ')}"
        checked = predict_watched(predictor, parts[0], f"alarm threshold {name}", watch)
        told = (known or {}).get(arm) or predict_watched(predictor, parts[1], f"alarms {name}", watch)
        found[arm] = _alarms(parts, [low_scores(checked, shape), low_scores(told, shape)], people, shape)
    return found


def low_scores(forecasts: Forecasts, shape: WindowShape) -> np.ndarray:
    """(n,): the maximum over steps up to 30 minutes of P(< 70 mg/dL), or minus the lowest mean without quantiles.

    Kept between 0.01 and 0.99, which changes no order: the quantiles of a forecast end inside.
    """
    steps = sum(minutes <= HORIZON for minutes in shape.minutes_ahead)
    near = Forecasts(forecasts.outputs[:, :steps], forecasts.levels)
    if len(forecasts.levels) < 2:
        return -near.mean.min(axis=1)  # type: ignore[no-any-return]
    return near.probability_below(LOW_MG_DL).max(axis=1)  # type: ignore[no-any-return]


def _alarms(
    parts: tuple[Windows, Windows], scores: list[np.ndarray], people: Sequence[GlucoseSeries], shape: WindowShape
) -> LowAlarms:
    """parts, scores: windows and their scores, (n,), of the validation part and of the part that is scored"""
    checked, cases = (_cases(windows, own, people, shape) for windows, own in zip(parts, scores, strict=True))
    threshold = _chosen(list(checked.values()))
    curve = sweep(list(cases.values()), _candidates(list(cases.values())))
    return LowAlarms(threshold, {p: case.at(threshold) for p, case in cases.items()}, tuple(curve))


def _cases(
    windows: Windows, scores: np.ndarray, people: Sequence[GlucoseSeries], shape: WindowShape
) -> dict[str, AlarmCase]:
    rule = AlarmRule(LOW_MG_DL, "below", HORIZON, shape.max_fill_bins)
    cases = {}
    for series in people:
        rows = windows.patient_ids == series.patient_id
        steps = (windows.origins[rows] - series.start) // np.timedelta64(shape.sampling_minutes, "m")
        cases[series.patient_id] = AlarmCase.of(
            steps.astype(np.int64), scores[rows], series.glucose_mg_dl, shape.sampling_minutes, rule
        )
    return cases


def _chosen(cases: Sequence[AlarmCase]) -> float:
    """The threshold of the greatest F1."""
    if not any(len(case.onsets) for case in cases):
        raise InsufficientData("nobody has a low in the validation part, so that no alarm threshold can be chosen")
    thresholds = _candidates(cases)
    return best_threshold(cases, thresholds) if len(thresholds) > 1 else thresholds[0]  # of equal scores: no alarm


def _candidates(cases: Sequence[AlarmCase]) -> list[float]:
    """Scores that occur, evenly spaced in their order, from the lowest to the highest, at which nothing is active."""
    scores = np.unique(np.concatenate([case.scores for case in cases]))
    rows = np.unique(np.linspace(0, len(scores) - 1, THRESHOLDS).round().astype(int))
    return [float(score) for score in scores[rows]]


def f1_difference(ours: LowAlarms, theirs: LowAlarms, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """F1 of one arm minus that of another, and its 95 % interval for people drawn anew.

    The thresholds stay: what varies is who is warned. NaN where F1 has no value.
    """
    people = list(ours.people)
    drawn = np.random.default_rng(seed).multinomial(len(people), np.full(len(people), 1 / len(people)), RESAMPLES)
    counts = [np.array([_f1_counts(arm.people[p]) for p in people], np.float64) for arm in (ours, theirs)]
    first, second = (_f1(drawn @ own) for own in counts)
    differences = (first - second)[np.isfinite(first - second)]
    low, high = np.quantile(differences, [0.025, 0.975]) if len(differences) else (math.nan, math.nan)
    return ours.everybody.f1 - theirs.everybody.f1, (float(low), float(high))


def alarm_sentence(ours: LowAlarms, rival: str, theirs: LowAlarms) -> str:
    """One arm's alarms against another's, plainly."""
    difference, (low, high) = f1_difference(ours, theirs)
    chance = "higher" if low > 0 else "lower" if high < 0 else "no difference that chance could not make"
    interval = f" (95 % {low:+.2f} to {high:+.2f} over people)" if len(ours.people) > 1 else ""
    return (
        f"alarms of lows within {HORIZON} min: F1 {ours.everybody.f1:.2f} against {theirs.everybody.f1:.2f} of "
        f"{rival}, {difference:+.2f}{interval}: {chance}; at {EQUALLY_FALSE} "
        f"{100 * ours.sensitivity_at():.0f} % against {100 * theirs.sensitivity_at():.0f} % of lows are foretold"
    )


def _f1_counts(scores: AlarmScores) -> tuple[int, int, int, int]:
    return scores.events, scores.detected, scores.alarms, scores.alarms - scores.false_alarms


def _f1(counts: np.ndarray) -> np.ndarray:
    """(draws, 4) events, detected, alarms, right ones → (draws,), as AlarmScores.f1"""
    events, detected, alarms, right = counts.T
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity, precision = detected / events, right / alarms
        f1 = 2 * sensitivity * precision / (sensitivity + precision)
    return np.where(sensitivity + precision == 0, 0.0, f1)
