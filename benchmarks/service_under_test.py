"""A service to measure: a student of the demo's size in a registry of its own, and processes that serve it."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from forecasting.bundle import write_bundle
from forecasting.references import Version
from forecasting.registry import Registry
from forecasting.windows import WindowShape
from protos.glucast.v1 import forecaster_pb2 as pb
from services.serving import READY
from trainer.export import export_onnx
from trainer.settings import ModelSettings
from trainer.teacher import build_model

STUDENT = ModelSettings(  # the demo's student; its time does not depend on what it learned
    backbone="bert-tiny", weights="random", stride=6, d_ff=32, prompt="none", prototypes="direct", num_prototypes=128
)
SLOW_STUDENT = STUDENT.model_copy(update={"backbone": "bert-small"})
MODEL = "virtual-population"
FORECAST, BATCH = "/glucast.v1.Forecaster/Forecast", "/glucast.v1.Forecaster/ForecastBatch"
PEOPLE = 64  # different requests that a loop sends in turn
READINGS = 48
START_SECONDS = 60.0


@dataclass(frozen=True)
class Shelf:
    """A registry with `count` students of one size and different weights, the first of them champion."""

    folder: Path
    registry: Registry
    versions: tuple[Version, ...]


def stocked(folder: Path, count: int = 1, student: ModelSettings = STUDENT) -> Shelf:
    """Export and publish students with random weights."""
    registry = Registry(f"sqlite:///{folder}/mlflow.db", folder / "trainer-cache", create=True)
    versions = []
    for seed in range(1, count + 1):
        built = build_model(MODEL, student, WindowShape(), seed)
        with torch.no_grad():  # untrained it would forecast what no person can have, and the service would refuse it
            for parameter in built.model.head.parameters():
                parameter.mul_(0.1)
        bundle = folder / f"student-{seed}"
        bundle.mkdir()
        export_onnx(built.model, built.spec, bundle / "model.onnx")
        versions.append(registry.publish(write_bundle(bundle, built.spec, {}, {"seed": seed}), {})[0])
    registry.promote(versions[0], {})
    return Shelf(folder, registry, tuple(versions))


@dataclass
class Service:
    """A running inference service."""

    process: subprocess.Popen
    address: str
    metrics_url: str
    ready_seconds: float
    log: Path

    @property
    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    @property
    def resident_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a series over whatever labels are not given."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def stop(self, seconds: float = 60.0) -> int:
        """Ask it to end as an operator would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def serving(shelf: Shelf, *options: str, cache: str = "cache", wait_ready: bool = True) -> Iterator[Service]:
    """The service as a user starts it, on free ports; killed at the end if it still lives."""
    log = shelf.folder / "service.log"
    ports = ("--port", "0", "--metrics-port", "0")
    given = (*ports, "--registry", shelf.registry.uri, "--cache", str(shelf.folder / cache), *options)
    began = time.perf_counter()
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.inference", *given], stdout=subprocess.PIPE, stderr=told, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        said = re.search(r"listens on (\S+), metrics on (\S+)", line)
        if said is None:
            raise RuntimeError(f"the service did not start: {line}{log.read_text()}")
        ready = wait_for_ready(said[1], began) if wait_ready else float("nan")
        yield Service(process, said[1], said[2], ready, log)
    finally:
        process.kill()
        process.wait()


def wait_for_ready(address: str, began: float) -> float:
    """Seconds from `began` (perf_counter) until health says READY."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.perf_counter() - began < START_SECONDS:
            if is_serving(stub, READY):
                return time.perf_counter() - began
            time.sleep(0.02)
    raise RuntimeError(f"the service was not ready within {START_SECONDS:g} s")


def is_serving(stub: health_pb2_grpc.HealthStub, name: str) -> bool:
    status = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
    return status == health_pb2.HealthCheckResponse.SERVING


def request_for(patient: int, seed: int = 0, last: int | None = None) -> pb.ForecastRequest:
    """Four hours of a plausible curve, ending now."""
    rng = np.random.default_rng(1000 * seed + patient)
    last = int(time.time()) - 30 if last is None else last
    curve = 130 + 45 * np.sin(np.arange(READINGS) / 8 + rng.uniform(0, 6)) + rng.normal(0, 3, READINGS)
    request = pb.ForecastRequest(patient_id=f"patient-{patient}", unit=pb.MG_DL, utc_offset_minutes=60)
    for k, value in enumerate(np.rint(curve)):
        request.readings.add(value=value).time.seconds = last - 300 * (READINGS - 1 - k)
    return request


ECHO = """
import asyncio, sys, grpc
from services.serving import OPTIONS
async def main(size):
    answer = b"y" * size
    async def echo(request, context):
        return answer
    server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()
asyncio.run(main(int(sys.argv[1])))
"""


@contextmanager
def echoing(answer_bytes: int) -> Iterator[tuple[str, psutil.Process]]:
    """An empty grpc.aio server that answers every call with that many bytes: its address and process."""
    environment = {**os.environ, "PYTHONPATH": "."}
    process = subprocess.Popen(
        [sys.executable, "-c", ECHO, str(answer_bytes)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}", psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def closed_loop(address: str, method: str, payloads: list[bytes], calls: int, concurrency: int) -> float:
    """Send `calls` calls, `concurrency` at a time; wall seconds. Messages are bytes: the client costs little."""

    async def drive() -> float:
        async with grpc.aio.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
            call: Any = channel.unary_unary(method)
            await call(payloads[0], wait_for_ready=True)

            async def caller(first: int) -> None:
                for k in range(first, calls, concurrency):
                    await call(payloads[k % len(payloads)])

            began = time.perf_counter()
            await asyncio.gather(*[caller(k) for k in range(concurrency)])
            return time.perf_counter() - began

    return asyncio.run(drive())
