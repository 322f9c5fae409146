"""mg/dL → what a network sees, and back. Training, evaluation and service all go through here."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from forecasting.cgm import ACCEPTED_MG_DL
from forecasting.events import Input, encode_events, event_channels
from forecasting.history import STATISTICS

REVIN_EPS = 1e-5  # variance floor of the paper's instance norm
RADIANS_PER_MINUTE = 2 * np.pi / 1440
CHANGE = 10.0  # a day's mean change from step to step is about a tenth of its deviation
CHUNK = 1024  # windows written at a time, so that they stay in the processor's cache while channel after channel is


class Normalisation(BaseModel):
    """How glucose becomes a network's input.

    level: anchored on the last reading, in units of `scale_mg_dl`; level and time of day are further channels
    revin: the paper's instance norm, each window by its own mean and deviation; nothing else is visible
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["level", "revin"] = "level"
    scale_mg_dl: float = Field(50.0, gt=0, le=1000, description="mg/dL that count as one unit")
    centre_mg_dl: float = Field(140.0, gt=0, le=1000, description="level that counts as zero")

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the input channels, in order."""
        if self.kind == "revin":
            return ("glucose",)
        return ("glucose", "level", "day_sin", "day_cos", "day_known")


@dataclass(frozen=True)
class Encoded:
    """Model inputs, and what turns outputs back to mg/dL.

    x: (n, context_length, channels) float32; anchor, scale: (n,) float64 mg/dL
    """

    x: np.ndarray
    anchor: np.ndarray
    scale: np.ndarray

    def normalise(self, glucose_mg_dl: np.ndarray) -> np.ndarray:
        """(n, …) mg/dL → (n, …) float32 in the units of the output."""
        ones = (1,) * (glucose_mg_dl.ndim - 1)
        return ((glucose_mg_dl - self.anchor.reshape(-1, *ones)) / self.scale.reshape(-1, *ones)).astype(np.float32)

    def to_mg_dl(self, outputs: np.ndarray) -> np.ndarray:
        """(n, …) model outputs → (n, …) float64 mg/dL within what a reading can be."""
        ones = (1,) * (outputs.ndim - 1)
        glucose = outputs.astype(np.float64) * self.scale.reshape(-1, *ones) + self.anchor.reshape(-1, *ones)
        return np.clip(glucose, *ACCEPTED_MG_DL)


def encode(
    context: np.ndarray,
    minute_of_day: np.ndarray,
    sampling_minutes: int,
    normalisation: Normalisation,
    history: np.ndarray | None = None,
    events: np.ndarray | None = None,
    inputs: tuple[Input, ...] = (),
) -> Encoded:
    """Contexts → inputs.

    context: (n, context_length) mg/dL without gaps; minute_of_day: (n,) at the origin, NaN where unknown;
    history: (n, 4) of forecasting.history.STATISTICS, None for models that know none;
    events: (n, context_length, 3) of forecasting.events.EVENTS, looked at by models that have `inputs`.
    """
    if normalisation.kind == "revin":
        return _encode_by_itself(context.astype(np.float64))
    own = len(normalisation.channels)
    more = 0 if history is None else len(STATISTICS)
    known = own + more
    x = np.empty((*context.shape, known + len(event_channels(inputs))), np.float32)
    for start in range(0, len(context), CHUNK):
        rows = slice(start, start + CHUNK)
        _write_level(x[rows], context[rows], normalisation)
        _write_day(x[rows], minute_of_day[rows], sampling_minutes)
        if history is not None:
            x[rows, :, own:known] = _history_channels(history[rows], context[rows, -1], normalisation)[:, None]
        if inputs and events is not None:
            x[rows, :, known:] = encode_events(events[rows], inputs, sampling_minutes)
    return Encoded(x, context[:, -1].astype(np.float64), np.full(len(context), normalisation.scale_mg_dl))


def _encode_by_itself(context: np.ndarray) -> Encoded:
    """The paper's instance norm: (n, context_length) mg/dL → one channel."""
    anchor, scale = context.mean(axis=1), np.sqrt(context.var(axis=1) + REVIN_EPS)
    x = ((context - anchor[:, None]) / scale[:, None])[..., None]
    return Encoded(x.astype(np.float32), anchor, scale)


def _write_level(x: np.ndarray, context: np.ndarray, normalisation: Normalisation) -> None:
    """Channels glucose and level of x (n, context_length, channels), from (n, context_length) mg/dL."""
    anchor = context[:, -1:]
    x[..., 0] = (context - anchor) / normalisation.scale_mg_dl
    x[..., 1] = (anchor - normalisation.centre_mg_dl) / normalisation.scale_mg_dl


def _write_day(x: np.ndarray, minute_of_day: np.ndarray, sampling_minutes: int) -> None:
    """Channels day_sin, day_cos and day_known of x (n, context_length, channels), from (n,) minutes at the origin.

    Sine and cosine are the two halves of one complex number, which a product turns back from the origin to each
    step: as exact as a sine for every step, of which there are context_length times as many.
    """
    known = ~np.isnan(minute_of_day)
    minutes = np.where(known, minute_of_day, 0).astype(np.float64)
    at_origin = known * np.exp(1j * (np.pi / 2 - RADIANS_PER_MINUTE * minutes))
    day = at_origin.astype(np.complex64)[:, None] * _way_back(x.shape[1], sampling_minutes)
    x[..., 2:4] = day.view(np.float32).reshape(*day.shape, 2)
    x[..., 4] = known[:, None]


def _history_channels(history: np.ndarray, anchor: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """(n, 4) statistics in mg/dL and the last readings (n,) → (n, 4) in units of about one."""
    scale = normalisation.scale_mg_dl
    mean, deviation, change, known = history.T
    return np.stack([(mean - anchor) / scale, deviation / scale, CHANGE * change / scale, known], axis=1)


@lru_cache
def _way_back(context_length: int, sampling_minutes: int) -> np.ndarray:
    """(context_length,) complex64: what turns the time of day at the origin back to each step, the same always."""
    minutes = sampling_minutes * np.arange(context_length - 1, -1, -1)
    return np.exp(1j * RADIANS_PER_MINUTE * minutes).astype(np.complex64)
