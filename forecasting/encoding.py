"""mg/dL → what a network sees, and back. Training, evaluation and service all go through here."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from forecasting.cgm import ACCEPTED_MG_DL

REVIN_EPS = 1e-5  # variance floor of the paper's instance norm


class Normalisation(BaseModel):
    """How glucose becomes a network's input.

    level: anchored on the last reading, in units of `scale_mg_dl`; level and time of day are further channels
    revin: the paper's instance norm, each window by its own mean and deviation; nothing else is visible
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["level", "revin"] = "level"
    scale_mg_dl: float = Field(50.0, gt=0, description="mg/dL that count as one unit")
    centre_mg_dl: float = Field(140.0, gt=0, description="level that counts as zero")

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
    context: np.ndarray, minute_of_day: np.ndarray, sampling_minutes: int, normalisation: Normalisation
) -> Encoded:
    """Contexts → inputs.

    context: (n, context_length) mg/dL without gaps; minute_of_day: (n,) at the origin, NaN where unknown.
    """
    context = context.astype(np.float64)
    if normalisation.kind == "revin":
        anchor, scale = context.mean(axis=1), np.sqrt(context.var(axis=1) + REVIN_EPS)
        x = ((context - anchor[:, None]) / scale[:, None])[..., None]
        return Encoded(x.astype(np.float32), anchor, scale)
    anchor = context[:, -1]
    scale = np.full(len(context), normalisation.scale_mg_dl)
    back = sampling_minutes * np.arange(context.shape[1] - 1, -1, -1)
    known = ~np.isnan(minute_of_day)
    angle = 2 * np.pi * (np.where(known, minute_of_day, 0)[:, None] - back) / 1440
    x = np.empty((*context.shape, len(normalisation.channels)), np.float32)
    x[..., 0] = (context - anchor[:, None]) / scale[:, None]
    x[..., 1] = ((anchor - normalisation.centre_mg_dl) / normalisation.scale_mg_dl)[:, None]
    x[..., 2] = np.sin(angle) * known[:, None]
    x[..., 3] = np.cos(angle) * known[:, None]
    x[..., 4] = known[:, None]
    return Encoded(x, anchor, scale)
