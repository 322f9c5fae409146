"""Scores of a single forecast value.

y: true glucose, NaN where missing; f: forecast; both mg/dL and of one shape. RMSE, MAE, bias and MARD by their usual
definitions (for forecasts MARD equals the mean absolute percentage error).
"""

from itertools import pairwise

import numpy as np

SHORTEST_SEGMENT = 3  # horizons that a stretch without gaps must last to have a delay of its own


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


def skill(rmse_model: float, rmse_persistence: float) -> float:
    """1 − RMSE / RMSE of persistence on the same points: 0 is no better than the last reading, 1 is perfect."""
    return 1 - rmse_model / rmse_persistence


def grmse(y: np.ndarray, f: np.ndarray) -> float:
    """RMSE that weighs what may do harm up to 2.5-fold: a low forecast too high, a high one too low.

    Del Favero, Facchinetti & Cobelli 2012, "A glucose-specific metric to assess predictors and identify models".
    """
    return float(np.sqrt(np.nanmean(_danger(y, f) * (f - y) ** 2)))


def _danger(y: np.ndarray, f: np.ndarray) -> np.ndarray:
    """The weight of each squared error, 1 to 2.5; NaN where y is."""
    unseen_low = _falling(y, 85.0, 30.0) * _rising(f, y, 10.0)
    unseen_high = _rising(y, 155.0, 100.0) * _falling(f, y, 20.0)
    return 1 + 1.5 * unseen_low + 1.0 * unseen_high


def _rising(x: np.ndarray, edge: np.ndarray | float, width: float) -> np.ndarray:
    """0 up to the edge, 1 from edge + width on, in between two quartics that meet smoothly in the middle."""
    xi = np.clip(2 * (x - edge) / width - 1, -1, 1)
    return np.copysign(xi**4 / 2, xi) - xi**3 + xi + 0.5


def _falling(x: np.ndarray, edge: np.ndarray | float, width: float) -> np.ndarray:
    """1 up to edge − width, 0 from the edge on: `_rising` mirrored."""
    return _rising(-x, -edge, width)


def temporal_gain(
    y: np.ndarray,
    f: np.ndarray,
    horizon_minutes: int,
    sampling_minutes: int,
    segments: np.ndarray | None = None,
) -> float:
    """Minutes by which forecasts lead the last reading: the horizon for perfect ones, 0 for persistence.

    The delay of a stretch without gaps is the lag in 0 … horizon at which truth and forecast correlate best, both
    centred on their means; the gain is horizon − delay. Each lag is judged by the correlation coefficient of what
    overlaps, so that fewer products do not speak against a long one; equal lags count as the shortest. Stretches
    are averaged by their lengths; those shorter than three horizons, and flat ones, have no delay. NaN without any.

    y, f:     (n,) in order of time, one step apart; f[k] was made `horizon_minutes` before y[k] for the time of y[k]
    segments: (n,) int, equal along steps that follow each other; None where all do
    """
    steps = horizon_minutes // sampling_minutes
    gains, lengths = [], []
    for part in _without_gaps(y, segments):
        delay = _delay(y[part], f[part], steps)
        if delay is not None:
            gains.append(horizon_minutes - delay * sampling_minutes)
            lengths.append(part.stop - part.start)
    return float(np.average(gains, weights=lengths)) if gains else float("nan")


def _without_gaps(y: np.ndarray, segments: np.ndarray | None) -> list[slice]:
    """The stretches of y without NaN, none across two segments."""
    label = np.zeros(len(y), np.int64) if segments is None else segments
    real = ~np.isnan(y)
    changes = (real[1:] != real[:-1]) | (label[1:] != label[:-1])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(y)]
    return [slice(a, b) for a, b in pairwise(edges) if a < b and real[a]]


def _delay(y: np.ndarray, f: np.ndarray, longest: int) -> int | None:
    """Steps by which f comes after y, at most `longest`; None for a stretch too short or too flat to tell."""
    if len(y) < max(SHORTEST_SEGMENT * longest, longest + 2):
        return None
    fits = [_correlation(y[: len(y) - lag], f[lag:]) for lag in range(longest + 1)]
    return int(np.argmax(np.round(fits, 12))) if np.isfinite(fits[0]) else None


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's coefficient; −inf where either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return -np.inf
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
