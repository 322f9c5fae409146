"""A tiny real bundle, a real registry in a folder, and a real service over loopback."""

import asyncio
import datetime as dt
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families

from forecasting.bundle import Bundle, ModelSpec, write_bundle
from forecasting.context import Reading
from forecasting.events import Input
from forecasting.references import Version
from forecasting.registry import Registry
from services.client import ForecastClient
from services.inference.service import Running, running
from services.inference.settings import Settings

LAST = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)


def tiny_bundle(folder: Path, model: str, rise: float = 0.0, inputs: tuple[Input, ...] = ()) -> Bundle:
    """A network that adds `rise` (units of 50 mg/dL) to the level, with a fixed fan around it.

    The level channel goes through, so that forecasts depend on the readings; so does what is left of carbohydrates
    where it has inputs: 50 g at the origin are worth 50 mg/dL, whether they are known 10.
    """
    spec = ModelSpec(model=model, backbone="tiny", inputs=inputs)
    steps = np.linspace(0.2, 1.0, 12)[:, None]
    fan = np.concatenate([[[0.0]], np.linspace(-1, 1, 9)[None]], axis=1) * steps + rise
    constants = {"last": [-1], "first": [1], "axes": [1], "fan": fan[None].astype(np.float32)}
    nodes = [
        helper.make_node("Slice", ["x", "last", "end", "axes"], ["now"]),  # (batch, 1, 5)
        helper.make_node("Slice", ["now", "first", "two", "channels"], ["level"]),  # (batch, 1, 1)
        helper.make_node("Mul", ["level", "weight"], ["pull"]),
        helper.make_node("Add", ["pull", "fan"], ["plain" if inputs else "y"]),  # (batch, 12, 10)
    ]
    if inputs:
        nodes += [
            helper.make_node("Slice", ["now", "own", "after", "channels"], ["eaten"]),  # (batch, 1, 2)
            helper.make_node("MatMul", ["eaten", "worth"], ["more"]),
            helper.make_node("Add", ["plain", "more"], ["y"]),
        ]
        constants |= {"own": [5], "after": [7], "worth": np.float32([[[1.0], [0.2]]])}
    constants |= {"end": [1 << 30], "two": [2], "channels": [2], "weight": np.float32([[[-0.1]]])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 36, len(spec.channels)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 12, 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    folder.mkdir(parents=True)
    onnx.save(network, folder / "model.onnx")
    return write_bundle(folder, spec, metrics={}, origin={"rise": rise})


@dataclass
class Shelf:
    """A registry in a folder, and what puts models on it."""

    registry: Registry
    folder: Path

    def put(self, model: str, rise: float = 0.0, inputs: tuple[Input, ...] = ()) -> Version:
        """Publish a tiny model and make it champion."""
        bundle = tiny_bundle(self.folder / f"{model}-{rise}", model, rise, inputs)
        version, _ = self.registry.publish(bundle, {})
        self.registry.promote(version, {})
        return version

    def damage(self, version: Version) -> None:
        """Change one byte of a published network, and forget the cached copy."""
        network = Path(version.source.removeprefix("file://")) / "model.onnx"
        content = bytearray(network.read_bytes())
        content[len(content) // 2] ^= 1
        network.write_bytes(content)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Shelf:
    """virtual-population and the personal virtual-570 (30 mg/dL higher); tests add, and never change these."""
    folder = tmp_path_factory.mktemp("shelf")
    made = Shelf(Registry(f"sqlite:///{folder}/mlflow.db", folder / "trainer-cache", create=True), folder)
    made.put("virtual-population", rise=0.0)
    made.put("virtual-570", rise=0.6)
    return made


def health_of(address: str, name: str) -> int:
    """What health says under a name."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


def becomes_ready(address: str, seconds: float = 10.0) -> bool:
    """Is it ready within so long?"""
    return holds(lambda: health_of(address, "ready") == health_pb2.HealthCheckResponse.SERVING, seconds)


def holds(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Does a condition come true within so long?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def scrape(url: str) -> str:
    """What /metrics says."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def samples(text: str, series: str, **labels: str) -> list[float]:
    """The values of a series that have these labels."""
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == series and labels.items() <= sample.labels.items()
    ]


@contextmanager
def service_of(**given: object) -> Iterator[Running]:
    """A service in an event loop of its own thread, so that tests may block. It follows the registry closely."""
    began, ended, box = threading.Event(), threading.Event(), []
    settings = Settings(port=0, metrics_port=0, drain_seconds=1.0, **{"refresh_seconds": 0.1, **given})

    async def live() -> None:
        async with running(settings) as where:
            box.append(where)
            began.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert began.wait(20), "the service did not start"
    try:
        yield box[0]
    finally:
        ended.set()
        thread.join(20)


@pytest.fixture(scope="session")
def service(shelf, tmp_path_factory) -> Iterator[Running]:
    with service_of(registry=shelf.registry.uri, cache=tmp_path_factory.mktemp("cache"), alarm_low=0.2) as where:
        assert becomes_ready(where.address)
        yield where


@pytest.fixture(scope="session")
def client(service) -> Iterator[ForecastClient]:
    with ForecastClient(service.address) as made:
        yield made


def readings_until(last: dt.datetime = LAST, steps: int = 48, level: float = 120.0) -> list[Reading]:
    """A slow wave of whole mg/dL, every five minutes, ending at `last`."""
    wave = np.rint(level + 30 * np.sin(np.arange(steps) / 6))
    return [Reading(last - dt.timedelta(minutes=5 * (steps - 1 - k)), float(v)) for k, v in enumerate(wave)]


@pytest.fixture
def readings() -> list[Reading]:
    return readings_until()


@pytest.fixture(scope="session")
def serve() -> Callable:
    return service_of
