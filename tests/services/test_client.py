"""Every RPC by both clients, against a real service: what comes is typed, in its unit, and an error where it is one."""

import dataclasses
import datetime as dt
import inspect
import json

import grpc
import pytest

import services.client
from forecasting.errors import InvalidInput
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client import (
    Alarm,
    AlarmKind,
    AsyncForecastClient,
    FieldViolation,
    Forecast,
    ForecastClient,
    Outcome,
    Question,
    Reading,
    ReadingUse,
    ServiceError,
    in_unit,
)
from services.client.results import to_json
from tests.services.conftest import LAST, readings_until
from tests.services.faces import Awaited, both_faces
from tests.services.scripted import failing, scripted

MINUTE = dt.timedelta(minutes=1)


@both_faces
def test_a_forecast_has_what_the_contract_says(face, service, readings, shelf):
    forecast = face(service.address).ask("forecast", "570", readings, "mg/dL", time_zone="Europe/London", as_of=LAST)
    assert (forecast.patient_id, forecast.origin, forecast.clinical_use) == ("570", LAST, False)
    version = shelf.registry.resolve("virtual-570")
    assert dataclasses.astuple(forecast.model) == ("virtual-570", "1", version.digest, "champion")
    assert [point.time for point in forecast.points] == [LAST + 5 * k * MINUTE for k in range(1, 13)]
    assert [quantile.level for quantile in forecast.points[0].quantiles][::4] == [0.025, 0.5, 0.975]
    assert [risk.minutes_ahead for risk in forecast.risks] == [30, 60]
    assert forecast.warnings == ()
    assert forecast.forecast_id
    assert list(forecast.readings) == readings


def test_both_clients_say_the_same(service, readings):
    with ForecastClient(service.address) as client:
        blocking = client.forecast("570", readings, "mg/dL", as_of=LAST)
    awaited = Awaited(service.address).ask("forecast", "570", readings, "mg/dL", as_of=LAST)
    assert dataclasses.replace(awaited, forecast_id="") == dataclasses.replace(blocking, forecast_id="")


@both_faces
def test_each_of_many_gets_a_forecast_or_its_own_error(face, service, readings):
    questions = [
        Question("570", readings, "mg/dL", utc_offset_minutes=0, as_of=LAST),
        Question("571", readings[-9:], "mg/dL", as_of=LAST),
        Question("", readings, "mg/dL"),
        Question("572", in_unit(readings, "mmol/L"), "mmol/L", as_of=LAST, priority="interactive"),
    ]
    own, short, nameless, other = face(service.address).ask("forecast_many", questions)
    assert (own.patient_id, own.model.name) == ("570", "virtual-570")
    assert short.status is grpc.StatusCode.FAILED_PRECONDITION
    assert nameless.violations[0].field == "requests[2].patient_id"
    assert isinstance(other, Forecast)
    assert other.readings[-1].value == pytest.approx(readings[-1].value)  # in mg/dL, whatever was sent


@both_faces
def test_a_stream_answers_each_reading_and_tells_how_it_was_used(face, service):
    readings = readings_until(level=150)
    low = Reading(LAST + 5 * MINUTE, 60.0)
    sent = [readings[-1], readings[-1], low, Reading(LAST + 10 * MINUTE, 700.0), Reading(LAST + 10 * MINUTE, "low")]
    newest, doubled, fell, refused, at_edge = face(service.address).watch(
        sent, "571", "mg/dL", history=readings[:-1], utc_offset_minutes=60
    )
    assert (newest.use, newest.forecast.origin, newest.problem) == (ReadingUse.NEWEST, LAST, None)
    assert newest.forecast.patient_id == "571"
    assert (doubled.use, doubled.forecast, doubled.problem) == (ReadingUse.DUPLICATE, None, None)
    assert fell.alarms == (Alarm(AlarmKind.LOW_NOW, 0, 1.0, True),)
    assert refused.use is ReadingUse.REFUSED
    assert refused.problem.status is grpc.StatusCode.INVALID_ARGUMENT
    assert (at_edge.time, at_edge.use) == (LAST + 10 * MINUTE, ReadingUse.NEWEST)


@both_faces
def test_a_stream_that_cannot_begin_says_why(face, service):
    with pytest.raises(ServiceError, match="no patient_id") as refused:
        face(service.address).watch(readings_until(steps=1), "", "mg/dL")
    assert refused.value.status is grpc.StatusCode.INVALID_ARGUMENT


@both_faces
def test_truth_that_is_reported_counts_once(face, service):
    readings = readings_until(LAST, steps=36 + 12)
    client = face(service.address)
    issued = client.ask("forecast", "571", readings[:36], "mg/dL", as_of=readings[35].time).forecast_id
    truth = readings[36:]
    first, junk, second = client.ask(
        "report_outcome",
        [
            Outcome(issued, truth[:7], "mg/dL"),
            Outcome("junk", truth, "mg/dL"),
            Outcome(issued, in_unit(truth, "mmol/L"), "mmol/L"),
        ],
    )
    assert (first, second) == ((30,), (60,))
    assert junk.status is grpc.StatusCode.INVALID_ARGUMENT


