"""What a report shows and an evaluation does not hold: errors at every step, calibration, zones, examples."""

from collections.abc import Iterable, Sequence

import numpy as np

from forecasting.forecaster import Forecasts
from forecasting.metrics import clarke_zones, dts_zones
from forecasting.metrics import zone_shares as shares_of
from forecasting.windows import Windows

INTERVALS = (0.5, 0.8, 0.9, 0.95)
GRIDS = {"Clarke": clarke_zones, "DTS": dts_zones}


def by_patient(windows: Windows, values: np.ndarray) -> np.ndarray:
    """(n, k) → (patients, k): each patient's mean without NaN, NaN where there is nothing else."""
    real = ~np.isnan(values)
    means = np.full((len(windows.patients), values.shape[1]), np.nan)
    for row, patient in enumerate(windows.patients):
        own = windows.patient_ids == patient
        count = real[own].sum(axis=0)
        np.divide(np.where(real[own], values[own], 0).sum(axis=0), count, out=means[row], where=count > 0)
    return means


def over_patients(means: np.ndarray) -> np.ndarray:
    """(patients, k) → (k,): the mean over patients who have a value, NaN where none has."""
    count = (~np.isnan(means)).sum(axis=0)
    return np.divide(np.nansum(means, axis=0), count, out=np.full(means.shape[1], np.nan), where=count > 0)


def rmse_by_step(windows: Windows, forecasts: Forecasts) -> np.ndarray:
    """(prediction_length,) mg/dL, mean over patients."""
    squared = (forecasts.mean - windows.target) ** 2
    return over_patients(np.sqrt(by_patient(windows, squared)))


def shares_below(windows: Windows, forecasts: Forecasts, step: int) -> np.ndarray:
    """(levels,): share of truth at or below each quantile, mean over patients."""
    truth = windows.target[:, [step]]
    is_below = np.where(np.isnan(truth), np.nan, truth <= forecasts.quantiles[:, step])
    return over_patients(by_patient(windows, is_below))


def calibration_error(shares: np.ndarray, levels: Sequence[float]) -> float:
    """Mean absolute gap between share and level."""
    return float(np.mean(np.abs(shares - np.asarray(levels))))


def coverages(windows: Windows, forecasts: Forecasts, step: int) -> dict[float, np.ndarray]:
    """{interval: (patients,) share of truth inside}, for the intervals whose two ends are forecast."""
    truth, quantiles, found = windows.target[:, step], forecasts.quantiles[:, step], {}
    for share in INTERVALS:
        if (ends := interval_ends(forecasts.levels, share)) is not None:
            is_inside = (truth >= quantiles[:, ends[0]]) & (truth <= quantiles[:, ends[1]])
            found[share] = by_patient(windows, np.where(np.isnan(truth), np.nan, is_inside)[:, None])[:, 0]
    return found


def interval_ends(levels: Sequence[float], share: float) -> tuple[int, int] | None:
    """Places of an interval's lower and upper quantile."""
    wanted = (round((1 - share) / 2, 6), round((1 + share) / 2, 6))
    rounded = [round(level, 6) for level in levels]
    return (rounded.index(wanted[0]), rounded.index(wanted[1])) if set(wanted) <= set(rounded) else None


def zone_shares(grid: str, truth: np.ndarray, forecast: np.ndarray) -> dict[str, float]:
    """{"A": share, …, "E": share} of the forecasts whose truth was read."""
    return shares_of(GRIDS[grid](truth.astype(np.float64), forecast.astype(np.float64)))


def examples(windows: Windows, forecasts: Forecasts, step: int, count: int = 3) -> dict[str, list[int]]:
    """{"best", "median" and "worst": rows of windows}, by absolute error at a step; none overlap, none appear twice.

    Of different people, as long as there are enough.
    """
    error = np.abs(forecasts.mean - windows.target)[:, step]
    ranked = sorted((r for r in spread_out(windows) if not np.isnan(error[r])), key=lambda r: error[r])
    middle = float(np.median(error[ranked])) if ranked else 0.0
    found: dict[str, list[int]] = {}
    for name, order in {
        "best": ranked,
        "worst": ranked[::-1],
        "median": sorted(ranked, key=lambda r: abs(error[r] - middle)),
    }.items():
        used = {r for rows in found.values() for r in rows}
        found[name] = _of_different_people([r for r in order if r not in used], windows, count)
    return {name: found[name] for name in ("best", "median", "worst") if found[name]}


def spread_out(windows: Windows) -> list[int]:
    """Rows of windows that do not overlap, the first of every stretch."""
    rows, free_from = [], -1
    for row in np.argsort(windows.begins, kind="stable").tolist():
        if windows.begins[row] >= free_from:
            rows.append(row)
            free_from = windows.begins[row] + windows.timeline.window_length
    return rows


def _of_different_people(rows: Iterable[int], windows: Windows, count: int) -> list[int]:
    first: dict[str, int] = {}
    later = []
    for row in rows:
        if first.setdefault(windows.patient_ids[row], row) != row:
            later.append(row)
    return [*first.values(), *later][:count]
