"""What a student takes from its teacher and from its people, as its bundle says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from forecasting.bundle import read_bundle
from forecasting.population import Population
from forecasting.readers.datasets import load_cohort
from forecasting.windows import WindowShape
from trainer.distil import StudentData, StudentRun, student_data, train_student
from trainer.settings import ModelSettings, TrainingSettings
from trainer.teacher_forecasts import TeacherForecasts

SHAPE = WindowShape(context_length=12, prediction_length=6, history_length=60)
TINY = ModelSettings(backbone="bert-tiny", weights="random", patch_len=6, stride=6, d_model=8, d_ff=8, num_heads=2)
TRAINING = TrainingSettings(epochs=1, batch_size=64)


@pytest.fixture(scope="module")
def data() -> StudentData:
    torch.set_num_threads(1)
    return student_data(load_cohort("virtual", patients="adult_001"), "adult_001", SHAPE, 300)


def taught_by(constant: float, data: StudentData, quantile: float) -> TeacherForecasts:
    values = np.full((len(data.train), 6, 10), quantile, np.float32)
    values[..., 0] = constant
    return TeacherForecasts(data.train.ids, values, "a teacher")


def trained(folder: Path, data: StudentData, training: TrainingSettings, quantile: float) -> Path:
    run = StudentRun("virtual", "adult_001", SHAPE, TINY, training, 0.5, "teacher", "digest")
    list(train_student(run, data, taught_by(150.0, data, quantile), folder))
    return folder


def test_a_bundle_knows_the_days_that_its_student_learned_from(tmp_path, data):
    bundle = read_bundle(trained(tmp_path / "student", data, TRAINING, 150.0))
    assert bundle.spec.learned_from == Population.of(data.train)
    assert bundle.spec.learned_from.outside(data.train.history).mean() < 0.03


@pytest.mark.parametrize(("copies", "same"), [(False, True), (True, False)])
def test_a_teachers_quantiles_are_copied_only_where_that_is_asked_for(tmp_path, data, copies, same):
    training = TRAINING.model_copy(update={"teach_quantiles": copies})
    weights = [
        (trained(tmp_path / f"of{quantile}", data, training, quantile) / "weights.safetensors").read_bytes()
        for quantile in (150.0, 250.0)
    ]
    assert (weights[0] == weights[1]) is same


def test_students_that_copy_other_things_are_kept_apart(data):
    run = StudentRun("virtual", "adult_001", SHAPE, TINY, TRAINING, 0.5, "teacher", "digest")
    other = replace(run, training=TRAINING.model_copy(update={"teach_quantiles": True}))
    assert run.key(data) != other.key(data)
