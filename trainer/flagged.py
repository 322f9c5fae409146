"""How much of what is scored is doubtful, and the error without it. What is doubtful, forecasting.quality says."""

from collections.abc import Mapping, Sequence

import numpy as np

from forecasting.cgm import GlucoseSeries
from forecasting.forecaster import Forecasts
from forecasting.gate import Rmse
from forecasting.metrics import rmse
from forecasting.quality import Quality, flagged_windows
from forecasting.windows import Windows

ANY = "any"


def flags_by_kind(windows: Windows, series: Sequence[GlucoseSeries]) -> dict[str, np.ndarray]:
    """{"warm_up", "jump", …, "any": (n,) bool}: windows with such a reading in the newest hour of their context.

    series: those that the windows were cut from
    """
    kinds = {str(kind.name).lower(): flagged_windows(windows, series, kinds=kind) for kind in Quality}
    return kinds | {ANY: np.logical_or.reduce(list(kinds.values()))}


def shares_of(flags: Mapping[str, np.ndarray]) -> dict[str, float]:
    """{kind: share of the windows}"""
    return {kind: float(rows.mean()) for kind, rows in flags.items()}


def rmse_without(windows: Windows, forecasts: Forecasts, flagged: np.ndarray, steps: Mapping[int, int]) -> Rmse:
    """{horizon: RMSE in mg/dL of the windows that are not flagged}, per patient, then mean over patients.

    flagged: (n,) bool; steps: {horizon in minutes: step}. A horizon at which nothing is left has no entry.
    """
    found: dict[str, list[float]] = {str(horizon): [] for horizon in steps}
    for patient in windows.patients:
        own = ~flagged & (windows.patient_ids == patient)
        for horizon, step in steps.items():
            truth = windows.target[own, step].astype(np.float64)
            if not np.isnan(truth).all():
                found[str(horizon)].append(rmse(truth, forecasts.mean[own, step]))
    return {horizon: float(np.mean(values)) for horizon, values in found.items() if values}
