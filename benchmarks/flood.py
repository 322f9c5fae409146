"""Load from processes of their own: calls at a rate, whatever the answers, or streams; what came back, counted."""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.service_under_test import FORECAST
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc


@dataclass
class Answers:
    """What came back. seconds: of the calls that were answered OK; versions: (began, ended, version) of those."""

    codes: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    versions: list[tuple[float, float, str]] = field(default_factory=list)
    sent: int = 0

    def add(self, other: "Answers") -> None:
        self.codes += other.codes
        self.seconds += other.seconds
        self.versions += other.versions
        self.sent += other.sent


class Flood:
    """`work(*given)` under way in `count` fresh processes; `answers()` waits for them all."""

    def __init__(self, count: int, work: Callable[..., Answers], *given: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = spawn.Pool(count)
        self._results = [self._pool.apply_async(work, given) for _ in range(count)]

    def answers(self) -> Answers:
        total = Answers()
        for result in self._results:
            total.add(result.get())
        self._pool.close()
        self._pool.join()
        return total


def at_a_rate(
    address: str, payload: bytes, rate: float, seconds: float, deadline: float, keep: bool = False
) -> Answers:
    """`rate` calls a second, each begun at its time whether or not earlier ones were answered."""
    return asyncio.run(_at_a_rate(address, payload, rate, seconds, deadline, keep))


async def _at_a_rate(address: str, payload: bytes, rate: float, seconds: float, deadline: float, keep: bool) -> Answers:
    answers, under_way = Answers(), set()
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(FORECAST)
        await channel.channel_ready()

        async def one() -> None:
            began = time.time()
            try:
                answer = await call(payload, timeout=deadline)
            except grpc.aio.AioRpcError as error:
                answers.codes[error.code().name] += 1
                return
            ended = time.time()
            answers.codes["OK"] += 1
            answers.seconds.append(ended - began)
            if keep:
                answers.versions.append((began, ended, pb.ForecastResponse.FromString(answer).model.version))

        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            due = int(passed * rate)
            while answers.sent < due:
                answers.sent += 1
                task = asyncio.create_task(one())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                if answers.sent % 16 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(0.002)
        await asyncio.gather(*under_way)
    return answers


def until_refused(address: str, payloads: list[bytes], concurrency: int, seconds: float) -> Answers:
    """Closed loops that stop at the first failure of each: what was begun and what became of it."""
    return asyncio.run(_until_refused(address, payloads, concurrency, seconds))


async def _until_refused(address: str, payloads: list[bytes], concurrency: int, seconds: float) -> Answers:
    answers, end = Answers(), time.perf_counter() + seconds
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_retries", 0),)) as channel:
        call: Any = channel.unary_unary(FORECAST)
        await channel.channel_ready()

        async def caller(k: int) -> None:
            while time.perf_counter() < end:
                answers.sent += 1
                try:
                    await call(payloads[k % len(payloads)], timeout=30)
                except grpc.aio.AioRpcError as error:
                    answers.codes[f"{error.code().name}: {error.details()}"] += 1
                    return
                answers.codes["OK"] += 1

        await asyncio.gather(*[caller(k) for k in range(concurrency)])
    return answers


def streaming(address: str, people: int, readings: int, seconds_apart: float) -> Answers:
    """People who stream at once, a reading each `seconds_apart`; seconds are those from a reading to its answer."""
    return asyncio.run(_streaming(address, people, readings, seconds_apart))


async def _streaming(address: str, people: int, readings: int, seconds_apart: float) -> Answers:
    answers = Answers()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = forecaster_pb2_grpc.ForecasterStub(channel)
        await channel.channel_ready()
        began = time.perf_counter() + 4.0
        await asyncio.gather(*[_person(stub, answers, k, readings, seconds_apart, began) for k in range(people)])
    return answers


async def _person(stub: Any, answers: Answers, k: int, count: int, apart: float, began: float) -> None:
    """A person of the past whose readings come faster than life; the answers count up to the newest."""
    last = int(time.time()) - 300 * count
    history = [pb.Reading(value=100 + (7 * k + n) % 60) for n in range(40)]
    for n, reading in enumerate(history):
        reading.time.seconds = last - 300 * (40 - n)
    await asyncio.sleep(k / 400)  # hundreds in one instant are refused, to come again
    stream = stub.Monitor()
    start = pb.MonitorStart(patient_id=f"person-{k}", unit=pb.MG_DL, utc_offset_minutes=0, history=history)
    await stream.write(pb.MonitorRequest(start=start))
    for n in range(count):
        await asyncio.sleep(max(0.0, began + n * apart + apart * (k % 97) / 97 - time.perf_counter()))
        reading = pb.Reading(value=100 + (7 * k + n) % 60)
        reading.time.seconds = last + 300 * n
        answers.sent += 1
        sent = time.perf_counter()
        await stream.write(pb.MonitorRequest(reading=reading))
        answer = await stream.read()
        answers.codes[answer.WhichOneof("outcome")] += 1
        answers.seconds.append(time.perf_counter() - sent)
    await stream.done_writing()
    assert await stream.read() == grpc.aio.EOF
