"""Units, range, the grid and the gap rule."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.cgm import (
    FOLLOW,
    LONGEST_FILL,
    RESTART_AFTER,
    GlucoseSeries,
    censor,
    check_range,
    double_identities,
    fill_short_gaps,
    place_on_grid,
    to_grid,
    to_mg_dl,
)
from forecasting.errors import InvalidReadings

EPOCH = np.datetime64("2025-01-06T00:00:00")


def at(seconds: list[int] | np.ndarray) -> np.ndarray:
    return EPOCH + np.asarray(seconds).astype("timedelta64[s]")


def test_one_mmol_per_litre_is_18_0156_mg_dl():
    assert to_mg_dl(np.array([10.0, 3.9]), "mmol/L") == pytest.approx([180.156, 70.26084])


def test_mmol_values_called_mg_dl_are_refused_with_both_ways_out():
    with pytest.raises(
        InvalidReadings, match=r"ambiguous.*median reading is 6\.1.*give the unit mmol/L, or values in mg"
    ):
        to_mg_dl(np.array([5.5, 6.1, 9.0]), "mg/dL")


def test_an_unknown_unit_is_refused_with_the_known_ones():
    with pytest.raises(InvalidReadings, match="the unit is 'mg'; say mg/dL or mmol/L"):
        to_mg_dl(np.array([100.0]), "mg")


@pytest.mark.parametrize("value", [9.99, 600.01, 0.0, -1.0, np.inf, -np.inf])
def test_a_value_no_reading_can_have_is_refused_and_pointed_at(value):
    with pytest.raises(InvalidReadings, match="1 of 3 readings are outside 10 to 600") as refused:
        check_range(np.array([100.0, value, 100.0]))
    assert refused.value.field == "readings[1]"


def test_the_edges_of_the_range_and_missing_readings_are_accepted():
    check_range(np.array([10.0, np.nan, 600.0]))


def test_what_a_sensor_cannot_tell_is_taken_as_its_edge():
    np.testing.assert_array_equal(censor(np.array([12.0, 40, 400, 599, np.nan])), [40, 40, 400, 400, np.nan])


@given(st.lists(st.integers(-60, 60), min_size=2, max_size=400))
def test_a_minute_of_jitter_loses_no_reading(jitter):
    seconds = np.arange(len(jitter)) * 300 + jitter
    np.testing.assert_array_equal(place_on_grid(at(seconds), 5), np.arange(len(jitter)))


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=60))
def test_whatever_the_pauses_neighbours_lie_as_many_steps_apart_as_their_times(pauses):
    seconds = np.cumsum([0, *pauses])
    steps = place_on_grid(at(seconds), 5)
    assert np.abs(np.diff(steps) * 300 - pauses).max() <= 300
    assert (np.diff(steps) >= 0).all()


@given(st.sampled_from([-3, -1, 1, 3]), st.lists(st.integers(-30, 30), min_size=300, max_size=400))
def test_a_drifting_clock_neither_loses_nor_doubles_a_reading(drift, jitter):
    seconds = np.arange(len(jitter)) * (300 + drift) + jitter
    np.testing.assert_array_equal(np.diff(place_on_grid(at(seconds), 5)), 1)


def reading_by_reading(seconds: np.ndarray, sampling_minutes: int) -> list[int]:
    """The grid's rule in one plain loop: every reading moves the phase, whether or not it needs to be followed."""
    steps, phase, before, last = [], 0.0, -math.inf, 0
    for row, second in enumerate(seconds.tolist()):
        offset = (second - int(seconds[0])) / (60.0 * sampling_minutes)
        if offset - before > RESTART_AFTER:
            pause = min(max(1, math.floor(offset - before + 0.5)), LONGEST_FILL + 2) if row else 0
            last = max(math.floor(offset + 0.5), last + pause)
            phase = offset - last
        else:
            last = math.floor(offset - phase + 0.5)
            phase += FOLLOW * (offset - phase - last)
        steps.append(last)
        before = offset
    return steps


# Seconds to the next reading: on the grid, nearly, drifting, twice at once, after one gap, after a pause.
SPACINGS = st.one_of(
    st.just(300),
    st.integers(298, 302),
    st.integers(225, 375),
    st.integers(0, 40),
    st.integers(590, 610),
    st.integers(700, 40_000),
)


@given(st.lists(SPACINGS, max_size=150), st.sampled_from([1, 5, 15]))
def test_steps_are_those_of_a_loop_over_every_reading(spacings, sampling_minutes):
    seconds = np.cumsum([0, *spacings]) * sampling_minutes // 5
    steps = place_on_grid(at(seconds), sampling_minutes)
    assert steps.tolist() == reading_by_reading(seconds, sampling_minutes)
    assert steps.dtype == np.int64


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(750, 40_000)), min_size=1, max_size=5),
    st.integers(20, 75),
    st.integers(0, 2**32 - 1),
)
def test_jitter_up_to_a_quarter_of_a_step_is_placed_as_the_loop_places_it_after_any_pause(stretches, most, seed):
    rng = np.random.default_rng(seed)
    seconds, begin = [0], 0
    for readings, pause in stretches:
        seconds += (begin + 300 * np.arange(1, readings + 1) + rng.choice([-most, most, 0], readings)).tolist()
        begin = seconds[-1] + pause
    ascending = np.sort(seconds)
    assert place_on_grid(at(ascending), 5).tolist() == reading_by_reading(ascending, 5)


