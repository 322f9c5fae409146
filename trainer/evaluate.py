"""Held-out scores, per horizon and per patient, beside persistence and ridge; and the gate's comparison."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from forecasting.baselines import PerPatient, Persistence, Predictor, Ridge
from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.events import Input
from forecasting.forecaster import Forecaster, Forecasts
from forecasting.gate import Decision, GateName, Rmse, decide, lower
from forecasting.metrics import HORIZONS, Scores, mean_over_patients, score_patients, skill
from forecasting.readers.datasets import Cohort
from forecasting.windows import Part, Windows, WindowShape, cut_all, thin
from trainer.boosting import Boosting
from trainer.flagged import ANY, flags_by_kind, rmse_without, shares_of
from trainer.progress import Watch, unwatched
from trainer.watched import predict_watched

if TYPE_CHECKING:
    from trainer.alarms import LowAlarms

PERSISTENCE, RIDGE_POOLED, RIDGE_PERSONAL = "persistence", "ridge_pooled", "ridge_personal"
BOOSTING = "boosting"
BASELINES = (PERSISTENCE, RIDGE_POOLED, RIDGE_PERSONAL)
BOOSTING_WINDOWS = 100_000  # that it learns from at most: twice as many move its error by 0.05 mg/dL


@dataclass(frozen=True)
class Evaluation:
    """Scores of several arms on the same windows.

    arms: {arm: {"mean": {horizon: scores}, "patients": {patient: {horizon: scores}}}}; keys are JSON's
    scored, forecasts: the windows, and what each arm forecast for them
    flagged:   {kind of doubt: share of the windows}
    unflagged: {arm: RMSE of the windows without any}
    alarms:    {arm: alarms of lows}; None where they were not scored
    """

    dataset: str
    part: Part
    of_windows: int
    arms: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]
    scored: Windows
    forecasts: dict[str, Forecasts]
    flagged: dict[str, float] = field(default_factory=dict)
    unflagged: dict[str, Rmse] = field(default_factory=dict)
    alarms: "dict[str, LowAlarms] | None" = None

    def rmse(self, arm: str) -> Rmse:
        """{horizon: RMSE in mg/dL, mean over patients}"""
        return {horizon: scores["rmse"] for horizon, scores in self.arms[arm]["mean"].items()}

    def renamed(self, arm: str, name: str) -> "Evaluation":
        """The same with another name for one arm."""

        def named(of: dict[str, Any]) -> dict[str, Any]:
            return {name if key == arm else key: value for key, value in of.items()}

        return replace(
            self,
            arms=named(self.arms),
            forecasts=named(self.forecasts),
            unflagged=named(self.unflagged),
            alarms=self.alarms and named(self.alarms),
        )

    def as_json(self) -> dict[str, Any]:
        """The whole evaluation with its protocol, as JSON can say it."""
        alarms = {} if self.alarms is None else {"alarms": {arm: one.as_json() for arm, one in self.alarms.items()}}
        return {
            "protocol": {
                "dataset": self.dataset,
                "part": self.part,
                "windows": len(self.scored),
                "of_windows": self.of_windows,
                "aggregation": "per patient, then mean over patients; each horizon where its own target is real",
                "unit": "mg/dL",
                "flagged": self.flagged,
            },
            "left_out": list(self.left_out),
            "arms": self.arms,
            "unflagged": self.unflagged,
            **alarms,
        }


@dataclass(frozen=True)
class Arms:
    """Models and baselines ready to forecast the same people.

    people:   those with windows in every part that is needed; left_out: a sentence for each of the others
    predictors: {arm: what forecasts}, baselines first
    """

    dataset: str
    part: Part
    shape: WindowShape
    people: tuple[GlucoseSeries, ...]
    left_out: tuple[str, ...]
    predictors: dict[str, Predictor]

    @classmethod
    def of(cls, models: Mapping[str, Predictor], cohort: Cohort, shape: WindowShape, part: Part) -> "Arms":
        """Fit the baselines for the chosen patients and put the models beside them.

        Ridge learns from train and validation parts: pooled from everyone's, personal from each patient's own.
        Patients without windows in a part that is needed are left out. Raises InsufficientData where nobody is left.
        """
        people, left_out = scorable(cohort, shape, part)
        if not people:
            raise InsufficientData(f"{cohort.dataset} has no windows in its {part} part; {'; '.join(left_out[:2])}")
        predictors = {**baselines_of(cohort, people, shape), **models}
        return cls(cohort.dataset, part, shape, tuple(people), (*cohort.left_out, *left_out), predictors)

    def score(self, max_windows: int | None = None, watch: Watch = unwatched) -> Evaluation:
        """All scores, on at most so many windows, evenly spaced."""
        everything = cut_all(self.people, self.shape, self.part)
        windows = thin(everything, max_windows)
        forecasts = {
            arm: predict_watched(
                *(predictor, windows, f"scoring {arm.replace('_', ' ')}"), unwatched if arm in BASELINES else watch
            )
            for arm, predictor in self.predictors.items()
        }
        arms = {arm: scores_of(windows, f, self.shape) for arm, f in forecasts.items()}
        for scores in arms.values():
            _add_skill(scores["mean"], arms[PERSISTENCE]["mean"])
        flags, steps = flags_by_kind(windows, self.people), scored_steps(self.shape)
        unflagged = {arm: rmse_without(windows, f, flags[ANY], steps) for arm, f in forecasts.items()}
        found = (self.dataset, self.part, len(everything), arms, self.left_out, windows, forecasts)
        return Evaluation(*found, shares_of(flags), unflagged)


def evaluate(
    models: Mapping[str, Predictor],
    cohort: Cohort,
    shape: WindowShape,
    part: Part = "test",
    max_windows: int | None = None,
    watch: Watch = unwatched,
) -> Evaluation:
    """Score models beside the baselines on one part of the chosen patients' timelines."""
    return Arms.of(models, cohort, shape, part).score(max_windows, watch)


