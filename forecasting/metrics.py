"""Accuracy, in mg/dL and percent. Every function takes truth first; NaN in the truth is not scored.

y: true glucose, f: forecast, both mg/dL and of one shape. Formulas: RMSE, MAE, bias and MARD by their usual
definitions (for forecasts MARD equals the mean absolute percentage error).
"""

import numpy as np

from forecasting.forecaster import Forecasts
from forecasting.windows import Windows

Scores = dict[str, float]
HORIZONS = (30, 60)  # minutes, reported everywhere


def rmse(y: np.ndarray, f: np.ndarray) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.nanmean((f - y) ** 2)))


def mae(y: np.ndarray, f: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.nanmean(np.abs(f - y)))


def bias(y: np.ndarray, f: np.ndarray) -> float:
    """Mean of forecast minus truth: positive where the forecast is too high."""
    return float(np.nanmean(f - y))


def mard(y: np.ndarray, f: np.ndarray) -> float:
    """Mean absolute relative difference, percent."""
    return float(100 * np.nanmean(np.abs(f - y) / y))


def pinball(y: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...]) -> float:
    """Mean quantile loss over levels; y (n,), quantiles (n, levels). Koenker & Bassett 1978."""
    gap = y[:, None] - quantiles
    tau = np.asarray(levels)
    return float(np.nanmean(np.maximum(tau * gap, (tau - 1) * gap)))


def coverage(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Share of real targets inside [low, high], both ends included."""
    real = ~np.isnan(y)
    return float(np.mean((y[real] >= low[real]) & (y[real] <= high[real])))


def skill(rmse_model: float, rmse_persistence: float) -> float:
    """1 − RMSE / RMSE of persistence on the same points: 0 is no better than the last reading, 1 is perfect."""
    return 1 - rmse_model / rmse_persistence


def score_step(target: np.ndarray, forecasts: Forecasts, step: int) -> Scores:
    """All scores of one forecast step; target (n, prediction_length)."""
    y, f = target[:, step].astype(np.float64), forecasts.mean[:, step]
    scores = {
        "rmse": rmse(y, f),
        "mae": mae(y, f),
        "bias": bias(y, f),
        "mard": mard(y, f),
        "scored": int((~np.isnan(y)).sum()),
    }
    levels = forecasts.levels
    if levels:
        q = forecasts.quantiles[:, step]
        scores["pinball"] = pinball(y, q, levels)
        if 0.05 in levels and 0.95 in levels:
            low, high = q[:, levels.index(0.05)], q[:, levels.index(0.95)]
            scores["coverage_90"] = coverage(y, low, high)
            scores["width_90"] = float(np.mean(high - low))
    return scores


def score_patients(windows: Windows, forecasts: Forecasts, steps: dict[int, int]) -> dict[str, dict[str, Scores]]:
    """{patient: {horizon in minutes: scores}}; a patient with no real target at a horizon has no entry there.

    steps: {horizon: index of its step}, see WindowShape.steps_at.
    """
    table: dict[str, dict[str, Scores]] = {}
    for patient in windows.patients:
        rows = windows.patient_ids == patient
        own = Forecasts(forecasts.outputs[rows], forecasts.levels)
        target = windows.target[rows]
        table[patient] = {
            str(horizon): score_step(target, own, step)
            for horizon, step in steps.items()
            if not np.isnan(target[:, step]).all()
        }
    return table


def mean_over_patients(table: dict[str, dict[str, Scores]]) -> dict[str, Scores]:
    """{horizon: scores}, each score the mean over patients; `scored` is their sum."""
    horizons = dict.fromkeys(h for scores in table.values() for h in scores)
    means: dict[str, Scores] = {}
    for horizon in horizons:
        rows = [scores[horizon] for scores in table.values() if horizon in scores]
        means[horizon] = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        means[horizon]["scored"] = int(sum(row["scored"] for row in rows))
        means[horizon]["patients"] = len(rows)
    return means
