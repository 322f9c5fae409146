"""The whole path on real parts: Ray, two tiny models, ONNX, MLflow on SQLite."""

import json
import os
import re
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest

from forecasting.bundle import read_bundle
from forecasting.errors import InvalidSetting, RegistryUnavailable, RoleRefused
from forecasting.registry import Registry
from trainer.evaluate import BASELINES, BOOSTING
from trainer.pipeline import STUDENT, Outcome, run_pipeline

ROOT = Path(__file__).resolve().parents[2]


def ignore(*_) -> None:
    pass


def run(arguments: list[str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/registry/mlflow.db",
        "HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_a_second_run_publishes_nothing_new_and_ends_well(settings, registry):
    (first,) = run_pipeline(settings, registry, ignore, ignore)
    heard = []
    (second,) = run_pipeline(settings, registry, heard.append, ignore)
    assert first.is_new
    assert not second.is_new
    assert second.version.version == first.version.version == "1"
    assert [line.split(": ")[1] for line in heard[1:4]] == [
        "kept from an equal run",
        "0 windows to compute, 300 kept",
        "0 to train, 2 kept from equal runs",
    ]
    assert set(first.evaluation.arms) >= {*BASELINES, BOOSTING, "teacher", STUDENT}
    assert first.evaluation.arms == second.evaluation.arms
    assert first.evaluation.alarms == second.evaluation.alarms
    the_page_says_it_all_and_names_nobody(first, registry)


def the_page_says_it_all_and_names_nobody(outcome: Outcome, registry: Registry) -> None:
    page = outcome.page.read_text()
    assert outcome.page == outcome.report.with_suffix(".html")
    assert not re.search(r"<script|(src|href)=[^>]{0,3}(https?:|/|file:)", page)
    assert not re.search("adult_002|child_008", page)  # a file of whoever: its people have no names
    for said in (outcome.bundle.digest, "LightGBM", "Training", "Size and speed", *outcome.verdicts):
        assert said in page or escape(said) in page, said
    run_id = registry.client.get_model_version(outcome.version.name, outcome.version.version).run_id
    assert outcome.page.name in [file.path for file in registry.client.list_artifacts(run_id)]
    assert read_bundle(outcome.bundle.folder).metrics["train_loss"]


def test_the_users_command_distils_a_personal_student_of_patient_570(tmp_path):
    maker = ROOT / "data" / "scripts" / "make_ohio_like_xml.py"
    data = tmp_path / "OhioT1DM"
    simulated = ROOT / "data" / "sim" / "simglucose_t1d_30x56.parquet"
    patients = "adult_002:2018:570,adult_009:2020:584"
    made = ["--sim", str(simulated), "--out", str(data), "--patients", patients, "--train-days", "8"]
    subprocess.run([sys.executable, str(maker), *made], check=True)
    settings = tmp_path / "run.toml"
    settings.write_text(
        f'runs = "{tmp_path}/runs"\ngate = "persistence"\nmax_test_windows = 100\n'
        "[teacher]\nnum_layers = 1\nnum_prototypes = 8\n[teacher_training]\nmax_windows = 64\n"
        "[student]\nnum_layers = 1\n[student_training]\nmax_windows = 200\n"
    )
    command = ["bash", "distill_pipeline.sh", "--run", str(settings), "--data-dir", str(tmp_path)]
    command += "--teacher bert-mini --student prajjwal1/bert-tiny --patients 570 --dataset ohiot1dm".split()
    command += "--teacher-weights random --student-weights random --alpha 0.7 --beta 0.3 --seed 3".split()
    command += "--teacher-epochs 1 --student-epochs 2 --distill-epochs 2 --lr 0.001 --batch-size 32".split()
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ohiot1dm-570 version 1" in done.stdout
    assert done.stdout.rstrip().endswith("-report.html")
    evaluated = run(
        [sys.executable, "-m", "trainer", "evaluate", "--model", "ohiot1dm-570@challenger", "--dataset", "ohiot1dm"]
        + ["--data-dir", str(tmp_path), "--patients", "570", "--json", "--report", f"{tmp_path}/page.html"],
        tmp_path,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads(evaluated.stdout)
    assert report["model"]["version"] == "1"
    assert set(report["arms"]) == {*BASELINES, BOOSTING, "ohiot1dm-570"}
    (page,) = tmp_path.glob("*.html")
    assert not re.search(r"\b(570|584)\b", re.sub("<img[^>]*>|[0-9a-f]{64}", "", page.read_text()))
    assert set(report["arms"]["ohiot1dm-570"]["mean"]) == {"30", "60"}
    bundle = Registry(f"sqlite:///{tmp_path}/registry/mlflow.db", tmp_path / "other").fetch
    origin = bundle(Registry(f"sqlite:///{tmp_path}/registry/mlflow.db").resolve("ohiot1dm-570/1")).origin
    assert origin["teacher_weight"] == pytest.approx(0.3)
    assert origin["patient"] == "570"


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path):
    before = sorted(ROOT.glob("*"))
    command = "distill_pipeline.sh --teacher bert --student tinybert --patients 570 --dataset ohiot1dm --dry-run"
    done = run(["bash", *command.split()], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0.5 · truth + 0.5 · teacher" in done.stdout
    assert not (tmp_path / "registry").exists()
    assert sorted(ROOT.glob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pipeline", "--student", "llama"], "LLAMA is not supported for student"),
        (["pipeline", "--teacher", "bird"], "there is no backbone 'bird'"),
        (["pipeline", "--dataset", "nowhere"], "there is no data set or file 'nowhere'"),
        (["pipeline", "--patients", "nobody"], "there is no patient nobody in virtual"),
        (["pipeline", "--alpha", "-1", "--beta", "0"], "must not be negative"),
        (["evaluate", "--model", "virtual-population"], "there is no registry at"),
        (["rollback", "--model", "virtual-population"], "there is no registry at"),
        (["publish", "nowhere"], "MANIFEST.json"),
        (["pipeline"], "cannot be fetched from the model hub"),
        (["models", "check", "bert-tiny"], "cannot be fetched from the model hub"),
        (["models", "check", "bert-tini"], "did you mean"),
        (["models", "check", "prajjwal1/bert-tinny"], "did you mean prajjwal1/bert-tiny"),
        (["pipeline", "--teacher", "bert-large"], "go past the matrix with --allow-unsupported"),
        (["pipeline", "--quantiles", "0.1,0.9"], "odd number"),
        (["pipeline", "--teacher-layers", "99", "--teacher-weights", "random"], "num_layers is 99, BERT has 12"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(arguments, sentence, tmp_path):
    done = run([sys.executable, "-m", "trainer", *arguments], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout


def test_what_is_wrong_with_a_model_is_found_before_anything_is_trained(settings, registry, tmp_path):
    heard = []
    wrong = {
        "num_layers": ({"num_layers": 9}, "num_layers is 9, BERT-tiny has 2"),
        "patch_len": ({"patch_len": 99}, "the context has 36 steps, a patch 99"),
        "folder": ({"weights": str(tmp_path)}, "is no model folder"),
    }
    for change, sentence in wrong.values():
        student = settings.student.model_copy(update=change)
        with pytest.raises(InvalidSetting, match=sentence):
            run_pipeline(settings.model_copy(update={"student": student}), registry, heard.append, ignore)
    assert heard == []
    assert not (settings.runs / "teachers").exists()


def test_a_registry_that_is_down_is_found_before_anything_is_trained(settings, tmp_path):
    heard = []
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        run_pipeline(settings, Registry("http://127.0.0.1:9", tmp_path / "cache"), heard.append, ignore)
    assert heard == []


def test_roles_are_checked_before_anything_is_trained(settings, registry):
    teacher = settings.teacher.model_copy(update={"backbone": "bert-large"})
    with pytest.raises(RoleRefused, match="BERT-Large is not supported for distillation"):
        run_pipeline(settings.model_copy(update={"teacher": teacher}), registry, ignore, ignore)