def grow_boosting(
    cohort: Cohort, shape: WindowShape, inputs: tuple[Input, ...] = (), watch: Watch = unwatched
) -> Boosting:
    """LightGBM on everybody's train and validation parts, thinned to BOOSTING_WINDOWS; a minute for a large set."""
    train, validation = (thin(cut_all(cohort.everyone, shape, p), BOOSTING_WINDOWS) for p in ("train", "validation"))
    return Boosting.fit(train, validation, len(os.sched_getaffinity(0)), partial(watch, "growing LightGBM"), inputs)


def compare_at_gate(
    challenger: Forecaster, champion: Forecaster | None, cohort: Cohort, gate: GateName
) -> tuple[Decision, Evaluation]:
    """Challenger, bar and champion on the calibration part of the same patients."""
    models: dict[str, Predictor] = {"challenger": challenger}
    same_windows = champion is not None and champion.spec.shape == challenger.spec.shape
    if champion is not None and same_windows:
        models["champion"] = champion
    evaluation = evaluate(models, cohort, challenger.spec.shape, "calibration")
    bar = evaluation.rmse(PERSISTENCE)
    if gate == "ridge":
        bar = lower(evaluation.rmse(RIDGE_POOLED), evaluation.rmse(RIDGE_PERSONAL))
    rival = evaluation.rmse("champion") if same_windows else None
    if champion is not None and not same_windows:
        rival = evaluate({"champion": champion}, cohort, champion.spec.shape, "calibration").rmse("champion")
    return decide(evaluation.rmse("challenger"), bar, gate, rival), evaluation


def scorable(cohort: Cohort, shape: WindowShape, part: Part) -> tuple[list[GlucoseSeries], list[str]]:
    """The chosen patients who have windows in every part that is needed, and a sentence for each who has not."""
    chosen, left_out = [], []
    for series in cohort.chosen:
        counts = {p: len(cut_all([series], shape, p)) for p in ("train", "validation", part)}
        empty = [name for name, count in counts.items() if not count]
        if empty:
            left_out.append(f"patient {series.patient_id} is left out: no windows in the {' and '.join(empty)} part")
        else:
            chosen.append(series)
    return chosen, left_out


def baselines_of(cohort: Cohort, people: list[GlucoseSeries], shape: WindowShape) -> dict[str, Predictor]:
    """Persistence and ridge, pooled from everybody and personal for each of these people."""
    train, validation = cut_all(cohort.everyone, shape, "train"), cut_all(cohort.everyone, shape, "validation")
    own_train, own_validation = cut_all(people, shape, "train"), cut_all(people, shape, "validation")
    personal: dict[str, Predictor] = {
        p: Ridge.fit(own_train.of_patient(p), own_validation.of_patient(p)) for p in own_train.patients
    }
    return {
        PERSISTENCE: Persistence.fit(validation),
        RIDGE_POOLED: Ridge.fit(train, validation),
        RIDGE_PERSONAL: PerPatient(personal),
    }


def scores_of(windows: Windows, forecasts: Forecasts, shape: WindowShape) -> dict[str, Any]:
    """{"mean": {horizon: scores}, "patients": {patient: {horizon: scores}}}, at the horizons that are reported."""
    patients = score_patients(windows, forecasts, scored_steps(shape))
    return {"mean": mean_over_patients(patients), "patients": patients}


def scored_steps(shape: WindowShape) -> dict[int, int]:
    """{horizon in minutes: step}: 30 and 60 minutes, and the last step of a model that does not reach 60."""
    steps = shape.steps_at(HORIZONS)
    if shape.minutes_ahead[-1] < HORIZONS[-1]:
        steps[shape.minutes_ahead[-1]] = shape.prediction_length - 1
    return steps


def _add_skill(mean: dict[str, Scores], persistence: dict[str, Scores]) -> None:
    for horizon, scores in mean.items():
        scores["skill"] = skill(scores["rmse"], persistence[horizon]["rmse"])
