"""Scores of predicted distributions: quantiles and probabilities.

y: (n,) true glucose in mg/dL, NaN where missing; quantiles: (n, levels) mg/dL, ascending; levels: ascending in 0 … 1.
"""

import numpy as np

INTERVALS = (50, 80, 90, 95)  # percent, the central intervals that are reported where both of their levels exist

Levels = tuple[float, ...]


def pinball(y: np.ndarray, quantiles: np.ndarray, levels: Levels) -> float:
    """Mean quantile loss over levels, mg/dL. Koenker & Bassett 1978."""
    gap = y[:, None] - quantiles
    tau = np.asarray(levels)
    return float(np.nanmean(np.maximum(tau * gap, (tau - 1) * gap)))


def crps(y: np.ndarray, quantiles: np.ndarray, levels: Levels) -> float:
    """Mean continuous ranked probability score, mg/dL: twice the pinball loss, integrated over all levels.

    Of the distribution that `Forecasts.probability_below` reads: quantiles joined by straight lines, nothing beyond
    the outermost ones, where the probability that is left sits. For it the integral is exact, ∫(F(x) − 1{x ≥ y})² dx
    piece by piece, however uneven the levels (Gneiting & Raftery 2007). On the nine levels 0.025 … 0.975 of a
    calibrated Gaussian it is 0.07 % above the Gaussian's own; the sum of pinball · Δτ is 3 % below (trapezoids).
    """
    low, high, tau = quantiles[:, :-1], quantiles[:, 1:], np.asarray(levels)
    at = np.clip(y[:, None], low, high)
    share = (at - low) / np.where(high > low, high - low, 1.0)
    tau_at = tau[:-1] + share * np.diff(tau)
    inside = (at - low) * _mean_square(tau[:-1], tau_at) + (high - at) * _mean_square(1 - tau_at, 1 - tau[1:])
    outside = np.maximum(quantiles[:, 0] - y, 0) + np.maximum(y - quantiles[:, -1], 0)
    return float(np.nanmean(inside.sum(axis=1) + outside))


def _mean_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean of the squares of what runs straight from a to b."""
    return (a * a + a * b + b * b) / 3


def coverage(y: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Share of real targets inside [low, high], both ends included."""
    real = ~np.isnan(y)
    return float(np.mean((y[real] >= low[real]) & (y[real] <= high[real])))


def interval_coverages(y: np.ndarray, quantiles: np.ndarray, levels: Levels) -> dict[int, float]:
    """{percent: share of real targets inside}, for the central intervals whose two levels exist."""
    return {p: coverage(y, quantiles[:, a], quantiles[:, b]) for p, (a, b) in _intervals(levels).items()}


def interval_widths(quantiles: np.ndarray, levels: Levels) -> dict[int, float]:
    """{percent: mean width in mg/dL}, for the central intervals whose two levels exist."""
    return {p: float(np.mean(quantiles[:, b] - quantiles[:, a])) for p, (a, b) in _intervals(levels).items()}


def _intervals(levels: Levels) -> dict[int, tuple[int, int]]:
    """{percent: the columns of its two ends}"""
    places = {round(level, 9): k for k, level in enumerate(levels)}
    ends = {p: (round(0.5 - p / 200, 9), round(0.5 + p / 200, 9)) for p in INTERVALS}
    return {p: (places[low], places[high]) for p, (low, high) in ends.items() if low in places and high in places}


def quantile_calibration(y: np.ndarray, quantiles: np.ndarray, levels: Levels) -> np.ndarray:
    """(levels,): share of real targets at or below each quantile; equals the levels where these are calibrated.

    Raises ValueError where there are more or fewer quantiles than levels.
    """
    if quantiles.shape[1] != len(levels):
        raise ValueError(f"got {quantiles.shape[1]} quantiles for {len(levels)} levels; give one for each")
    real = ~np.isnan(y)
    return np.mean(y[real, None] <= quantiles[real], axis=0)


def calibration_error(y: np.ndarray, quantiles: np.ndarray, levels: Levels) -> float:
    """Mean absolute gap between levels and the shares of real targets at or below their quantiles, 0 … 1."""
    return float(np.mean(np.abs(quantile_calibration(y, quantiles, levels) - np.asarray(levels))))


def brier(event: np.ndarray, probability: np.ndarray) -> float:
    """Mean squared error of predicted probabilities. Brier 1950.

    event: (n,) 1 where it happened, 0 where not, NaN where not known; probability: (n,) in 0 … 1
    """
    return float(np.nanmean((probability - np.asarray(event, np.float64)) ** 2))
