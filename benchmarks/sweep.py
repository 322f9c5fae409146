"""What a sweep costs on this machine: against one training after another, per trial, in memory; and a plan from that.

    python -m benchmarks.sweep ratio       8 equal trials of a minute: side by side against one after another
    python -m benchmarks.sweep overhead    16 small students: time between trials of one process
    python -m benchmarks.sweep memory      peak memory as the number of trials grows
    python -m benchmarks.sweep plan        12 patients x 5 pairs x 5 seeds on 8 GPUs, from measured constants

Run alone on the machine: figures are ratios within one run. Ray's own start is left out, that of its workers is not.
"""

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table

from forecasting.readers.datasets import load_cohort
from forecasting.windows import WindowShape
from trainer.catalogue import find_backbone
from trainer.distil import StudentData, StudentRun, student_data, train_student
from trainer.model_sizes import measure_cost
from trainer.parallel import cluster, run_trials
from trainer.room import Room, Share
from trainer.settings import TEACHER_DEFAULTS, ModelSettings, TrainingSettings
from trainer.trials import Heard, Trial

SHAPE = WindowShape()
STUDENT = ModelSettings(backbone="bert-tiny", weights="random", stride=6, d_ff=32)
PAIRS = (
    ("bert", "bert-tiny"),
    ("bert", "distilbert"),
    ("distilbert", "bert-tiny"),
    ("mobilebert", "bert-tiny"),
    ("albert", "minilm"),
)
UNHEARD = Heard(lambda *_: None, lambda *_: None, lambda _: None)
app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
console = Console()


@dataclass(frozen=True)
class Ran:
    """One training as it ran: seconds since the epoch, and the process."""

    name: str
    pid: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@app.command()
def ratio(trials: int = 8, seconds: Annotated[float, typer.Option(help="Of each trial, at least.")] = 60.0) -> None:
    """Equal trials, one thread each in both arms: wall time side by side over one after another. Goal: 0.62."""
    with tempfile.TemporaryDirectory() as folder:
        data = _data(1)[0]
        epochs = _epochs_for(seconds, data, Path(folder) / "calibration")
        serial, side_by_side, room = _both_arms(trials, [data], epochs, Path(folder))
    _tell_arms(serial, side_by_side, room)
    shortest = min(ran.seconds for ran in serial.trainings)
    assert shortest >= seconds, f"a trial took {shortest:.0f} s, not {seconds:.0f}: the ratio would flatter"
    console.print(f"ratio {side_by_side.wall / serial.wall:.3f} (goal 0.62 on two cores)")


@app.command()
def overhead(trials: int = 16, epochs: int = 3) -> None:
    """Small students of eight patients: what is lost between the trials of one process. Goal: 5 s after the first."""
    with tempfile.TemporaryDirectory() as folder:
        serial, side_by_side, room = _both_arms(trials, _data(8), epochs, Path(folder))
    _tell_arms(serial, side_by_side, room)
    gaps = _gaps(side_by_side.trainings)
    first = min(ran.began for ran in side_by_side.trainings) - side_by_side.began
    lost = (side_by_side.wall * room.cpus - sum(r.seconds for r in serial.trainings)) / trials
    console.print(f"before the first trial (workers start, libraries load): {first:.1f} s")
    console.print(f"between two trials of a process: median {statistics.median(gaps):.3f} s, most {max(gaps):.3f} s")
    console.print(f"per trial, all that parallel slots did not spend as serial training did: {lost:.2f} s")


@app.command()
def memory(counts: str = "2,4,8,16", epochs: int = 1) -> None:
    """Peak of the proportional set sizes (PSS) of Ray's workers and the driver, for more and more trials."""
    table = Table("trials", "peak PSS, MB", "largest process, MB", title="Memory, shared pages counted once")
    data = _data(8)
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory() as folder, cluster() as room, _Peak() as peak:
            _side_by_side(_trials(count, data, epochs, Path(folder)), room, Path(folder))
        table.add_row(str(count), f"{peak.together / 1e6:.0f}", f"{peak.largest / 1e6:.0f}")
    console.print(table)


@app.command()
def plan(
    patients: int = 12,
    seeds: int = 5,
    gpus: int = 8,
    windows: Annotated[int, typer.Option(help="Training windows of a patient.")] = 7500,
    epochs: int = 20,
    teacher_windows: int = 90_000,
    teacher_epochs: int = 3,
) -> None:
    """Hours of a large sweep, from steps measured here on one thread. An upper bound where a quarter of a GPU is
    no slower than one CPU thread; early stopping is left out.
    """
    torch.set_num_threads(1)
    steps = {name: _step(name, {}) for name in dict.fromkeys(student for _, student in PAIRS)}
    taught = {name: _step(name, TEACHER_DEFAULTS) for name in dict.fromkeys(teacher for teacher, _ in PAIRS)}
    table = Table("stage", "unit", "ms a window", "hours of one thread", title="Plan")
    total_teachers = 0.0
    for name, seconds in taught.items():
        # a forecast is a forward pass: a third of a training step
        hours = seconds * (teacher_windows * teacher_epochs + patients * windows / 3) / 3600
        total_teachers = max(total_teachers, hours)
        table.add_row("teacher and its forecasts", name, f"{1000 * seconds:.2f}", f"{hours:.1f}")
    students = []
    for teacher, student in PAIRS:
        hours = steps[student] * windows * epochs / 3600
        students += [hours] * patients * seeds
        unit, each = f"{teacher} → {student}", f"{1000 * steps[student]:.2f}"
        table.add_row(f"{patients * seeds} students", unit, each, f"{hours * patients * seeds:.1f}")
    console.print(table)
    slots = 4 * gpus
    wall = max(sum(students) / slots, max(students))
    console.print(
        f"{len(students)} trials in {slots} slots ({gpus} GPUs at 0.25): {sum(students):.0f} thread hours, "
        f"at least {wall:.1f} h; {len(students) / slots:.1f} trials in each slot"
    )


