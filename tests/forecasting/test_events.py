"""Carbohydrates and insulin: unknown is not zero, and nothing is seen before it came."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.bundle import ModelSpec
from forecasting.cgm import GlucoseSeries, place_on_grid
from forecasting.encoding import Normalisation, encode
from forecasting.errors import InvalidReadings
from forecasting.events import (
    EventRows,
    Events,
    check_events,
    encode_events,
    event_channels,
    events_before,
    place_events,
)
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import BUNDLED
from forecasting.readers.tidy import read_tidy
from forecasting.windows import WindowShape, concatenate, cut_windows

BOTH = ("carbs", "insulin")
SHAPE = WindowShape(context_length=6, prediction_length=4)
START = np.datetime64("2025-01-06T00:00:00")
HEADER = "patient_id,timestamp,glucose_mg_dl,carbs_g,bolus_units,basal_units_h\n"
NAN = float("nan")


def rows_of(*events: tuple[float, float, float, float]) -> EventRows:
    """(minutes after START, carbs, bolus, basal) each."""
    seconds = np.array([60 * minutes for minutes, *_ in events], "timedelta64[s]")
    return EventRows(START + seconds, np.array([values for _, *values in events], float))


def readings_at(*minutes: float) -> np.ndarray:
    return START + np.array([60 * m for m in minutes], "timedelta64[s]")


def with_events(series: GlucoseSeries, seed: int = 0) -> GlucoseSeries:
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 50, (len(series.glucose_mg_dl), 3))
    values[rng.random(values.shape) < 0.5] = np.nan
    return replace(series, events=Events.on_grid(values))


@pytest.fixture
def read(tmp_path):
    def write(rows: str, header: str = HEADER, suffix: str = "csv"):
        path = tmp_path / f"table.{suffix}"
        path.write_text(header + rows)
        return read_tidy(path)

    return write


def test_events_between_readings_belong_to_the_next_step_and_add_up():
    times = readings_at(0, 5, 10, 20)
    rows = rows_of((5, 10, NAN, NAN), (6, 20, 1, NAN), (9, 3, 2, 0.5), (10, NAN, NAN, 0.7), (14, 7, NAN, NAN))
    grid = place_events(rows, times, place_on_grid(times, 5), 5)
    np.testing.assert_array_equal(grid[:, 0], [NAN, 10, 23, 7, NAN])
    np.testing.assert_array_equal(grid[:, 1], [NAN, NAN, 3, NAN, NAN])
    np.testing.assert_array_equal(grid[:, 2], np.float32([NAN, NAN, 0.7, NAN, NAN]))


@given(st.integers(0, 1000))
def test_no_event_stands_on_the_step_of_a_reading_before_it(seed):
    """Whatever the sensor's clock does: what came after a reading is no part of the context that ends with it."""
    rng = np.random.default_rng(seed)
    times = START + np.cumsum(rng.choice([60, 290, 300, 311, 600, 4000], 40)).astype("timedelta64[s]")
    steps = place_on_grid(times, 5)
    for offset in rng.integers(-1000, int((times[-1] - times[0]).astype(int)) + 1000, 20):
        when = times[0] + np.timedelta64(int(offset), "s")
        rows = EventRows(np.array([when]), np.array([[1.0, NAN, NAN]]))
        [*places] = np.flatnonzero(place_events(rows, times, steps, 5)[:, 0] == 1)
        last_of_step = {int(step): time for step, time in zip(steps, times, strict=True)}
        assert all(last_of_step.get(int(place), when) >= when for place in places)
        assert places or when > times[-1] or when < times[0]


