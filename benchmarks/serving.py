"""What the inference service costs on this machine, and what it stands: ratios within one run.

    python -m benchmarks.serving cost       CPU of a Forecast against an empty echo of the same sizes plus the network
    python -m benchmarks.serving batch      ForecastBatch of 256 against the bare network
    python -m benchmarks.serving start      time until ready and memory, with a cached bundle
    python -m benchmarks.serving monitor    1,000 people streaming at once
    python -m benchmarks.serving overload   three times what it can, for a minute
    python -m benchmarks.serving moves      50 moves of the champion under load
    python -m benchmarks.serving drain      SIGTERM under load
    python -m benchmarks.serving soak       ten minutes of everything: does memory grow?

Run alone on the machine. Each says its goal beside what it saw, and exits 1 where that was missed.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks import serving_load
from benchmarks.service_under_test import (
    BATCH,
    FORECAST,
    PEOPLE,
    READINGS,
    Service,
    Shelf,
    closed_loop,
    echoing,
    request_for,
    serving,
    stocked,
)
from benchmarks.verdicts import console, spread, verdict
from forecasting.bundle import read_bundle
from forecasting.context import context_from
from forecasting.encoding import encode
from forecasting.forecaster import Forecaster
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client import ForecastClient
from services.inference.messages import query_from

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
app.registered_commands += serving_load.app.registered_commands
Rounds = Annotated[int, typer.Option(min=1, help="rounds; the median counts, the range is shown")]


@app.command()
def cost(
    rounds: Rounds = 5,
    calls: Annotated[int, typer.Option(help="calls of a round")] = 6000,
    concurrency: Annotated[int, typer.Option(help="calls under way at once")] = 32,
) -> None:
    """CPU time of a unary Forecast, in the service's process."""
    with tempfile.TemporaryDirectory() as folder, serving(shelf := stocked(Path(folder))) as service:
        payloads = [request_for(k).SerializeToString() for k in range(PEOPLE)]
        with ForecastClient(service.address) as client:
            size = client.ask(request_for(0)).ByteSize()
        closed_loop(service.address, FORECAST, payloads, calls, concurrency)  # warm
        ours, echo, batches = [], [], []
        with echoing(size) as (address, process):
            echo_payloads = [bytes(len(payload)) for payload in payloads]
            closed_loop(address, "/echo.Echo/Echo", echo_payloads, calls, concurrency)
            for _ in range(rounds):
                before = sum(process.cpu_times()[:2])
                closed_loop(address, "/echo.Echo/Echo", echo_payloads, calls, concurrency)
                echo.append((sum(process.cpu_times()[:2]) - before) / calls * 1e6)
                ran, batched = _ran(service), service.cpu_seconds
                closed_loop(service.address, FORECAST, payloads, calls, concurrency)
                ours.append((service.cpu_seconds - batched) / calls * 1e6)
                batches.append(np.subtract(_ran(service), ran))
        mean_batch = sum(b[0] for b in batches) / sum(b[1] for b in batches)
        network = _network_seconds(shelf, mean_batch) * 1e6
    ratios = [o / (e + network) for o, e in zip(ours, echo, strict=True)]
    table = Table("CPU, µs a call", "median (range)")
    table.add_row("Forecast", spread(ours))
    table.add_row(f"empty echo, {len(payloads[0])} bytes in, {size} out", spread(echo))
    table.add_row(f"network alone, a window, at the mean batch of {mean_batch:.1f}", f"{network:.0f}")
    console.print(table)
    console.print(f"ratio of each round: {', '.join(f'{r:.2f}' for r in ratios)}")
    verdict("Forecast against echo + network", statistics.median(ratios), 1.3)


def _ran(service: Service) -> tuple[float, float]:
    """(forecasts, batches) computed so far."""
    return service.metric("glucose_infer_inferences_total"), service.metric("glucose_infer_executions_total")


