"""`ray job submit` to a running cluster that asks for a token: what is uploaded, told, returned and stopped."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import processes_of, small_sweep, states, wait_for, write_file

from forecasting.registry import Registry

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class Head:
    """A running cluster of one node, and how its owner talks to it."""

    address: str
    home: Path
    environment: dict[str, str]

    def ray(self, *arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", arguments[0], "--address", self.address, *arguments[1:]]
        environment = self.environment | more
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    def submit(self, *entrypoint: str, cwd: Path = ROOT, wait: bool = True) -> subprocess.CompletedProcess[str]:
        path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
        environment = json.dumps({"env_vars": {"HOME": str(self.home), "PATH": path}})
        waiting = () if wait else ("--no-wait",)
        arguments = ("submit", "--working-dir", ".", "--runtime-env-json", environment, *waiting, "--", *entrypoint)
        return self.ray(*arguments, cwd=cwd)

    @property
    def registry(self) -> Registry:
        """Where a job keeps its models when it is told no other place."""
        return Registry(f"sqlite:///{self.home}/glucast/registry/mlflow.db", self.home / "cache")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    port, dashboard = free_port(), free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | token
    command = [RAY, "start", "--head", "--block", "--port", str(port), "--dashboard-port", str(dashboard)]
    command += ["--num-cpus", "2", "--temp-dir", f"/tmp/glucast-{port}", "--include-dashboard", "true"]
    command += ["--dashboard-agent-listen-port", str(free_port())]  # another Ray of this machine may have Ray's own
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    made = Head(f"http://127.0.0.1:{dashboard}", folder, environment)
    try:
        wait_for(lambda: made.ray("submit", "--", "true").returncode == 0)  # its agent starts after it answers
        yield made
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(30)
        shutil.rmtree(f"/tmp/glucast-{port}", ignore_errors=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The repository as it is checked out, with what collects in one."""
    folder = tmp_path_factory.mktemp("checkout") / "glucast"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for litter in ("data/real/person/readings.csv", ".venv/lib/torch.so", "runs/students/x", "registry/mlflow.db"):
        (folder / litter).parent.mkdir(parents=True, exist_ok=True)
        (folder / litter).write_text("not to be uploaded")
    return folder


@pytest.fixture(scope="module")
def sweep_file(checkout, small_table) -> Path:
    settings = small_sweep(small_table, Path("."), runs="runs", student_training__epochs=3)
    return write_file(settings, checkout / "trainer" / "runs" / "job.toml").relative_to(checkout)


def test_nobody_gets_in_without_the_token(head):
    for wrong in ("", secrets.token_hex(32)):
        refused = head.ray("list", RAY_AUTH_TOKEN=wrong, HOME=str(head.home))
        assert refused.returncode != 0
        assert "uthenticat" in refused.stdout + refused.stderr


def test_the_upload_holds_the_code_and_neither_data_nor_environments(head, checkout):
    done = head.submit("find", ".", "-type", "f", cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [line.removeprefix("./") for line in done.stdout.splitlines() if line.startswith("./")]
    assert {"trainer/runs/sweep.toml", "trainer/templates/leaderboard.html", "forecasting/cgm.py"} <= set(files)
    bundled = [f for f in files if f.startswith("data/") and f.endswith((".csv", ".parquet", ".xml"))]
    assert bundled == ["data/sim/simglucose_t1d_30x56.parquet"]
    assert not [f for f in files if f.split("/")[0] in (".venv", ".git", "runs", "registry", "tests")]
    assert not [f for f in files if "__pycache__" in f]


def test_a_sweep_is_a_job_with_progress_in_its_log_and_results_that_outlive_it(head, checkout, sweep_file):
    done = head.submit("python", "-m", "trainer", "sweep", str(sweep_file), cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("a Ray job: relative results go to", "  students: 50 %", "seed1: done, validation", "leaderboard "):
        assert line in done.stdout
    assert head.registry.resolve("small-adult_002/1").version == "1"
    again = head.submit("python", "-m", "trainer", "sweep", str(sweep_file), cwd=checkout)
    assert again.returncode == 0
    assert "kept from an equal run" in again.stdout
    assert head.registry.find("small-adult_002/2") is None


def test_the_exit_code_of_a_job_tells_the_truth(head, checkout):
    done = head.submit("python", "-m", "trainer", "sweep", "trainer/runs/none.toml", cwd=checkout)
    assert done.returncode != 0
    assert "there is no run file" in done.stdout


def test_a_stopped_job_leaves_the_registry_consistent_and_goes_on_when_submitted_again(head, checkout, small_table):
    settings = small_sweep(small_table, Path("."), runs="runs", name="stopped", student_training__epochs=25)
    path = write_file(settings, checkout / "trainer" / "runs" / "stopped.toml").relative_to(checkout)
    command = ("python", "-m", "trainer", "sweep", str(path))
    submitted = head.submit(*command, cwd=checkout, wait=False)
    job = next(word.strip("'") for word in submitted.stdout.split() if "raysubmit_" in word)
    wait_for(lambda: states(head.home / "glucast" / "runs"))
    client, experiment = head.registry.client, head.registry.experiment_id()

    def runs(where: str):
        return client.search_runs([experiment], where)

    def nested():
        parents = runs("tags.`mlflow.runName` = 'stopped'")
        return parents and runs(f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'")

    wait_for(nested)
    stopped = head.ray("stop", job)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "was stopped" in head.ray("status", job).stdout
    wait_for(lambda: not processes_of("Trainable"))
    assert [run.info.status for run in runs("tags.`mlflow.runName` = 'stopped'")] == ["KILLED"]
    assert {run.info.status for run in nested()} == {"FINISHED"}
    done = head.submit(*command, cwd=checkout)
    assert done.returncode == 0, done.stdout
    assert [run.info.status for run in runs("tags.`mlflow.runName` = 'stopped'")] == ["FINISHED"]
    assert len(nested()) == 4