def test_rows_without_glucose_keep_what_was_eaten_and_taken(read):
    [series] = read(
        "a,2025-01-06 00:00,100,0,0,0.5\na,2025-01-06 00:05,,30,,0.5\na,2025-01-06 00:10,110,0,2.5,0\n"
        "a,2025-01-06 00:15,120,,,\na,2025-01-06 00:20,130,,,\n"
    )
    np.testing.assert_array_equal(series.glucose_mg_dl, [100, NAN, 110, 120, 130])
    np.testing.assert_array_equal(series.events.carbs_g, [0, 30, 0, NAN, NAN])
    np.testing.assert_array_equal(series.events.bolus_units, [0, NAN, 2.5, NAN, NAN])
    np.testing.assert_array_equal(series.events.basal_units_h, [0.5, 0.5, 0, NAN, NAN])


@pytest.mark.parametrize(("header", "cells"), [("patient_id,timestamp,glucose_mg_dl\n", ""), (HEADER, ",,,")])
def test_a_table_without_events_has_none(read, header, cells):
    [series] = read(f"a,2025-01-06 00:00,100{cells}\na,2025-01-06 00:05,100{cells}\n", header)
    assert series.events is None


def test_some_columns_of_events_are_enough(read):
    header = "patient_id,timestamp,glucose_mg_dl,carbs_g\n"
    [series, other] = read("a,2025-01-06 00:00,100,\na,2025-01-06 00:05,100,12\nb,2025-01-06 00:00,100,\n", header)
    np.testing.assert_array_equal(series.events.carbs_g, [NAN, 12])
    assert np.isnan(series.events.bolus_units).all()
    assert other.events is None


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ("-1,,", "patient a: carbs_g is -1 .* 0 to 500 g is allowed"),
        ("501,,", "carbs_g is 501 .* 0 to 500 g is allowed"),
        (",101,", "bolus_units is 101 .* 0 to 100 U is allowed"),
        (",,51", "basal_units_h is 51 .* 0 to 50 U/h is allowed"),
        ("inf,,", "carbs_g is inf"),
        ("many,,", "carbs_g must be numbers: .*many"),
    ],
)
def test_amounts_that_nobody_takes_are_refused_in_a_sentence(read, cells, sentence):
    with pytest.raises(InvalidReadings, match=sentence):
        read(f"a,2025-01-06 00:00,100,{cells}\na,2025-01-06 00:05,100,,,\n")


def test_the_bundled_cohort_has_all_that_was_eaten_and_taken(virtual):
    table = pd.read_parquet(BUNDLED)
    one = virtual.everyone[0]
    own = table[(table.patient_id == one.patient_id)].set_index("timestamp").loc[one.times[0] : one.times[-1]]
    for name in ("carbs_g", "bolus_units", "basal_units_h"):
        np.testing.assert_array_equal(getattr(one.events, name), own[name])


def test_windows_hold_the_events_of_their_context(series_of, wave):
    series = with_events(series_of(wave(300)))
    windows = cut_windows(series, SHAPE, "train")
    first = int((windows.origins[7] - series.start) / np.timedelta64(300, "s")) - 5
    np.testing.assert_array_equal(windows.events[7], series.events.columns[first : first + 6])
    assert cut_windows(replace(series, events=None), SHAPE, "train").events.shape == (len(windows), 6, 0)


@given(st.integers(0, 100), st.integers(0, 100))
def test_events_after_the_origin_change_no_input(series_of, wave, seed, row):
    series = with_events(series_of(wave(400)), seed)
    windows = cut_windows(series, SHAPE, "train")
    origin = int((windows.origins[row] - series.start) / np.timedelta64(300, "s"))
    later = series.events.columns.copy()
    later[origin + 1 :] = 49.0
    changed = cut_windows(replace(series, events=Events.on_grid(later)), SHAPE, "train")
    np.testing.assert_array_equal(changed[row : row + 1].events, windows[row : row + 1].events)
    assert changed.digest != windows.digest


def test_the_digest_changes_with_any_event_of_a_window_and_with_their_absence(series_of, wave):
    series = with_events(series_of(wave(200)))
    windows = cut_windows(series, SHAPE, "train")
    values = series.events.columns.copy()
    values[20, 1] = 17.5
    others = [cut_windows(replace(series, events=e), SHAPE, "train") for e in (Events.on_grid(values), None)]
    assert len({windows.digest, *(o.digest for o in others)}) == 3


