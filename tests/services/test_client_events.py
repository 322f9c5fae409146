"""Carbohydrates and insulin from Python: both clients, pandas in, a file in; the real service answers."""

import datetime as dt
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from forecasting.errors import InvalidInput, InvalidReadings
from forecasting.events import EVENTS
from services.client import Event, Question, events_from_frame
from services.client.command import app
from services.client.events import KINDS
from tests.services.conftest import LAST, holds
from tests.services.faces import both_faces
from tests.services.test_forecast_rpc import outcome

MEALS = "virtual-meals"
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(scope="module")
def meals(shelf, service, client) -> str:
    """A model that forecasts more, the more was eaten of late."""
    shelf.put(MEALS, inputs=("carbs", "insulin"))
    assert holds(lambda: not isinstance(outcome(client, MEALS), Exception), 15)
    return MEALS


def ago(minutes: float, kind: str, amount: float) -> Event:
    return Event(LAST - minutes * MINUTE, kind, amount)


EATEN = [ago(0, "carbs_g", 50), ago(200, "basal_units_h", 0.8)]


def mean(forecast) -> float:
    return forecast.points[0].mean_mg_dl


def test_kinds_are_those_of_the_models():
    assert KINDS == EVENTS


@both_faces
def test_what_was_eaten_is_sent(face, service, readings, meals):
    client = face(service.address)
    without = client.ask("forecast", "570", readings, "mg/dL", model=meals, utc_offset_minutes=0)
    forecast = client.ask("forecast", "570", readings, "mg/dL", model=meals, events=EATEN, utc_offset_minutes=0)
    assert [w for w in without.warnings if "of which nothing was sent" in w]
    assert not [w for w in forecast.warnings if "of which nothing was sent" in w]
    assert mean(forecast) - mean(without) == pytest.approx(60, abs=1e-3)
    question = Question("570", readings, "mg/dL", model=meals, events=EATEN, utc_offset_minutes=0)
    (one,) = client.ask("forecast_many", [question])
    assert one.points == forecast.points


@both_faces
def test_a_frame_brings_its_events(face, service, readings, meals):
    frame = pd.DataFrame(
        {"glucose_mg_dl": [r.value for r in readings], "patient_id": "570"},
        pd.DatetimeIndex([r.time for r in readings]),
    )
    frame.loc[LAST, "carbs_g"] = 50
    frame.loc[LAST - 200 * MINUTE, "basal_units_h"] = 0.8  # between two readings, or before them
    client = face(service.address)
    named = {"model": meals, "utc_offset_minutes": 0}
    framed = client.ask("forecast_frame", frame.sort_index(), "570", "mg/dL", events=frame, **named)
    assert framed.points == client.ask("forecast", "570", readings, "mg/dL", events=EATEN, **named).points


def test_nothing_recorded_is_no_event_and_none_is_one():
    clock = pd.DatetimeIndex(["2025-03-01 08:00", "2025-03-01 08:05", "2025-03-01 08:10"])
    frame = pd.DataFrame({"carbs_g": [0, np.nan, 30], "bolus_units": [np.nan, np.nan, 2.5], "steps": 9}, clock)
    at = [dt.datetime(2025, 3, 1, 6, minute, tzinfo=dt.UTC) for minute in (0, 5, 10)]
    assert events_from_frame(frame, utc_offset_minutes=120) == [
        Event(at[0], "carbs_g", 0),
        Event(at[2], "carbs_g", 30),
        Event(at[2], "bolus_units", 2.5),
    ]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.Series([1.0]), "events come in a pandas DataFrame with some of the columns carbs_g, bolus"),
        (pd.DataFrame({"carbs": [1.0]}), "events come in a pandas DataFrame"),
        (pd.DataFrame({"carbs_g": [1.0]}), "the index holds no times"),
        (pd.DataFrame({"carbs_g": [1.0]}, pd.DatetimeIndex(["2025-03-01"])), "have no time zone"),
        (pd.DataFrame({"carbs_g": [1.0], "patient_id": "a"}, pd.DatetimeIndex(["2025-03-01"])), "no readings of"),
    ],
)
def test_what_is_no_frame_of_events_is_refused_in_a_sentence(frame, words):
    with pytest.raises(InvalidReadings, match=words):
        events_from_frame(frame, patient_id="570")


def test_an_event_that_is_none_is_refused_before_it_is_sent(client, readings):
    for event, words in (
        (Event(LAST, "insulin", 3), "an event is 'insulin'; say carbs_g, bolus_units, basal_units_h"),
        (Event(LAST.replace(tzinfo=None), "carbs_g", 3), "has no time zone; give aware times"),
    ):
        with pytest.raises(InvalidInput, match=words):
            client.forecast("570", readings, "mg/dL", events=[event])


def test_the_command_sends_what_the_file_holds_where_it_is_asked_to(service, readings, meals, tmp_path):
    file = tmp_path / "day.csv"
    rows = [f"570,{r.time:%Y-%m-%d %H:%M:%S},{r.value:.0f},{50 if r.time == LAST else ''}\n" for r in readings]
    file.write_text("patient_id,timestamp,glucose_mg_dl,carbs_g\n" + "".join(rows))

    def asked(*words: str) -> dict:
        command = ["forecast", "--file", str(file), "--address", service.address, "--model", meals, "--json", *words]
        return json.loads(CliRunner().invoke(app, command).output)

    without, sent = asked(), asked("--events")
    assert sent["points"][0]["mean_mg_dl"] - without["points"][0]["mean_mg_dl"] > 10
    earlier = asked("--events", "--as-of", f"{LAST - 5 * MINUTE:%Y-%m-%dT%H:%M}")  # of what came later nothing is sent
    assert not [w for w in earlier["warnings"] if "after the last reading" in w]
