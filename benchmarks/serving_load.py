"""What the service stands: the commands of benchmarks.serving that load it for long."""

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import grpc
import numpy as np
import typer
from grpc_health.v1 import health_pb2_grpc

from benchmarks.flood import Answers, Flood, at_a_rate, streaming, until_refused
from benchmarks.service_under_test import (
    BATCH,
    FORECAST,
    MODEL,
    PEOPLE,
    SLOW_STUDENT,
    Service,
    closed_loop,
    is_serving,
    request_for,
    serving,
    stocked,
)
from benchmarks.verdicts import console, verdict
from protos.glucast.v1 import forecaster_pb2 as pb

app = typer.Typer()
Seconds = Annotated[float, typer.Option(min=1, help="how long")]
REFRESH = 0.5  # seconds between looks at the registry, where the champion moves


@dataclass
class Watch:
    """What was seen of a service from outside: resident MB each second, seconds that health took."""

    resident: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)


@contextmanager
def watched(service: Service) -> Iterator[Watch]:
    """Look at the service from a thread until the block ends."""
    seen, over = Watch(), threading.Event()

    def look() -> None:
        with grpc.insecure_channel(service.address) as channel:
            stub, count = health_pb2_grpc.HealthStub(channel), 0
            while not over.wait(0.1):
                began = time.perf_counter()
                assert is_serving(stub, "")
                seen.health.append(time.perf_counter() - began)
                if count % 10 == 0:
                    seen.resident.append(service.resident_mb)
                count += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def say(answers: Answers, seen: Watch | None = None) -> None:
    milliseconds = 1e3 * np.array(answers.seconds)
    console.print(f"sent {answers.sent}: {dict(answers.codes)}")
    if len(milliseconds):
        p50, p99 = np.percentile(milliseconds, [50, 99])
        console.print(f"answered after {p50:.1f} ms (median), {p99:.1f} (p99), {milliseconds.max():.1f} (longest)")
    if seen is not None:
        health = 1e3 * np.array(seen.health)
        console.print(f"health after {np.median(health):.1f} ms (median), {health.max():.1f} (longest)")
        console.print(f"resident {seen.resident[0]:.0f} MB at first, {max(seen.resident):.0f} at most")


@app.command()
def monitor(
    people: Annotated[int, typer.Option(help="streams at once")] = 1000,
    readings: Annotated[int, typer.Option(help="of each person")] = 20,
    apart: Annotated[float, typer.Option(help="seconds between two readings of a person")] = 2.0,
) -> None:
    """People who stream at once to one process: every reading answered, memory bounded."""
    with tempfile.TemporaryDirectory() as folder, serving(stocked(Path(folder))) as service:
        closed_loop(service.address, FORECAST, [request_for(0).SerializeToString()], 2000, 32)
        before = service.resident_mb
        with watched(service) as seen:
            answers = Flood(1, streaming, service.address, people, readings, apart).answers()
        say(answers, seen)
        again = Flood(1, streaming, service.address, people, readings, apart).answers()
        after = service.resident_mb
        console.print(f"resident {before:.0f} MB before, {after:.0f} after twice as many streams had come and gone")
    verdict("readings answered with a forecast", answers.codes["forecast"] / answers.sent, 1.0, at_most=False)
    verdict("and again", again.codes["forecast"] / again.sent, 1.0, at_most=False)
    verdict("memory of a stream", (max(seen.resident) - before) / people * 1e3, 100, unit=" kB")


@app.command()
def overload(
    seconds: Seconds = 60,
    times: Annotated[float, typer.Option(help="of the capacity")] = 3.0,
    deadline: Annotated[float, typer.Option(help="of every call, in seconds")] = 1.0,
    processes: Annotated[int, typer.Option(help="that send")] = 1,
) -> None:
    """More calls than can be answered: those that are accepted meet their deadline, health answers, memory is flat.

    With a slower student (BERT-small), so that the model is what falls short, and not the cores that the callers share.
    """
    payload = request_for(0).SerializeToString()
    shelf_of = partial(stocked, student=SLOW_STUDENT)
    with tempfile.TemporaryDirectory() as folder, serving(shelf_of(Path(folder))) as service:
        closed_loop(service.address, FORECAST, [payload], 400, 64)
        capacity = 1500 / closed_loop(service.address, FORECAST, [payload], 1500, 64)
        flood = (service.address, payload, times * capacity / processes, seconds, deadline)
        Flood(processes, at_a_rate, *flood[:3], 5.0, deadline).answers()  # reaches its full size
        missed = _missed(service)
        with watched(service) as seen:
            answers = Flood(processes, at_a_rate, *flood).answers()
        say(answers, seen)
        missed = _missed(service) - missed
        refused = service.metric("glucose_infer_rejected_total")
    console.print(f"capacity {capacity:.0f}/s, offered {answers.sent / seconds:.0f}/s; {refused:.0f} refused in all")
    verdict("offered, of the capacity", answers.sent / seconds / capacity, times * 0.9, at_most=False)
    verdict("accepted that missed their deadline", missed / max(1, answers.codes["OK"]) * 100, 0.1, unit=" %")
    verdict("health, longest", max(seen.health) * 1e3, 100, unit=" ms")
    verdict(
        "growth of memory", statistics.mean(seen.resident[-10:]) - statistics.mean(seen.resident[:10]), 5, unit=" MB"
    )


