"""The people a model learned from, in the statistics of their days; and a sentence for whoever is not like them.

A model forecasts anybody, and is worse where it never learned. The day before a forecast tells most of it: people
without diabetes vary half as much as people with type 1, and another sensor moves otherwise from reading to reading.
"""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from forecasting.conformal import equal_weights, weighted_quantiles
from forecasting.history import ENOUGH_KNOWN, STATISTICS
from forecasting.windows import Windows

SHARE = 0.99  # of the days that a model learned from lie within each range
WORDS = {  # of the statistics that are looked at
    "history_mean": "a mean",
    "history_deviation": "a standard deviation",
    "history_change": "a mean change from reading to reading",
}
Bound = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class Population(BaseModel):
    """Ranges of the days' statistics, mg/dL: (least, greatest) of each of the first three of STATISTICS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_mean: tuple[Bound, Bound]
    history_deviation: tuple[Bound, Bound]
    history_change: tuple[Bound, Bound]

    @model_validator(mode="after")
    def _ascending(self) -> "Population":
        if any(low > high for low, high in (getattr(self, name) for name in WORDS)):
            raise ValueError("the least of each range must not be above the greatest")
        return self

    @classmethod
    def of(cls, windows: Windows) -> "Population | None":
        """Ranges that hold 99 % of the windows' days each, everybody weighing the same; None where no day is known."""
        history = windows.history
        known = _enough(history)
        if not known.any():
            return None
        weights = equal_weights(windows.patient_ids[known])
        tails = ((1 - SHARE) / 2, (1 + SHARE) / 2)
        ranges = {}
        for name in WORDS:
            values = history[known, STATISTICS.index(name)].astype(np.float64)
            ranges[name] = tuple(weighted_quantiles(np.stack([values, values], axis=1), tails, weights).round(2))
        return cls(**ranges)

    def outside(self, history: np.ndarray) -> np.ndarray:
        """(n, 4) STATISTICS → (n,) bool: days unlike those. A day of which less than half is known is not judged."""
        days = history[:, [STATISTICS.index(name) for name in WORDS]]
        low, high = np.array([getattr(self, name) for name in WORDS]).T
        return ((days < low) | (days > high)).any(axis=1) & _enough(history)  # type: ignore[no-any-return]

    def warning(self, history: np.ndarray) -> str | None:
        """(4,) STATISTICS of one day → what is unusual about it in words; None for nothing."""
        day = dict(zip(STATISTICS, history.tolist(), strict=True))
        if day["history_known"] < ENOUGH_KNOWN:
            return None
        ranges = {name: getattr(self, name) for name in WORDS}
        unlike = [name for name, (low, high) in ranges.items() if not low <= day[name] <= high]
        if not unlike:
            return None
        told = [f"{WORDS[n]} of {day[n]:.0f} mg/dL, {ranges[n][0]:.0f} to {ranges[n][1]:.0f} there" for n in unlike]
        return f"this day is unlike those that the model learned from, and the forecast may be worse: {'; '.join(told)}"


def _enough(history: np.ndarray) -> np.ndarray:
    if not history.shape[1]:
        return np.zeros(len(history), bool)
    return history[:, STATISTICS.index("history_known")] >= ENOUGH_KNOWN  # type: ignore[no-any-return]