def _network_seconds(shelf: Shelf, batch: float, seconds: float = 2.0) -> float:
    """CPU seconds of the bare ONNX session for one window, between the two whole batch sizes around `batch`."""
    forecaster, x = _network_and_windows(shelf, int(np.ceil(batch)))
    low, high = int(np.floor(batch)), int(np.ceil(batch))
    at = {size: _cpu_each(partial(forecaster.network, x[:size], None), size, seconds) for size in {low, high}}
    return float(np.interp(batch, sorted(at), [at[size] for size in sorted(at)]))


def _cpu_each(run: Callable[[], object], count: int, seconds: float) -> float:
    for _ in range(20):
        run()
    began, runs = time.thread_time(), 0
    while time.thread_time() - began < seconds:
        run()
        runs += 1
    return (time.thread_time() - began) / runs / count


def _network_and_windows(shelf: Shelf, count: int) -> tuple[Forecaster, np.ndarray]:
    """The champion, and what its network takes for the windows of `count` people."""
    forecaster = Forecaster.open(read_bundle(shelf.folder / "student-1"))
    shape = forecaster.spec.shape
    queries = [query_from(request_for(k)) for k in range(count)]
    contexts = [context_from(query.readings, query.unit, shape, utc_offset=query.utc_offset) for query in queries]
    glucose = np.stack([context.glucose_mg_dl for context in contexts])
    minutes = np.array([context.minute_of_day for context in contexts], np.float32)
    return forecaster, encode(glucose, minutes, shape.sampling_minutes, forecaster.spec.normalisation).x


@app.command()
def batch(
    rounds: Rounds = 7,
    people: Annotated[int, typer.Option(help="people in a message")] = 256,
    messages: Annotated[int, typer.Option(help="messages of a round")] = 24,
    concurrency: Annotated[int, typer.Option(help="messages under way at once")] = 2,
) -> None:
    """Throughput of ForecastBatch against the bare ONNX session on the same windows.

    The session has one thread, as every network of the service has; the service computes two batches at a time.
    """
    with tempfile.TemporaryDirectory() as folder, serving(shelf := stocked(Path(folder))) as service:
        payload = pb.ForecastBatchRequest(requests=[request_for(k) for k in range(people)]).SerializeToString()
        forecaster, x = _network_and_windows(shelf, people)
        closed_loop(service.address, BATCH, [payload], messages, concurrency)
        ours, bare, cpu = [], [], []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(messages):
                forecaster.network(x, None)
            bare.append(messages * people / (time.perf_counter() - began))
            before = service.cpu_seconds
            ours.append(messages * people / closed_loop(service.address, BATCH, [payload], messages, concurrency))
            cpu.append((service.cpu_seconds - before) / messages / people * 1e6)
    ratios = [o / b for o, b in zip(ours, bare, strict=True)]
    console.print(f"ForecastBatch of {people}, {READINGS} readings each: {spread(ours)} forecasts/s")
    console.print(f"bare ONNX session, batch of {people}: {spread(bare)} windows/s")
    console.print(f"service's CPU: {spread(cpu)} µs a forecast; ratios {', '.join(f'{r:.2f}' for r in ratios)}")
    verdict("ForecastBatch against the bare session", statistics.median(ratios), 0.8, at_most=False)


@app.command()
def start(rounds: Rounds = 5) -> None:
    """Time from the command until health says ready, and resident memory after load, with a cached bundle."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = stocked(Path(folder))
        with serving(shelf):
            pass  # fills the cache
        seconds, resident = [], []
        for _ in range(rounds):
            with serving(shelf) as service:
                seconds.append(service.ready_seconds)
                closed_loop(service.address, FORECAST, [request_for(0).SerializeToString()], 2000, 32)
                resident.append(service.resident_mb)
    console.print(f"ready after {', '.join(f'{s:.2f}' for s in seconds)} s")
    console.print(f"resident after 2,000 forecasts: {', '.join(f'{m:.0f}' for m in resident)} MB")
    verdict("ready", max(seconds), 3.0, unit=" s")
    verdict("resident memory", max(resident), 200, unit=" MB")


if __name__ == "__main__":
    app()
