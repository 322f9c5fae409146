"""Scores of distributions: against scikit-learn, closed forms and numerical integration."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, mean_pinball_loss

from forecasting import metrics
from forecasting.bundle import QUANTILES
from forecasting.forecaster import Forecasts

RNG = np.random.default_rng(2)
MEAN, SD = RNG.uniform(80, 250, 400), RNG.uniform(5, 40, 400)
TRUTH = RNG.normal(MEAN, SD)
HOLES = np.where(RNG.random(400) < 0.2, np.nan, TRUTH)
REAL = ~np.isnan(HOLES)


def gaussian(levels: tuple[float, ...], mean: np.ndarray = MEAN, sd: np.ndarray = SD) -> np.ndarray:
    """(n, levels): quantiles of normal distributions."""
    return mean[:, None] + sd[:, None] * [NormalDist().inv_cdf(level) for level in levels]


def gaussian_crps(y: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """(n,): the closed form of Gneiting & Raftery 2007, equation 21."""
    z = (y - mean) / sd
    pdf, cdf = np.vectorize(NormalDist().pdf)(z), np.vectorize(NormalDist().cdf)(z)
    return sd * (z * (2 * cdf - 1) + 2 * pdf - 1 / np.sqrt(np.pi))


def test_pinball_agrees_with_scikit_learn_at_every_level():
    q = gaussian(QUANTILES)
    expected = [mean_pinball_loss(HOLES[REAL], q[REAL, k], alpha=level) for k, level in enumerate(QUANTILES)]
    assert metrics.pinball(HOLES, q, QUANTILES) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(
    ("levels", "within"),
    [(QUANTILES, 0.001), (tuple(np.arange(1, 20) / 20), 0.003), (tuple(np.arange(1, 1000) / 1000), 0.00001)],
    ids=["nine uneven levels", "19 levels", "999 levels"],
)
def test_crps_of_a_calibrated_gaussian_is_close_to_its_closed_form(levels, within):
    z = np.array([NormalDist().inv_cdf((k + 0.5) / 4000) for k in range(4000)])  # its own quantiles, no chance in it
    zero, one = np.zeros(4000), np.ones(4000)
    expected = gaussian_crps(z, zero, one).mean()
    assert expected == pytest.approx(1 / np.sqrt(np.pi), rel=1e-3)
    assert metrics.crps(z, gaussian(levels, zero, one), levels) == pytest.approx(expected, rel=within)


@pytest.mark.parametrize("y", [20.0, 110.0, 118.0, 131.0, 150.0, 300.0])
def test_crps_is_twice_the_pinball_loss_integrated_over_all_levels(y):
    quantiles = np.array([110, 118, 118, 126, 131, 140, 160, 165, 190.0])  # two of them equal
    tau = (np.arange(400_000) + 0.5) / 400_000
    at_tau = np.interp(tau, QUANTILES, quantiles)  # held beyond the outermost levels
    expected = 2 * np.mean(np.maximum(tau * (y - at_tau), (tau - 1) * (y - at_tau)))
    assert metrics.crps(np.array([y, np.nan]), np.stack([quantiles] * 2), QUANTILES) == pytest.approx(
        expected, rel=1e-8
    )


def test_crps_scores_the_distribution_that_probabilities_are_read_from():
    quantiles = np.array([[70, 74, 80, 95, 110, 118, 130, 150, 170.0]])
    forecast = Forecasts.of(np.array([[110.0]]), quantiles[None], QUANTILES)
    x = np.arange(0, 300, 0.02) + 0.01
    below = np.array([forecast.probability_below(value)[0, 0] for value in x])  # but never under 0.01 or over 0.99
    below = np.where(x < 70, 0.0, np.where(x > 170, 1.0, below))
    expected = np.sum((below - (x >= 100.0)) ** 2) * 0.02
    assert metrics.crps(np.array([100.0]), quantiles, QUANTILES) == pytest.approx(expected, rel=1e-4)


@given(y=st.floats(40, 400), point=st.floats(40, 400))
def test_crps_of_a_certain_forecast_is_its_absolute_error(y, point):
    assert metrics.crps(np.array([y]), np.full((1, 9), point), QUANTILES) == pytest.approx(abs(y - point))


def test_coverage_counts_real_targets_and_both_ends():
    y = np.array([1.0, 2, 3, np.nan, 9])
    assert metrics.coverage(y, np.full(5, 1.0), np.full(5, 3.0)) == 0.75


def test_every_central_interval_has_its_own_ends():
    y, q = np.array([0.0, 2.1, np.nan, 3.9, 4.4]), np.tile(np.arange(-4.0, 5), (5, 1))
    assert metrics.interval_coverages(y, q, QUANTILES) == {50: 0.25, 80: 0.25, 90: 0.5, 95: 0.75}
    assert metrics.interval_widths(q, QUANTILES) == {50: 2, 80: 4, 90: 6, 95: 8}


def test_an_interval_without_both_levels_is_not_reported():
    levels = (0.05, 0.1, 0.5, 0.9)
    assert metrics.interval_widths(np.zeros((2, 4)), levels) == {80: 0}


def test_calibration_is_the_share_at_or_below_each_quantile():
    y, q = np.array([1.0, 2, 3, 4, np.nan]), np.tile([1.0, 2.5, 9], (5, 1))
    assert metrics.quantile_calibration(y, q, (0.1, 0.5, 0.9)).tolist() == [0.25, 0.5, 1]
    assert metrics.calibration_error(y, q, (0.1, 0.5, 0.9)) == pytest.approx((0.15 + 0 + 0.1) / 3)


def test_calibration_error_vanishes_for_the_true_distribution_and_not_for_one_too_narrow():
    y = RNG.normal(0, 1, 20_000)
    zero, one = np.zeros(len(y)), np.ones(len(y))
    assert metrics.calibration_error(y, gaussian(QUANTILES, zero, one), QUANTILES) < 0.01
    assert metrics.calibration_error(y, gaussian(QUANTILES, zero, one / 2), QUANTILES) > 0.08


def test_quantiles_of_other_levels_are_refused():
    with pytest.raises(ValueError, match="got 8 quantiles for 9 levels"):
        metrics.quantile_calibration(TRUTH, gaussian(QUANTILES)[:, 1:], QUANTILES)


def test_brier_agrees_with_scikit_learn_and_leaves_unknown_events_out():
    event, probability = (RNG.random(300) < 0.3).astype(float), RNG.random(300)
    assert metrics.brier(event, probability) == pytest.approx(brier_score_loss(event, probability))
    assert metrics.brier(event == 1, probability) == metrics.brier(event, probability)
    assert metrics.brier(np.append(event, np.nan), np.append(probability, 1)) == metrics.brier(event, probability)
