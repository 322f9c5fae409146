"""A tiny real bundle, a real registry in a folder, and a real service over loopback."""

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from forecasting.bundle import Bundle, ModelSpec, write_bundle
from forecasting.context import Reading
from forecasting.registry import Registry, Version
from services.client import ForecastClient
from services.inference.service import Running, running
from services.inference.settings import Settings

LAST = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)


def tiny_bundle(folder: Path, model: str, rise: float = 0.0) -> Bundle:
    """A network that adds `rise` (units of 50 mg/dL) to the level, with a fixed fan around it.

    The level channel goes through, so that forecasts depend on the readings.
    """
    spec = ModelSpec(model=model, backbone="tiny")
    steps = np.linspace(0.2, 1.0, 12)[:, None]
    fan = np.concatenate([[[0.0]], np.linspace(-1, 1, 9)[None]], axis=1) * steps + rise
    constants = {"last": [-1], "first": [1], "axes": [1], "fan": fan[None].astype(np.float32)}
    nodes = [
        helper.make_node("Slice", ["x", "last", "end", "axes"], ["now"]),  # (batch, 1, 5)
        helper.make_node("Slice", ["now", "first", "two", "channels"], ["level"]),  # (batch, 1, 1)
        helper.make_node("Mul", ["level", "weight"], ["pull"]),
        helper.make_node("Add", ["pull", "fan"], ["y"]),  # (batch, 12, 10)
    ]
    constants |= {"end": [1 << 30], "two": [2], "channels": [2], "weight": np.float32([[[-0.1]]])}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 36, 5])],
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

    def put(self, model: str, rise: float = 0.0) -> Version:
        """Publish a tiny model and make it champion."""
        bundle = tiny_bundle(self.folder / f"{model}-{rise}", model, rise)
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


@contextmanager
def service_of(**given: object) -> Iterator[Running]:
    """A service in an event loop of its own thread, so that tests may block."""
    began, ended, box = threading.Event(), threading.Event(), []
    settings = Settings(port=0, metrics_port=0, drain_seconds=1.0, **given)

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
    with service_of(registry=shelf.registry.uri, cache=tmp_path_factory.mktemp("cache")) as where:
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
