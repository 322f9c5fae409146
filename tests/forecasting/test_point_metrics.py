"""Scores of one value: against scikit-learn, against the papers' own check values, and by what defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error, root_mean_squared_error

from forecasting import metrics

RNG = np.random.default_rng(1)
TRUTH = RNG.uniform(40, 400, 500)
FORECAST = TRUTH + RNG.normal(5, 20, 500)
HOLES = np.where(RNG.random(500) < 0.2, np.nan, TRUTH)
REAL = ~np.isnan(HOLES)


@pytest.mark.parametrize(
    ("ours", "theirs", "times"),
    [
        (metrics.rmse, root_mean_squared_error, 1),
        (metrics.mae, mean_absolute_error, 1),
        (metrics.mard, mean_absolute_percentage_error, 100),
        (metrics.bias, lambda y, f: np.mean(f) - np.mean(y), 1),
    ],
)
def test_scores_agree_with_scikit_learn_and_leave_missing_targets_out(ours, theirs, times):
    assert ours(HOLES, FORECAST) == pytest.approx(times * theirs(HOLES[REAL], FORECAST[REAL]))


def test_skill_is_zero_for_persistence_and_one_for_the_truth():
    assert (metrics.skill(20.0, 20.0), metrics.skill(0.0, 20.0), metrics.skill(30.0, 20.0)) == (0, 1, -0.5)


@pytest.mark.parametrize(
    ("y", "f", "weight"), [(50, 80, 2.5), (120, 100, 1), (70, 75, 1.375), (300, 250, 2), (205, 195, 1.25)]
)
def test_grmse_weighs_errors_as_del_favero_does(y, f, weight):
    assert metrics.grmse(np.array([y, np.nan]), np.array([f, 99.0])) == pytest.approx(abs(f - y) * weight**0.5)


def weight_of(y: float, f: float) -> float:
    """The paper's weight, its four-part functions written out for single numbers."""

    def up(x: float, a: float, width: float) -> float:
        if x <= a:
            return 0
        if x > a + width:
            return 1
        xi = 2 * (x - a - width / 2) / width
        return (-(xi**4) if x <= a + width / 2 else xi**4) / 2 - xi**3 + xi + 0.5

    def down(x: float, a: float, width: float) -> float:
        return 1 - up(x, a - width, width)

    return 1 + 1.5 * down(y, 85, 30) * up(f, y, 10) + up(y, 155, 100) * down(f, y, 20)


def test_grmse_agrees_with_the_formula_written_out():
    expected = np.mean([weight_of(y, f) * (f - y) ** 2 for y, f in zip(TRUTH[REAL], FORECAST[REAL], strict=True)])
    assert metrics.grmse(HOLES, FORECAST) == pytest.approx(expected**0.5)


@given(y=st.floats(40, 400), f=st.floats(40, 400))
def test_grmse_lies_between_rmse_and_two_and_a_half_times_its_square(y, f):
    ratio = (metrics.grmse(np.array([y]), np.array([f])) / abs(f - y)) ** 2 if abs(f - y) > 1e-3 else 1
    assert 1 - 1e-9 <= ratio <= 2.5 + 1e-9


def wandering(steps: int, seed: int = 0) -> np.ndarray:
    """Glucose that wanders smoothly."""
    return 150 + np.cumsum(np.convolve(np.random.default_rng(seed).normal(0, 2, steps + 11), np.ones(12) / 4, "valid"))


def late(y: np.ndarray, steps: int) -> np.ndarray:
    """Forecasts that show what was `steps` ago."""
    return np.concatenate([np.full(steps, y[0]), y[: len(y) - steps]])


@pytest.mark.parametrize("steps", range(7))
@pytest.mark.parametrize("seed", range(5))
def test_a_forecast_gains_the_horizon_less_its_delay(steps, seed):
    y = wandering(300, seed)
    f = 20 + 0.5 * late(y, steps)  # neither level nor size of the swings matters
    assert metrics.temporal_gain(y[6:], f[6:], 30, 5) == 30 - 5 * steps


def test_the_gain_is_counted_in_minutes_of_the_grid():
    y = wandering(300)
    assert metrics.temporal_gain(y[4:], late(y, 2)[4:], 60, 15) == 30


def test_gains_of_stretches_without_gaps_are_averaged_by_length():
    y = wandering(305)
    f = np.concatenate([y[:100], late(y, 6)[100:]])
    y[100:105] = np.nan
    assert metrics.temporal_gain(y, f, 30, 5) == pytest.approx(30 * 100 / 300)


def test_no_stretch_reaches_over_the_border_of_two_segments():
    a, b = wandering(120, 1), 400 - 2 * wandering(60, 2)
    y, f = np.concatenate([a, b]), np.concatenate([a, late(b, 6)])
    segments = np.repeat([3, 4], [120, 60])
    assert metrics.temporal_gain(y, f, 30, 5, segments) == pytest.approx(30 * 120 / 180)


def test_stretches_too_short_or_flat_have_no_gain():
    y = wandering(100)
    f = y.copy()
    y[::17] = np.nan
    assert np.isnan(metrics.temporal_gain(y, f, 30, 5))
    assert np.isnan(metrics.temporal_gain(np.full(100, 120.0), f, 30, 5))
    assert np.isnan(metrics.temporal_gain(f, np.full(100, 120.0), 30, 5))


def test_on_a_straight_line_no_delay_can_be_told_and_none_is_held_against_the_forecast():
    assert metrics.temporal_gain(np.arange(100.0), np.arange(100.0) - 6, 30, 5) == 30
