"""Readings of a request → the context; above all, the same context that training cuts."""

import datetime as dt
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.cgm import MG_DL_PER_MMOL_L, GlucoseSeries, Unit, place_on_grid
from forecasting.context import Context, Reading, Readings, context_from, place_back_from_last, utc_offset_in
from forecasting.errors import InsufficientData, InvalidInput, InvalidReadings
from forecasting.readers.tidy import series_from_readings
from forecasting.windows import WindowShape, cut_windows

LAST = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)
SHORT = WindowShape(context_length=6, prediction_length=2)
MINUTE = dt.timedelta(minutes=1)
AT = LAST.timestamp()


def ending(values: list, last: dt.datetime = LAST, minutes: float = 5) -> list[Reading]:
    """One reading every five minutes, None left out, the last at `last`."""
    count = len(values)
    return [Reading(last - (count - 1 - k) * minutes * MINUTE, v) for k, v in enumerate(values) if v is not None]


def context_of(values: list, shape: WindowShape = SHORT, unit: Unit = "mg/dL") -> Context:
    return context_from(Readings.of(ending(values)), unit, shape)


def readings_until(last: int, times: np.ndarray, values: np.ndarray) -> list[Reading]:
    """What an app would send: the six hours up to reading `last`, as UTC instants."""
    near = (times > times[last] - np.timedelta64(6, "h")) & (times <= times[last])
    return [Reading(t.item().replace(tzinfo=dt.UTC), float(v)) for t, v in zip(times[near], values[near], strict=True)]


