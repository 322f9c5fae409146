"""Quantiles that hold what they say: moved by what they missed on the calibration part, on which nothing was chosen.

Conformalised quantile regression (Romano, Patterson & Candès, NeurIPS 2019), for each quantile by itself. What it
promises holds for people like those of the calibration part, on average over them, and not for each of them.
"""

import numpy as np

from forecasting.errors import InsufficientData

FEWEST = 100  # real targets of a step; the outer quantiles of fewer are a guess


def quantile_shifts(
    target: np.ndarray, quantiles: np.ndarray, levels: tuple[float, ...], patient_ids: np.ndarray
) -> np.ndarray:
    """What to add to each quantile, so that the share of truths below it is its level. Everybody weighs the same.

    target: (n, steps) mg/dL, NaN where nothing was read; quantiles: (n, steps, levels) mg/dL; patient_ids: (n,)
    returns: (steps, levels) mg/dL
    Raises InsufficientData for a step with fewer than 100 real targets.
    """
    shifts = np.empty(quantiles.shape[1:])
    for step in range(target.shape[1]):
        real = ~np.isnan(target[:, step])
        if real.sum() < FEWEST:
            raise InsufficientData(
                f"the calibration part has {int(real.sum())} targets at step {step + 1}, at least {FEWEST} are needed; "
                "give a longer history"
            )
        missed = target[real, step, None] - quantiles[real, step]
        shifts[step] = weighted_quantiles(missed, levels, equal_weights(patient_ids[real]))
    return shifts


def weighted_quantiles(values: np.ndarray, levels: tuple[float, ...], weights: np.ndarray) -> np.ndarray:
    """(n, levels) values, weights (n,) that sum to 1 → (levels,): the smallest of each column with its level below it.

    Split conformal's correction for a sample that is finite: levels are spread by (n + 1) / n away from the middle.
    """
    spread = np.clip(0.5 + (np.asarray(levels) - 0.5) * (len(values) + 1) / len(values), 0.0, 1.0)
    found = np.empty(len(levels))
    for k, level in enumerate(spread):
        order = np.argsort(values[:, k], kind="stable")
        place = int(np.searchsorted(np.cumsum(weights[order]), level - 1e-12))
        found[k] = values[order[min(place, len(order) - 1)], k]
    return found


def shifted(quantiles: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """(n, steps, levels) and (steps, levels) mg/dL → (n, steps, levels), still ascending."""
    return np.maximum.accumulate(quantiles + shifts, axis=-1)


def equal_weights(patient_ids: np.ndarray) -> np.ndarray:
    """(n,) weights that sum to 1, with equal sums for all people."""
    _, person, counts = np.unique(patient_ids, return_inverse=True, return_counts=True)
    return 1.0 / (len(counts) * counts[person])
