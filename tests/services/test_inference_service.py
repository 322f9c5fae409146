"""How the service lives: registry, damage, health, telemetry, start and stop."""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from forecasting.errors import IntegrityError, RegistryUnavailable
from forecasting.forecaster import Forecaster
from forecasting.registry import Registry
from services.client import ForecastClient, ServiceError
from services.inference.models import Models
from services.inference.telemetry import CountRequests, Telemetry, public_name
from services.serving import NO_REGISTRY

SECRET = "the text of an error may quote readings"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(address: str, name: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


def becomes_ready(address: str, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if health_of(address, "ready") == SERVING:
            return True
        time.sleep(0.05)
    return False


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def samples(text: str, series: str, **labels: str) -> list[float]:
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == series and labels.items() <= sample.labels.items()
    ]


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
    for _ in range(2):
        error = refusal(client, "damaged", readings, "mg/dL")
        assert error.status is grpc.StatusCode.DATA_LOSS
        assert error.sentence.startswith("virtual-damaged version 1 is refused")
    assert client.forecast("570", readings, "mg/dL").model.name == "virtual-570"
    failures = samples(scrape(service.metrics_url), "glucose_model_load_failures_total", reason="IntegrityError")
    assert failures == [1]  # remembered, not fetched again for every request


def test_a_network_that_cannot_be_run_is_refused_by_name_too(shelf, client, readings, monkeypatch):
    shelf.put("virtual-odd", rise=0.2)
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
            assert samples(scrape(where.metrics_url), "glucose_registry_sync_failures_total")[0] >= 2
            home.mkdir()
            (home / "mlflow.db").write_bytes(Path(shelf.registry.uri.removeprefix("sqlite:///")).read_bytes())
            assert becomes_ready(where.address)
            assert client.forecast("570", readings, "mg/dL").points


def test_a_namespace_without_models_is_ready_and_names_no_other_patients(shelf, serve, readings, tmp_path, caplog):
    with (
        caplog.at_level(logging.INFO),
        serve(registry=shelf.registry.uri, cache=tmp_path, namespace="other") as where,
        ForecastClient(where.address) as client,
    ):
        assert becomes_ready(where.address)
        error = refusal(client, "570", readings, "mg/dL")
    assert error.status is grpc.StatusCode.NOT_FOUND
    assert error.sentence.startswith("neither other-570 nor other-population has a champion")
    assert "no population model" in caplog.text
    assert "virtual-" not in caplog.text + error.sentence


class Flaky:
    """A registry that can be told to stop answering; counts what it is asked."""

    def __init__(self, registry) -> None:
        self.registry, self.is_down, self.fetched = registry, False, 0

    def find(self, reference: str):
        if self.is_down:
            raise RegistryUnavailable("the registry does not answer")
        return self.registry.find(reference)

    def fetch(self, version):
        self.fetched += 1
        time.sleep(0.1)
        return self.registry.fetch(version)


def models_over(registry, refresh_seconds: float) -> Models:
    models = Models(None, None, refresh_seconds, Telemetry())
    models._registry = registry
    return models


async def test_a_failed_refresh_goes_on_with_what_is_served(shelf, caplog):
    registry = Flaky(shelf.registry)
    models = models_over(registry, refresh_seconds=1e-6)
    before = await models.first(("virtual-nobody", "virtual-570"))
    registry.is_down = True
    with caplog.at_level(logging.WARNING):
        after = await models.first(("virtual-570",))
        await asyncio.sleep(0.1)  # the look-up goes on behind the answer
    assert after.forecaster is before.forecaster
    assert "RegistryUnavailable at refresh" in caplog.text
    assert "570" not in caplog.text.replace(before.version.digest[:12], "")


async def test_a_champion_that_moves_is_followed_and_a_damaged_one_is_not(shelf):
    first = shelf.put("virtual-moving", rise=0.1)
    models = models_over(shelf.registry, refresh_seconds=1e-6)
    assert (await models.first(("virtual-moving",))).version.version == first.version
    second = shelf.put("virtual-moving", rise=0.2)
    assert await followed(models, "virtual-moving") == second.version
    shelf.damage(shelf.put("virtual-moving", rise=0.3))
    assert await followed(models, "virtual-moving") == second.version


async def followed(models: Models, reference: str) -> str:
    """The version a reference leads to once look-ups behind the answers have ended."""
    for _ in range(3):
        served = await models.first((reference,))
        await asyncio.sleep(0.2)
    return served.version.version


async def test_a_slow_registry_holds_nobody_up(shelf, monkeypatch):
    registry = Flaky(shelf.registry)
    models = models_over(registry, refresh_seconds=1e-6)
    await models.first(("virtual-570",))
    monkeypatch.setattr(registry, "find", lambda _: time.sleep(1.0))
    began = time.perf_counter()
    await models.first(("virtual-570",))
    assert time.perf_counter() - began < 0.5


async def test_a_registry_made_anew_is_not_answered_with_old_weights(shelf, tmp_path):
    """Version 1 again, with another digest."""
    first = shelf.put("virtual-anew", rise=0.1)
    models = models_over(shelf.registry, refresh_seconds=60)
    before = await models.first(("virtual-anew",))
    assert before.version.digest == first.digest
    again = type(shelf)(Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "cache", create=True), tmp_path)
    again.put("virtual-anew", rise=0.5)
    models._registry = again.registry
    models._found.clear()
    after = await models.first(("virtual-anew",))
    assert after.version.version == before.version.version == "1"
    assert after.forecaster is not before.forecaster


