"""Held-out scores, per horizon and per patient, beside persistence and ridge; and the gate's comparison."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from forecasting.baselines import PerPatient, Persistence, Ridge
from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.events import INPUTS, Input
from forecasting.forecaster import Forecaster, Forecasts
from forecasting.gate import Decision, GateName, Rmse, decide, lower
from forecasting.metrics import HORIZONS, Scores, mean_over_patients, score_patients, skill
from forecasting.readers.datasets import Cohort
from forecasting.windows import Part, Windows, WindowShape, cut_all, thin
from trainer.boosting import Boosting
from trainer.progress import Progress, Report, Watch

PERSISTENCE, RIDGE_POOLED, RIDGE_PERSONAL = "persistence", "ridge_pooled", "ridge_personal"
BOOSTING = "boosting"
BASELINES = (PERSISTENCE, RIDGE_POOLED, RIDGE_PERSONAL)
CHUNK = 2048  # windows between two lines of progress


@dataclass(frozen=True)
class Evaluation:
    """Scores of several arms on the same windows.

    arms: {arm: {"mean": {horizon: scores}, "patients": {patient: {horizon: scores}}}}; keys are JSON's
    scored, forecasts: the windows, and what each arm forecast for them
    """

    dataset: str
    part: Part
    of_windows: int
    arms: dict[str, dict[str, Any]]
    left_out: tuple[str, ...]
    scored: Windows
    forecasts: dict[str, Forecasts]

    def rmse(self, arm: str) -> Rmse:
        """{horizon: RMSE in mg/dL, mean over patients}"""
        return {horizon: scores["rmse"] for horizon, scores in self.arms[arm]["mean"].items()}

    def as_json(self) -> dict[str, Any]:
        """The whole evaluation with its protocol, as JSON can say it."""
        return {
            "protocol": {
                "dataset": self.dataset,
                "part": self.part,
                "windows": len(self.scored),
                "of_windows": self.of_windows,
                "aggregation": "per patient, then mean over patients; each horizon where its own target is real",
                "unit": "mg/dL",
            },
            "left_out": list(self.left_out),
            "arms": self.arms,
        }


def evaluate(
    models: dict[str, Forecaster],
    cohort: Cohort,
    shape: WindowShape,
    part: Part = "test",
    max_windows: int | None = None,
    watch: Watch = lambda arm, progress: None,
    boosting: bool = False,
) -> Evaluation:
    """Score models beside the baselines on one part of the chosen patients' timelines.

    Ridge learns from train and validation parts: pooled from everyone's, personal from each patient's own. Boosting,
    where it is asked for, learns from everyone's, and of all inputs that one of the models has; it takes a minute
    where the others take seconds.
    Patients without windows in a part that is needed are left out, and named.
    """
    chosen, left_out = _scorable(cohort, shape, part)
    everything = cut_all(chosen, shape, part)
    windows = thin(everything, max_windows)
    if not len(windows):
        raise InsufficientData(f"{cohort.dataset} has no windows in its {part} part; {'; '.join(left_out[:2])}")
    known = _inputs_of(models) if boosting else ()
    forecasts = _baseline_forecasts(cohort, chosen, windows, shape, boosting, known)
    for arm, model in models.items():
        forecasts[arm] = _predict_watched(model, windows, partial(watch, f"scoring {arm.replace('_', ' ')}"))
    arms = {arm: scores_of(windows, f, shape) for arm, f in forecasts.items()}
    for scores in arms.values():
        _add_skill(scores["mean"], arms[PERSISTENCE]["mean"])
    left_out = [*cohort.left_out, *left_out]
    return Evaluation(cohort.dataset, part, len(everything), arms, tuple(left_out), windows, forecasts)


def compare_at_gate(
    challenger: Forecaster, champion: Forecaster | None, cohort: Cohort, gate: GateName
) -> tuple[Decision, Evaluation]:
    """Challenger, bar and champion on the calibration part of the same patients."""
    models = {"challenger": challenger}
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


def _scorable(cohort: Cohort, shape: WindowShape, part: Part) -> tuple[list[GlucoseSeries], list[str]]:
    chosen, left_out = [], []
    for series in cohort.chosen:
        counts = {p: len(cut_all([series], shape, p)) for p in ("train", "validation", part)}
        empty = [name for name, count in counts.items() if not count]
        if empty:
            left_out.append(f"patient {series.patient_id} is left out: no windows in the {' and '.join(empty)} part")
        else:
            chosen.append(series)
    return chosen, left_out


def _inputs_of(models: dict[str, Forecaster]) -> tuple[Input, ...]:
    """All that one of the models knows beside glucose and time."""
    return tuple(one for one in INPUTS if any(one in model.spec.inputs for model in models.values()))


def _baseline_forecasts(
    cohort: Cohort,
    chosen: list[GlucoseSeries],
    windows: Windows,
    shape: WindowShape,
    boosting: bool,
    inputs: tuple[Input, ...],
) -> dict[str, Forecasts]:
    train, validation = cut_all(cohort.everyone, shape, "train"), cut_all(cohort.everyone, shape, "validation")
    own_train, own_validation = cut_all(chosen, shape, "train"), cut_all(chosen, shape, "validation")
    personal = PerPatient(
        {p: Ridge.fit(own_train.of_patient(p), own_validation.of_patient(p)) for p in windows.patients}
    )
    forecasts = {
        PERSISTENCE: Persistence.fit(validation).predict_windows(windows),
        RIDGE_POOLED: Ridge.fit(train, validation).predict_windows(windows),
        RIDGE_PERSONAL: personal.predict_windows(windows),
    }
    if boosting:
        forecasts[BOOSTING] = Boosting.fit(train, validation, inputs=inputs).predict_windows(windows)
    return forecasts


def _predict_watched(model: Forecaster, windows: Windows, report: Report) -> Forecasts:
    """Forecast all windows in chunks, so that a person can see how far it is."""
    parts = []
    for start in range(0, len(windows), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(model.predict_windows(windows[rows]))
        report(Progress(min(start + CHUNK, len(windows)), len(windows)))
    mean, quantiles = np.concatenate([f.mean for f in parts]), np.concatenate([f.quantiles for f in parts])
    return Forecasts.of(mean, quantiles, parts[0].levels)


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
