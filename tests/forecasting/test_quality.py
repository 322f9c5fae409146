"""Flags on readings: from the past alone, every planted fault found, nothing found in a clean trace."""

import time
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.quality import Quality, flag_readings, flagged_share, flagged_windows, recently_flagged
from forecasting.windows import WindowShape, cut_all

DAY = 24 * 60
NO_CLOCK = np.nan


def clock(steps: int, sampling_minutes: int = 5, start: float = 0.0) -> np.ndarray:
    """(steps,) local minute of the day, from `start`."""
    return (start + np.arange(steps) * sampling_minutes) % DAY


def smooth(minutes: int, sampling_minutes: int = 5) -> np.ndarray:
    """Whole mg/dL of a person with three meals a day, 75 to 215, at most 2 mg/dL per minute; from midnight."""
    t = np.arange(0, minutes, sampling_minutes)
    return np.rint(130 + 55 * np.sin(2 * np.pi * t / 480) + 25 * np.sin(2 * np.pi * t / DAY) + 5 * np.sin(t / 23.0))


def joined(pieces: list[list[float]]) -> np.ndarray:
    return np.array([*chain.from_iterable(pieces)], np.float32)


def found(glucose: np.ndarray, minute_of_day: np.ndarray, sampling_minutes: int, kind: Quality) -> list[int]:
    """The steps that are flagged with this kind."""
    return np.flatnonzero(flag_readings(glucose, minute_of_day, sampling_minutes) & kind).tolist()


# Traces out of pieces that trip every rule, and pieces that nearly do.
PIECES = st.lists(
    st.one_of(
        st.builds(lambda level, n: [level] * n, st.sampled_from([100.0, 110.0, 96.0, 140.0]), st.integers(1, 14)),
        st.lists(st.sampled_from([np.nan, 45.0, 55.0, 69.0, 70.0, 85.0, 100.0, 112.0, 200.0, 400.0]), max_size=8),
        st.builds(lambda n: [np.nan] * n, st.sampled_from([1, 2, 7, 8, 23, 24, 40])),
        st.builds(lambda other, n: [120.0, other] * n, st.sampled_from([124.0, 127.0, 150.0]), st.integers(1, 6)),
    ),
    max_size=14,
)
CLOCKS = st.sampled_from([0.0, 600.0, 1300.0, NO_CLOCK])


@given(PIECES, st.integers(0, 150), PIECES, CLOCKS, st.sampled_from([1, 5, 15, 30]))
def test_no_flag_depends_on_what_comes_later(pieces, now, future, start, sampling):
    trace = joined(pieces)
    times = clock(len(trace), sampling, start)
    flags = flag_readings(trace, times, sampling)
    other = np.concatenate([trace[:now], joined(future)])
    at_the_time = flag_readings(trace[:now], times[:now], sampling)
    otherwise = flag_readings(other, clock(len(other), sampling, start), sampling)
    np.testing.assert_array_equal(at_the_time, flags[:now])
    np.testing.assert_array_equal(otherwise[: len(at_the_time)], at_the_time)
    assert flags.dtype == np.uint8
    assert not flags[np.isnan(trace)].any(), "a missing reading is flagged"


def test_the_pieces_above_trip_every_rule():
    steady, pause, zigzag = [100.0] * 14, [np.nan] * 24, [120.0, 127.0] * 6
    trace = np.array([*steady, 55.0, *steady, *zigzag, *pause, *steady], np.float32)
    assert np.bitwise_or.reduce(flag_readings(trace, clock(len(trace)), 5)) == sum(Quality)


@pytest.mark.parametrize("sampling", [1, 5, 15])
@pytest.mark.parametrize("start", [0.0, NO_CLOCK])
def test_nothing_is_found_in_a_clean_trace(sampling, start):
    trace = smooth(7 * DAY, sampling)
    trace[np.random.default_rng(0).random(len(trace)) < 0.05] = np.nan
    assert not flag_readings(trace, clock(len(trace), sampling, start), sampling).any()


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
@pytest.mark.parametrize("value", [np.nan, 100.0])
def test_traces_of_no_or_few_readings_have_no_flags(steps, value):
    flags = flag_readings(np.full(steps, value, np.float32), np.full(steps, np.nan), 5)
    assert flags.tolist() == [0] * steps


