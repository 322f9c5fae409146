"""How the service lives: registry, damage, health, telemetry, start and stop."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster
from services.client import ForecastClient, ServiceError
from services.statuses import NO_REGISTRY
from tests.services.conftest import becomes_ready, health_of, holds, samples, scrape

SECRET = "the text of an error may quote readings"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def refusal(client: ForecastClient, *given: object, **more: object) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        client.forecast(*given, **more)
    return caught.value


def test_a_ready_service_says_so_under_every_name(service):
    assert becomes_ready(service.address)
    for name in ("", "glucast.v1.Forecaster", "ready"):
        assert health_of(service.address, name) == SERVING


def test_a_damaged_model_is_refused_by_name_while_another_goes_on(shelf, service, client, readings):
    damaged = shelf.put("virtual-damaged", rise=0.1)
    shelf.damage(damaged)
    time.sleep(0.3)  # the registry is looked at ten times a second
    for _ in range(2):
        error = refusal(client, "damaged", readings, "mg/dL")
        assert error.status is grpc.StatusCode.DATA_LOSS
        assert error.sentence.startswith("virtual-damaged version 1 is refused")
    assert client.forecast("570", readings, "mg/dL").model.name == "virtual-570"
    failures = samples(scrape(service.metrics_url), "glucose_model_load_failures_total", reason="IntegrityError")
    assert failures[0] < 5  # remembered, not fetched again for every request


def test_a_network_that_cannot_be_run_is_refused_by_name_too(shelf, client, readings, monkeypatch):
    shelf.put("virtual-odd", rise=0.2)
    time.sleep(0.3)
    monkeypatch.setattr(Forecaster, "open", _refuse)
    error = refusal(client, "odd", readings, "mg/dL")
    assert error.status is grpc.StatusCode.DATA_LOSS
    assert error.sentence.startswith("virtual-odd version 1 is refused: ")


def _refuse(bundle: object) -> None:
    raise IntegrityError("0a1b/model.onnx cannot be run")


def test_a_missing_registry_is_waited_for_and_told_to_callers(shelf, serve, readings, tmp_path):
    """The service lives without its registry, and is ready as soon as that answers."""
    home = tmp_path / "late"
    with serve(registry=f"sqlite:///{home}/mlflow.db", cache=tmp_path / "cache") as where:
        assert health_of(where.address, "") == SERVING
        assert health_of(where.address, "ready") == NOT_SERVING
        with ForecastClient(where.address) as client:
            error = refusal(client, "570", readings, "mg/dL")
            assert error.status is grpc.StatusCode.UNAVAILABLE
            assert error.sentence == NO_REGISTRY  # and not where it is
            assert samples(scrape(where.metrics_url), "glucose_registry_sync_failures_total")[0] >= 1
            assert samples(scrape(where.metrics_url), "glucose_ready") == [0]
            home.mkdir()
            shutil.copy(shelf.registry.uri.removeprefix("sqlite:///"), home / "mlflow.db")
            assert becomes_ready(where.address)
            assert samples(scrape(where.metrics_url), "glucose_ready") == [1]
            assert client.forecast("570", readings, "mg/dL").points


def test_a_namespace_without_models_is_not_ready_and_names_no_other_patients(shelf, serve, readings, tmp_path):
    with (
        serve(registry=shelf.registry.uri, cache=tmp_path, namespace="other") as where,
        ForecastClient(where.address) as client,
    ):
        error = refusal(client, "570", readings, "mg/dL")
        assert health_of(where.address, "ready") == NOT_SERVING
    assert error.status is grpc.StatusCode.NOT_FOUND
    assert error.sentence.startswith("neither other-570 nor other-population has a champion")
    assert "virtual-" not in error.sentence


def test_health_knows_the_models_that_are_nobodys_own(service, client, readings):
    client.forecast("570", readings, "mg/dL")
    assert health_of(service.address, "model/virtual-population") == SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health_of(service.address, "model/virtual-570")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_tells_those_who_watch_when_it_becomes_ready(shelf, serve, tmp_path):
    home = tmp_path / "late"
    request = health_pb2.HealthCheckRequest(service="ready")
    with (
        serve(registry=f"sqlite:///{home}/mlflow.db", cache=tmp_path / "cache") as where,
        grpc.insecure_channel(where.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=20)
        assert next(watch).status == NOT_SERVING
        home.mkdir()
        shutil.copy(shelf.registry.uri.removeprefix("sqlite:///"), home / "mlflow.db")
        assert next(watch).status == SERVING
        watch.cancel()


def test_without_a_registry_it_serves_from_its_cache_and_says_so(shelf, serve, readings, tmp_path):
    home = tmp_path / "registry"
    home.mkdir()
    shutil.copy(shelf.registry.uri.removeprefix("sqlite:///"), home / "mlflow.db")
    given = {"registry": f"sqlite:///{home}/mlflow.db", "cache": tmp_path / "cache"}
    with serve(**given) as where, ForecastClient(where.address) as client:
        assert becomes_ready(where.address)
        before = client.forecast("570", readings, "mg/dL", utc_offset_minutes=0)
    shutil.rmtree(home)
    with serve(**given) as where, ForecastClient(where.address) as client:
        assert becomes_ready(where.address)
        after = client.forecast("570", readings, "mg/dL", utc_offset_minutes=0)
        text = scrape(where.metrics_url)
    assert after.points == before.points
    assert after.model.digest == before.model.digest
    assert samples(text, "glucose_registry_last_sync_timestamp_seconds") == [0]
    assert samples(text, "glucose_registry_sync_failures_total")[0] >= 1


def test_what_nobody_foresaw_is_internal_and_tells_nothing(client, readings, monkeypatch, caplog):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Forecaster, "predict", fail)
    error = refusal(client, "570", readings, "mg/dL")
    assert error.status is grpc.StatusCode.INTERNAL
    assert re.fullmatch(r"internal error [0-9a-f]{12}; the service's log says more under this id", error.sentence)
    reference = error.sentence.split()[2].rstrip(";")
    logged = next(record.getMessage() for record in caplog.records if reference in record.getMessage())
    assert "RuntimeError" in logged
    assert "in _rows" in logged
    assert SECRET not in caplog.text


def test_metrics_count_statuses_and_never_name_a_patient(service, client, readings):
    handled, method = "grpc_server_handled_total", {"grpc_method": "Forecast", "grpc_type": "UNARY"}

    def counted() -> dict[str, float]:
        text = scrape(service.metrics_url)
        return {code: sum(samples(text, handled, grpc_code=code, **method)) for code in ("OK", "INVALID_ARGUMENT")}

    before = counted()
    client.forecast("570", readings, "mg/dL")
    refusal(client, "570", [], "mg/dL")
    wanted = {code: before[code] + 1 for code in before}
    assert holds(lambda: counted() == wanted, 5), counted()  # a call is counted just after its answer went out
    text = scrape(service.metrics_url)
    assert samples(text, "glucose_model_info", name="personal", alias="champion")
    assert sum(samples(text, "glucose_infer_compute_seconds_count")) > 0
    assert not re.search(r"virtual-(?!population)", text)
    assert "570" not in re.sub(r'digest="[0-9a-f]+"|[0-9.e+-]+$', "", text, flags=re.MULTILINE)


def test_a_service_told_to_stop_exits_cleanly_and_never_logged_a_patient(shelf, readings, tmp_path):
    """The real process: starts on ports it chose and prints, answers, refuses a second on its port, exits 0."""
    command = [sys.executable, "-m", "services.inference", "--metrics-port", "0", "--cache", str(tmp_path)]
    environment = {**os.environ, "GLUCAST_REGISTRY": shelf.registry.uri, "GLUCAST_PORT": "1"}
    process = subprocess.Popen(
        [*command, "--port", "0"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"listens on (\S+), metrics on http://127.0.0.1:\d+/metrics$", line.strip())[1]
        with ForecastClient(address) as client:
            assert client.forecast("570", readings, "mg/dL").model.name == "virtual-570"
        second = subprocess.run(
            [*command, "--port", address.split(":")[1]], env=environment, capture_output=True, text=True, timeout=20
        )
        process.send_signal(signal.SIGTERM)
        logged = process.communicate(timeout=10)[1]
    finally:
        process.kill()
    assert process.returncode == 0, logged
    assert "ready: a champion has forecast" in logged
    assert "virtual-570" not in logged
    assert second.returncode == 1
    assert second.stderr == f"error: cannot listen on {address}; is the port taken? Choose another\n"