def test_joined_and_pickled_windows_keep_their_events(series_of, wave):
    some = cut_windows(with_events(series_of(wave(200), "a")), SHAPE, "train")
    none = cut_windows(series_of(wave(200, 1), "b"), SHAPE, "train")
    joined = concatenate([none, some])
    assert np.isnan(joined.of_patient("b").events).all()
    np.testing.assert_array_equal(joined.of_patient("a").events, some.events)
    sent = pickle.loads(pickle.dumps(joined[5:-30:7]))  # noqa: S301
    np.testing.assert_array_equal(sent.events, joined[5:-30:7].events)
    assert concatenate([none, none]).timeline.events is None


def test_unknown_and_none_are_told_apart():
    events = np.full((2, 36, 3), NAN, np.float32)
    events[1] = 0
    unknown, none = encode_events(events, BOTH, 5)
    assert (unknown == 0).all()
    assert dict(zip(event_channels(BOTH), none[-1], strict=True)) == {
        "carbs_g": 0,
        "carbs_g_known": 1,
        "bolus_units": 0,
        "bolus_units_known": 1,
        "basal_units_h": 0,
        "basal_units_h_known": 1,
    }


def test_what_was_eaten_fades_and_is_not_there_before():
    events = np.zeros((1, 36, 3), np.float32)
    events[0, 12, 0] = 50
    [carbs] = encode_events(events, ("carbs",), 5)[..., 0]
    assert (carbs[:12] == 0).all()
    np.testing.assert_allclose(carbs[12:], np.exp(-np.arange(24) * 5 / 60), rtol=1e-5)


def test_the_order_of_the_inputs_is_one():
    assert event_channels(("insulin", "carbs")) == event_channels(BOTH)
    assert ModelSpec(model="m", backbone="b", inputs=("insulin",)).channels[-4:] == event_channels(("insulin",))


def test_inputs_are_further_channels_and_change_no_other():
    context, minutes = np.full((3, 36), 120.0), np.full(3, 60.0)
    events = np.ones((3, 36, 3), np.float32)
    plain = encode(context, minutes, 5, Normalisation()).x
    more = encode(context, minutes, 5, Normalisation(), None, events, BOTH).x
    assert more.shape[2] == plain.shape[2] + 6
    np.testing.assert_array_equal(more[..., : plain.shape[2]], plain)


def test_a_bundle_of_before_has_no_inputs():
    assert ModelSpec.model_validate({"model": "m", "backbone": "b"}).inputs == ()


@pytest.mark.parametrize(
    "wrong", [{"inputs": ("carbs", "carbs")}, {"inputs": ("carbs",), "normalisation": {"kind": "revin"}}]
)
def test_inputs_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"names one twice|need normalisation level"):
        ModelSpec.model_validate({"model": "m", "backbone": "b", **wrong})


def forecaster(inputs: tuple = BOTH) -> Forecaster:
    """Forecasts the sum of all channels at the last step."""
    spec = ModelSpec(model="m", backbone="b", inputs=inputs)

    def network(x: np.ndarray, _: object) -> np.ndarray:
        return np.broadcast_to(x[:, -1].sum(axis=1)[:, None, None], (len(x), 12, 10))

    return Forecaster(spec, network)


def test_without_events_nothing_is_known():
    context, minutes = np.full((3, 36), 120.0), np.full(3, 60.0)
    unknown = np.full((3, 36, 3), NAN, np.float32)
    model = forecaster()
    np.testing.assert_array_equal(
        model.predict(context, minutes).outputs, model.predict(context, minutes, events=unknown).outputs
    )
    assert (
        model.predict(context, minutes, events=np.zeros_like(unknown)).mean != model.predict(context, minutes).mean
    ).all()


def test_a_model_without_inputs_looks_at_no_events():
    context, minutes = np.full((3, 36), 120.0), np.full(3, 60.0)
    model = forecaster(())
    np.testing.assert_array_equal(
        model.predict(context, minutes, events=np.ones((3, 36, 3))).outputs, model.predict(context, minutes).outputs
    )


