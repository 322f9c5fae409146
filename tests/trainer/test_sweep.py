"""Sweeps: what they lay out, whom they skip, what they choose, and what they leave behind."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import small_sweep

from forecasting.errors import InvalidSetting
from forecasting.registry import Registry
from forecasting.windows import distinct
from trainer.leaderboard import configurations_of, write_leaderboard
from trainer.room import Room, Share
from trainer.settings import SweepSettings, build_settings
from trainer.sweep import plan_sweep, publish_sweep, run_sweep, share_of
from trainer.sweep_record import TrialRecord, read_record

ROOT = Path(__file__).resolve().parents[2]


def ignore(*_) -> None:
    pass


def test_every_combination_is_a_trial_and_a_student_alone_is_one_whatever_the_teacher(small_table, tmp_path):
    pairs = [{"teacher": "bert-tiny", "student": "bert-tiny"}, {"teacher": "bert-mini", "student": "bert-tiny"}]
    plan = plan_sweep(
        small_sweep(
            small_table,
            tmp_path,
            sweep__pairs=pairs,
            sweep__distil_weights=[0, 0.5],
            sweep__learning_rates=[0.001, 0.01],
            data__patients="all,each",
        ),
        ignore,
    )
    # 3 targets x 2 rates x 2 seeds x (alone, taught by either)
    assert len(plan.combinations) == 3 * 2 * 2 * 3
    assert len({c.name for c in plan.combinations}) == len(plan.combinations)
    assert plan.teachers == ["bert-tiny", "bert-mini"]
    assert {c.patient for c in plan.combinations} == {None, "adult_002", "child_008"}


def test_the_key_changes_with_what_a_trial_depends_on_and_not_with_where_it_is_kept(small_table, tmp_path):
    def key(**changes):
        return plan_sweep(small_sweep(small_table, tmp_path, **changes), ignore).key

    same = key()
    assert key(runs=tmp_path / "elsewhere") == same
    assert key(name="other") == same
    assert len({same, key(sweep__seeds=[1]), key(student_training__epochs=9), key(data__patients="all")}) == 4


def test_a_patient_without_enough_data_is_reported_and_skipped_and_the_others_are_not(small_table, tmp_path):
    table = pd.read_csv(small_table)
    short = table[table.patient_id == "child_008"].head(60).assign(patient_id="brief")
    short["glucose_mg_dl"] += 1  # another person
    path = tmp_path / "some.csv"
    pd.concat([table, short]).to_csv(path, index=False)
    said = []
    plan = plan_sweep(small_sweep(path, tmp_path, data__patients="each"), said.append)
    assert list(plan.skipped) == ["brief"]
    assert any("skipped: brief of some has 0 windows" in sentence for sentence in said)
    assert {c.patient for c in plan.combinations} == {"adult_002", "child_008"}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("[sweep]\nseed = [1]\n", "sweep.seed: extra inputs are not permitted"),
        ("[sweeep]\n", "sweeep: extra inputs are not permitted"),
        ("[sweep]\nseeds = []\n", "sweep.seeds: is empty, so that the sweep has no trial"),
        ("[sweep]\nseeds = [1, 1]\n", "sweep.seeds: names a value twice"),
        ("[sweep]\ndistil_weights = [1.5]\n", "sweep.distil_weights.0: input should be less than or equal to 1"),
        ("[sweep]\nstudents = ['bert-tiny', 'prajjwal1/bert-tiny']\n", "the same pair of backbones twice"),
        ("[sweep]\nstudents = ['gpt2']\n", "GPT2 is not supported for student"),
        (
            "[sweep]\nstudents = ['bert-tiny']\npairs = [{teacher = 'bert', student = 'bert-tiny'}]\n",
            "sweep: give pairs, or students of the one teacher, not both",
        ),
        ("name = 'a b'\n", "name: string should match pattern"),
        ("[data]\npatients = []\n", "no patient was named"),
        ("[data]\npatients = ['nobody']\n", "there is no patient nobody in virtual"),
        ("seeds = [1\n", "is not readable as TOML"),
    ],
)
def test_bad_sweep_files_are_one_sentence_and_exit_code_1(written, sentence, tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(written)
    command = [sys.executable, "-m", "trainer", "sweep", str(path), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_of_the_repository_is_planned():
    command = [sys.executable, "-m", "trainer", "sweep", "trainer/runs/sweep.toml", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "24: 3 patients x 1 students x 2 teacher weights x 2 learning rates x 2 seeds" in done.stdout


ROOM = Room((Share(2, 0.0, 8_000_000_000), Share(4, 1.0, 16_000_000_000)))


@pytest.mark.parametrize(
    ("share", "count", "fits"),
    [
        (Share(1, 0.25, 1_500_000_000), 4, True),
        (Share(1, 0.25, 1_500_000_000), 5, False),
        (Share(4), 1, True),
        (Share(5), 1, False),  # six CPUs, and no machine with five
        (Share(1, 2.0), 1, False),
        (Share(1, 0.0, 17_000_000_000), 1, False),
    ],
)
def test_more_than_a_cluster_has_is_refused_with_the_numbers(share, count, fits):
    if fits:
        ROOM.require(share, count)
        return
    with pytest.raises(
        InvalidSetting, match=r"the cluster has 2 machines with 2 CPUs, 0 GPUs, 8\.0 GB; 4 CPUs, 1 GPUs"
    ):
        ROOM.require(share, count)


def test_a_worker_gets_the_most_cpus_that_leave_room_for_all():
    assert [ROOM.cpus_for(workers) for workers in (1, 2, 3, 6, 9)] == [4, 2, 2, 1, 1]


def test_students_share_gpus_where_there_are_some(small_table, tmp_path):
    grid = small_sweep(small_table, tmp_path).sweep
    assert share_of(grid, 0).gpus == 0
    assert share_of(grid, 2).gpus == 0.25
    assert share_of(grid.model_copy(update={"gpus_per_trial": 0.5}), 0).gpus == 0.5  # asked for: refused, not dropped


@pytest.fixture(scope="module")
def swept(small_table, tmp_path_factory):
    """A whole sweep: two patients x two seeds x alone and taught."""
    folder = tmp_path_factory.mktemp("swept")
    registry = Registry(f"sqlite:///{folder}/registry/mlflow.db", folder / "cache", create=True)
    settings = small_sweep(
        small_table, folder, sweep__distil_weights=[0, 0.5], student_training__epochs=2, data__patients="each"
    )
    heard: list[tuple[str, int, int]] = []

    def watch(name, progress) -> None:
        heard.append((name, progress.done, progress.total))

    record, place = run_sweep(settings, registry, ignore, watch)
    published = publish_sweep(record, place, registry, ignore, ignore)
    return settings, registry, record, place, published, heard


def test_a_teacher_passes_over_each_window_once_in_a_whole_sweep(swept):
    settings, _, _, _, _, heard = swept
    plan = plan_sweep(settings, ignore)
    windows = distinct(data.train for data in plan.data.values())
    passes = [(done, total) for name, done, total in heard if name.startswith("forecasts of")]
    assert passes[-1] == (len(windows), len(windows))
    files = list((settings.runs / "teacher_forecasts").glob("*.npz"))
    assert len(files) == 2  # a patient each; four students of each patient read them


def test_a_sweep_that_is_run_again_adds_nothing(swept):
    settings, registry, record, folder, _, _ = swept
    said = []
    again, place = run_sweep(settings, registry, said.append, ignore)
    assert said == [f"sweep {folder.name}: kept from an equal run"]
    assert again == record == read_record(place)
    assert [one.is_new for one in publish_sweep(again, place, registry, ignore, ignore)] == [False, False]


def test_a_larger_sweep_trains_what_is_new_alone(swept):
    settings, registry, _, _, _, _ = swept
    larger = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"seeds": (1, 2, 3)})})
    said = []
    record, _ = run_sweep(larger, registry, said.append, ignore)
    assert "students: 4 to train, 8 kept from equal runs" in said
    assert any("0 windows to compute" in sentence for sentence in said)
    assert len(record.trials) == 12
    assert {trial.status for trial in record.trials} == {"finished"}


def test_the_student_of_lowest_validation_loss_is_published_as_challenger_through_the_gate(swept):
    _, registry, record, _, published, _ = swept
    for one in published:
        own = [trial for trial in record.trials if trial.patient == one.trial.patient]
        assert one.trial.loss == min(trial.loss for trial in own)
        assert one.version.name == f"small-{one.trial.patient}"
        bundle = registry.fetch(registry.resolve(f"{one.version.name}/1"))
        assert bundle.metrics["test"]["protocol"]["part"] == "test"
        assert set(one.scores) >= {"persistence", "ridge_personal", "student_distilled"}
        assert one.promotion.decision.reasons


def test_every_trial_is_a_nested_run_with_its_settings_scores_report_and_bundle(swept):
    settings, registry, record, _, _, _ = swept
    client, experiment = registry.client, registry.experiment_id()
    parents = client.search_runs([experiment], f"tags.`glucast.sweep` = '{record.key}'")
    assert [run.info.run_name for run in parents] == [settings.name]
    assert {file.path for file in client.list_artifacts(parents[0].info.run_id)} == {
        "settings.json",
        "leaderboard.html",
    }
    nested = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'")
    assert sorted(run.info.run_name for run in nested) == sorted(trial.name for trial in record.trials)
    for run in nested:
        trial = next(trial for trial in record.trials if trial.name == run.info.run_name)
        assert run.data.params["seed"] == str(trial.seed)
        assert run.data.params["patient"] == trial.patient
        losses = client.get_metric_history(run.info.run_id, "validation_loss")
        assert [metric.value for metric in losses] == list(trial.losses)
        assert run.data.metrics["validation_rmse_30"] == trial.validation["30"]["rmse"]
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"report.json", "bundle"}


def test_no_file_of_the_sweep_in_mlflow_names_a_folder_of_the_machine(swept):
    _, registry, record, _, _, _ = swept
    run = registry.client.search_runs([registry.experiment_id()], f"tags.`glucast.trial` = '{record.trials[0].key}'")[0]
    report = registry.client.download_artifacts(run.info.run_id, "report.json")
    assert "folder" not in json.loads(Path(report).read_text())


def test_the_leaderboard_escapes_what_it_shows_and_stands_alone(swept, tmp_path):
    _, _, record, _, _, _ = swept
    hostile = record.trials[0].model_copy(update={"status": "failed", "error": "<script>alert(1)</script>"})
    path = tmp_path / "board.html"
    write_leaderboard(record.model_copy(update={"trials": (hostile, *record.trials[1:])}), path)
    page = path.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?(?:https?:)?//', page)
    assert page.count("<svg") == 2


def test_a_configuration_with_a_trial_that_did_not_finish_has_no_mean(swept):
    _, _, record, _, _, _ = swept
    assert all(configuration.rmse for configuration in configurations_of(record))
    stopped = record.trials[0].model_copy(update={"status": "stopped", "validation": {}, "folder": None})
    one, other = configurations_of(record.model_copy(update={"trials": (stopped, *record.trials[1:])}))
    assert one.whole
    assert not other.whole
    assert other.rmse == {}
    assert (other.finished, other.of) == (3, 4)


def test_means_are_over_patients_and_spreads_over_seeds(swept):
    _, _, record, _, _, _ = swept
    values = {("a", 1): 10.0, ("b", 1): 20.0, ("a", 2): 14.0, ("b", 2): 22.0}
    trials = [trial_with(record.trials[0], patient, seed, rmse) for (patient, seed), rmse in values.items()]
    (only,) = configurations_of(record.model_copy(update={"trials": tuple(trials)}))
    assert only.rmse["30"] == (16.5, pytest.approx(4.5**0.5))  # seeds: 15 and 18


def trial_with(like: TrialRecord, patient: str, seed: int, rmse: float) -> TrialRecord:
    return like.model_copy(
        update={"patient": patient, "seed": seed, "validation": {"30": {"rmse": rmse}, "60": {"rmse": rmse}}}
    )


def test_a_sweep_without_a_taught_student_trains_no_teacher(small_table, tmp_path):
    plan = plan_sweep(small_sweep(small_table, tmp_path), ignore)
    assert plan.teachers == []
    assert replace(plan, skipped={}).key == plan.key


def test_flags_alone_make_a_sweep(small_table):
    settings = build_settings(
        None,
        {"sweep.seeds": ["1", "2"], "sweep.distil_weights": ["0", "0.5"], "sweep.learning_rates": ["1e-3"]},
        SweepSettings,
    )
    assert settings.sweep.seeds == (1, 2)
    assert settings.sweep.distil_weights == (0.0, 0.5)
    assert settings.sweep.learning_rates == (0.001,)
