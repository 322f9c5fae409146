"""Scores, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_pinball_loss,
    root_mean_squared_error,
)

from forecasting import metrics
from forecasting.bundle import QUANTILES
from forecasting.forecaster import Forecasts
from forecasting.windows import Timeline, Windows

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


def test_pinball_agrees_with_scikit_learn_at_every_level():
    quantiles = FORECAST[:, None] + np.linspace(-40, 40, 9)
    expected = [mean_pinball_loss(HOLES[REAL], quantiles[REAL, k], alpha=level) for k, level in enumerate(QUANTILES)]
    assert metrics.pinball(HOLES, quantiles, QUANTILES) == pytest.approx(np.mean(expected))


def test_coverage_counts_real_targets_and_both_ends():
    y = np.array([1.0, 2, 3, np.nan, 9])
    assert metrics.coverage(y, np.full(5, 1.0), np.full(5, 3.0)) == 0.75


def test_skill_is_zero_for_persistence_and_one_for_the_truth():
    assert (metrics.skill(20.0, 20.0), metrics.skill(0.0, 20.0), metrics.skill(30.0, 20.0)) == (0, 1, -0.5)


@pytest.fixture
def scored() -> dict:
    """Patient a errs by 10 at 30 and 20 at 60 minutes; b, with three windows, by 40 at 30 and has no target at 60."""
    ids = np.array(["a", "b", "b", "b"])
    target = np.full((4, 12), 150.0)
    target[1:, 11] = np.nan
    mean = target.copy()
    mean[0, 5], mean[0, 11], mean[1:, 5], mean[1:, 11] = 160, 130, 190, 999
    readings = np.hstack([np.full((4, 36), 150.0), target]).ravel()
    timeline = Timeline(readings, readings, context_length=36, prediction_length=12)
    windows = Windows(ids, np.arange(4).astype("datetime64[s]"), np.zeros(4), 48 * np.arange(4), timeline)
    quantiles = mean[..., None] + np.linspace(-45, 45, 9)
    return metrics.score_patients(windows, Forecasts.of(mean, quantiles, QUANTILES), {30: 5, 60: 11})


def test_every_patient_is_scored_alone_where_its_own_targets_are_real(scored):
    assert (scored["a"]["30"]["rmse"], scored["a"]["60"]["bias"], scored["b"]["30"]["mae"]) == (10, -20, 40)
    assert "60" not in scored["b"]
    assert (scored["b"]["30"]["scored"], scored["a"]["60"]["width_90"]) == (3, pytest.approx(67.5))
    assert (scored["a"]["30"]["coverage_90"], scored["b"]["30"]["coverage_90"]) == (1, 0)


def test_a_mean_over_patients_gives_everyone_the_same_weight(scored):
    means = metrics.mean_over_patients(scored)
    assert means["30"]["rmse"] == 25
    assert (means["30"]["scored"], means["30"]["patients"]) == (4, 2)
    assert (means["60"]["rmse"], means["60"]["patients"]) == (20, 1)
