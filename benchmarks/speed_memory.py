"""Peak memory, each case in a process of its own.

python -m benchmarks.speed_memory CASE    runs one case; its last line is JSON
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
import torch

from benchmarks.measuring import Findings, in_fresh_process
from benchmarks.peer_timellm import peak_memory_mb
from benchmarks.subjects import (
    PAPER_PROTOTYPES,
    TEACHER,
    exported,
    paper_form,
    paper_step,
    step_of,
    student,
    teacher,
)
from benchmarks.verdicts import Goal
from forecasting.forecaster import open_session

BATCH, STEPS = 32, 3
CPU = "CPUExecutionProvider"
MB = 1e6


def training() -> Findings:
    """A process that trains, its libraries included; and what it takes beyond them."""
    found = Findings(
        f"Peak memory of training, batch of {BATCH}, MB", ("what", "whole process", "beyond the libraries", "x")
    )
    peaks = {case: in_fresh_process("benchmarks.speed_memory", case) for case in TRAINED}
    paper = peaks["paper teacher"]
    for case, peak in peaks.items():
        base = peaks["paper student"] if "student" in case else paper
        found.add(
            what=case,
            **{
                "whole process": peak["peak"],
                "beyond the libraries": peak["peak"] - peak["before"],
                "x": base["peak"] / peak["peak"],
            },
        )
    share = peaks["teacher"]["peak"] / paper["peak"]
    found.goals = [Goal("teacher: share of the paper form's peak", share, 0.5)]
    found.notes.append("the paper's prototypes are 30.5 M numbers, with a gradient and two means of Adam for each")
    return found


def serving() -> Findings:
    """A student opened as the service opens it, and fifty personal ones beside each other, a batch of 64 of each."""
    found = Findings(
        "Memory of students that serve, MB", ("what", "files", "opened", "after a batch of 64 of each", "arenas apart")
    )
    for name, count in (("bert-tiny", 1), ("bert-tiny", 50), ("minilm", 4)):
        shared, apart = (in_fresh_process("benchmarks.speed_memory", "serve", name, str(count), k) for k in ARENAS)
        found.add(
            what=f"{count} x {name}",
            files=shared["files"] / MB,
            opened=shared["opened"] / MB,
            **{"after a batch of 64 of each": shared["after"] / MB, "arenas apart": apart["after"] / MB},
        )
    found.notes.append("beyond the process before it, in which libraries are loaded")
    return found


ARENAS = {"shared": open_session, "apart": lambda content: ort.InferenceSession(content, providers=[CPU])}
TRAINED: dict[str, Callable[[], Callable[[], object]]] = {
    "paper teacher": lambda: paper_step(paper_form(TEACHER), BATCH),
    "teacher, the paper's prototypes": lambda: step_of(teacher(**PAPER_PROTOTYPES), BATCH),
    "teacher": lambda: step_of(teacher(), BATCH),
    "teacher, --gradient-checkpointing": lambda: step_of(teacher(), BATCH, gradient_checkpointing=True),
    "paper student": lambda: paper_step(paper_form("bert-tiny"), BATCH),
    "student": lambda: step_of(student("bert-tiny"), BATCH),
}


def _train(case: str) -> dict[str, float]:
    before = peak_memory_mb()
    step = TRAINED[case]()
    for _ in range(STEPS):
        step()
    return {"before": before, "peak": peak_memory_mb()}


def _serve(name: str, count: int, arena: str) -> dict[str, int]:
    """One after the other in a process that has not run the exporter, whose leavings would be used again."""
    path = Path(in_fresh_process("benchmarks.speed_memory", "export", name)["path"])
    content, x = path.read_bytes(), np.random.default_rng(0).normal(size=(64, 36, 5)).astype(np.float32)
    path.unlink()
    before = psutil.Process().memory_info().rss
    sessions = [ARENAS[arena](content) for _ in range(count)]
    opened = psutil.Process().memory_info().rss - before
    for session in sessions:
        session.run(["y"], {"x": x})
    return {
        "files": count * len(content),
        "opened": opened,
        "after": psutil.Process().memory_info().rss - before,
    }


def _export(name: str) -> dict[str, str]:
    with exported(student(name)) as bundle, tempfile.NamedTemporaryFile(suffix=".onnx", delete=False) as kept:
        kept.write(bundle.read("model.onnx"))
    return {"path": kept.name}


def main() -> None:
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["serve", name, count, arena]:
            found: object = _serve(name, int(count), arena)
        case ["export", name]:
            found = _export(name)
        case [case]:
            found = _train(case)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
