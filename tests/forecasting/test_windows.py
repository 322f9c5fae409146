"""Series → windows: what is in a window, and what can never be."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InvalidSetting
from forecasting.windows import (
    PARTS,
    Windows,
    WindowShape,
    concatenate,
    cut_all,
    cut_windows,
    distinct,
    part_bounds,
    thin,
)

SMALL = WindowShape(context_length=6, prediction_length=4)
STEP = np.timedelta64(300, "s")


def by_hand(values: np.ndarray, first: int, end: int, shape: WindowShape) -> dict[int, tuple[list, list]]:
    """{step of the origin: (context, target)}, in plain loops and from the rules of the design alone."""
    found = {}
    for origin in range(first + shape.context_length - 1, end - shape.prediction_length):
        if np.isnan(values[origin]):
            continue
        context = []
        for step in range(origin - shape.context_length + 1, origin + 1):
            left = step
            while left >= first and np.isnan(values[left]):
                left -= 1
            right = step
            while right < origin and np.isnan(values[right]):
                right += 1
            if left < first or right - left - 1 > shape.max_fill_bins:
                break
            share = (step - left) / (right - left) if right > left else 0.0
            context.append(values[left] + share * (values[right] - values[left]))
        target = values[origin + 1 : origin + 1 + shape.prediction_length]
        if len(context) == shape.context_length and not np.isnan(target).all():
            found[origin] = (context, target.tolist())
    return found


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.3]), st.integers(0, 3), st.sampled_from(PARTS))
def test_a_part_holds_exactly_the_windows_that_the_rules_allow(series_of, wave, seed, missing, fill, part):
    shape = SMALL.model_copy(update={"max_fill_bins": fill})
    values = wave(300, seed, missing)
    values[[0, -1]] = 100  # a series begins and ends with a reading
    series = series_of(values)
    windows = cut_windows(series, shape, part)
    expected = by_hand(values, *part_bounds(series, shape, part), shape)
    origins = ((windows.origins - series.start) / STEP).astype(int)
    assert origins.tolist() == list(expected)
    for row, (context, target) in enumerate(expected.values()):
        np.testing.assert_allclose(windows.context[row], context, rtol=1e-6)
        np.testing.assert_array_equal(windows.target[row], target)
    np.testing.assert_array_equal(windows.minute_of_day, origins * 5 % 1440)


@given(st.integers(0, 10_000), st.floats(0, 0.4), st.booleans())
def test_parts_follow_each_other_with_a_window_between_them(series_of, wave, seed, missing, has_own_test):
    values = wave(600, seed, missing)
    values[[0, -1]] = 100
    test_start = np.datetime64("2025-01-07T12:00:00") if has_own_test else None
    series = series_of(values, test_start=test_start)
    length = SMALL.context_length + SMALL.prediction_length
    ends = None
    for part in PARTS:
        windows = cut_windows(series, SMALL, part)
        if ends is not None and len(windows):
            begins = windows.origins.min() - STEP * (SMALL.context_length - 1)
            assert begins - ends > STEP * length
        if len(windows):
            ends = windows.origins.max() + STEP * SMALL.prediction_length


def test_parts_hold_their_shares_of_the_readings_whatever_the_pauses(series_of, wave):
    values = np.concatenate([wave(1000), np.full(20_000, np.nan), wave(1000, seed=1)])
    series = series_of(values)
    edges = [part_bounds(series, SMALL, part) for part in PARTS]
    held = [int((~np.isnan(values[first - (10 if k else 0) : end])).sum()) for k, (first, end) in enumerate(edges)]
    assert held == [1200, 200, 200, 400]
    assert all(len(cut_windows(series, SMALL, part)) for part in PARTS)


def test_a_test_part_of_the_data_sets_own_begins_where_it_says(series_of, wave):
    series = series_of(wave(1000), test_start=np.datetime64("2025-01-06T00:00:00") + 800 * STEP)
    edges = [part_bounds(series, SMALL, part) for part in PARTS]
    assert edges == [(0, 600), (610, 700), (710, 800), (810, 1000)]
    assert cut_windows(series, SMALL, "calibration").target.shape == (81, 4)


@given(st.integers(0, 10_000), st.integers(40, 150))
def test_nothing_after_the_origin_can_change_a_context(series_of, wave, seed, cut):
    values = wave(300, seed, 0.1)
    values[[0, -1]] = 100
    other = values.copy()
    other[cut + 1 :] = np.where(np.isnan(values[cut + 1 :]), np.nan, 400 - values[cut + 1 :])
    until = np.datetime64("2025-01-06T00:00:00") + cut * STEP
    shape = SMALL.model_copy(update={"max_fill_bins": 3})
    seen, changed = (cut_windows(series_of(v), shape, "train") for v in (values, other))
    np.testing.assert_array_equal(seen.ids, changed.ids)
    known = seen.origins <= until
    assert known.any()
    np.testing.assert_array_equal(seen.context[known], changed.context[known])
    assert (seen.target[seen.origins == seen.origins.max()] != changed.target[-1]).any(), "nothing was changed"


def test_no_window_holds_readings_of_two_people(series_of, wave):
    people = [series_of(np.full(200, 100.0) + k * 50, f"p{k}") for k in range(3)]
    windows = cut_all(people, SMALL, "train")
    assert windows.patients == ["p0", "p1", "p2"]
    level = 100 + 50 * np.char.lstrip(windows.patient_ids, "p").astype(int)
    assert (windows.context == level[:, None]).all()
    assert (windows.target == level[:, None]).all()
    np.testing.assert_array_equal(windows.of_patient("p1").context, cut_windows(people[1], SMALL, "train").context)


def test_no_window_of_the_virtual_cohort_crosses_a_gap_or_invents_a_target(virtual):
    shape = WindowShape()
    for series in virtual.everyone[:6]:
        windows = cut_windows(series, shape, "test")
        origins = ((windows.origins - series.start) / STEP).astype(int)
        past = series.glucose_mg_dl[origins[:, None] + np.arange(-35, 1)]
        ahead = series.glucose_mg_dl[origins[:, None] + np.arange(1, 13)]
        np.testing.assert_array_equal(windows.target, ahead)
        assert not (np.isnan(past[:, 1:]) & np.isnan(past[:, :-1])).any()
        assert not np.isnan(past[:, -1]).any()


def test_a_gap_beside_a_censored_reading_is_filled_from_what_a_sensor_can_tell(series_of):
    """As in serving, which censors on the way in: 400 and 300 around the gap, not 500 and 300."""
    series = series_of([500.0, np.nan, 300.0, 200.0, 200.0] * 4)
    context = cut_windows(series, SMALL, "train").context
    assert (context[0, :3] == [400, 350, 300]).all()


def test_targets_are_real_readings_even_beyond_what_a_sensor_can_tell(series_of):
    windows = cut_windows(series_of(np.full(60, 450.0)), SMALL, "train")
    assert (windows.context == 400).all()
    assert (windows.target == 450).all()


def test_ids_are_unique_over_people_and_time(virtual):
    windows = cut_all(virtual.everyone, WindowShape(), "validation")
    assert len(set(windows.ids.tolist())) == len(windows) > 10_000
    assert windows.ids[0] == f"adolescent_001@{windows.origins[0]}"


@pytest.mark.parametrize("part", ["patient_ids", "origins", "minute_of_day"])
def test_the_digest_changes_with_what_is_known_of_any_window(series_of, wave, part):
    windows = cut_windows(series_of(wave(100)), SMALL, "train")
    values = getattr(windows, part).copy()
    values[-1] = "q" if part == "patient_ids" else values[-1] + (STEP if part == "origins" else 1)
    assert replace(windows, **{part: values}).digest != windows.digest
    assert windows[: len(windows)].digest == windows.digest
    assert windows[1:].digest != windows.digest


@pytest.mark.parametrize(("readings", "step"), [("filled", 0), ("filled", -5), ("raw", 6), ("raw", -1)])
def test_the_digest_changes_with_any_reading_of_any_window(series_of, wave, readings, step):
    windows = cut_windows(series_of(wave(100)), SMALL, "train")
    values = getattr(windows.timeline, readings).copy()
    values[step] += 1
    assert replace(windows, timeline=replace(windows.timeline, **{readings: values})).digest != windows.digest


@pytest.fixture
def with_holes(series_of) -> list[GlucoseSeries]:
    """Two people by arithmetic alone: gaps that are filled, gaps that are not, a censored reading, a clock unknown."""
    steps = np.arange(400)
    values = 100.0 + steps % 37 * 5 - steps % 11
    values[(steps % 29 == 3) | ((steps >= 150) & (steps < 156))] = np.nan
    values[200] = 450
    start = np.datetime64("2025-01-06T00:02:00")
    return [series_of(values, "a"), series_of(values[::-1], "b", start=start, clock="utc")]


def test_digests_are_those_that_kept_results_are_found_by(with_holes, virtual):
    """Forecasts and teachers on disk bear these names, computed when windows were still copies."""
    windows = cut_all(with_holes, SMALL, "train")
    assert windows.digest == "0744576976007db5573cd0bc021a2b595ae0bdbfa7e19044b82dd502f1329a88"
    assert windows.of_patient("b").digest == "fc13a774d16b22bf188acbc7fc11390a570faaa2c967a93ebd8a15b8bca0ca00"
    glucose_alone = [replace(series, events=None) for series in virtual.everyone]
    of_cohort = thin(cut_all(glucose_alone, WindowShape(), "validation"), 1000)
    assert of_cohort.digest == "b2492469e3aca1d02ef1f303aca7c184eeceeca68875de1063cb41010d04d69f"


def as_copies(windows: list[Windows]) -> dict[str, np.ndarray]:
    """What windows showed when each was a copy of its readings."""
    names = ("patient_ids", "origins", "context", "target", "minute_of_day")
    return {name: np.concatenate([getattr(w, name) for w in windows]) for name in names}


def assert_shows(windows: Windows, copies: dict[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> None:
    for name, values in copies.items():
        np.testing.assert_array_equal(getattr(windows, name), values[rows])


@given(st.integers(0, 10_000), st.lists(st.integers(0, 120), min_size=1, max_size=4), st.data())
def test_selecting_joining_and_pickling_move_no_reading(series_of, wave, seed, lengths, data):
    people = [series_of(np.append(wave(n, seed + k, 0.1), 100), f"p{k}") for k, n in enumerate(lengths)]
    apart = [cut_windows(one, SMALL, part) for one in people for part in PARTS]
    joined, copies = concatenate(apart), as_copies(apart)
    rows = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=len(joined), max_size=len(joined))))
    some, every_third = joined[rows], joined[::3]
    assert_shows(joined, copies)
    assert_shows(some, copies, rows)
    assert_shows(pickle.loads(pickle.dumps(some)), copies, rows)  # noqa: S301
    assert_shows(concatenate([every_third, some]), as_copies([every_third, some]))
    assert_shows(distinct([joined, some]), copies, np.argsort(joined.ids))
    assert joined[rows].digest == pickle.loads(pickle.dumps(some)).digest  # noqa: S301


def test_windows_of_different_shapes_are_not_joined(series_of, wave):
    longer = SMALL.model_copy(update={"prediction_length": 5})
    with pytest.raises(ValueError, match="unpack"):
        concatenate([cut_windows(series_of(wave(100)), shape, "train") for shape in (SMALL, longer)])


def test_what_is_pickled_holds_each_reading_once_and_those_of_others_never(virtual):
    windows = cut_all(virtual.everyone, WindowShape(), "train")
    one = windows.of_patient("adult_001")
    [series] = [s for s in virtual.everyone if s.patient_id == "adult_001"]
    first, end = part_bounds(series, WindowShape(), "train")
    assert len(pickle.dumps(windows)) < 0.6 * (windows.context.nbytes + windows.target.nbytes)
    assert one.context.any(), "is gathered, and must not be pickled for it"
    sent = pickle.loads(pickle.dumps(one))  # noqa: S301
    assert len(sent.timeline.raw) <= end - first < len(one.timeline.raw) / 20
    assert "context" not in vars(sent)
    assert sent.digest == one.digest


def test_series_and_windows_of_different_grids_are_refused(series_of):
    with pytest.raises(InvalidSetting, match="p is sampled every 15 minutes, the windows ask for 5; choose"):
        cut_windows(series_of([100.0] * 99, sampling_minutes=15), SMALL, "train")


@pytest.mark.parametrize("readings", [1, 5, 9, 10, 30])
def test_a_short_series_has_no_windows_and_is_no_error(series_of, readings):
    windows = cut_all([series_of(np.full(readings, 100.0))], SMALL, "test")
    assert len(windows) == 0
    assert windows.context.shape == (0, 6)
    assert windows.target.shape == (0, 4)
    assert windows.ids.tolist() == windows.patients == []
    assert windows.digest == cut_all([], SMALL, "test").digest


@given(st.integers(1, 80), st.integers(1, 100))
def test_thinned_windows_are_as_many_as_asked_for_and_even_in_time(series_of, wave, n, at_most):
    windows: Windows = cut_windows(series_of(wave(300)), SMALL, "train")[:n]
    kept = thin(windows, at_most)
    assert len(kept) == min(at_most, len(windows))
    assert kept.origins[0] == windows.origins[0]
    between = np.diff(kept.origins) // np.timedelta64(5, "m")
    assert not len(between) or between.max() - between.min() <= 1


def test_only_horizons_that_the_windows_reach_have_a_step():
    assert WindowShape().steps_at((5, 30, 60, 90, 7)) == {5: 0, 30: 5, 60: 11}
    assert WindowShape(sampling_minutes=15, prediction_length=4).steps_at((30, 60)) == {30: 1, 60: 3}


@pytest.mark.parametrize("wrong", [{"context_len": 36}, {"context_length": 1}, {"max_fill_bins": -1}])
def test_a_shape_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        WindowShape(**wrong)
