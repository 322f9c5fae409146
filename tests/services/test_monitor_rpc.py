"""Monitor and ReportOutcome over a real connection: readings in, forecasts, alarms and truth out."""

import datetime as dt
import queue
import time

import grpc
import pytest

from forecasting.context import Reading
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services import serving
from services.client import Forecast
from services.client.messages import timestamp
from tests.services.conftest import LAST, becomes_ready, readings_until, samples, scrape, service_of

MINUTES = dt.timedelta(minutes=1)
TOO_LITTLE = 9


class Stream:
    """A Monitor stream that waits for each answer."""

    def __init__(self, stub: forecaster_pb2_grpc.ForecasterStub, *first: pb.MonitorRequest) -> None:
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self.call = stub.Monitor(iter(self._out.get, None), timeout=20)
        for message in first:
            self._out.put(message)

    def tell(self, at: dt.datetime, value: float) -> pb.MonitorResponse:
        self._out.put(pb.MonitorRequest(reading=message(at, value)))
        return next(self.call)

    def end(self) -> None:
        self._out.put(None)
        assert list(self.call) == []


def message(time: dt.datetime, value: float) -> pb.Reading:
    return pb.Reading(time=timestamp(time), value=value)


def start(history: list[Reading] = (), **fields: object) -> pb.MonitorRequest:
    messages = [message(r.time, r.value) for r in history]
    given = {"patient_id": "571", "unit": pb.MG_DL, "utc_offset_minutes": 60, "history": messages, **fields}
    return pb.MonitorRequest(start=pb.MonitorStart(**given))


@pytest.fixture
def stub(service):
    with grpc.insecure_channel(service.address) as channel:
        yield forecaster_pb2_grpc.ForecasterStub(channel)


def test_every_reading_is_answered_and_forecasts_begin_when_there_are_enough(stub):
    stream = Stream(stub, start())
    answers = [stream.tell(r.time, r.value) for r in readings_until(steps=38)]
    assert [a.use for a in answers] == [pb.NEWEST] * 38
    assert [a.WhichOneof("outcome") for a in answers] == ["problem"] * 35 + ["forecast"] * 3
    assert {a.problem.code for a in answers[:35]} == {TOO_LITTLE}
    assert [a.time for a in answers] == [timestamp(r.time) for r in readings_until(steps=38)]
    stream.end()


def test_a_streams_forecast_is_what_a_request_of_its_own_gives(stub, client):
    readings = readings_until(steps=48)
    stream = Stream(stub, start(readings[:-1]))
    streamed = stream.tell(readings[-1].time, readings[-1].value).forecast
    alone = client.forecast("571", readings, "mg/dL", utc_offset_minutes=60)
    assert Forecast.of(streamed).points == alone.points
    assert Forecast.of(streamed).model == alone.model
    stream.end()


def test_a_stream_outlives_the_age_at_which_connections_are_renewed(shelf, tmp_path, monkeypatch):
    """A sensor speaks every five minutes, and connections are renewed every five: that must cut no stream."""
    aged = tuple((name, 300 if "connection_age" in name else value) for name, value in serving.OPTIONS)
    monkeypatch.setattr(serving, "OPTIONS", aged)
    with service_of(registry=shelf.registry.uri, cache=tmp_path) as where:
        assert becomes_ready(where.address)
        with grpc.insecure_channel(where.address) as channel:
            readings = readings_until(steps=40)
            stream = Stream(forecaster_pb2_grpc.ForecasterStub(channel), start(readings[:-2]))
            for reading in readings[-2:]:
                time.sleep(1.5)
                assert stream.tell(reading.time, reading.value).WhichOneof("outcome") == "forecast"
            stream.end()


def test_late_corrected_and_doubled_readings_find_their_place(stub):
    readings = readings_until(steps=40)
    left_out = readings.pop(20)
    stream = Stream(stub, start(readings[:-1]))
    newest = stream.tell(readings[-1].time, readings[-1].value)
    assert any("filled" in warning for warning in newest.forecast.warnings)
    late = stream.tell(left_out.time, left_out.value)
    assert late.use == pb.LATE
    assert late.forecast.origin == newest.forecast.origin
    assert not any("filled" in warning for warning in late.forecast.warnings)
    doubled = stream.tell(readings[-1].time, readings[-1].value)
    assert (doubled.use, doubled.WhichOneof("outcome")) == (pb.DUPLICATE, None)
    corrected = stream.tell(readings[-1].time, readings[-1].value + 40)
    assert corrected.use == pb.CORRECTED
    assert corrected.forecast.points[0].mean_mg_dl == pytest.approx(newest.forecast.points[0].mean_mg_dl + 36, abs=1e-3)
    assert stream.tell(LAST - dt.timedelta(days=3), 100).use == pb.TOO_OLD
    stream.end()


