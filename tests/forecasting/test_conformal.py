"""Calibrated quantiles hold what they say on new data of the same people, and never cross."""

import numpy as np
import pytest

from forecasting.bundle import QUANTILES
from forecasting.conformal import quantile_shifts, shifted, weighted_quantiles
from forecasting.errors import InsufficientData

RNG = np.random.default_rng(3)


def people(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truths with heavier tails than forecast, too low by 8, and quantiles that are too narrow, two steps."""
    level = RNG.uniform(80, 250, (count, 1))
    truth = level + 8 + 20 * RNG.standard_t(4, (count, 2))
    z = np.array([-1.96, -1.645, -1.28, -0.674, 0, 0.674, 1.28, 1.645, 1.96])
    return truth, level[..., None] + 12 * np.ones((1, 2, 1)) * z, RNG.choice(["a", "b", "c"], count)


def test_after_the_shift_the_share_below_each_quantile_is_its_level():
    truth, quantiles, ids = people()
    shifts = quantile_shifts(truth, quantiles, QUANTILES, ids)
    new_truth, new_quantiles, _ = people()
    before = (new_truth[..., None] <= new_quantiles).mean(axis=(0, 1))
    after = (new_truth[..., None] <= shifted(new_quantiles, shifts)).mean(axis=(0, 1))
    assert np.abs(before - QUANTILES).max() > 0.1
    assert after == pytest.approx(QUANTILES, abs=0.02)


def test_everybody_weighs_the_same():
    truth = np.concatenate([np.zeros(1000), np.full(200, 10.0)])[:, None]
    ids = np.array(["many"] * 1000 + ["few"] * 200)
    shifts = quantile_shifts(truth, np.zeros((1200, 1, 2)), (0.4, 0.6), ids)
    assert shifts.tolist() == [[0.0, 10.0]]


def test_equal_weights_give_the_quantiles_of_numpy():
    values = RNG.normal(size=(5000, 9))
    expected = [np.quantile(values[:, k], level, method="inverted_cdf") for k, level in enumerate(QUANTILES)]
    assert weighted_quantiles(values, QUANTILES, np.full(5000, 1 / 5000)) == pytest.approx(expected, abs=0.01)


def test_missing_targets_do_not_count_and_few_are_refused():
    truth, quantiles, ids = people()
    holes = truth.copy()
    holes[::2] = np.nan
    assert (
        quantile_shifts(holes, quantiles, QUANTILES, ids)
        == quantile_shifts(truth[1::2], quantiles[1::2], QUANTILES, ids[1::2])
    ).all()
    with pytest.raises(InsufficientData, match="50 targets at step 1"):
        quantile_shifts(truth[:50], quantiles[:50], QUANTILES, ids[:50])


def test_shifted_quantiles_never_cross():
    quantiles = np.sort(RNG.uniform(40, 400, (50, 3, 9)), axis=-1)
    moved = shifted(quantiles, RNG.normal(0, 60, (3, 9)))
    assert (np.diff(moved, axis=-1) >= 0).all()
