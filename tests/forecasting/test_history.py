"""The statistics of a history: training's and the service's are one thing, and say what is not known."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.cgm import GlucoseSeries
from forecasting.context import Readings, context_from
from forecasting.history import STATISTICS, history_statistics, running_statistics
from forecasting.windows import WindowShape, cut_windows

SHAPE = WindowShape(context_length=6, prediction_length=2, history_length=18)
LENGTH = SHAPE.looks_back
START = np.datetime64("2025-03-01T00:00:00")


def plain(stretch: np.ndarray, length: int) -> list[float]:
    """By the definitions, with NumPy's own words for them."""
    return [
        np.nanmean(stretch),
        np.nanstd(stretch),
        np.nan_to_num(np.nanmean(np.abs(np.diff(stretch))) if (~np.isnan(np.diff(stretch))).any() else 0.0),
        (~np.isnan(stretch)).sum() / length,
    ]


traces = st.lists(st.one_of(st.none(), st.floats(40, 400)), min_size=2, max_size=60).filter(
    lambda values: any(v is not None for v in values)
)


@given(traces)
def test_statistics_are_what_their_names_say(values):
    trace = np.array([np.nan if v is None else v for v in values])
    found = history_statistics(trace[None], 60)[0]
    assert found == pytest.approx(plain(trace, 60), abs=2e-3)


@given(traces)
def test_running_statistics_are_those_of_each_stretch(values):
    trace = np.array([np.nan if v is None else v for v in values])
    found = running_statistics(trace, 10)
    for step in range(len(trace)):
        stretch = trace[max(0, step - 9) : step + 1]
        if np.isnan(stretch).all():
            assert np.isnan(found[step, 0])
        else:
            assert found[step] == pytest.approx(plain(stretch, 10), abs=2e-3)


def wave(steps: int = 120) -> np.ndarray:
    glucose = (150 + 40 * np.sin(np.arange(steps) / 5)).astype(np.float32)
    glucose[[30, 31, 32, 50]] = np.nan
    return glucose


def test_a_window_and_the_service_tell_the_same_of_the_same_readings():
    series = GlucoseSeries("a", START, 5, wave())
    windows = cut_windows(series, SHAPE, "train")
    for row in (0, 10, len(windows) - 1):
        origin = int((windows.origins[row] - START) // np.timedelta64(5, "m"))
        steps = np.arange(origin + 1)[~np.isnan(wave()[: origin + 1])]
        readings = Readings(steps * 300, wave()[steps].astype(np.float64))
        context = context_from(readings, "mg/dL", SHAPE, as_of=float(origin * 300), utc_offset=dt.timedelta())
        assert context.history == pytest.approx(windows.history[row], abs=1e-3)
        assert context.glucose_mg_dl == pytest.approx(windows.context[row])


def test_a_history_does_not_reach_into_another_part_and_changes_no_window():
    long = GlucoseSeries("a", START, 5, wave(400))
    with_history, without = (cut_windows(long, SHAPE.model_copy(update={"history_length": h}), "test") for h in (18, 0))
    assert (with_history.origins == without.origins).all()
    assert with_history.history[0, -1] == pytest.approx(SHAPE.context_length / LENGTH)
    assert without.history.shape == (len(without), 0)
    assert with_history.digest != without.digest


@pytest.mark.parametrize(("steps", "warned"), [(LENGTH, False), (LENGTH // 2 - 1, True)])
def test_an_answer_says_where_most_of_the_history_is_not_known(steps, warned):
    readings = Readings(np.arange(steps) * 300, np.full(steps, 150.0))
    context = context_from(readings, "mg/dL", SHAPE, as_of=(steps - 1) * 300.0, utc_offset=dt.timedelta())
    assert any("of the last 2 hours are known" in sentence for sentence in context.warnings) == warned
    assert dict(zip(STATISTICS, context.history, strict=True))["history_known"] == pytest.approx(steps / LENGTH)
