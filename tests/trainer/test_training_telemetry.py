"""What Prometheus sees of training: names, numbers, what is gone when a driver is, and that nobody is named."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import wait_for
from test_cluster import dies_once, raises

from forecasting.errors import InvalidSetting
from trainer.parallel import Job, cluster, run_jobs, run_trials
from trainer.progress import Progress, Report
from trainer.room import Share
from trainer.training_telemetry import (
    BEST_LOSS,
    EPOCH_TIME,
    EPOCHS,
    RETRIES,
    SERIES,
    TRIAL_STATES,
    TRIAL_TIME,
    TRIALS,
    Series,
    TrialTelemetry,
    exported,
)
from trainer.trials import Ended, Heard, Trial

ROOT = Path(__file__).resolve().parents[2]
PATIENT = "adult_002"
TAUGHT = {"student": "bert-tiny", "teacher": "bert-mini"}
ALONE = {"student": "bert-tiny", "teacher": ""}
Labels = frozenset[tuple[str, str]]


def ignore(*_) -> None:
    pass


class Recorded:
    """What was recorded, series by series: gauges as last set, counters and histograms as sums."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, Labels], float] = {}

    def __call__(self, series: Series, value: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(series.labels)
        place = series.name, frozenset(labels.items())
        before = 0 if series.kind == "gauge" else self.values.get(place, 0)
        self.values[place] = before + value

    def of(self, series: Series, **labels: str) -> float:
        return self.values[series.name, frozenset(labels.items())]

    def states(self) -> dict[str, float]:
        return {state: self.of(TRIALS, status=state) for state in TRIAL_STATES}


def trial(name: str, group: str = PATIENT, arm: dict[str, str] = TAUGHT, epochs=ignore, arguments=None) -> Trial:
    return Trial(name, group, 2, epochs, arguments or {}, **arm)


def test_every_trial_is_in_one_state_and_none_waits_or_runs_when_it_is_over():
    recorded = Recorded()
    telemetry = TrialTelemetry([trial(name) for name in "abcd"], recorded)
    assert recorded.states() == {"waiting": 4, "running": 0, "finished": 0, "stopped": 0, "failed": 0}
    for name in "abc":
        telemetry.began(name)
    telemetry.ended(Ended("a", "finished", (1.0,), seconds=7.0))
    telemetry.ended(Ended("b", "failed", ()))
    telemetry.retry("c", "lost")
    assert recorded.states() == {"waiting": 2, "running": 0, "finished": 1, "stopped": 0, "failed": 1}
    telemetry.began("c")
    assert recorded.states() == {"waiting": 1, "running": 1, "finished": 1, "stopped": 0, "failed": 1}
    telemetry.close()
    assert recorded.states() == {"waiting": 0, "running": 0, "finished": 1, "stopped": 0, "failed": 1}
    assert recorded.of(RETRIES, reason="lost") == 1
    assert recorded.of(TRIAL_TIME, **TAUGHT, status="finished") == 7


def test_the_best_loss_of_an_arm_is_a_mean_over_patients_so_that_an_easy_one_does_not_hide_the_others():
    recorded = Recorded()
    trials = [trial("a1", "a"), trial("a2", "a"), trial("b", "b"), trial("alone", "a", ALONE)]
    telemetry = TrialTelemetry(trials, recorded)
    for name, loss in (("a1", 3.0), ("a2", 1.0), ("a1", 2.0), ("b", 5.0), ("alone", 9.0)):
        telemetry.epoch(name, loss, 0.5)
    assert recorded.of(BEST_LOSS, **TAUGHT) == (1.0 + 5.0) / 2
    assert recorded.of(BEST_LOSS, **ALONE) == 9.0
    assert recorded.of(EPOCHS, **TAUGHT) == 4
    assert recorded.of(EPOCH_TIME, **TAUGHT) == 2.0


def test_no_label_names_a_patient_or_a_trial():
    recorded = Recorded()
    name = f"{PATIENT} bert-tiny alone lr0.001 seed1"
    telemetry = TrialTelemetry([trial(name)], recorded)
    telemetry.began(name)
    telemetry.epoch(name, 1.0, 1.0)
    telemetry.retry(name, "raised")
    telemetry.ended(Ended(name, "failed", (1.0,), f"{PATIENT} diverged"))
    telemetry.close()
    said = {value for _, labels in recorded.values for _, value in labels}
    assert said == {*TAUGHT.values(), *TRIAL_STATES, "raised"}


def test_series_are_declared_once_and_histograms_alone_have_buckets():
    names = [name for series in SERIES for name in series.exported]
    assert len(names) == len(set(names))
    assert all(bool(series.buckets) == (series.kind == "histogram") for series in SERIES)
    assert all(list(series.buckets) == sorted(set(series.buckets)) for series in SERIES)


# ---------------------------------------------------------------- on a cluster, over HTTP


class Page:
    """What a metrics port said at one time."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples: dict[str, list[tuple[dict[str, str], float]]] = {}  # of our series, with their labels
        for name, labels, value in re.findall(r"^(ray_glucast_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)
            self.samples.setdefault(name, []).append(found)

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one sample with these labels."""
        fitting = [value for own, value in self.samples.get(name, []) if labels.items() <= own.items()]
        assert len(fitting) < 2, name
        return fitting[0] if fitting else None

    def states(self) -> dict[str, float]:
        return {labels["status"]: value for labels, value in self.samples.get("ray_glucast_trials", [])}


class Machine:
    """A Ray cluster of one machine with two CPUs."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        often = {"metrics_report_interval_ms": 2000}
        head = {"num_cpus": 2, "metrics_export_port": self.port, "_system_config": often}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)

    def page(self) -> Page:
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return Page(answer.read().decode())

    def states(self) -> dict[str, float]:
        return self.page().states()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # trials that are defined here
    made = Machine()
    monkeypatch.setenv("RAY_ADDRESS", made.cluster.address)
    yield made
    made.cluster.shutdown()


def scripted(losses: list[float]) -> Iterator[float]:
    yield from losses


def counts(windows: int, report: Report) -> None:
    report(Progress(windows, 2 * windows, "half"))


@pytest.mark.cluster
def test_prometheus_sees_what_became_of_jobs_and_trials(machine, tmp_path):
    trials = [
        trial(f"{PATIENT} good", PATIENT, TAUGHT, scripted, {"losses": [3.0, 1.0]}),
        trial(f"{PATIENT} alone", PATIENT, ALONE, scripted, {"losses": [4.0, 2.0]}),
        trial(f"{PATIENT} dies", "other", TAUGHT, dies_once, {"folder": tmp_path, "name": "dies"}),
        trial(f"{PATIENT} fails", "other", ALONE, raises, {"error": InvalidSetting}),
        trial(f"{PATIENT} raises", "other", ALONE, raises, {"error": ZeroDivisionError}),
    ]
    reasons: dict[str, list[str]] = {}
    seen: list[dict[str, float]] = []

    def look_at_job(name: str, progress: Progress) -> None:
        wait_for(lambda: machine.page().value("ray_glucast_job_done_ratio", work=name) == 0.5)

    def look(*_) -> None:
        if not seen:  # at the first epoch, which goes on when it has been seen
            seen.append(wait_for(lambda: (found := machine.states()).get("running") and found))

    with cluster():
        run_jobs([Job("teacher bert-mini", counts, {"windows": 5})], look_at_job)
        heard = Heard(look, lambda name, why: reasons.setdefault(name, []).append(why), ignore)
        run_trials(trials, Share(1), tmp_path, None, heard)
        last = {"waiting": 0, "running": 0, "finished": 3, "stopped": 0, "failed": 2}
        wait_for(lambda: machine.states() == last)
        page = machine.page()  # whole: Ray takes a report in series by series
    assert seen[0]["running"] in (1, 2)
    assert seen[0]["waiting"] in (3, 4)
    assert page.value("ray_glucast_trial_epochs_total", **TAUGHT) == 4
    assert page.value("ray_glucast_trial_epochs_total", **ALONE) == 4
    assert page.value("ray_glucast_trial_epoch_seconds_count", **TAUGHT) == 4
    assert page.value("ray_glucast_trial_seconds_count", **ALONE, status="failed") == 2
    assert page.value("ray_glucast_trial_retries_total", reason="lost") == 1
    assert page.value("ray_glucast_trial_retries_total", reason="raised") == 3
    assert reasons == {
        f"{PATIENT} dies": ["its process or its machine was lost"],
        f"{PATIENT} raises": ["ZeroDivisionError: it cannot be done"] * 3,
    }
    assert page.value("ray_glucast_best_validation_loss", **TAUGHT) == (1.0 + 0.5) / 2  # of two patients
    assert page.samples.keys() | {"ray_glucast_job_done_ratio"} == exported()
    assert PATIENT not in page.text


DRIVER = """
from pathlib import Path
from test_training_telemetry import ignore, sleeps, trial
from trainer.parallel import cluster, run_trials
from trainer.room import Share
from trainer.trials import Heard
with cluster():
    run_trials([trial("long", epochs=sleeps)], Share(1), Path(r"{folder}"), None, Heard(ignore, ignore, ignore))
"""


def sleeps() -> Iterator[float]:
    while True:
        yield 1.0
        time.sleep(0.2)


@pytest.mark.cluster
def test_trials_are_seen_as_long_as_their_driver_lives_and_no_longer(machine, tmp_path):
    """Ray drops gauges that nobody sets again after 20 s, and a killed driver cannot say that nothing runs."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(folder=tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: machine.states().get("running") == 1)
        time.sleep(30)
        assert machine.states().get("running") == 1
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_for(lambda: machine.states() == {})
    assert machine.page().value("ray_glucast_trial_epochs_total", **TAUGHT)  # what was done stays