@pytest.mark.parametrize("sampling", [5, 15])
def test_the_twelve_hours_after_a_pause_of_two_are_warm_up(sampling):
    trace, hour = smooth(2 * DAY, sampling), 60 // sampling
    trace[5 * hour + 1 : 7 * hour] = np.nan  # the next reading comes two hours after the last
    expected = list(range(7 * hour, 19 * hour))
    assert found(trace, clock(len(trace), sampling), sampling, Quality.WARM_UP) == expected
    trace[5 * hour + 1] = 120.0  # and now one step less
    assert found(trace, clock(len(trace), sampling), sampling, Quality.WARM_UP) == []


def test_what_comes_first_is_not_taken_for_a_new_sensor():
    trace = np.concatenate([np.full(60, np.nan), smooth(DAY)])
    assert found(trace, clock(len(trace)), 5, Quality.WARM_UP) == []


@pytest.mark.parametrize(("sampling", "size"), [(5, 26.0), (5, -26.0), (15, 76.0), (15, -76.0)])
def test_a_calibration_jump_is_one_flag_where_it_happens(sampling, size):
    trace = np.full(100, 200.0)
    trace[50:] += size
    assert found(trace, clock(100, sampling), sampling, Quality.JUMP) == [50]
    trace[50:] -= 0.05 * size  # now 25 mg/dL in five minutes or a little less: a fast rise, but glucose may do that
    assert found(trace, clock(100, sampling), sampling, Quality.JUMP) == []


def test_a_jump_is_seen_across_a_missing_reading_only_where_its_rate_tells():
    trace = np.full(60, 150.0)
    trace[30] = np.nan
    trace[31:] = 190.0
    assert found(trace, clock(60), 5, Quality.JUMP) == []
    trace[31:] = 202.0
    assert found(trace, clock(60), 5, Quality.JUMP) == [31]


def test_of_a_steep_rise_that_was_under_way_nothing_is_a_jump():
    trace = np.concatenate([np.full(20, 80.0), 80 + np.cumsum([10, 20, 27, 28, 28, 20, 5])])
    assert found(trace, clock(len(trace)), 5, Quality.JUMP) == []


def test_an_outlier_is_a_jump_on_the_way_there_and_back():
    trace = smooth(DAY)
    trace[100] += 60
    assert found(trace, clock(len(trace)), 5, Quality.JUMP) == [100, 101]