def cut_and_served(
    series: GlucoseSeries, times: np.ndarray, values: np.ndarray, unit: Unit, shape: WindowShape, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Contexts and minutes of the day of random windows, as training cuts them and as serving makes them."""
    windows = cut_windows(series, shape, "train")
    windows = windows[np.random.default_rng(5).choice(len(windows), count, replace=False)]
    origins = ((windows.origins - series.start) / np.timedelta64(300, "s")).astype(int)
    lasts = np.searchsorted(place_on_grid(times, 5), origins, side="right") - 1  # the readings training ended at
    served = [
        context_from(Readings.of(readings_until(last, times, values)), unit, shape, utc_offset=dt.timedelta(0))
        for last in lasts
    ]
    contexts = np.stack([one.glucose_mg_dl for one in served])
    minutes = np.array([one.minute_of_day for one in served], np.float32)
    return windows.context, contexts, windows.minute_of_day, minutes


@pytest.mark.parametrize("unit", ["mg/dL", "mmol/L"])
def test_serving_makes_the_context_that_training_cut_from_the_virtual_cohort(virtual, unit):
    for series in virtual.everyone[::5]:
        real = ~np.isnan(series.glucose_mg_dl)
        values = series.glucose_mg_dl[real].astype(float)
        values = values / MG_DL_PER_MMOL_L if unit == "mmol/L" else values
        cut, served, cut_minute, minute = cut_and_served(
            series, series.times[real], values, unit, WindowShape(max_fill_bins=2), 50
        )
        np.testing.assert_allclose(served, cut, rtol=0 if unit == "mg/dL" else 1e-6)
        np.testing.assert_array_equal(minute, cut_minute)


@pytest.mark.parametrize("unit", ["mg/dL", "mmol/L"])
def test_serving_makes_the_context_that_training_cut_from_a_jittered_sensor(wave, unit):
    """A minute of jitter, lost readings, pauses with an irregular restart, and values beyond the sensor's range."""
    rng = np.random.default_rng(3)
    seconds = np.arange(4000) * 300 + rng.integers(-60, 61, 4000)
    seconds += np.cumsum(np.where(rng.random(4000) < 0.005, rng.integers(1_200, 40_000, 4000), 0))
    kept = rng.random(4000) > 0.04
    times = (np.datetime64("2025-01-06T00:00:00") + seconds.astype("timedelta64[s]"))[kept]
    mg_dl = (wave(4000) * 2.2 - 120).clip(20, 550)[kept]
    if unit == "mmol/L":
        mg_dl = mg_dl + rng.random(len(mg_dl))  # unrounded
    values = mg_dl / MG_DL_PER_MMOL_L if unit == "mmol/L" else mg_dl
    series = series_from_readings("p", times, values * MG_DL_PER_MMOL_L if unit == "mmol/L" else mg_dl)
    cut, served, cut_minute, minute = cut_and_served(series, times, values, unit, WindowShape(), 300)
    np.testing.assert_array_equal(served, cut)
    apart = np.abs(minute - cut_minute)
    assert np.minimum(apart, 1440 - apart).max() <= 5


@given(st.integers(0, 300), st.sampled_from([0, 1, 2]))
def test_readings_older_than_the_context_change_nothing(older, fill):
    shape = SHORT.model_copy(update={"max_fill_bins": fill})
    recent = [100.0, 110, 120, 130, 140, 150]
    expected = context_of(recent, shape)
    got = context_of([float(50 + k % 300) for k in range(older)] + recent, shape)
    np.testing.assert_array_equal(got.glucose_mg_dl, expected.glucose_mg_dl)
    assert got.warnings == expected.warnings


@given(st.lists(st.integers(285, 315), min_size=5, max_size=12), st.data())
def test_an_even_spacing_gives_the_context_that_the_grid_gives(spacings, data):
    """The short way past the grid may never lead elsewhere."""
    seconds = np.cumsum([0, *spacings])
    values = np.array(data.draw(st.lists(st.integers(40, 400), min_size=len(seconds), max_size=len(seconds))), float)
    steps = place_back_from_last(seconds, 5)
    assert list(steps[-6:]) == [-5, -4, -3, -2, -1, 0]
    got = context_from(Readings(seconds, values), "mg/dL", SHORT, now=float(seconds[-1]))
    np.testing.assert_array_equal(got.glucose_mg_dl, values[-6:])


def test_an_absurd_first_time_costs_neither_memory_nor_an_answer():
    readings = [Reading(dt.datetime(1, 1, 1, tzinfo=dt.UTC), 100.0), *ending([100.0, 110, 120, 130, 140, 150])]
    tracemalloc.start()
    got = context_from(Readings.of(readings), "mg/dL", SHORT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.glucose_mg_dl[0] == 100
    assert peak < 1_000_000


def test_a_single_missing_reading_is_filled_on_a_line_and_reported():
    got = context_of([100.0, 110, None, 130, 140, 150])
    np.testing.assert_array_equal(got.glucose_mg_dl, [100, 110, 120, 130, 140, 150])
    assert any("1 missing readings of the context were filled" in warning for warning in got.warnings)


def test_a_context_that_begins_in_a_gap_is_filled_from_the_reading_before_it():
    got = context_of([90.0, None, 110, 120, 130, 140, 150])
    np.testing.assert_array_equal(got.glucose_mg_dl, [100, 110, 120, 130, 140, 150])
    with pytest.raises(InsufficientData, match="span 5 steps, the model needs 6 steps of 5 minutes"):
        context_of([None, 110.0, 120, 130, 140, 150])


@pytest.mark.parametrize(("allowed", "missing"), [(0, 1), (1, 2), (3, 4)])
def test_a_gap_longer_than_the_model_fills_is_insufficient_data(allowed, missing):
    def send(gap: int) -> Context:
        shape = WindowShape(context_length=8, prediction_length=2, max_fill_bins=allowed)
        return context_of([100.0, 100, *[None] * gap, *[100.0] * 8][: 2 + gap + max(1, 6 - gap)], shape)

    assert send(missing - 1).glucose_mg_dl.shape == (8,)
    with pytest.raises(
        InsufficientData, match=f"{missing} steps of the last 8 are missing in gaps of more than {allowed}"
    ):
        send(missing)


def test_of_two_readings_in_one_step_the_later_is_used_and_reported():
    readings = [
        *ending([100.0, 110, 120, 130, 140]),
        Reading(LAST + 4 * MINUTE, 150.0),
        Reading(LAST + 5 * MINUTE, 160.0),
    ]
    got = context_from(Readings.of(readings), "mg/dL", SHORT)
    np.testing.assert_array_equal(got.glucose_mg_dl, [100, 110, 120, 130, 140, 160])
    assert any("1 readings shared a 5-minute step" in warning for warning in got.warnings)


def test_the_grid_hangs_on_the_last_reading_and_not_on_the_first():
    """The first reading came 140 s early: counted from it, the jitter of the others would fall into wrong steps."""
    seconds = [-140, 340, 560, 940, 1160, 1500]
    readings = [Reading(LAST + dt.timedelta(seconds=s - 1500), 100.0 + k * k) for k, s in enumerate(seconds)]
    got = context_from(Readings.of(readings), "mg/dL", SHORT)
    np.testing.assert_array_equal(got.glucose_mg_dl, [100, 101, 104, 109, 116, 125])


def test_low_and_high_stand_for_the_sensors_edges_and_are_reported():
    got = context_of(["low", 30.0, 100, 450, "high", 399])
    np.testing.assert_array_equal(got.glucose_mg_dl, [40, 40, 100, 400, 400, 399])
    assert any("4 readings lie outside what a sensor can tell" in warning for warning in got.warnings)
    np.testing.assert_array_equal(context_of(["low"] * 6, unit="mmol/L").glucose_mg_dl, [40] * 6)


def test_the_time_of_day_is_the_patients_own_and_masked_where_unknown():
    readings = ending([100.0] * 6)
    summer = context_from(Readings.of(readings), "mg/dL", SHORT, utc_offset=dt.timedelta(hours=-7))
    assert summer.minute_of_day == 5 * 60
    unknown = context_from(Readings.of(readings), "mg/dL", SHORT)
    assert np.isnan(unknown.minute_of_day)
    assert any("does not know the time of day" in warning for warning in unknown.warnings)


def test_instants_are_compared_whatever_zone_they_are_written_in():
    east = dt.timezone(dt.timedelta(hours=9))
    readings = ending([100.0, 110, 120, 130, 140, 150])
    mixed = [Reading(r.time.astimezone(east) if k % 2 else r.time, r.value) for k, r in enumerate(readings)]
    got = context_from(Readings.of(mixed), "mg/dL", SHORT)
    assert got.origin == AT
    np.testing.assert_array_equal(got.glucose_mg_dl, [100, 110, 120, 130, 140, 150])


@pytest.mark.parametrize(
    ("when", "hours"), [(dt.datetime(2025, 1, 1, tzinfo=dt.UTC), 0), (dt.datetime(2025, 7, 1, tzinfo=dt.UTC), 1)]
)
def test_a_zone_has_the_offset_of_the_day(when, hours):
    assert utc_offset_in("Europe/London", when) == dt.timedelta(hours=hours)


@pytest.mark.parametrize(
    "zone", ["Europe/Atlantis", "", "../../etc/passwd", "/etc/localtime", "a\0b", "Europe", "x" * 5000]
)
def test_an_unknown_zone_is_refused_with_an_example(zone):
    with pytest.raises(
        InvalidInput, match=r"there is no time zone .*give an IANA name such as Europe/London"
    ) as refused:
        utc_offset_in(zone, LAST)
    assert refused.value.field == "time_zone"


@pytest.mark.parametrize(
    ("readings", "sentence", "field"),
    [
        ([], "there are no readings; send the last hours", "readings"),
        ([Reading(dt.datetime(2025, 3, 1), 100.0)], "no time zone; send UTC instants", "readings[0].time"),
        (
            ending([100.0] * 6)[::-1],
            "reading 1 is earlier than the one before it; send readings oldest",
            "readings[1].time",
        ),
        (ending([100.0] * 6, minutes=0), "reading 1 has the same time .* send one reading", "readings[1].time"),
        (ending([100.0, float("nan")] * 3), "a reading is not a number; leave missing readings out", "readings[1]"),
        (ending([100.0] * 5 + [0.0]), "outside 10 to 600 mg/dL .the first is 0.; leave missing", "readings[5]"),
        (ending([5.5] * 6), "the unit is ambiguous.*5.5; give the unit mmol/L", "unit"),
    ],
)
def test_unusable_readings_are_refused_in_a_sentence_that_says_what_to_do(readings, sentence, field):
    with pytest.raises(InvalidReadings, match=sentence) as refused:
        context_from(Readings.of(readings), "mg/dL", SHORT)
    assert refused.value.field == field


def test_mg_dl_values_called_mmol_per_litre_are_refused():
    with pytest.raises(InvalidReadings, match="6 of 6 readings are outside 10 to 600 mg/dL"):
        context_of([100.0] * 6, unit="mmol/L")


def test_too_few_readings_say_how_many_minutes_are_needed():
    with pytest.raises(InsufficientData, match=r"span 3 steps, the model needs 36 steps of 5 minutes \(180 minutes\)"):
        context_of([100.0] * 3, WindowShape())


def test_a_last_reading_may_be_15_minutes_older_than_as_of_and_no_more():
    readings = ending([100.0] * 6)
    assert context_from(Readings.of(readings), "mg/dL", SHORT, as_of=AT + 15 * 60).origin == AT
    with pytest.raises(InsufficientData, match="16 minutes older than as_of; at most 15 are allowed: send newer"):
        context_from(Readings.of(readings), "mg/dL", SHORT, as_of=AT + 16 * 60)
    with pytest.raises(InsufficientData):
        context_from(Readings.of(readings), "mg/dL", SHORT, as_of=AT + 15 * 60 + 1)


def test_a_last_reading_may_be_2_minutes_ahead_and_no_more():
    readings = ending([100.0] * 6)
    assert context_from(Readings.of(readings), "mg/dL", SHORT, as_of=AT - 2 * 60).origin == AT
    with pytest.raises(InvalidReadings, match="3 minutes ahead of as_of; at most 2 are allowed: correct the time"):
        context_from(Readings.of(readings), "mg/dL", SHORT, as_of=AT - 3 * 60)
    with pytest.raises(InvalidReadings, match="ahead of the clock of this service"):
        context_from(Readings.of(readings), "mg/dL", SHORT, now=AT - 3 * 60)
    assert context_from(Readings.of(readings), "mg/dL", SHORT, now=AT + 900 * 86_400).origin == AT