@given(st.lists(st.integers(1, 2), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_the_grid_is_what_pandas_resamples_to(pauses, seed):
    steps = np.cumsum([0, *pauses])
    seconds = steps * 300 + np.random.default_rng(seed).integers(-60, 61, len(steps))
    seconds[0] = 0
    values = np.arange(len(seconds)) + 100.0
    table = pd.Series(values, index=pd.DatetimeIndex(at(seconds)))
    expected = table.resample("5min", origin=pd.Timestamp(EPOCH) - pd.Timedelta("150s")).last()
    np.testing.assert_array_equal(to_grid(at(seconds), values, 5), expected.to_numpy(np.float32))


@given(st.integers(751, 200_000), st.lists(st.integers(-60, 60), min_size=2, max_size=100))
def test_an_irregular_restart_after_a_pause_loses_nothing_of_what_follows(pause, jitter):
    before = np.arange(20) * 300
    after = before[-1] + pause + np.arange(len(jitter)) * 300 + np.array(jitter) - jitter[0]
    steps = place_on_grid(at(np.concatenate([before, after])), 5)
    np.testing.assert_array_equal(np.diff(steps[20:]), 1)
    assert abs((steps[20] - steps[19]) * 300 - pause) <= 150


def test_of_two_readings_in_one_step_the_later_entry_wins():
    np.testing.assert_array_equal(to_grid(at([0, 290, 310, 600]), np.array([1.0, 2, 3, 4]), 5), [1, 3, 4])
    np.testing.assert_array_equal(to_grid(at([0, 300, 300, 600]), np.array([1.0, 2, 3, 4]), 5), [1, 3, 4])


@given(st.lists(st.one_of(st.none(), st.integers(40, 400)), min_size=1, max_size=60), st.integers(0, 5))
def test_gaps_are_filled_up_to_the_limit_and_never_beyond_it_or_at_the_ends(values, limit):
    given = pd.Series(values, dtype=float)
    line = given.interpolate(method="linear", limit_area="inside")
    gap = given.groupby(given.notna().cumsum()).transform(lambda rows: rows.isna().sum())
    expected = given.where(given.notna() | (gap > limit), line)
    before = given.to_numpy().copy()
    np.testing.assert_allclose(fill_short_gaps(before, limit), expected, rtol=1e-12)
    np.testing.assert_array_equal(before, given, err_msg="the caller's readings were changed")


def test_a_run_of_24_equal_readings_under_two_ids_is_a_double_identity(series_of, wave):
    shared = wave(24, seed=9)
    one = series_of(np.concatenate([wave(50, seed=1), shared, wave(10, seed=2)]), "one")
    two = series_of(np.concatenate([wave(7, seed=3), shared, wave(30, seed=4)]), "two")
    assert double_identities([one, two]) == [("one", "two")]
    shorter = series_of(np.concatenate([wave(7, seed=3), shared[1:], wave(30, seed=4)]), "two")
    assert double_identities([one, shorter]) == []


def run_by_run(people: list[GlucoseSeries], run_length: int) -> list[tuple[str, str]]:
    """Pairs of people who share a run, by looking each run up among those of the people before."""
    seen: dict[tuple[float, ...], str] = {}
    pairs = set()
    for one in people:
        values = one.glucose_mg_dl.tolist()
        for begin in range(len(values) - run_length + 1):
            run = tuple(values[begin : begin + run_length])
            if any(map(math.isnan, run)) or max(run) - min(run) <= run_length / 4:
                continue
            if (other := seen.setdefault(run, one.patient_id)) != one.patient_id:
                pairs.add((other, one.patient_id))
    return sorted(pairs)


@given(st.lists(st.lists(st.sampled_from([100, 104, 110, None]), max_size=60), max_size=5), st.integers(2, 6))
def test_double_identities_are_those_of_a_search_run_by_run(series_of, readings, run_length):
    people = [series_of(np.array(values, float), f"p{k}") for k, values in enumerate(readings)]
    assert double_identities(people, run_length) == run_by_run(people, run_length)


@given(st.integers(0, 10_000), st.integers(0, 100), st.integers(0, 60))
def test_a_copied_stretch_is_found_wherever_it_begins(series_of, wave, seed, begin, length):
    readings = [wave(200, seed + k, 0.02) for k in range(4)]
    readings[2][40 : 40 + length] = readings[1][begin : begin + length]
    people = [series_of(values, f"p{k}") for k, values in enumerate(readings)]
    assert double_identities(people) == run_by_run(people, 24)


def test_two_sensors_flat_at_the_edge_of_their_range_are_not_one_person(series_of):
    assert double_identities([series_of(np.full(60, 400.0), "one"), series_of(np.full(60, 400.0), "two")]) == []


def test_the_time_of_day_is_unknown_where_only_the_instant_is_known(series_of):
    local, utc = series_of([100.0] * 14), series_of([100.0] * 14, clock="utc")
    np.testing.assert_array_equal(local.minute_of_day, np.arange(14) * 5)
    assert np.isnan(utc.minute_of_day).all()