@pytest.mark.parametrize(
    ("time", "value"),
    [(LAST + 5 * MINUTES, 700.0), (LAST + 5 * MINUTES, -1.0), (dt.datetime(2190, 1, 1, tzinfo=dt.UTC), 100.0)],
)
def test_a_reading_that_cannot_be_used_is_told_and_the_stream_goes_on(stub, time, value):
    readings = readings_until()
    stream = Stream(stub, start(readings))
    refused = stream.tell(time, value)
    assert (refused.use, refused.problem.code) == (pb.REFUSED, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert stream.tell(LAST + 5 * MINUTES, 120).WhichOneof("outcome") == "forecast"
    stream.end()


def test_alarms_come_with_what_is_and_what_is_expected(stub):
    stream = Stream(stub, start(readings_until(level=150)))
    low = stream.tell(LAST + 5 * MINUTES, 60)
    assert [(a.kind, a.is_new) for a in low.alarms] == [(pb.LOW_NOW, True)]
    near = stream.tell(LAST + 10 * MINUTES, 70)
    assert [a.kind for a in near.alarms] == [pb.LOW_EXPECTED]
    assert near.alarms[0].probability >= 0.2
    assert not stream.tell(LAST + 15 * MINUTES, 140).alarms
    stream.end()


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (pb.MonitorRequest(reading=message(LAST, 100)), "does not begin with start"),
        (start(unit=pb.UNIT_UNSPECIFIED), "no unit"),
        (start(patient_id=""), "no patient_id"),
        (start(time_zone="Mars/Olympus"), "no time zone"),
        (start([Reading(LAST, 700.0)]), "outside 10 to 600"),
        (start(forecast_ids=["nonsense"]), "forecast id"),
    ],
)
def test_a_stream_that_begins_wrongly_is_refused_in_a_sentence(stub, first, words):
    with pytest.raises(grpc.RpcError) as refused:
        next(Stream(stub, first).call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refused.value.details()


def test_what_the_stream_brings_is_compared_with_its_forecasts(stub, service):
    def compared() -> list[float]:
        text = scrape(service.metrics_url)
        return [
            sum(samples(text, "glucose_forecast_outcomes_total", name="virtual-population", horizon=str(h)))
            for h in (30, 60)
        ]

    before = compared()
    readings = readings_until(LAST, steps=36 + 13)
    stream = Stream(stub, start(readings[:36]))
    for reading in readings[36:]:
        stream.tell(reading.time, reading.value)
    stream.end()
    assert [after - was for after, was in zip(compared(), before, strict=True)] == [7, 1]


def test_a_stream_goes_on_with_the_ids_of_the_one_before(stub, service, client):
    readings = readings_until(LAST, steps=36 + 12)
    issued = client.forecast("571", readings[:36], "mg/dL", utc_offset_minutes=60).forecast_id
    text = scrape(service.metrics_url)
    before = sum(samples(text, "glucose_forecast_outcomes_total", name="virtual-population", horizon="60"))
    stream = Stream(stub, start(readings[:-1], forecast_ids=[issued]))
    stream.tell(readings[-1].time, readings[-1].value)
    stream.end()
    text = scrape(service.metrics_url)
    assert sum(samples(text, "glucose_forecast_outcomes_total", name="virtual-population", horizon="60")) == before + 1


def test_a_reported_outcome_counts_once(stub, client):
    readings = readings_until(LAST, steps=36 + 12)
    issued = client.forecast("571", readings[:36], "mg/dL", utc_offset_minutes=60).forecast_id
    truth = [message(r.time, r.value) for r in readings[36:]]
    request = pb.ReportOutcomeRequest(
        outcomes=[
            pb.Outcome(forecast_id=issued, unit=pb.MG_DL, readings=truth[:7]),
            pb.Outcome(forecast_id="junk", unit=pb.MG_DL, readings=truth),
            pb.Outcome(forecast_id=issued, unit=pb.MG_DL, readings=truth),
        ]
    )
    results = stub.ReportOutcome(request, timeout=5).results
    assert [list(result.minutes_ahead) for result in results] == [[30], [], [60]]
    assert [result.problem.code for result in results] == [0, 3, 0]


def test_models_are_listed_without_naming_other_patients(stub):
    listed = stub.ListModels(pb.ListModelsRequest(), timeout=5).models
    assert [m.model.name for m in listed] == ["virtual-population"]
    own = stub.ListModels(pb.ListModelsRequest(patient_id="570"), timeout=5).models
    assert {m.model.name for m in own} == {"virtual-population", "virtual-570"}
    model = listed[0]
    assert (model.sampling_minutes, model.context_minutes, model.horizon_minutes) == (5, 180, 60)
    assert list(model.aliases) == ["champion"]


def test_a_model_is_described_by_its_name(stub):
    assert stub.GetModel(pb.GetModelRequest(model="virtual-570@champion"), timeout=5).model.version == "1"
    for wrong, code in (("", grpc.StatusCode.INVALID_ARGUMENT), ("virtual-570/9", grpc.StatusCode.NOT_FOUND)):
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetModel(pb.GetModelRequest(model=wrong), timeout=5)
        assert refused.value.code() is code