def compression(sampling: int, start: float = 120.0) -> tuple[np.ndarray, np.ndarray]:
    """A steady night at 100 mg/dL with 45 minutes at 60 that begin 150 minutes in; readings and clock."""
    trace = np.full(400 // sampling, 100.0)
    trace[150 // sampling : 195 // sampling] = 60.0
    return trace, clock(len(trace), sampling, start)


@pytest.mark.parametrize("sampling", [5, 15])
@pytest.mark.parametrize("start", [120.0, 1300.0, NO_CLOCK])
def test_a_fast_fall_from_a_steady_level_is_suspected_of_compression_while_it_lasts(sampling, start):
    expected = list(range(150 // sampling, 195 // sampling))
    assert found(*compression(sampling, start), sampling, Quality.COMPRESSION) == expected


@pytest.mark.parametrize("sampling", [5, 15])
def test_the_same_fall_by_day_is_not(sampling):
    assert found(*compression(sampling, 720.0), sampling, Quality.COMPRESSION) == []


@pytest.mark.parametrize(
    ("before", "low", "why"),
    [
        (np.linspace(160, 84, 30), 60.0, "it was falling all the time"),
        (np.full(30, 66.0), 41.0, "it was low before"),
        (np.full(30, 82.0), 60.0, "the fall is small"),
        (np.full(30, 200.0), 60.0, "it was above the range"),
        (np.tile([100.0, 110.0, 120.0, 130.0, 120.0, 110.0], 5), 60.0, "it was not steady"),
        (np.append(np.full(26, np.nan), np.full(4, 100.0)), 60.0, "too little is known of the level"),
    ],
)
def test_a_low_that_came_otherwise_is_not_compression(before, low, why):
    trace = np.concatenate([before, np.full(3, low)])
    assert found(trace, clock(len(trace)), 5, Quality.COMPRESSION) == [], why


def test_a_low_that_does_not_end_is_believed_after_a_while():
    trace = np.concatenate([np.full(30, 100.0), np.full(60, 60.0)])
    last = found(trace, clock(len(trace)), 5, Quality.COMPRESSION)[-1]
    assert 70 <= (last - 30) * 5 <= 85, "the fall is recognised within 15 minutes and lasts 70"


def test_compression_is_seen_through_missing_readings():
    trace, times = compression(5)
    trace[[21, 24, 31]] = np.nan
    assert found(trace, times, 5, Quality.COMPRESSION) == [30, 32, *range(33, 39)]


def interleaved(sampling: int, apart: float) -> np.ndarray:
    """A smooth day whose hour from 02:00 alternates with another trace, so many mg/dL higher."""
    trace = smooth(DAY, sampling)
    trace[120 // sampling : 180 // sampling : 2] += apart
    return trace


def test_two_interleaved_hours_are_a_clock_that_folded():
    steps = found(interleaved(5, 15.0), clock(288), 5, Quality.CLOCK)
    assert set(range(28, 36)) <= set(steps) <= set(range(24, 42))


def test_the_zigzag_is_found_with_a_reading_missing():
    trace = interleaved(5, 15.0)
    trace[30] = np.nan
    assert set(range(31, 36)) <= set(found(trace, clock(288), 5, Quality.CLOCK))


def test_sensor_noise_of_two_mg_dl_is_no_zigzag():
    trace = interleaved(5, 3.0) + np.random.default_rng(1).choice([-1.0, 0.0, 1.0], 288)
    assert found(trace, clock(288), 5, Quality.CLOCK) == []


def test_a_sharp_peak_is_no_zigzag():
    trace = np.concatenate([np.full(20, 150.0), [162, 175, 187, 176, 164, 152], np.full(20, 150.0)])
    assert found(trace, clock(len(trace)), 5, Quality.CLOCK) == []


def test_readings_a_quarter_of_an_hour_apart_tell_nothing_of_the_clock():
    assert found(interleaved(15, 40.0), clock(96, 15), 15, Quality.CLOCK) == []


def test_shares_are_of_the_readings_and_count_a_doubtful_reading_once():
    flags = np.array([0, Quality.JUMP | Quality.CLOCK, Quality.JUMP, 0, 0], np.uint8)
    glucose = np.array([100, 100, 100, 100, np.nan])
    expected = {"warm_up": 0.0, "jump": 0.5, "compression": 0.0, "clock": 0.25, "any": 0.5}
    assert flagged_share(flags, glucose) == expected
    assert set(flagged_share(flags[:0], glucose[:0]).values()) == {0.0}


@given(st.lists(st.integers(0, 15), min_size=1, max_size=80), st.sampled_from([5, 15]), st.sampled_from([15, 60, 180]))
def test_a_context_is_flagged_as_a_look_at_its_newest_readings_tells(flags, sampling, minutes):
    given = np.array(flags, np.uint8)
    origins = np.arange(len(given))
    for kinds in (Quality.JUMP, Quality.JUMP | Quality.WARM_UP):
        looked = [any(f & kinds for f in flags[max(0, o + 1 - minutes // sampling) : o + 1]) for o in origins]
        assert recently_flagged(given, origins, sampling, minutes, kinds).tolist() == looked


def test_windows_are_flagged_by_patient_and_time_wherever_they_were_cut(series_of):
    jumping, calm = smooth(10 * DAY), smooth(10 * DAY)
    jumping[2700] += 60  # in the test part
    jumping[2280:2304] = np.nan  # a new sensor at the end of the calibration part
    series = [series_of(calm, "calm"), series_of(jumping, "jumping")]
    windows = cut_all(series, WindowShape(), "test")
    jumps = windows[flagged_windows(windows, series, kinds=Quality.JUMP)]
    since = (jumps.origins - series[1].times[2700]).astype(int) // 60
    assert (jumps.patients, since.tolist()) == (["jumping"], list(range(0, 65, 5)))
    warm = windows[::7][flagged_windows(windows[::7], series, kinds=Quality.WARM_UP)]
    assert warm.patients == ["jumping"]
    assert warm.origins.max() < series[1].times[2304] + np.timedelta64(13, "h")


def test_a_million_readings_take_less_than_a_second():
    trace = np.tile(smooth(10 * DAY), 350).astype(np.float32)[:1_000_000]
    times = clock(len(trace))
    begin = time.process_time()
    flag_readings(trace, times, 5)
    assert time.process_time() - begin < 1.0
