"""Placement, peers and early stopping on a real cluster of several nodes."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from machines import processes_of, small_sweep, states, wait_for

from forecasting.bundle import read_bundle
from forecasting.errors import InvalidSetting
from forecasting.windows import cut_all
from trainer.parallel import JobFailed, cluster, require_shared, run_trials
from trainer.room import Share
from trainer.stages import stages_on_ray
from trainer.teacher import open_trained
from trainer.trials import Ended, Heard, Stopping, Trial

pytestmark = pytest.mark.cluster


def ignore(*_) -> None:
    pass


UNHEARD = Heard(ignore, ignore, ignore)


def waits(folder: Path, name: str, others: int) -> Iterator[float]:
    """A trial that notes when it runs, and ends when `others` are running or have run."""
    (folder / f"{name}.began").write_text(str(time.time()))
    (folder / f"{name}.device").write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {torch.cuda.is_available()}")
    end = time.monotonic() + 90
    while len(list(folder.glob("*.began"))) < others and time.monotonic() < end:
        time.sleep(0.05)
    yield 1.0
    time.sleep(1)
    (folder / f"{name}.ended").write_text(str(time.time()))


def most_at_once(folder: Path) -> int:
    changes = [(float(p.read_text()), 1 if p.suffix == ".began" else -1) for p in folder.glob("*.*ed")]
    changes += [(float(p.read_text()), 1) for p in folder.glob("*.began")]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def test_eight_trials_share_two_declared_gpus_and_a_ninth_waits(machines, tmp_path):
    machines.add_node(num_cpus=12, num_gpus=2)
    trials = [Trial(f"t{k}", "", 1, waits, {"folder": tmp_path, "name": f"t{k}", "others": 8}) for k in range(10)]
    with cluster() as room:
        assert (room.cpus, room.gpus) == (12, 2)
        ended = run_trials(trials, Share(1, 0.25), tmp_path, None, UNHEARD)
    assert {(one.status, one.error) for one in ended} == {("finished", "")}
    assert most_at_once(tmp_path) == 8
    devices = {path.read_text() for path in tmp_path.glob("*.device")}
    assert {device.split()[0] for device in devices} == {"0", "1"}  # Ray gave each its GPU
    assert {device.split()[1] for device in devices} == {str(torch.cuda.is_available())}  # torch says whether it is one


def test_more_gpus_than_there_are_is_refused_before_anything_is_trained(machines, small_table, tmp_path, registry):
    from trainer.sweep import run_sweep

    machines.add_node(num_cpus=2, num_gpus=1)
    settings = small_sweep(small_table, tmp_path, sweep__gpus_per_trial=2.0, sweep__distil_weights=[0.5])
    began = time.monotonic()
    with pytest.raises(InvalidSetting, match=r"asks for 1 CPUs, 2 GPUs.*the cluster has 2 machines.*2 CPUs, 1 GPUs"):
        run_sweep(settings, registry, ignore, ignore)
    assert time.monotonic() - began < 30
    assert not (settings.runs / "teachers").exists()
    (run,) = registry.client.search_runs([registry.experiment_id()])
    assert run.info.status == "KILLED"


def scripted(losses: list[float], folder: Path, name: str) -> Iterator[float]:
    for epoch, loss in enumerate(losses, 1):
        with (folder / f"{name}.epochs").open("a") as file:
            file.write(f"{epoch} ")
        yield loss


def test_asha_stops_the_worse_of_a_patient_and_compares_no_patients(machines, tmp_path):
    """The hard patient's best is far above the easy one's worst, and still goes to its end."""
    machines.add_node(num_cpus=1)  # one after another, so that each meets those before it
    losses = {f"{patient}-{k}": [level + k] * 9 for patient, level in (("easy", 0), ("hard", 100)) for k in range(6)}
    trials = [
        Trial(name, name.split("-")[0], 9, scripted, {"losses": values, "folder": tmp_path, "name": name})
        for name, values in losses.items()
    ]
    with cluster():
        ended = run_trials(trials, Share(1), tmp_path, Stopping(grace_epochs=3, reduction=3), UNHEARD)
    by_name = {one.name: one for one in ended}
    for patient in ("easy", "hard"):
        assert by_name[f"{patient}-0"].status == "finished"
        assert [by_name[f"{patient}-{k}"].status for k in range(1, 6)] == ["stopped"] * 5
        assert {len(by_name[f"{patient}-{k}"].losses) for k in range(1, 6)} == {3}
    assert (tmp_path / "hard-5.epochs").read_text().split() == ["1", "2", "3"]


def dies_once(folder: Path, name: str) -> Iterator[float]:
    yield 1.0
    mark = folder / f"{name}.died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    yield 0.5


def raises(error: type[Exception]) -> Iterator[float]:
    yield 1.0
    raise error("it cannot be done")


def test_a_lost_process_is_tried_again_an_error_of_ours_is_not_and_others_go_on(machines, tmp_path):
    machines.add_node(num_cpus=2)
    trials = [
        Trial("dies", "", 2, dies_once, {"folder": tmp_path, "name": "dies"}),
        Trial("ours", "", 2, raises, {"error": InvalidSetting}),
        Trial("theirs", "", 2, raises, {"error": ZeroDivisionError}),
    ]
    retries, ends = [], []
    heard = Heard(ignore, lambda name, why: retries.append((name, why)), lambda one: ends.append(one.name))
    with cluster():
        ended = run_trials(trials, Share(1), tmp_path, None, heard)
    dies, ours, theirs = ended
    assert (dies.status, dies.losses) == ("finished", (1.0, 0.5))
    assert (ours.status, ours.error) == ("failed", "it cannot be done")
    assert theirs.status == "failed"
    assert "ZeroDivisionError: it cannot be done" in theirs.error
    assert sorted(ends) == ["dies", "ours", "theirs"]
    assert [name for name, _ in retries].count("dies") == 1
    assert [name for name, _ in retries].count("theirs") == 3
    assert "ours" not in dict(retries)
    assert isinstance(dies, Ended)


def teacher_of(settings, cohort, runs: Path, watch=ignore) -> Path:
    with stages_on_ray(cohort, runs, ignore, watch) as stages:
        return stages.teacher(settings)


def test_a_teacher_of_two_workers_equals_one_of_one_worker(machines, small_table, tmp_path, cohort):
    """Windows and batches of odd numbers, targets with holes, dropout 0: the same teacher up to rounding."""
    machines.add_node(num_cpus=1)
    machines.add_node(num_cpus=1)
    settings = small_sweep(
        small_table,
        tmp_path,
        teacher_training__epochs=3,
        teacher_training__max_windows=103,
        teacher_training__batch_size=17,
        teacher__freeze="norms",
    )
    folders = [
        teacher_of(settings.model_copy(update={"teacher_workers": workers}), cohort, tmp_path / f"of-{workers}")
        for workers in (1, 2)
    ]
    assert folders[0].name == folders[1].name
    one, two = (read_bundle(folder).metrics["validation_loss"] for folder in folders)
    assert len(one) == 3
    assert one == pytest.approx(two, rel=1e-5)
    windows = cut_all(cohort.everyone, settings.shape, "validation")[:100]
    forecasts = [
        open_trained(folder, settings.teacher, 1)[0].forecaster().predict(windows.context, windows.minute_of_day)
        for folder in folders
    ]
    apart = np.abs(forecasts[0].quantiles - forecasts[1].quantiles).max()
    assert apart < 0.02, f"{apart} mg/dL"


def test_a_teacher_whose_worker_is_killed_goes_on_without_repeating_an_epoch(machines, small_table, tmp_path, cohort):
    machines.add_node(num_cpus=1)
    settings = small_sweep(small_table, tmp_path, teacher_training__epochs=12, teacher_training__patience=12)
    from concurrent.futures import ThreadPoolExecutor

    def kill() -> None:
        wait_for(lambda: states(settings.runs))
        processes_of("RayTrainWorker")[0].kill()

    notes: list[str] = []
    beside = ThreadPoolExecutor(1).submit(kill)
    disturbed = teacher_of(
        settings, cohort, settings.runs, lambda name, progress: notes.append(progress.note) if progress.note else None
    )
    beside.result()
    assert [note.split(":")[0] for note in notes] == [f"epoch {k}" for k in range(1, 13)]
    assert not states(settings.runs)
    calm = teacher_of(settings, cohort, tmp_path / "calm")
    one, two = (load_file(folder / "weights.safetensors") for folder in (disturbed, calm))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_machine_that_does_not_see_the_folder_of_the_runs_stops_everything(machines, tmp_path, monkeypatch):
    machines.add_node(num_cpus=1)
    with cluster():
        require_shared(tmp_path)
        monkeypatch.setattr("os.path.isfile", unseen)
        with pytest.raises(JobFailed, match=r"does not see .*; give a folder that all 2 machines share"):
            require_shared(tmp_path)


def unseen(_) -> bool:
    """What a machine says that does not mount the folder."""
    return False


def test_an_address_where_no_ray_is_says_so(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(JobFailed, match=r"Ray does not answer at 127\.0\.0\.1:9"), cluster():
        pass


def test_a_share_is_said_in_words():
    assert str(replace(Share(2, 0.5), memory=1_500_000_000)) == "2 CPUs, 0.5 GPUs, 1.5 GB"