@pytest.mark.parametrize("events", [np.zeros((3, 36, 2)), np.zeros((2, 36, 3)), np.full((3, 36, 3), -1.0)])
def test_events_of_another_shape_or_below_nothing_are_refused(events):
    with pytest.raises(InvalidReadings):
        forecaster().predict(np.full((3, 36), 120.0), np.full(3, 60.0), events=events)


def test_windows_are_forecast_with_their_events(series_of, wave):
    series = with_events(series_of(wave(400)))
    shape = WindowShape()
    windows = cut_windows(series, shape, "train")
    expected = forecaster().predict(windows.context, windows.minute_of_day, events=windows.events)
    np.testing.assert_array_equal(forecaster().predict_windows(windows).outputs, expected.outputs)
    without = cut_windows(replace(series, events=None), shape, "train")
    assert (forecaster().predict_windows(without).mean != expected.mean).any()


@given(st.integers(0, 100))
def test_events_after_the_origin_change_no_forecast(series_of, wave, seed):
    series = with_events(series_of(wave(300)), seed)
    windows = cut_windows(series, WindowShape(), "train")
    row = seed % len(windows)
    origin = int((windows.origins[row] - series.start) / np.timedelta64(300, "s"))
    later = series.events.columns.copy()
    later[origin + 1 :] = 0.0
    changed = cut_windows(replace(series, events=Events.on_grid(later)), WindowShape(), "train")
    one, other = (forecaster().predict_windows(w[row : row + 1]).outputs for w in (windows, changed))
    np.testing.assert_array_equal(one, other)


def test_what_is_sent_counts_as_recorded_from_its_first_event_on():
    origin = int((START + np.timedelta64(3600, "s")).astype("datetime64[s]").astype(int))
    rows = rows_of((36, 20, NAN, NAN), (-120, NAN, NAN, 0.5), (50, NAN, NAN, 0.8), (60, NAN, 2, NAN), (61, NAN, 9, NAN))
    grid, after = events_before(rows, origin, 6, 5)  # the steps at 35, 40, … 60 minutes
    assert after == 1
    np.testing.assert_array_equal(grid[:, 0], [NAN, 20, 0, 0, 0, 0])
    np.testing.assert_array_equal(grid[:, 1], [NAN, NAN, NAN, NAN, NAN, 2])
    np.testing.assert_array_equal(grid[:, 2], np.float32([0.5, 0.5, 0.5, 0.8, 0.8, 0.8]))


def test_an_early_zero_says_that_nothing_came_and_an_old_rate_says_nothing():
    origin = int(START.astype("datetime64[s]").astype(int))
    grid, _ = events_before(rows_of((-600, 0, 0, NAN), (-25 * 60, NAN, NAN, 1.0)), origin, 6, 5)
    assert (grid[:, :2] == 0).all()
    assert np.isnan(grid[:, 2]).all()


def test_training_and_service_place_events_alike():
    """On a steady grid, and where all is recorded, what an app sends becomes what a file holds."""
    minutes = range(0, 60, 5)
    times = readings_at(*minutes)
    quiet = [(m, 0, 0, 0.5) for m in minutes]
    events = [(11, 20, NAN, NAN), (11, NAN, 3, NAN), (25, 7.5, NAN, NAN)]
    read = place_events(rows_of(*quiet, *events), times, place_on_grid(times, 5), 5)
    origin = int(times[-1].astype("datetime64[s]").astype(int))
    sent, _ = events_before(rows_of(quiet[0], *events), origin, len(times), 5)
    np.testing.assert_array_equal(sent, read)


def test_what_is_no_amount_is_refused():
    check_events(np.full((2, 3), NAN))
    with pytest.raises(InvalidReadings, match="basal_units_h is 60"):
        check_events(np.array([[1.0, NAN, 60.0]]))