async def test_many_who_ask_at_once_share_one_load_and_the_loop_stays_live(shelf):
    registry = Flaky(shelf.registry)
    models = models_over(registry, refresh_seconds=60)
    asked = [asyncio.create_task(models.first((reference,))) for reference in ("virtual-570", "virtual-570/1") * 4]
    longest, last = 0.0, time.perf_counter()
    while not all(task.done() for task in asked):
        await asyncio.sleep(0.005)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert registry.fetched == 1
    assert len({id(task.result().forecaster) for task in asked}) == 1
    assert longest < 0.09  # the load alone takes 0.1 s


async def test_a_caller_who_gives_up_does_not_end_the_load_for_others(shelf):
    models = models_over(Flaky(shelf.registry), refresh_seconds=60)
    hasty, patient = (asyncio.create_task(models.first(("virtual-570",))) for _ in range(2))
    await asyncio.sleep(0.05)
    hasty.cancel()
    assert (await patient).version.name == "virtual-570"


def test_what_nobody_foresaw_is_internal_and_tells_nothing(client, readings, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Forecaster, "predict", fail)
    error = refusal(client, "570", readings, "mg/dL")
    assert error.status is grpc.StatusCode.INTERNAL
    assert re.fullmatch(r"internal error [0-9a-f]{12}; the service's log says more under this id", error.sentence)
    reference = error.sentence.split()[2].rstrip(";")
    logged = next(record.getMessage() for record in caplog.records if reference in record.getMessage())
    assert "RuntimeError" in logged
    assert "in _answer" in logged
    assert SECRET not in caplog.text


def test_metrics_count_statuses_and_never_name_a_patient(service, client, readings):
    handled, method = "grpc_server_handled_total", {"grpc_method": "Forecast", "grpc_type": "UNARY"}

    def counted() -> dict[str, float]:
        text = scrape(service.metrics_url)
        return {code: sum(samples(text, handled, grpc_code=code, **method)) for code in ("OK", "INVALID_ARGUMENT")}

    before = counted()
    client.forecast("570", readings, "mg/dL")
    refusal(client, "570", [], "mg/dL")
    after = counted()
    assert {code: after[code] - before[code] for code in after} == {"OK": 1, "INVALID_ARGUMENT": 1}
    text = scrape(service.metrics_url)
    assert samples(text, "glucose_model_info", name="personal", alias="champion")
    assert samples(text, "glucose_infer_compute_seconds_count")[0] > 0
    assert not re.search(r"virtual-(?!population)", text)
    assert "570" not in re.sub(r'digest="[0-9a-f]+"|[0-9.e+-]+$', "", text, flags=re.MULTILINE)


async def test_a_request_its_caller_gave_up_counts_as_cancelled():
    telemetry = Telemetry()

    async def forever(*_: object) -> None:
        await asyncio.sleep(60)

    answer = CountRequests(telemetry).around(forever, "/package.Service/Method")
    task = asyncio.create_task(answer(None, None))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    labels = {"grpc_service": "package.Service", "grpc_method": "Method", "grpc_type": "UNARY"}
    assert telemetry.registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": "CANCELLED"}) == 1


@pytest.mark.parametrize(
    ("model", "shown"),
    [("a-population", "a-population"), ("a-570", "personal"), ("a-570-population", "personal"), ("odd", "personal")],
)
def test_only_population_models_are_shown_by_name(model, shown):
    assert public_name(model) == shown


def test_series_exist_before_the_first_request():
    telemetry = Telemetry()
    telemetry.start_at_zero("glucast.v1.Forecaster", ["Forecast"])
    labels = {"grpc_service": "glucast.v1.Forecaster", "grpc_method": "Forecast", "grpc_type": "UNARY"}
    assert telemetry.registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": "OK"}) == 0
    assert telemetry.registry.get_sample_value("grpc_server_started_total", labels) == 0


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
    assert "ready: the registry answers" in logged
    assert "virtual-570" not in logged
    assert second.returncode == 1
    assert second.stderr == f"error: cannot listen on {address}; is the port taken? Choose another\n"
