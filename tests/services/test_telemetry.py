"""Series: named by the rules, without a patient, right in one process and over several."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from forecasting.errors import InvalidSetting
from services.inference.telemetry import Telemetry, public_name, serve_metrics

RESERVED_LABELS = {"le", "quantile", "job", "instance"}
UNITS = {"seconds", "bytes", "mgdl"}
OTHER_UNITS = re.compile(r"_(ms|us|ns|millis|minutes|hours|kb|mb|mmol|percent|milliseconds|megabytes)(_|$)")
PERSONAL = ("virtual-570", "3", "d1")  # name, number, digest
POPULATION = ("virtual-population", "2", "d0")


def series_of(telemetry: Telemetry) -> dict[str, Counter | Gauge | Histogram]:
    """Every series that is declared, by its attribute."""
    return {key: value for key, value in vars(telemetry).items() if isinstance(value, Counter | Gauge | Histogram)}


def touched() -> Telemetry:
    """Each series with a value."""
    telemetry = Telemetry()
    for series in series_of(telemetry).values():
        child = series.labels(*series._labelnames) if series._labelnames else series
        child.observe(1) if isinstance(child, Histogram) else child.inc()
    return telemetry


def test_promtool_has_nothing_to_say_about_a_scrape_of_every_series():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH; it comes with Debian's prometheus")
    telemetry = touched()
    server = telemetry.expose("127.0.0.1", 0)
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read()
    server.shutdown()
    server.server_close()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
    assert b"process_resident_memory_bytes" in text


@pytest.mark.parametrize("series", series_of(Telemetry()).values(), ids=lambda series: series._name)
def test_every_name_follows_the_rules(series):
    name = series._name  # without _total, which the library adds to counters and to nothing else
    assert re.fullmatch(r"(grpc_server|glucose)(_[a-z]+)+", name)
    assert series._documentation
    assert not OTHER_UNITS.search(name), "a unit that is not a base unit"
    assert not re.search(r"_(total|sum|count|bucket|created)$", name), "a suffix that belongs to a type"
    assert not set(series._labelnames) & RESERVED_LABELS
    assert not {"patient", "patient_id"} & set(series._labelnames)
    if isinstance(series, Gauge):
        assert series._multiprocess_mode.startswith("live"), "a dead worker would count"


def test_no_series_is_declared_twice_and_every_one_has_a_unit_where_its_buckets_have_one():
    declared = list(series_of(Telemetry()).values())
    assert len({series._name for series in declared}) == len(declared) > 30
    histograms = [series for series in declared if isinstance(series, Histogram)]
    assert {s._name for s in histograms if s._name.rpartition("_")[2] not in UNITS} == {"glucose_infer_batch_size"}


@pytest.mark.parametrize(
    ("model", "shown"),
    [("virtual-population", "virtual-population"), ("virtual-570", "personal"), ("virtual-a-population", "personal")],
)
def test_a_patient_is_no_part_of_a_public_name(model, shown):
    assert public_name(model) == shown


def test_no_label_names_a_patient():
    telemetry = Telemetry()
    telemetry.opened(PERSONAL, ("champion",))
    telemetry.sizes({PERSONAL: 10})
    model = telemetry.for_model(*PERSONAL[:2])
    model.rejected("deadline").inc()
    model.forecast_mgdl(30).observe(100)
    assert b"570" not in generate_latest(telemetry.registry)


def value(telemetry: Telemetry, name: str, /, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def test_a_method_exists_before_its_first_call_and_counts_what_happens():
    telemetry = Telemetry()
    rpc = telemetry.rpc("package.Service", "Method", "BIDI_STREAM")
    labels = {"grpc_service": "package.Service", "grpc_method": "Method", "grpc_type": "BIDI_STREAM"}
    assert value(telemetry, "grpc_server_started_total", **labels) == 0
    assert value(telemetry, "grpc_server_handled_total", **labels, grpc_code="OK") == 0
    for code in ("OK", "CANCELLED", "CANCELLED"):
        rpc.began()
        rpc.received()
        rpc.sent()
        rpc.ended(code, 0.25)
    assert value(telemetry, "grpc_server_started_total", **labels) == 3
    assert value(telemetry, "grpc_server_handled_total", **labels, grpc_code="CANCELLED") == 2
    assert value(telemetry, "grpc_server_handling_seconds_sum", **labels) == 0.75
    assert value(telemetry, "grpc_server_msg_received_total", **labels) == 3
    assert value(telemetry, "grpc_server_msg_sent_total", **labels) == 3


def test_a_version_is_shown_while_it_is_open_and_under_the_aliases_it_has_then():
    telemetry = Telemetry()
    labels = {"name": "virtual-population", "version": "2", "digest": "d0"}
    telemetry.opened(POPULATION, ("challenger",))
    telemetry.closed(POPULATION, ("challenger",))
    telemetry.opened(POPULATION, ("champion", "previous"))
    assert value(telemetry, "glucose_model_info", **labels, alias="champion,previous") == 1
    assert not value(telemetry, "glucose_model_info", **labels, alias="challenger")
    telemetry.closed(POPULATION, ("champion", "previous"))
    assert not value(telemetry, "glucose_model_info", **labels, alias="champion,previous")


def test_memory_of_personal_models_is_one_sum():
    telemetry = Telemetry()
    telemetry.sizes({PERSONAL: 10, ("virtual-571", "1", "d2"): 5, POPULATION: 7})
    assert value(telemetry, "glucose_model_memory_bytes", name="personal") == 15
    telemetry.sizes({POPULATION: 7})
    assert value(telemetry, "glucose_model_memory_bytes", name="personal") == 0
    assert value(telemetry, "glucose_model_memory_bytes", name="virtual-population") == 7


def test_a_service_that_just_began_says_that_it_is_not_ready():
    assert value(Telemetry(), "glucose_ready") == 0


def test_a_taken_metrics_port_is_told_in_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSetting, match=rf"cannot serve metrics on 127.0.0.1:{port} .*another metrics port"):
            serve_metrics(CollectorRegistry(), "127.0.0.1", port)


WORKER = """
import asyncio, sys
from services.inference import workers
async def main():
    workers.join(int(sys.argv[1]), asyncio.Event())
    from services.inference.telemetry import Telemetry
    telemetry = Telemetry()
    model = telemetry.for_model("virtual-population", "2")
    model.inferences.inc(3)
    model.queue_depth.set(4)
    model.queue_seconds.observe(0.002)
    telemetry.opened(("virtual-population", "2", "d0"), ("champion",))
    telemetry.sizes({("virtual-population", "2", "d0"): 10})
    telemetry.registry_last_sync.set(100 + int(sys.argv[1]))
    telemetry.ready.set(int(sys.argv[1]))
asyncio.run(main())
"""


def test_several_processes_become_one_scrape_in_which_the_dead_do_not_count(tmp_path):
    for number in (0, 1):
        command = [sys.executable, "-c", WORKER, str(number)]
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run(command, check=True, env=environment, stdin=subprocess.PIPE)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    labels = {"name": "virtual-population", "version": "2"}
    info = {**labels, "alias": "champion", "digest": "d0"}
    get = registry.get_sample_value
    assert get("glucose_infer_inferences_total", labels) == 6
    assert get("glucose_infer_queue_seconds_count", labels) == 2
    assert get("glucose_infer_queue_depth", labels) == 8
    assert get("glucose_model_memory_bytes", {"name": "virtual-population"}) == 20
    assert get("glucose_model_info", info) == 1, "a version counts once, however many serve it"
    assert get("glucose_registry_last_sync_timestamp_seconds") == 100, "the worker that hears least is not seen"
    assert get("glucose_ready") == 0, "the worker that is not ready is not seen"
    for number in (0, 1):
        mark_process_dead(number, str(tmp_path))
    assert get("glucose_model_info", info) is None
    assert get("glucose_infer_queue_depth", labels) is None
    assert get("glucose_infer_inferences_total", labels) == 6
