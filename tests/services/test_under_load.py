"""The running service as a whole: nothing lost at the end, nobody's id anywhere, challengers compared, traces."""

import logging
import re
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from forecasting.forecaster import Forecaster
from forecasting.registry import Registry
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.client.messages import timestamp
from tests.services.conftest import LAST, Shelf, becomes_ready, holds, readings_until, samples, scrape, tiny_bundle
from tests.services.test_forecast_rpc import request_of
from tests.services.test_tracing import collector  # noqa: F401 - a fixture

MARK = "marked-7f3a9c"
DAMAGED = grpc.StatusCode.DATA_LOSS


@pytest.fixture
def process(shelf, tmp_path):
    """The real process: (Popen, address, metrics URL)."""
    command = [sys.executable, "-m", "services.inference", "--port", "0", "--metrics-port", "0"]
    given = ["--registry", shelf.registry.uri, "--cache", str(tmp_path), "--refresh-seconds", "0.2"]
    running = subprocess.Popen([*command, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address, url = re.search(r"listens on (\S+), metrics on (\S+)", running.stdout.readline()).groups()
        assert becomes_ready(address)
        yield running, address, url
    finally:
        running.kill()
        running.wait()


def test_a_stop_under_load_loses_nothing_that_was_accepted(process):
    running, address, _ = process
    request, failures, answered = request_of(readings_until()), [], []

    def ask_on() -> None:
        with grpc.insecure_channel(address, options=(("grpc.enable_retries", 0),)) as channel:
            stub = forecaster_pb2_grpc.ForecasterStub(channel)
            while True:
                try:
                    stub.Forecast(request, timeout=10)
                    answered.append(1)
                except grpc.RpcError as error:
                    failures.append(error.code())
                    return

    callers = [threading.Thread(target=ask_on) for _ in range(16)]
    for caller in callers:
        caller.start()
    assert holds(lambda: len(answered) > 200)
    running.send_signal(signal.SIGTERM)
    for caller in callers:
        caller.join(20)
    assert running.wait(20) == 0
    assert set(failures) == {grpc.StatusCode.UNAVAILABLE}
    assert len(failures) == 16


def test_an_open_stream_is_told_to_go_elsewhere_after_its_last_answer(process):
    running, address, _ = process
    with grpc.insecure_channel(address) as channel:
        first, over = threading.Event(), threading.Event()

        def steps():
            yield pb.MonitorRequest(start=pb.MonitorStart(patient_id="571", unit=pb.MG_DL))
            yield pb.MonitorRequest(reading=pb.Reading(time=timestamp(LAST), value=100))
            first.set()
            over.wait(20)

        call = forecaster_pb2_grpc.ForecasterStub(channel).Monitor(steps(), timeout=30)
        assert next(call).use == pb.NEWEST
        running.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as told:
            next(call)
        over.set()
    assert told.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "stopping" in told.value.details()
    assert running.wait(20) == 0


def code_of(stub: forecaster_pb2_grpc.ForecasterStub, request: pb.ForecastRequest) -> grpc.StatusCode:
    call = stub.Forecast.future(request, timeout=5)
    call.exception()
    return call.code()


def test_a_marked_patient_id_is_in_no_metric_and_no_log(process, shelf):
    running, address, url = process
    shelf.put(f"virtual-{MARK}", rise=0.1)
    damaged = shelf.put(f"virtual-{MARK}-2", rise=0.2)
    shelf.damage(damaged)
    good = request_of(readings_until(), patient_id=MARK)
    with grpc.insecure_channel(address) as channel:
        stub = forecaster_pb2_grpc.ForecasterStub(channel)
        assert holds(lambda: stub.Forecast(good, timeout=5).model.name == f"virtual-{MARK}")
        assert holds(lambda: code_of(stub, request_of(readings_until(), patient_id=f"{MARK}-2")) is DAMAGED)
        bad = [
            request_of([], patient_id=MARK),
            request_of(readings_until(), patient_id=f"{MARK} "),
            request_of(readings_until(), patient_id=MARK, model=f"virtual-{MARK}/99"),
            request_of(readings_until(), patient_id=f"{MARK}-2"),
        ]
        for request in bad:
            with pytest.raises(grpc.RpcError):
                stub.Forecast(request, timeout=5)
        stub.ForecastBatch(pb.ForecastBatchRequest(requests=[good, *bad]), timeout=10)
        start = pb.MonitorRequest(start=pb.MonitorStart(patient_id=MARK, unit=pb.MG_DL, history=good.readings[:-1]))
        list(stub.Monitor(iter([start, pb.MonitorRequest(reading=good.readings[-1])]), timeout=10))
        stub.ListModels(pb.ListModelsRequest(patient_id=MARK), timeout=5)
    metrics = scrape(url)
    running.send_signal(signal.SIGTERM)
    said = "".join(running.communicate(timeout=20))
    assert "opened personal version 1" in said
    assert MARK not in metrics
    assert MARK not in said


def test_a_challenger_answers_its_share_and_says_so(serve, tmp_path):
    shelf = stocked(tmp_path)
    with serve(registry=shelf.registry.uri, cache=tmp_path / "c", canary_share=0.5) as where:
        assert becomes_ready(where.address)
        with grpc.insecure_channel(where.address) as channel:
            stub = forecaster_pb2_grpc.ForecasterStub(channel)
            people = [request_of(readings_until(), patient_id=f"p{k}") for k in range(40)]
            models = [stub.Forecast(request, timeout=5).model for request in people]
    assert {(m.version, m.alias) for m in models} == {("1", "champion"), ("2", "challenger")}


def test_a_shadow_is_compared_on_the_truth_of_the_champion(serve, tmp_path):
    shelf = stocked(tmp_path)
    readings = readings_until(steps=48)
    with serve(registry=shelf.registry.uri, cache=tmp_path / "c", shadow_share=1.0) as where:
        assert becomes_ready(where.address)
        with grpc.insecure_channel(where.address) as channel:
            stub = forecaster_pb2_grpc.ForecasterStub(channel)
            answer = stub.Forecast(request_of(readings[:36]), timeout=5)
            assert answer.model.alias == "champion"
            assert holds(
                lambda: samples(scrape(where.metrics_url), "glucose_shadow_forecasts_total", outcome="cast") == [1]
            )
            truth = [pb.Reading(time=timestamp(r.time), value=r.value) for r in readings[36:]]
            outcome = pb.Outcome(forecast_id=answer.forecast_id, unit=pb.MG_DL, readings=truth)
            stub.ReportOutcome(pb.ReportOutcomeRequest(outcomes=[outcome]), timeout=5)
        text = scrape(where.metrics_url)
    mean = {p.minutes_ahead: p.mean_mg_dl for p in answer.points}[30]
    real = readings[41].value
    for role, version, forecast in (("champion", "1", mean), ("challenger", "2", mean + 30)):
        labels = {"role": role, "version": version, "horizon": "30"}
        (error,) = samples(text, "glucose_shadow_abs_error_mgdl_sum", **labels)
        assert error == pytest.approx(abs(forecast - real), abs=0.01)


def test_a_champion_is_not_compared_with_itself(serve, tmp_path):
    """By MLflow's own pages both aliases may be given to one version."""
    shelf = stocked(tmp_path)
    shelf.registry.client.set_registered_model_alias("virtual-population", "challenger", "1")
    with serve(registry=shelf.registry.uri, cache=tmp_path / "c", shadow_share=1.0) as where:
        assert becomes_ready(where.address)
        with grpc.insecure_channel(where.address) as channel:
            forecaster_pb2_grpc.ForecasterStub(channel).Forecast(request_of(readings_until(steps=36)), timeout=5)
        count = "glucose_shadow_forecasts_total"
        assert holds(lambda: samples(scrape(where.metrics_url), count, outcome="itself") == [1])


def stocked(folder) -> Shelf:
    """A champion, and a challenger that forecasts 30 mg/dL more."""
    shelf = Shelf(Registry(f"sqlite:///{folder}/mlflow.db", folder / "t", create=True), folder)
    shelf.put("virtual-population", rise=0.0)
    shelf.registry.publish(tiny_bundle(folder / "challenger", "virtual-population", 0.6), {})
    return shelf


def test_the_statuses_of_overload_carry_when_to_try_again(serve, shelf, tmp_path, monkeypatch):

    plain = Forecaster.predict

    def slow(self, *given, **more):
        time.sleep(0.2)
        return plain(self, *given, **more)

    with serve(registry=shelf.registry.uri, cache=tmp_path / "c", queue_size=2, batch_size=1, threads=1) as where:
        assert becomes_ready(where.address)
        monkeypatch.setattr(Forecaster, "predict", slow)
        with grpc.insecure_channel(where.address) as channel:
            stub = forecaster_pb2_grpc.ForecasterStub(channel)
            stub.Forecast(request_of(readings_until()), timeout=5)
            calls = [stub.Forecast.future(request_of(readings_until()), timeout=10) for _ in range(12)]
            codes = {call.code() for call in calls}
            refused = next(call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    metadata = dict(refused.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    hint = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(hint)
    assert hint.retry_delay.ToMilliseconds() > 0


def test_a_refusal_names_the_field(client, service):

    with grpc.insecure_channel(service.address) as channel:
        stub = forecaster_pb2_grpc.ForecasterStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Forecast(request_of(readings_until(), unit=pb.UNIT_UNSPECIFIED), timeout=5)
    status = status_pb2.Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"])
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    assert [v.field for v in bad.field_violations] == ["unit"]
    assert status.message == refused.value.details()


def test_traces_of_calls_arrive_and_hold_no_patient(serve, shelf, tmp_path, collector, caplog):  # noqa: F811
    with (
        caplog.at_level(logging.INFO),
        serve(registry=shelf.registry.uri, cache=tmp_path / "c", traces=collector.endpoint) as where,
    ):
        assert becomes_ready(where.address)
        with grpc.insecure_channel(where.address) as channel:
            stub = forecaster_pb2_grpc.ForecasterStub(channel)
            stub.Forecast(request_of(readings_until(), patient_id=MARK), timeout=5)
    spans = collector.spans()
    assert {"glucast.v1.Forecaster/Forecast", "accept", "wait and compute"} <= spans.keys()
    parent = spans["glucast.v1.Forecaster/Forecast"]
    assert spans["accept"].parent_span_id == parent.span_id
    assert MARK not in str(collector.requests)
