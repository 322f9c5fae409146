"""Scores per patient and horizon, and their mean."""

import numpy as np
import pytest

from forecasting import metrics
from forecasting.bundle import QUANTILES
from forecasting.forecaster import Forecasts
from forecasting.windows import Timeline, Windows

POINT = ["rmse", "mae", "bias", "mard", "grmse", "scored", "clarke_a", "clarke_de", "parkes_a", "dts_a", "dts_de"]
INTERVALS = [f"{score}_{percent}" for score in ("coverage", "width") for percent in (50, 80, 90, 95)]
OF_QUANTILES = ["pinball", "crps", "calibration_error", *INTERVALS]


@pytest.fixture
def scored() -> dict:
    """Patient a errs by 10 at 30 and 20 at 60 minutes; b, with three windows, by 40 at 30 and has no target at 60."""
    ids = np.array(["a", "b", "b", "b"])
    target = np.full((4, 12), 150.0)
    target[1:, 11] = np.nan
    mean = target.copy()
    mean[0, 5], mean[0, 11], mean[1:, 5], mean[1:, 11] = 160, 130, 190, 999
    readings = np.hstack([np.full((4, 36), 150.0), target]).ravel()
    timeline = Timeline(readings, readings, np.empty((len(readings), 0)), context_length=36, prediction_length=12)
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
    assert (means["30"]["clarke_a"], means["30"]["dts_a"]) == (50, 50)


def test_every_score_stands_under_its_name_and_quantile_scores_only_where_there_are_quantiles(scored):
    assert list(scored["a"]["30"]) == POINT + OF_QUANTILES
    target = np.full((2, 1), 150.0)
    assert list(metrics.score_step(target, Forecasts(target[..., None], ()), 0)) == POINT


def test_zones_are_percentages_of_the_real_targets():
    target = np.array([[100.0], [50], [260], [300], [np.nan]])
    forecast = Forecasts(np.array([100.0, 200, 100, 290, 100])[:, None, None], ())
    scores = metrics.score_step(target, forecast, 0)
    assert (scores["clarke_a"], scores["clarke_de"]) == (50, 50)  # zones A, E, D, A
    assert (scores["parkes_a"], scores["dts_a"], scores["dts_de"]) == (50, 50, 25)  # DTS: A, E, C, A


def test_scores_are_plain_numbers_that_json_can_hold(scored):
    assert {type(value) for value in scored["a"]["30"].values()} <= {float, int}


def followed(late_steps: int, kept: slice = slice(None)) -> dict:
    """Scores of one person whose forecasts are the truth of some steps before, on windows that follow each other."""
    trace = 150 + 40 * np.sin(np.arange(400) / 9) + 10 * np.sin(np.arange(400) / 4)
    target = np.lib.stride_tricks.sliding_window_view(trace[36:], 12)[:300]
    readings = np.concatenate([trace]).astype(np.float32)
    timeline = Timeline(readings, readings, np.empty((len(readings), 0)), context_length=36, prediction_length=12)
    starts = np.arange(300)
    origins = np.datetime64("2025-03-01T00:00:00") + starts * np.timedelta64(5, "m")
    windows = Windows(np.full(300, "a"), origins, np.zeros(300), starts, timeline)[kept]
    late = np.stack([trace[36 + k - late_steps : 48 + k - late_steps] for k in starts])[kept]
    assert np.allclose(windows.target, target[kept], atol=1e-4)
    return metrics.score_patients(windows, Forecasts(late[..., None], ()), {30: 5, 60: 11})["a"]


@pytest.mark.parametrize("late", [0, 2, 5])
def test_forecasts_lead_by_the_horizon_less_what_they_come_late(late):
    scores = followed(late)
    assert (scores["30"]["temporal_gain"], scores["60"]["temporal_gain"]) == (30 - 5 * late, 60 - 5 * late)


def test_windows_that_do_not_follow_each_other_have_no_temporal_gain():
    assert "temporal_gain" not in followed(2, slice(None, None, 3))["30"]


def test_a_mean_is_over_those_who_have_the_score(scored):
    scored["b"]["30"]["temporal_gain"] = 12.0
    assert metrics.mean_over_patients(scored)["30"]["temporal_gain"] == 12.0
