"""The readings of a stream, against a plain model of what it should keep: everything, sorted, cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference import patient_stream
from services.inference.patient_stream import KEPT_AT_MOST, KEPT_SECONDS, PatientStream, Use

T = 1_740_830_400
STEP = 300


def kept(stream: PatientStream) -> list[tuple[int, float, int]]:
    readings = stream.readings()
    limits = np.zeros(len(readings.seconds), int) if readings.limits is None else readings.limits
    return list(zip(readings.seconds.tolist(), readings.values.tolist(), limits.tolist(), strict=True))


def filled(count: int, spacing: int = STEP) -> PatientStream:
    stream = PatientStream()
    for k in range(count):
        assert stream.add(T + k * spacing, 100.0 + k, 0) is Use.NEWEST
    return stream


class Plain:
    """Keeps every reading that ever counted, and looks at all of them each time."""

    def __init__(self, at_most: int) -> None:
        self.all: dict[int, tuple[float, int]] = {}
        self.at_most = at_most

    def kept(self) -> list[int]:
        return [t for t in sorted(self.all) if t >= max(self.all) - KEPT_SECONDS][-self.at_most :]

    def add(self, seconds: int, value: float, limit: int) -> Use:
        before = self.kept()
        if seconds in before:
            was = self.all[seconds]
            self.all[seconds] = (value, limit)
            return Use.DUPLICATE if was == (value, limit) else Use.CORRECTED
        if not before or seconds > before[-1]:
            self.all[seconds] = (value, limit)
            return Use.NEWEST
        if seconds in self.all:
            return Use.TOO_OLD
        self.all[seconds] = (value, limit)
        if seconds in self.kept():
            return Use.LATE
        del self.all[seconds]
        return Use.TOO_OLD


# half-hour steps over three days: many meet, many are late, some are more than two days late
additions = st.lists(
    st.tuples(st.integers(0, 144).map(lambda k: T + 1800 * k), st.sampled_from([80.0, 90.0]), st.just(0))
    | st.tuples(st.integers(0, 144).map(lambda k: T + 1800 * k), st.just(0.0), st.sampled_from([-1, 1])),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(additions, st.sampled_from([1, 2, 5, 1024]))
def test_whatever_comes_in_whatever_order_the_stream_keeps_what_a_plain_model_keeps(added, at_most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patient_stream, "KEPT_AT_MOST", at_most)
        stream, plain = PatientStream(), Plain(at_most)
        for reading in added:
            assert stream.add(*reading) is plain.add(*reading)
            assert kept(stream) == [(t, *plain.all[t]) for t in plain.kept()]


def test_a_stream_begins_empty():
    readings = PatientStream().readings()
    assert (len(readings.seconds), len(readings.values), readings.limits) == (0, 0, None)


def test_columns_come_in_the_types_that_the_context_is_made_from():
    readings = filled(3).readings()
    assert (readings.seconds.dtype, readings.values.dtype) == (np.int64, np.float64)
    assert readings.limits is None  # all are values


def test_a_late_reading_finds_its_place():
    stream = PatientStream()
    stream.add(T, 100.0, 0)
    stream.add(T + 2 * STEP, 120.0, 0)
    assert stream.add(T + STEP, 110.0, 0) is Use.LATE
    assert kept(stream) == [(T, 100.0, 0), (T + STEP, 110.0, 0), (T + 2 * STEP, 120.0, 0)]


def test_a_first_reading_that_comes_late_is_put_before_the_others():
    stream = filled(2)
    assert stream.add(T - 1, 90.0, 0) is Use.LATE
    assert kept(stream)[0] == (T - 1, 90.0, 0)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_of_two_for_one_second_the_later_entry_wins(place):
    stream = filled(3)
    assert stream.add(T + place * STEP, 55.0, 0) is Use.CORRECTED
    assert kept(stream)[place] == (T + place * STEP, 55.0, 0)
    assert stream.add(T + place * STEP, 55.0, 0) is Use.DUPLICATE
    assert len(kept(stream)) == 3


def test_a_word_of_the_sensor_replaces_a_value_and_the_other_way_round():
    stream = filled(1)
    assert stream.add(T, 0.0, -1) is Use.CORRECTED
    assert stream.add(T, 0.0, 1) is Use.CORRECTED
    assert kept(stream) == [(T, 0.0, 1)]
    assert stream.readings().limits.dtype == np.int8
    assert stream.add(T, 100.0, 0) is Use.CORRECTED
    assert stream.readings().limits is None


def test_the_value_beside_a_word_of_the_sensor_says_nothing():
    stream = PatientStream()
    stream.add(T, 39.0, -1)
    assert stream.add(T, 0.0, -1) is Use.DUPLICATE


def test_two_days_are_kept_to_the_second():
    stream = PatientStream()
    stream.add(T + KEPT_SECONDS, 110.0, 0)
    assert stream.add(T, 100.0, 0) is Use.LATE
    assert stream.add(T - 1, 90.0, 0) is Use.TOO_OLD
    stream.add(T + KEPT_SECONDS + 1, 120.0, 0)
    assert [t for t, *_ in kept(stream)] == [T + KEPT_SECONDS, T + KEPT_SECONDS + 1]
    assert stream.add(T, 100.0, 0) is Use.TOO_OLD  # though it was there once


def test_a_stream_never_grows_beyond_its_bound():
    stream = filled(KEPT_AT_MOST + 7, spacing=60)  # every minute: the bound is met before two days are
    times = [t for t, *_ in kept(stream)]
    assert times == [T + 60 * k for k in range(7, KEPT_AT_MOST + 7)]
    assert stream.add(times[0] - 1, 80.0, 0) is Use.TOO_OLD
    assert stream.add(times[0], 80.0, 0) is Use.CORRECTED
    assert stream.add(times[0] + 1, 80.0, 0) is Use.LATE  # which pushes the oldest out
    assert [t for t, *_ in kept(stream)] == [times[0] + 1, *times[1:]]


def test_readings_that_were_taken_out_do_not_change_with_the_stream():
    stream = filled(3)
    before = stream.readings()
    stream.add(T + STEP, 55.0, 0)
    stream.add(T + 3 * STEP, 0.0, 1)
    assert before.values.tolist() == [100.0, 101.0, 102.0]
    assert (len(before.seconds), before.limits) == (3, None)
