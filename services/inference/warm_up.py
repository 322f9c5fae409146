"""The canary: a model forecasts before it may answer anybody."""

import numpy as np

from forecasting.bundle import ModelSpec
from forecasting.cgm import ACCEPTED_MG_DL
from forecasting.errors import IntegrityError
from forecasting.events import EVENTS
from forecasting.forecaster import Forecaster, Forecasts

SAME_MG_DL = 1e-3  # what the size of a batch may change
ROUNDING_MG_DL = 1e-3  # quantiles that lie this little out of order are in order


def warm_up(forecaster: Forecaster, batch_size: int) -> None:
    """Forecast plausible contexts, alone and in the largest batch, so that the first request is no slower than others.

    Raises IntegrityError for forecasts that no person can have, that are out of order, or that depend on the batch.
    """
    contexts, minutes = _contexts(forecaster.spec.shape.context_length, max(batch_size, 3))
    events = _events(forecaster.spec, len(contexts))
    together = forecaster.predict(contexts, minutes, events=events, batch_size=len(contexts))
    _check(forecaster.spec.model, together)
    for k in range(3):
        own = None if events is None else events[k : k + 1]
        alone = forecaster.predict(contexts[k : k + 1], minutes[k : k + 1], events=own)
        if np.abs(alone.mean - together.mean[k]).max() > SAME_MG_DL:
            raise IntegrityError(
                f"{forecaster.spec.model} forecasts one thing alone and another in a batch; export it again"
            )


def _contexts(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, length) mg/dL: low, high, and waves; (count,) minutes of the day."""
    waves = 120 + 30 * np.sin(np.arange(length)[None] / 6 + np.arange(count)[:, None])
    waves[0], waves[1] = 60.0, 300.0
    return waves.astype(np.float32), np.linspace(0, 1439, count, dtype=np.float32)


def _events(spec: ModelSpec, count: int) -> np.ndarray | None:
    """(count, context_length, 3) for a model that knows events: nothing known, none taken, meals with boluses."""
    if not spec.inputs:
        return None
    events = np.zeros((count, spec.shape.context_length, len(EVENTS)), np.float32)
    events[0] = np.nan
    events[2:, spec.shape.context_length // 2] = 50.0, 5.0, 1.0
    return events


def _check(model: str, forecasts: Forecasts) -> None:
    low, high = ACCEPTED_MG_DL  # what lay beyond was brought to these edges
    if forecasts.mean.min() <= low or forecasts.mean.max() >= high:
        raise IntegrityError(
            f"{model} forecasts {forecasts.mean.min():.0f} to {forecasts.mean.max():.0f} mg/dL for "
            "plausible readings; roll it back or train it again"
        )
    if forecasts.levels and np.diff(forecasts.quantiles, axis=-1).min() < -ROUNDING_MG_DL:
        raise IntegrityError(f"{model} gives quantiles that are out of order; export it again")
