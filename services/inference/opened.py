"""A model version in use, and what a reference leads to."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from forecasting.forecaster import Forecaster
from forecasting.references import Version
from services.inference.batcher import Batcher
from services.inference.telemetry import public_name

COMPARED_MINUTES = (30, 60)  # horizons whose truth is compared with
INTERVAL = (0.05, 0.95)  # quantiles of the interval that truth should lie in


@dataclass(frozen=True, slots=True)
class Compared:
    """What of a model's forecasts is compared with the truth.

    steps: (minutes ahead, step) of each horizon; interval: places of the quantiles that truth should lie between
    """

    public_name: str
    sampling_minutes: int
    steps: tuple[tuple[int, int], ...]
    interval: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Opened:
    """A model version in use. size_bytes: of its network; metrics: the bundle's metrics.json"""

    version: Version
    forecaster: Forecaster
    batcher: Batcher
    size_bytes: int
    metrics: dict[str, Any]

    @cached_property
    def compared(self) -> Compared | None:
        """None for a model that reaches none of the horizons, or gives no interval."""
        spec = self.forecaster.spec
        steps = spec.shape.steps_at(COMPARED_MINUTES)
        if not steps or not set(INTERVAL) <= set(spec.quantiles):
            return None
        low, high = (spec.quantiles.index(level) for level in INTERVAL)
        return Compared(public_name(self.version.name), spec.shape.sampling_minutes, tuple(steps.items()), (low, high))


@dataclass(frozen=True, eq=False, slots=True)
class Served:
    """What a reference leads to. alias: by which it was reached, empty for a version named by its number."""

    opened: Opened
    alias: str
