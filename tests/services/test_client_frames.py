"""pandas in and out: nothing is lost on the way, and times that could be anywhere are refused."""

import datetime as dt
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from forecasting.errors import InvalidInput
from services.client import Reading, in_unit, readings_from_frame
from tests.services.conftest import LAST
from tests.services.faces import both_faces

LONDON = "Europe/London"


@pytest.fixture
def glucose(readings) -> pd.Series:
    """(readings,) mg/dL, indexed by aware times."""
    return pd.Series([r.value for r in readings], pd.DatetimeIndex([r.time for r in readings]), name="glucose_mg_dl")


@both_faces
def test_a_frame_gives_what_its_readings_give(face, service, glucose, readings):
    client = face(service.address)
    framed = client.ask("forecast_frame", glucose, patient_id="570", unit="mg/dL", time_zone=LONDON, as_of=LAST)
    assert framed.points == client.ask("forecast", "570", readings, "mg/dL", time_zone=LONDON, as_of=LAST).points
    naive = glucose.tz_convert(LONDON).tz_localize(None)
    assert framed.points == client.ask("forecast_frame", naive, "570", "mg/dL", time_zone=LONDON, as_of=LAST).points
    in_mmol_l = (glucose / 18.0156).to_frame("glucose_mmol_l")
    again = client.ask("forecast_frame", in_mmol_l, "570", "mmol/L", time_zone=LONDON, as_of=LAST)
    assert again.points == framed.points


def test_a_forecast_comes_out_as_a_frame_by_time(client, glucose):
    forecast = client.forecast_frame(glucose, "570", "mg/dL")
    frame = forecast.to_frame()
    assert list(frame.columns[:3]) == ["minutes_ahead", "mean_mg_dl", "q0.025_mg_dl"]
    assert (len(frame.columns), frame.index.name, str(frame.index.tz)) == (11, "time", "UTC")
    assert list(frame.index) == [point.time for point in forecast.points]
    assert frame["mean_mg_dl"].tolist() == [point.mean_mg_dl for point in forecast.points]
    in_mmol_l = forecast.in_unit("mmol/L").to_frame()
    np.testing.assert_array_equal(in_mmol_l["q0.05_mmol_l"], frame["q0.05_mg_dl"] / 18.0156)


def test_a_forecast_can_be_forecast_from_again(client, glucose):
    """What came out goes in: the whole round, with the mean in place of the truth."""
    first = client.forecast_frame(glucose, "570", "mg/dL")
    longer = pd.concat([glucose, first.to_frame()["mean_mg_dl"]])
    second = client.forecast_frame(longer, "570", "mg/dL")
    assert second.origin == first.points[-1].time


def test_missing_values_are_left_out_and_the_sensors_words_are_kept(glucose):
    mixed = glucose.astype(object)
    mixed.iloc[0], mixed.iloc[1], mixed.iloc[2] = np.nan, "Low", "HIGH"
    readings = readings_from_frame(mixed, "mg/dL")
    assert [reading.value for reading in readings[:3]] == ["low", "high", glucose.iloc[3]]
    assert readings[0].time == glucose.index[1]


def test_one_persons_rows_are_taken_of_several(glucose):
    both = pd.concat([glucose.to_frame().assign(patient_id=name) for name in (570, 571)])
    both.loc[both.patient_id == 571, "glucose_mg_dl"] += 1
    assert readings_from_frame(both, "mg/dL", patient_id="571")[0].value == glucose.iloc[0] + 1
    with pytest.raises(InvalidInput, match="no readings of patient 572; there are 570, 571"):
        readings_from_frame(both, "mg/dL", patient_id="572")


def test_the_hour_that_a_clock_repeats_is_told_by_its_order():
    instants = pd.date_range("2025-10-26T00:00Z", periods=36, freq="5min")
    naive = pd.Series(100.0, instants.tz_convert(LONDON).tz_localize(None))
    assert [r.time for r in readings_from_frame(naive, "mg/dL", time_zone=LONDON)] == list(instants)
    with pytest.raises(InvalidInput, match="give aware times"):
        readings_from_frame(naive.iloc[14:20], "mg/dL", time_zone=LONDON)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda s: s.tz_localize(None), "the times have no time zone; give aware times, or time_zone"),
        (lambda s: s.reset_index(drop=True), "the index holds no times"),
        (lambda s: pd.Series([1.0], pd.DatetimeIndex([pd.NaT])), "a reading has no time"),
        (lambda s: s.rename("a").to_frame().assign(b=1), "the columns a, b; name the one in mg/dL glucose_mg_dl"),
        (lambda s: s.tolist(), "readings came as list"),
        (lambda s: s.astype(object).where(s.index != s.index[3], "n/a"), "'n/a'"),
    ],
)
def test_what_is_no_frame_of_readings_is_refused_in_a_sentence(glucose, make, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        readings_from_frame(make(glucose), "mg/dL")
    assert "\n" not in str(refused.value)


def test_naive_times_are_refused_by_the_client_too(client, glucose):
    with pytest.raises(InvalidInput, match="have no time zone"):
        client.forecast_frame(glucose.tz_localize(None), "570", "mg/dL")


def test_an_offset_places_naive_times(glucose):
    naive = glucose.tz_localize(None)
    assert readings_from_frame(naive, "mg/dL", utc_offset_minutes=60)[-1].time == LAST - dt.timedelta(hours=1)


def test_units_there_and_back_are_the_same(readings):
    there = in_unit(readings, "mmol/L")
    assert there[0].value == readings[0].value / 18.0156
    assert in_unit([Reading(LAST, "low")], "mmol/L") == [Reading(LAST, "low")]


def test_pandas_is_imported_only_when_it_is_asked_for():
    code = "import sys, services.client; sys.exit(bool({'pandas', 'matplotlib', 'typer', 'rich'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
