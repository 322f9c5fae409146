"""What breaks while a sweep runs, on a real cluster of several nodes: nothing is lost, nothing is published twice."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import PATIENTS, processes_of, small_sweep, states, wait_for, write_file

from forecasting.errors import RegistryUnavailable
from forecasting.registry import Registry
from trainer.sweep import publish_sweep, run_sweep
from trainer.sweep_record import SweepRecord, pending_sweeps

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
TRIALS = 4


def ignore(*_) -> None:
    pass


@pytest.fixture
def nodes(machines):
    """Two machines with one CPU each."""
    return [machines.add_node(num_cpus=1) for _ in range(2)]


@pytest.fixture(scope="session")
def undisturbed(small_table, tmp_path_factory) -> dict[str, list[float]]:
    """Losses of the same sweep where nothing breaks: {trial: by epoch}."""
    folder = tmp_path_factory.mktemp("undisturbed")
    registry = Registry(f"sqlite:///{folder}/registry/mlflow.db", folder / "cache", create=True)
    record, _ = run_sweep(small_sweep(small_table, folder), registry, ignore, ignore)
    return {trial.name: list(trial.losses) for trial in record.trials}


def breaking(how) -> Future:
    """Do it beside the sweep; its result() raises what went wrong with it."""
    return ThreadPoolExecutor(1).submit(how)


def in_mid_training(runs: Path) -> bool:
    """Is a trial past some epochs, and not at its end?"""
    return any(time.time() - path.parent.stat().st_ctime > 0.5 for path in states(runs))


def assert_nothing_lost(record: SweepRecord, undisturbed: dict[str, list[float]]) -> None:
    assert [trial.status for trial in record.trials] == ["finished"] * TRIALS
    # bit for bit: no epoch was skipped, and none counted twice
    assert {trial.name: list(trial.losses) for trial in record.trials} == undisturbed


def assert_published_once(record: SweepRecord, folder: Path, registry: Registry) -> None:
    for again in (False, True):
        published = publish_sweep(record, folder, registry, ignore, ignore)
        assert [one.version.version for one in published] == ["1", "1"]
        assert [one.is_new for one in published] == [not again] * 2
    runs = registry.client.search_runs([registry.experiment_id()], "tags.`glucast.trial` != ''")
    assert sorted(run.info.run_name for run in runs) == sorted(trial.name for trial in record.trials)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_trial_whose_process_is_killed_goes_on(small_table, tmp_path, registry, nodes, undisturbed):
    settings = small_sweep(small_table, tmp_path)

    def kill() -> None:
        wait_for(lambda: in_mid_training(settings.runs))
        victim = processes_of("Trainable")[0]
        victim.send_signal(signal.SIGKILL)

    beside = breaking(kill)
    record, folder = run_sweep(settings, registry, ignore, ignore)
    beside.result()
    assert_nothing_lost(record, undisturbed)
    assert_published_once(record, folder, registry)


def test_a_node_that_is_removed_takes_no_trial_with_it(small_table, tmp_path, registry, machines, nodes, undisturbed):
    settings = small_sweep(small_table, tmp_path)

    def remove() -> None:
        wait_for(lambda: in_mid_training(settings.runs) and len(processes_of("Trainable")) == 2)
        machines.remove_node(nodes[0], allow_graceful=False)

    beside = breaking(remove)
    record, folder = run_sweep(settings, registry, ignore, ignore)
    beside.result()
    assert_nothing_lost(record, undisturbed)
    assert_published_once(record, folder, registry)


def sweep_command(settings_file: Path, tmp_path: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "trainer", "sweep", str(settings_file), "--runs", str(tmp_path / "runs")]
    return [*command, "--registry", f"sqlite:///{tmp_path}/registry/mlflow.db", *more]


def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(small_table, tmp_path, registry, undisturbed):
    settings = small_sweep(small_table, tmp_path)
    command = sweep_command(write_file(settings, tmp_path / "sweep.toml"), tmp_path)
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    finished = wait_for(lambda: list((settings.runs / "students").glob("*/MANIFEST.json")))
    wait_for(lambda: states(settings.runs))
    driver.kill()
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in finished}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kept from equal runs" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a finished trial was trained again"
    record, folder = run_sweep(settings, registry, ignore, ignore)
    assert_nothing_lost(record, undisturbed)
    published = publish_sweep(record, folder, registry, ignore, ignore)
    assert [(one.version.version, one.is_new) for one in published] == [("1", False)] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own takes root")
def test_a_full_disk_costs_its_own_trial_alone_and_only_until_there_is_room(
    small_table, tmp_path, registry, undisturbed
):
    settings = small_sweep(small_table, tmp_path)
    unfinished = settings.runs / "students" / "unfinished"
    victims: list[Path] = []

    def fill() -> None:
        state = wait_for(lambda: states(settings.runs))[0]
        victims.append(state.parent)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", str(state.parent)], check=True)

    beside = breaking(fill)
    try:
        record, folder = run_sweep(settings, registry, ignore, ignore)
        beside.result()
    finally:
        for victim in victims:
            subprocess.run(["umount", str(victim)], check=True)
    (failed,) = record.failed
    assert "No space left" in failed.error
    assert sum(trial.status == "finished" for trial in record.trials) == TRIALS - 1
    assert list(unfinished.iterdir()) == victims
    again, folder = run_sweep(settings, registry, ignore, ignore)
    assert_nothing_lost(again, undisturbed)
    assert_published_once(again, folder, registry)


def test_a_registry_that_is_down_at_the_end_gets_everything_later(small_table, tmp_path, registry, undisturbed):
    settings = small_sweep(small_table, tmp_path)
    record, folder = run_sweep(settings, registry, ignore, ignore)
    command = [sys.executable, "-m", "trainer", "publish", "--pending", "--runs", str(settings.runs), "--registry"]
    with pytest.raises(RegistryUnavailable):
        publish_sweep(record, folder, Registry("http://127.0.0.1:9", tmp_path / "cache"), ignore, ignore)
    down = subprocess.run([*command, "http://127.0.0.1:9"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert down.returncode == 1
    assert "publish --pending" in down.stderr
    assert pending_sweeps(settings.runs) == [folder]
    up = f"sqlite:///{tmp_path}/registry/mlflow.db"
    for said in ("champion", "nothing is pending"):
        done = subprocess.run([*command, up], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert_nothing_lost(record, undisturbed)
    assert [registry.resolve(f"small-{patient}/1").version for patient in PATIENTS.split(",")] == ["1", "1"]
    assert registry.find(f"small-{PATIENTS.split(',')[0]}/2") is None
