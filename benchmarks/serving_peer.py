"""The inference service against MLServer: one network, machine and load, and one protocol (Open Inference).

    python -m benchmarks.serving_peer [--peer-python P]

MLServer runs in an environment of its own (benchmarks/peer_mlserver), its adaptive batching on, with the largest batch,
the wait and the threads of the service. It is treated kindly: it takes the network's own normalised input and runs
the session, while the service takes mg/dL, checks and normalises them, and answers in mg/dL. The answers of both are
compared with the network itself before anything is measured.
"""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import onnx
import typer
from onnx import helper, numpy_helper
from rich.table import Table

from benchmarks.measuring import make_environment
from benchmarks.service_under_test import PEOPLE, Shelf, stocked
from benchmarks.serving_sides import PEER, Side, bundle_of, sides_of
from benchmarks.verdicts import Goal, console, spread
from forecasting.bundle import read_bundle, write_bundle

ENVIRONMENT = Path("runs/mlserver")  # kept between runs
AT_ONCE = (1, 16, 64)
WAIT_SECONDS, LONG_WAIT_SECONDS = 0.002, 0.4  # of a batch for more; the long one leaves time to cancel a call
PATIENCE_SECONDS = 4.0  # until a call whose mate was cancelled is given up
TRIALS = 5
WORK, PRODUCTS = 1024, 12  # so many products of such matrices: about half a second on one core

app = typer.Typer()


@dataclass(frozen=True)
class Round:
    """What a number of calls took. milliseconds: (calls,)"""

    per_cpu_second: float
    per_second: float
    milliseconds: np.ndarray


@app.command()
def peer(
    peer_python: Annotated[
        Path | None,
        typer.Option(help="of an environment with benchmarks/peer_mlserver/requirements.txt"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="rounds; the median counts, the range is shown")] = 5,
    calls: Annotated[int, typer.Option(min=64, help="calls of a round, and fewer where one is sent at a time")] = 2000,
) -> None:
    """Requests per CPU second, latency and memory beside MLServer's; and who pays where a call is cancelled."""
    python = peer_python or make_environment(ENVIRONMENT, PEER / "requirements.txt")
    with tempfile.TemporaryDirectory() as folder:
        ratios = compare_cost(python, Path(folder), rounds, calls)
    with tempfile.TemporaryDirectory() as folder:
        answered = compare_cancelled(python, Path(folder))
    what = "requests per CPU second against MLServer's better arrangement"
    goals = [Goal(f"{what}, {at_once} at once", ratio, 1.0, at_most=False) for at_once, ratio in ratios.items()]
    goals.append(Goal("share of calls answered although their mate was cancelled", answered, 1.0, at_most=False))
    for goal in goals:
        console.print(str(goal))
    if not all(goal.is_met for goal in goals):
        raise typer.Exit(1)


def compare_cost(python: Path, folder: Path, rounds: int, calls: int) -> dict[int, float]:
    """{calls at once: how many times the requests per CPU second of MLServer's better arrangement}, medians"""
    shelf = stocked(folder)
    with sides_of(python, shelf, WAIT_SECONDS) as sides:
        seen: dict[int, list[dict[str, Round]]] = {at_once: [] for at_once in AT_ONCE}
        for at_once in AT_ONCE:
            for _ in range(rounds + 1):
                seen[at_once].append({side.name: asked(side, min(calls, 500 * at_once), at_once) for side in sides})
            del seen[at_once][0]  # the warm-up
        show_cost(sides, seen)
    ours, *_, alone, with_worker = (side.name for side in sides)
    return {
        at_once: statistics.median(
            one[ours].per_cpu_second / max(one[alone].per_cpu_second, one[with_worker].per_cpu_second) for one in each
        )
        for at_once, each in seen.items()
    }


def asked(side: Side, calls: int, at_once: int) -> Round:
    """So many calls, so many of them under way at a time."""
    before, began = side.cpu_seconds, time.perf_counter()
    seconds = asyncio.run(_asked(side, calls, at_once))
    passed = time.perf_counter() - began
    return Round(calls / (side.cpu_seconds - before), calls / passed, 1e3 * np.array(seconds))


async def _asked(side: Side, calls: int, at_once: int) -> list[float]:
    """Seconds that each call took; the messages are bytes, so that the caller costs little."""
    seconds = []
    async with grpc.aio.insecure_channel(side.address) as channel:
        call: Any = channel.unary_unary(side.method)

        async def caller(first: int) -> None:
            for k in range(first, calls, at_once):
                began = time.perf_counter()
                await call(side.payloads[k % PEOPLE])
                seconds.append(time.perf_counter() - began)

        await asyncio.gather(*[caller(k) for k in range(at_once)])
    return seconds


