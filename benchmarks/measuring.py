"""Times, memory and the machine, the same way for every figure: after a warm-up, medians with their range."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.verdicts import Goal, console

LIBRARIES = ("torch", "onnxruntime", "transformers", "numpy", "pandas")


@dataclass(frozen=True)
class Times:
    """Of one piece of work, in seconds: medians over the rounds, and the range of the wall time.

    cpu: of the process, all threads together; more than wall where several threads worked
    """

    wall: float
    cpu: float
    fastest: float
    slowest: float
    rounds: int

    def __str__(self) -> str:
        """Median and range, in milliseconds."""
        return f"{_ms(self.wall)} ({_ms(self.fastest)}–{_ms(self.slowest)})"


def timed(work: Callable[[], object], rounds: int = 7, warm_up: int = 2, seconds: float = 20.0) -> Times:
    """Run `work` a few times unmeasured, then `rounds` times, or at least three where that takes too many `seconds`."""
    for _ in range(warm_up):
        work()
    wall: list[float] = []
    cpu: list[float] = []
    began = time.perf_counter()
    while len(wall) < rounds and (len(wall) < 3 or time.perf_counter() - began < seconds):
        at, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - at)
        cpu.append(time.process_time() - spent)
    return Times(statistics.median(wall), statistics.median(cpu), min(wall), max(wall), len(wall))


@dataclass
class Findings:
    """What one benchmark saw: a table for people, rows for programs."""

    title: str
    columns: Sequence[str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def show(self) -> None:
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*(_cell(row.get(column, "")) for column in self.columns))
        console.print(table)
        for line in (*self.notes, *self.goals):
            console.print(str(line), highlight=False)

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        rows = [{k: asdict(v) if isinstance(v, Times) else v for k, v in row.items()} for row in self.rows]
        goals = [asdict(goal) | {"is_met": goal.is_met} for goal in self.goals]
        return {"title": self.title, "rows": rows, "notes": self.notes, "goals": goals}


def machine() -> dict[str, Any]:
    """What a figure was measured on. Names no host and no folder."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads_of_torch": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "gemm_gflops": round(gemm_rate() / 1e9, 1),
        "load_before": round(psutil.getloadavg()[0], 2),
    }


@cache
def gemm_rate(size: int = 2048) -> float:
    """fp32 floating-point operations per second of the largest product that stays busy, measured once a process."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / timed(lambda: a @ b, rounds=9).fastest


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in `work`, forwards and backwards, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()  # type: ignore[no-any-return]


def write_json(path: Path, described: dict[str, Any], found: Sequence[Findings]) -> None:
    content = {"machine": described, "benchmarks": [one.plain() for one in found]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def in_fresh_process(module: str, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run `python -m module arguments`; its last line is JSON. For memory, and for another environment."""
    ran = subprocess.run([python, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def make_environment(folder: Path, requirements: Path) -> Path:
    """A virtual environment for a peer, from wherever pip is set up for; returns its python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [str(python), "-I", "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
    subprocess.run(install, check=True)
    return python


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"