def _missed(service: Service) -> float:
    """Forecasts that were accepted and not answered: their deadline passed in the queue, or their caller was gone."""
    return service.metric("glucose_infer_expired_total") + service.metric("glucose_infer_cancelled_total")


@app.command()
def moves(
    count: Annotated[int, typer.Option(help="moves of the champion")] = 50,
    apart: Annotated[float, typer.Option(help="seconds between two")] = 1.0,
) -> None:
    """The champion moves under load: no call fails, and every answer names a version that was champion."""
    payload = request_for(0).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        shelf = stocked(Path(folder), 2)
        with serving(shelf, "--refresh-seconds", str(REFRESH)) as service:
            flood = Flood(1, at_a_rate, service.address, payload, 300.0, count * apart + 4, 5.0, True)
            time.sleep(2.0)
            moved = [(0.0, shelf.versions[0].version)]
            for k in range(count):
                version = shelf.versions[(k + 1) % 2]
                shelf.registry.client.set_registered_model_alias(MODEL, "champion", version.version)
                moved.append((time.time(), version.version))
                time.sleep(apart)
            answers = flood.answers()
    say(answers)
    late = [_seconds_late(*call, moved) for call in answers.versions]
    served = {version for _, _, version in answers.versions}
    console.print(
        f"longest that an old champion went on answering: {max(late):.2f} s; versions served: {sorted(served)}"
    )
    verdict("calls that failed", sum(n for code, n in answers.codes.items() if code != "OK"), 0)
    verdict("an old champion's last answer", max(late), 1.2 * REFRESH + 1.0, unit=" s")


def _seconds_late(began: float, ended: float, version: str, moved: list[tuple[float, str]]) -> float:
    """0 for a version that was champion during the call, else for how long it no longer was; inf for one not yet."""
    untils = [until for until, _ in moved[1:]] + [float("inf")]
    reigns = [(since, until) for (since, one), until in zip(moved, untils, strict=True) if one == version]
    if any(since <= ended and until >= began for since, until in reigns):
        return 0.0
    return min((began - until for _, until in reigns if until < began), default=float("inf"))


@app.command()
def drain(rounds: Annotated[int, typer.Option(help="services that are stopped")] = 5) -> None:
    """SIGTERM under load: what was accepted is answered, the rest is refused with a word to go on elsewhere."""
    payloads = [request_for(k).SerializeToString() for k in range(PEOPLE)]
    lost, codes = 0, set()
    with tempfile.TemporaryDirectory() as folder:
        shelf = stocked(Path(folder))
        for _ in range(rounds):
            with serving(shelf) as service:
                flood = Flood(1, until_refused, service.address, payloads, 64, 20.0)
                while service.metric("grpc_server_handled_total", grpc_code="OK") < 2000:
                    time.sleep(0.1)
                codes.add(service.stop())
                answers = flood.answers()
            say(answers)
            lost += sum(n for code, n in answers.codes.items() if code != "OK" and not code.startswith("UNAVAILABLE"))
    verdict("calls that were neither answered nor told UNAVAILABLE", lost, 0)
    verdict("exit code", max(codes), 0)


@app.command()
def soak(seconds: Seconds = 600) -> None:
    """Forecasts, batches, streams and mistakes for ten minutes: memory does not grow."""
    with tempfile.TemporaryDirectory() as folder, serving(stocked(Path(folder))) as service:
        _everything(service, 60.0)  # arenas and pools reach their size
        with watched(service) as seen:
            answers = _everything(service, seconds)
        say(answers, seen)
    tenth = max(1, len(seen.resident) // 10)
    growth = statistics.mean(seen.resident[-tenth:]) - statistics.mean(seen.resident[:tenth])
    verdict("growth, last tenth against first", growth, 5, unit=" MB")


def _everything(service: Service, seconds: float) -> Answers:
    total, end = Answers(), time.monotonic() + seconds
    batch = pb.ForecastBatchRequest(requests=[request_for(k) for k in range(200)])
    batch.requests[7].readings.clear()
    wrong = request_for(1)
    wrong.unit = pb.UNIT_UNSPECIFIED
    while (left := end - time.monotonic()) > 0:
        for payload in (request_for(0), wrong):
            part = min(left, 20.0) / 2
            total.add(Flood(1, at_a_rate, service.address, payload.SerializeToString(), 200.0, part, 5.0).answers())
        closed_loop(service.address, BATCH, [batch.SerializeToString()], 20, 2)
        total.add(Flood(1, streaming, service.address, 100, 5, 0.5).answers())
    return total
