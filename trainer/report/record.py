"""What a report is made from: one run's arms, their forecasts and scores, how they were trained, what they cost."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from forecasting.errors import InvalidSetting
from forecasting.forecaster import Forecasts
from forecasting.metrics import AlarmScores, Scores
from forecasting.windows import Windows, WindowShape
from trainer.evaluate import PERSISTENCE
from trainer.tables import LABELS

BASELINE_KINDS = (PERSISTENCE, "ridge", "boosting")  # an arm whose name begins so is a baseline
LONGEST_LABEL = 28


@dataclass(frozen=True)
class Curves:
    """Losses by epoch."""

    train: tuple[float, ...]
    validation: tuple[float, ...]


@dataclass(frozen=True)
class Cost:
    """Size and speed of an arm; None where it was not measured."""

    parameters: int | None
    file_mb: float | None
    latency_ms: float | None
    batch_per_second: float | None


@dataclass(frozen=True)
class RunReport:
    """One run, ready to be written up.

    title, dataset, protocol, findings: sentences, printed as they are; only labels of patients follow `names`
    evaluation:  `Evaluation.as_json()`
    windows:     the scored windows; forecasts: {arm: aligned with them}
    curves:      {name: losses}; costs: {arm: cost}; alarms: {arm: scores}
    equal_alarms: {arm: sensitivity of alarms where all raise equally many false ones} a day
    highlighted: the arm that is published
    names:       show patient ids; False for real people, who become "person 1", "person 2", …
    provenance:  {what: value}, printed at the end beside what is found here
    """

    title: str
    dataset: str
    protocol: str
    evaluation: dict[str, Any]
    windows: Windows
    forecasts: dict[str, Forecasts]
    curves: dict[str, Curves]
    costs: dict[str, Cost]
    findings: list[str]
    highlighted: str
    shape: WindowShape = field(default_factory=WindowShape)
    alarms: dict[str, AlarmScores] | None = None
    equal_alarms: dict[str, float] = field(default_factory=dict)
    names: bool = False
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def horizons(self) -> list[str]:
        """Minutes, as the evaluation keys them, in order."""
        found = {h for arm in self.evaluation["arms"].values() for h in arm["mean"]}
        return sorted(found, key=int)

    @property
    def arms(self) -> list[str]:
        """Of the evaluation, the lowest RMSE at the first horizon on top."""
        arms = list(self.evaluation["arms"])
        return sorted(arms, key=lambda arm: self.mean(arm, self.horizons[0]).get("rmse", float("inf")))

    @cached_property
    def steps(self) -> dict[str, int]:
        """{horizon: its step}, for the horizons at which something was read."""
        steps = self.shape.steps_at(int(h) for h in self.horizons)
        return {str(h): step for h, step in steps.items() if not np.isnan(self.windows.target[:, step]).all()}

    @property
    def published(self) -> Forecasts:
        return self.forecasts[self.highlighted]

    def mean(self, arm: str, horizon: str) -> Scores:
        """Scores, mean over patients; empty where there are none."""
        found: Scores = self.evaluation["arms"].get(arm, {"mean": {}})["mean"].get(horizon, {})
        return found

    def by_patient(self, arm: str, horizon: str, score: str = "rmse") -> dict[str, float]:
        """{patient: score}, of those who have the horizon."""
        patients = self.evaluation["arms"][arm]["patients"]
        return {p: scores[horizon][score] for p, scores in patients.items() if horizon in scores}

    def best_baseline(self, horizon: str) -> str | None:
        """The baseline with the lowest RMSE, beside the published arm itself."""
        rivals = [arm for arm in self.arms if is_baseline(arm) and arm != self.highlighted]
        scored = [arm for arm in rivals if self.mean(arm, horizon)]
        return min(scored, key=lambda arm: self.mean(arm, horizon)["rmse"], default=None)

    @cached_property
    def labels(self) -> dict[str, str]:
        """{patient: what a reader sees}"""
        patients = dict.fromkeys(self.windows.patients)
        patients |= dict.fromkeys(p for arm in self.evaluation["arms"].values() for p in arm["patients"])
        return {p: _printable(p) if self.names else f"person {n}" for n, p in enumerate(patients, 1)}

    def check(self) -> None:
        """Raises InvalidSetting where arms, windows and forecasts do not belong together."""
        if self.highlighted not in self.forecasts or self.highlighted not in self.evaluation["arms"]:
            raise InvalidSetting(f"the report highlights {self.highlighted}, which was not forecast and scored")
        expected = (len(self.windows), self.shape.prediction_length)
        for arm, forecasts in self.forecasts.items():
            if forecasts.mean.shape != expected:
                raise InvalidSetting(f"forecasts of {arm} are {forecasts.mean.shape}, the report's windows {expected}")


def is_baseline(arm: str) -> bool:
    return arm.startswith(BASELINE_KINDS)


def arm_label(arm: str) -> str:
    """An arm in words: ridge_pooled → "ridge, pooled"."""
    return _printable(LABELS.get(arm, arm.replace("_", ", ")))


def _printable(name: str) -> str:
    """As it is, without what would break a picture: control characters and endless lengths."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return clean if len(clean) <= LONGEST_LABEL else clean[: LONGEST_LABEL - 1] + "…"