@both_faces
def test_models_are_listed_and_described(face, service):
    client = face(service.address)
    assert [one.model.name for one in client.ask("list_models")] == ["virtual-population"]
    assert {one.model.name for one in client.ask("list_models", "570")} == {"virtual-population", "virtual-570"}
    model = client.ask("get_model", "virtual-570@champion")
    assert (model.sampling_minutes, model.context_minutes, model.horizon_minutes) == (5, 180, 60)
    assert (model.aliases, model.backbone, model.scores) == (("champion",), "tiny", ())
    assert len(model.quantile_levels) == 9
    with pytest.raises(ServiceError, match="there is no virtual-570/9") as missing:
        client.ask("get_model", "virtual-570/9")
    assert missing.value.status is grpc.StatusCode.NOT_FOUND


@both_faces
def test_an_error_names_the_field_and_the_call(face, service, readings):
    sentence = "reading 1 has the same time as the one before it; send one reading for each time"
    with pytest.raises(ServiceError) as refused:
        face(service.address).ask("forecast", "570", [readings[0], *readings], "mg/dL")
    assert str(refused.value) == refused.value.sentence == sentence
    assert refused.value.violations == (FieldViolation("readings[1].time", sentence),)
    with scripted(failing(grpc.StatusCode.NOT_FOUND, 1)) as server, pytest.raises(ServiceError) as told:
        face(server.address).ask("list_models")
    assert (told.value.request_id, told.value.violations) == ("r17", ())


@both_faces
@pytest.mark.parametrize(
    ("given", "named", "words"),
    [
        (([Reading(dt.datetime(2025, 3, 1), 100.0)], "mg/dL"), {}, "has no time zone"),
        (([Reading(LAST, "lo")], "mg/dL"), {}, "give a number, low or high"),
        (([Reading(LAST, 100.0)], "mg"), {}, "say mg/dL or mmol/L"),
        (([Reading(LAST, 100.0)], "mg/dL"), {"utc_offset_minutes": 0, "time_zone": "Europe/London"}, "give one"),
        (([Reading(LAST, 100.0)], "mg/dL"), {"as_of": dt.datetime(2025, 3, 1)}, "has no time zone"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(face, given, named, words):
    with pytest.raises(InvalidInput, match=words):
        face("127.0.0.1:1").ask("forecast", "570", *given, **named)


def test_a_forecast_is_read_in_either_unit(client, readings):
    forecast = client.forecast("570", readings, "mg/dL")
    in_mg_dl, in_mmol_l = forecast.in_unit("mg/dL"), forecast.in_unit("mmol/L")
    assert in_mg_dl.mean == tuple(point.mean_mg_dl for point in forecast.points)
    assert in_mmol_l.mean == tuple(mean / 18.0156 for mean in in_mg_dl.mean)
    low, high = in_mmol_l.interval(0.9)
    assert low[0] == forecast.points[0].quantiles[1].value_mg_dl / 18.0156
    assert (in_mmol_l.times, high) == (in_mg_dl.times, in_mmol_l.quantiles[0.95])
    assert in_mmol_l.interval(0.42) is None
    with pytest.raises(InvalidInput, match="say mg/dL or mmol/L"):
        forecast.in_unit("mg")


def test_results_cannot_be_changed(client, readings):
    forecast = client.forecast("570", readings, "mg/dL")
    for result, name in ((forecast, "origin"), (forecast.points[0], "mean_mg_dl"), (forecast.model, "digest")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, name, None)


def test_json_is_named_as_in_the_contract(client, readings):
    told = json.loads(to_json(client.forecast("570", readings, "mg/dL")))
    assert told.keys() == {field.name for field in pb.ForecastResponse.DESCRIPTOR.fields} | {"patient_id"}
    assert told["points"][0].keys() == {field.name for field in pb.ForecastPoint.DESCRIPTOR.fields}
    assert told["origin"] == "2025-03-01T12:00:00Z"


def test_every_use_and_alarm_of_the_contract_has_its_name():
    for ours, theirs in ((ReadingUse, pb.ReadingUse), (AlarmKind, pb.AlarmKind)):
        named = {number: name for name, number in theirs.items() if number}
        assert {number: ours.of(number).name for number in named} == named
        assert ours.of(0) is ours.of(99) is ours.UNKNOWN


def test_another_deadline_is_the_same_connection(service, readings):
    with ForecastClient(service.address) as client:
        patient = client.within(60)
        assert (patient.deadline_seconds, client.deadline_seconds) == (60, 5)
        assert patient.stub is client.stub
        assert patient.forecast("570", readings, "mg/dL").points


def methods_of(kind: type) -> dict[str, inspect.Signature]:
    own = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_") and name not in ("stub", "ask")}
    return {name: inspect.signature(method).replace(return_annotation=None) for name, method in own.items()}


def test_both_clients_have_the_same_methods_and_help_shows_them():
    methods = methods_of(ForecastClient)
    assert methods == methods_of(AsyncForecastClient)
    assert {"forecast", "forecast_many", "monitor", "report_outcome", "list_models", "get_model"} <= methods.keys()
    assert list(methods["forecast_frame"].parameters)[:4] == ["self", "frame", "patient_id", "unit"]
    assert "Naive times" in ForecastClient.forecast_frame.__doc__


def test_what_is_public_is_said():
    assert sorted(services.client.__all__) == services.client.__all__
    for name in services.client.__all__:
        assert getattr(services.client, name).__doc__, name
