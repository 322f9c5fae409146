"""The recommended pairs of the specification, each end to end at reduced cost through the user's command."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from forecasting.forecaster import Forecaster
from forecasting.registry import Registry
from trainer.catalogue import find_backbone

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PAIRS = [
    ("bert-base-uncased", "prajjwal1/bert-tiny"),
    ("bert", "tinybert"),
    ("bert-base-uncased", "distilbert-base-uncased"),
    ("distilbert-base-uncased", "prajjwal1/bert-tiny"),
    ("google/mobilebert-uncased", "prajjwal1/bert-tiny"),
    ("albert/albert-base-v2", "nreimers/MiniLMv2-L6-H384-distilled-from-BERT-Large"),
]


@pytest.mark.parametrize(("teacher", "student"), PAIRS)
def test_a_recommended_pair_runs_from_readings_to_a_served_forecast(teacher, student, small_table, tmp_path):
    settings = tmp_path / "run.toml"
    settings.write_text(
        f'runs = "{tmp_path}/runs"\ngate = "persistence"\nmax_test_windows = 50\n'
        "[teacher]\nnum_prototypes = 16\n[teacher_training]\nmax_windows = 32\nepochs = 1\nbatch_size = 16\n"
        "[student_training]\nmax_windows = 64\nepochs = 1\nbatch_size = 32\n"
    )
    uri = f"sqlite:///{tmp_path}/registry/mlflow.db"
    command = ["bash", "distill_pipeline.sh", "--run", str(settings), "--dataset", str(small_table), "--registry", uri]
    command += ["--teacher", teacher, "--student", student, "--patients", "adult_002"]
    command += ["--teacher-weights", "random", "--student-weights", "random"]
    environment = {**os.environ, "PYTHON": sys.executable, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    registry = Registry(uri, tmp_path / "cache")
    version = registry.resolve("small-adult_002@challenger")
    assert version.tags["backbone"] == find_backbone(student).name
    assert version.tags["teacher"] == find_backbone(teacher).name
    served = Forecaster.open(registry.fetch(version))
    assert served.spec.backbone == find_backbone(student).name
    forecasts = served.predict(np.linspace(110, 160, 36)[None], np.array([480.0]))
    assert np.isfinite(forecasts.quantiles).all()