@dataclass(frozen=True)
class Arm:
    """When it began, how long all of it took, and its trainings."""

    began: float
    wall: float
    trainings: list[Ran]


def _both_arms(count: int, data: list[StudentData], epochs: int, folder: Path) -> tuple[Arm, Arm, Room]:
    began = time.time()
    torch.set_num_threads(1)
    for trial in _trials(count, data, epochs, folder / "serial"):
        for _ in trial.epochs(**trial.arguments):
            pass
    serial = Arm(began, time.time() - began, _ledger(folder / "serial"))
    with cluster() as room:
        began = time.time()
        _side_by_side(_trials(count, data, epochs, folder / "parallel"), room, folder)
        return serial, Arm(began, time.time() - began, _ledger(folder / "parallel")), room


def _side_by_side(trials: list[Trial], room: Room, folder: Path) -> None:
    room.require(Share(1))
    failed = [one.error for one in run_trials(trials, Share(1), folder, None, UNHEARD) if one.status != "finished"]
    assert not failed, failed


def _trials(count: int, data: list[StudentData], epochs: int, folder: Path) -> list[Trial]:
    training = TrainingSettings(epochs=epochs, patience=epochs, batch_size=64)
    run = StudentRun("virtual", None, SHAPE, STUDENT, training, 0.0, "", "")
    return [
        Trial(
            f"trial-{k}",
            "",
            epochs,
            noted,
            {
                "run": replace(run, training=training.model_copy(update={"seed": k})),
                "data": data[k % len(data)],
                "folder": folder / f"trial-{k}",
            },
        )
        for k in range(count)
    ]


def noted(run: StudentRun, data: StudentData, folder: Path) -> Iterator[float]:
    """train_student, and a line about when and where it ran."""
    began = time.time()
    yield from train_student(run, data, None, folder)
    line = {"name": folder.name, "pid": os.getpid(), "began": began, "ended": time.time()}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(line))


def _ledger(folder: Path) -> list[Ran]:
    return sorted((Ran(**json.loads(p.read_text())) for p in folder.glob("*.json")), key=lambda ran: ran.began)


def _gaps(trainings: list[Ran]) -> list[float]:
    """Seconds between the end of a training and the begin of the next in the same process."""
    by_pid: dict[int, list[Ran]] = {}
    for ran in trainings:
        by_pid.setdefault(ran.pid, []).append(ran)
    return [b.began - a.ended for own in by_pid.values() for a, b in pairwise(own)]


def _data(patients: int) -> list[StudentData]:
    cohort = load_cohort("virtual")
    return [student_data(cohort, series.patient_id, SHAPE, None) for series in cohort.everyone[:patients]]


def _epochs_for(seconds: float, data: StudentData, folder: Path) -> int:
    """Epochs that take a fifth longer than so many seconds, from the time of three."""
    torch.set_num_threads(1)
    taken = []
    for trial in _trials(1, [data], 4, folder):
        began = time.perf_counter()
        for _ in trial.epochs(**trial.arguments):
            taken.append(time.perf_counter() - began)
            began = time.perf_counter()
    return round(1.2 * seconds / statistics.median(taken[1:]))


def _step(name: str, kind: dict[str, object]) -> float:
    """Seconds of a training step for each of its windows."""
    settings = ModelSettings.model_validate({**kind, "backbone": name, "weights": "random"})
    cost = measure_cost(find_backbone(name), settings)
    return cost.step_seconds / cost.step_windows


def _tell_arms(serial: Arm, side_by_side: Arm, room: Room) -> None:
    title = f"{len(serial.trainings)} trials, {room.cpus} CPUs"
    table = Table("arm", "wall, s", "a trial: least", "median", "most", title=title)
    for name, arm in (("one after another", serial), ("side by side", side_by_side)):
        seconds = sorted(ran.seconds for ran in arm.trainings)
        shown = (arm.wall, seconds[0], statistics.median(seconds), seconds[-1])
        table.add_row(name, *(f"{value:.1f}" for value in shown))
    console.print(table)


class _Peak:
    """Samples memory of the driver and of Ray's workers while a block runs."""

    def __enter__(self) -> "_Peak":
        self.together = self.largest = 0
        self.ended = threading.Event()
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.sampler.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self.ended.wait(0.25):
            sizes = [_pss(process) for process in (me, *me.children(recursive=True))]
            self.together, self.largest = max(self.together, sum(sizes)), max(self.largest, *sizes)


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it ended meanwhile
        return 0


if __name__ == "__main__":
    app()
