"""The service and MLServer with the same network, ready to be asked for the same windows."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.service_under_test import FORECAST, MODEL, PEOPLE, START_SECONDS, Shelf, request_for, serving
from forecasting.bundle import read_bundle
from forecasting.context import context_from
from forecasting.encoding import encode
from forecasting.forecaster import Forecaster
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.inference import open_inference_pb2 as open_inference
from services.inference.messages import query_from

PEER = Path(__file__).with_name("peer_mlserver")
INFER = "/inference.GRPCInferenceService/ModelInfer"
CHECKED = 3  # people whose answers are compared with the network's


@dataclass(frozen=True)
class Windows:
    """What is known of as many people.

    requests: their readings; glucose_mg_dl: (people, context_length); minute_of_day: (people,)
    x: (people, context_length, channels), y: (people, prediction_length, 1 + quantiles), the network's own units
    forecast_mg_dl: y in mg/dL
    """

    requests: Sequence[pb.ForecastRequest]
    glucose_mg_dl: np.ndarray
    minute_of_day: np.ndarray
    x: np.ndarray
    y: np.ndarray
    forecast_mg_dl: np.ndarray


@dataclass(frozen=True)
class Side:
    """One way to ask a running server. process: the server, with all that it started

    expected: (people, …) what it must answer; numbers: those of an answer, in that order
    """

    name: str
    address: str
    process: psutil.Process
    log: Path
    method: str
    payloads: Sequence[bytes]
    expected: np.ndarray
    numbers: Callable[[bytes], np.ndarray]

    @property
    def cpu_seconds(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self._tree())

    @property
    def memory_mb(self) -> float:
        """Of all processes together; pages that they share count once."""
        return sum(one.memory_full_info().pss for one in self._tree()) / 1e6

    def answers_right(self, answer: bytes, person: int) -> bool:
        return np.allclose(self.numbers(answer), self.expected[person].ravel(), atol=1e-3)

    def _tree(self) -> tuple[psutil.Process, ...]:
        return self.process, *self.process.children(recursive=True)


@contextmanager
def sides_of(python: Path, shelf: Shelf, wait_seconds: float) -> Iterator[Sequence[Side]]:
    """The service by both of its protocols, and MLServer without and with a process for the network, side by side."""
    windows = windows_of(shelf)
    raw = [tensors(x=x[None]) for x in windows.x]
    rows = zip(windows.glucose_mg_dl, windows.minute_of_day, strict=True)
    in_mg_dl = [tensors(glucose_mg_dl=glucose[None], minute_of_day=minute[None]) for glucose, minute in rows]
    with ExitStack() as stack:
        service = stack.enter_context(serving(shelf, "--batch-wait-ms", str(1e3 * wait_seconds)))
        ours = service.address, psutil.Process(service.process.pid), service.log
        expected = windows.forecast_mg_dl
        readings = [request.SerializeToString() for request in windows.requests]
        sides = [
            Side("glucast, ModelInfer", *ours, INFER, in_mg_dl, expected, numbers_in_tensor),
            Side("glucast, Forecast", *ours, FORECAST, readings, expected, numbers_in_forecast),
        ]
        for workers in (0, 1):
            theirs = stack.enter_context(mlserver(python, shelf, workers, wait_seconds))
            name = f"MLServer, parallel_workers {workers}"
            sides.append(Side(name, *theirs, INFER, raw, windows.y, numbers_in_tensor))
        for side in sides:
            asyncio.run(check(side))
        yield sides


def bundle_of(shelf: Shelf) -> Path:
    """The files of the version that was put on it last."""
    return shelf.folder / f"student-{len(shelf.versions)}"


def windows_of(shelf: Shelf) -> Windows:
    """Of as many people as the load generator sends for."""
    forecaster = Forecaster.open(read_bundle(bundle_of(shelf)))
    shape = forecaster.spec.shape
    requests = [request_for(k) for k in range(PEOPLE)]
    queries = [query_from(request) for request in requests]
    contexts = [context_from(query.readings, query.unit, shape, utc_offset=query.utc_offset) for query in queries]
    glucose = np.stack([context.glucose_mg_dl for context in contexts])
    minutes = np.array([context.minute_of_day for context in contexts], np.float32)
    x = encode(glucose, minutes, shape.sampling_minutes, forecaster.spec.normalisation).x
    return Windows(
        requests, glucose, minutes, x, forecaster.network(x, None), forecaster.predict(glucose, minutes).outputs
    )


def tensors(**values: np.ndarray) -> bytes:
    """A ModelInferRequest as Triton's client sends it."""
    request = open_inference.ModelInferRequest(model_name=MODEL)
    for name, value in values.items():
        request.inputs.add(name=name, datatype="FP32", shape=value.shape)
        request.raw_input_contents.append(value.astype("<f4").tobytes())
    return request.SerializeToString()


def numbers_in_tensor(answer: bytes) -> np.ndarray:
    """The only output of a ModelInferResponse."""
    (content,) = open_inference.ModelInferResponse.FromString(answer).raw_output_contents
    return np.frombuffer(content, "<f4")


def numbers_in_forecast(answer: bytes) -> np.ndarray:
    """Mean and quantiles of each step of a ForecastResponse."""
    points = pb.ForecastResponse.FromString(answer).points
    return np.array([[p.mean_mg_dl, *(q.value_mg_dl for q in p.quantiles)] for p in points]).ravel()


@contextmanager
def mlserver(
    python: Path, shelf: Shelf, workers: int, wait_seconds: float
) -> Iterator[tuple[str, psutil.Process, Path]]:
    """MLServer with the shelf's network: where it will answer, its process and its log; killed at the end."""
    folder = shelf.folder / f"mlserver-{workers}"
    shutil.copytree(PEER, folder)
    shutil.copy(bundle_of(shelf) / "model.onnx", folder)
    http, rpc, metrics = free_ports(3)
    settings: dict[str, float] = {"HTTP_PORT": http, "GRPC_PORT": rpc, "METRICS_PORT": metrics}
    settings |= {"PARALLEL_WORKERS": workers, "MODEL_MAX_BATCH_TIME": wait_seconds}
    environment = os.environ | {f"MLSERVER_{name}": str(value) for name, value in settings.items()}
    with (folder / "log").open("w") as log:
        command = [str(python.with_name("mlserver")), "start", "."]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    running = psutil.Process(process.pid)
    try:
        yield f"127.0.0.1:{rpc}", running, folder / "log"
    finally:
        for one in (*running.children(recursive=True), running):
            one.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


async def check(side: Side) -> None:
    """Wait until it answers; raises ValueError where it answers with another network's numbers."""
    async with grpc.aio.insecure_channel(side.address) as channel:
        call: Any = channel.unary_unary(side.method)
        end = time.monotonic() + START_SECONDS
        for person, payload in enumerate(side.payloads[:CHECKED]):
            answer = await _once_it_can(call, payload, end)
            if not side.answers_right(answer, person):
                raise ValueError(f"{side.name} answers with other numbers than the network's")


async def _once_it_can(call: Any, payload: bytes, end: float) -> bytes:
    while True:
        try:
            return await call(payload, timeout=10, wait_for_ready=True)  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)  # it listens before its model is there
