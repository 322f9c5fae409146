"""Small sweeps, and what the tests that disturb them look for."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from tiny import TINY

from trainer.settings import SweepSettings, build_settings

PATIENTS = "adult_002,child_008"


def small_sweep(table: Path, tmp_path: Path, **changes) -> SweepSettings:
    """Four trials, two patients x two seeds, of a student that trains in seconds and whose teacher is none."""
    options = TINY | {
        "data.dataset": str(table),
        "data.patients": PATIENTS,
        "runs": tmp_path / "runs",
        "teacher_training.max_windows": 100,
        "student.num_layers": 1,
        "student_training.epochs": 20,
        "student_training.patience": 20,
        "max_test_windows": 100,
        "boosting": False,
        "alarms": False,
        "sweep.seeds": [1, 2],
        "sweep.distil_weights": [0.0],
        "sweep.early_stopping": "none",
        "sweep.memory_per_trial_gb": 0.5,
    }
    options |= {name.replace("__", "."): value for name, value in changes.items()}
    return build_settings(None, options, SweepSettings)


def wait_for(happened: Callable[[], object], seconds: float = 90) -> object:
    """What it returns, once that is true; a test that waits in vain fails."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return found


def states(runs: Path) -> list[Path]:
    """States of trainings that are not finished."""
    return sorted(runs.glob("*/unfinished/*/state.pt"))


def processes_of(kind: str) -> list[psutil.Process]:
    """Ray's processes whose title names this kind of actor."""
    found = []
    for process in psutil.process_iter():
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and kind in title:
            found.append(process)
    return found


def write_file(settings: SweepSettings, path: Path) -> Path:
    """The settings as a sweep file."""

    def lines(table: dict, prefix: str = "") -> list[str]:
        plain = {k: v for k, v in table.items() if not isinstance(v, dict) and v is not None}
        found = ([f"[{prefix}]"] if prefix else []) + [f"{k} = {json.dumps(v)}" for k, v in plain.items()]
        for name, inner in table.items():
            if isinstance(inner, dict):
                found += lines(inner, f"{prefix}.{name}" if prefix else name)
        return found

    path.write_text("\n".join(lines(settings.model_dump(mode="json"))) + "\n")
    return path