def show_cost(sides: Sequence[Side], seen: dict[int, list[dict[str, Round]]]) -> None:
    table = Table("at once", "", "requests per CPU second", "requests/s", "p50, ms", "p99, ms", "memory, MB")
    for at_once, each in seen.items():
        for side in sides:
            rounds = [one[side.name] for one in each]
            p50, p99 = np.percentile(np.concatenate([one.milliseconds for one in rounds]), [50, 99])
            cpu, wall = ([one.per_cpu_second for one in rounds], [one.per_second for one in rounds])
            figures = spread(cpu), spread(wall), f"{p50:.1f}", f"{p99:.1f}", f"{side.memory_mb:.0f}"
            table.add_row(str(at_once), side.name, *figures)
    console.print(table)


def compare_cancelled(python: Path, folder: Path) -> float:
    """The share of the service's calls that were answered although their mate in the batch was cancelled."""
    shelf = slowed(stocked(folder))
    table = Table("the mate of a call cancelled", "while they waited", "while they were computed", "traces in the log")
    answered = []
    with sides_of(python, shelf, LONG_WAIT_SECONDS) as sides:
        for side in sides:
            before = side.log.read_text().count("Traceback")  # asked before its model was there
            whole = asyncio.run(mate_of(side, None))[1]
            moments = LONG_WAIT_SECONDS / 2, LONG_WAIT_SECONDS + (whole - LONG_WAIT_SECONDS) / 4
            fates = [[asyncio.run(mate_of(side, moment)) for _ in range(TRIALS)] for moment in moments]
            traces = side.log.read_text().count("Traceback")
            table.add_row(side.name, *map(_told, fates), str(traces - before))
            if side.name.startswith("glucast"):
                answered += [fate == "answered" for each in fates for fate, _ in each]
    console.print(table)
    return statistics.mean(answered)


def _told(fates: Sequence[tuple[str, float]]) -> str:
    counts = Counter(fate for fate, _ in fates)
    longest = max(seconds for _, seconds in fates)
    return f"{', '.join(f'{count} of {len(fates)} {fate}' for fate, count in counts.items())}; longest {longest:.2f} s"


async def mate_of(side: Side, cancelled_after: float | None) -> tuple[str, float]:
    """Two calls of one batch, the first cancelled after so many seconds: what became of the other, after how long."""
    async with grpc.aio.insecure_channel(side.address) as channel:
        await channel.channel_ready()
        call: Any = channel.unary_unary(side.method)
        began = time.perf_counter()
        first = call(side.payloads[0])
        await asyncio.sleep(0.02)  # so that it is the first
        mate = call(side.payloads[1])  # without a deadline, which the service would look at before it accepts it
        if cancelled_after is not None:
            await asyncio.sleep(began + cancelled_after - time.perf_counter())
            first.cancel()
        try:
            answer = await asyncio.wait_for(mate, PATIENCE_SECONDS)
            fate = "answered" if side.answers_right(answer, 1) else "answered with wrong numbers"
        except TimeoutError:
            fate = "not answered"
        except grpc.aio.AioRpcError as error:
            fate = error.code().name
        return fate, time.perf_counter() - began


def slowed(shelf: Shelf) -> Shelf:
    """The same network, champion now, with work that changes nothing: there is time to cancel a call meanwhile."""
    before, folder = bundle_of(shelf), shelf.folder / f"student-{len(shelf.versions) + 1}"
    network = onnx.load(before / "model.onnx")
    for node in network.graph.node:
        node.output[:] = ["forecast" if name == "y" else name for name in node.output]
    network.graph.initializer.append(numpy_helper.from_array(np.zeros((WORK, WORK), np.float32), "zeros"))
    network.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["x"], ["level"], keepdims=0),  # else all is computed once, at the start
            helper.make_node("Mul", ["zeros", "level"], ["work0"]),
            *[helper.make_node("MatMul", [f"work{k}", f"work{k}"], [f"work{k + 1}"]) for k in range(PRODUCTS)],
            helper.make_node("ReduceMean", [f"work{PRODUCTS}"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["forecast", "nothing"], ["y"]),
        ]
    )
    folder.mkdir()
    onnx.save(network, folder / "model.onnx")
    version, _ = shelf.registry.publish(write_bundle(folder, read_bundle(before).spec, {}, {}), {})
    shelf.registry.promote(version, {})
    return replace(shelf, versions=(*shelf.versions, version))


if __name__ == "__main__":
    app()
