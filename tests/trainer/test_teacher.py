"""Teachers: every mode trains, is stored, and comes back as it was."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from families import write_tiny

from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import Cohort
from forecasting.windows import WindowShape, cut_all
from trainer.progress import unheard
from trainer.settings import PipelineSettings
from trainer.teacher import export_trained, open_trained, teacher_windows
from trainer.teacher import train_teacher as train_on_windows


def with_teacher(settings: PipelineSettings, shape: WindowShape | None = None, **changes) -> PipelineSettings:
    teacher = type(settings.teacher).model_validate(settings.teacher.model_dump() | changes)
    training = settings.teacher_training.model_copy(update={"max_windows": 48})
    update = {"teacher": teacher, "teacher_training": training, "shape": shape or settings.shape}
    return settings.model_copy(update=update)


def train_teacher(settings: PipelineSettings, cohort: Cohort, folder: Path) -> Path:
    windows = teacher_windows(cohort, settings.shape, settings.teacher_training)
    return train_on_windows(settings, "small", *windows, folder, unheard)


MODES = [
    {"normalisation": {"kind": "level"}, "prompt": "statistics", "freeze": "backbone"},
    {"normalisation": {"kind": "revin"}, "prompt": "paper", "freeze": "backbone", "quantiles": ()},
    {"normalisation": {"kind": "revin"}, "prompt": "none", "freeze": "norms"},
    {"normalisation": {"kind": "level"}, "prompt": "none", "freeze": "nothing", "prototypes": "direct"},
    {"normalisation": {"kind": "level"}, "prompt": "paper", "freeze": "nothing", "quantiles": (0.1, 0.5, 0.9)},
    {"normalisation": {"kind": "level"}, "prompt": "statistics", "freeze": "norms", "num_layers": 1},
]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: f"{m['normalisation']['kind']}-{m['prompt']}-{m['freeze']}")
def test_every_mode_trains_and_comes_back_as_it_was(mode, settings, cohort, tmp_path):
    settings = with_teacher(settings, **mode)
    folder = train_teacher(settings, cohort, tmp_path / "teacher")
    windows = cut_all(cohort.everyone, settings.shape, "validation")[:20]
    first, second = (open_trained(folder, settings.teacher, 1)[0].forecaster() for _ in range(2))
    one = first.predict(windows.context, windows.minute_of_day)
    two = second.predict(windows.context, windows.minute_of_day)
    assert one.quantiles.shape == (20, 12, len(settings.teacher.quantiles))
    assert np.array_equal(one.mean, two.mean)
    assert np.isfinite(one.mean).all()


def test_six_steps_in_and_nine_out(settings, cohort, tmp_path):
    shape = WindowShape(context_length=6, prediction_length=9)
    settings = with_teacher(settings, shape, stride=8)
    folder = train_teacher(settings, cohort, tmp_path / "teacher")
    windows = cut_all(cohort.everyone, shape, "validation")[:5]
    forecasts = (
        open_trained(folder, settings.teacher, 1)[0].forecaster().predict(windows.context, windows.minute_of_day)
    )
    assert forecasts.mean.shape == (5, 9)


def test_one_seed_trains_one_teacher_and_another_seed_another(settings, cohort, tmp_path):
    def digest(seed: int, name: str) -> str:
        training = settings.teacher_training.model_copy(update={"seed": seed, "max_windows": 48})
        same = settings.model_copy(update={"teacher_training": training})
        folder = train_teacher(same, cohort, tmp_path / name)
        return json.loads((folder / "MANIFEST.json").read_text())["files"]["weights.safetensors"]["sha256"]

    assert digest(1, "a") == digest(1, "b") != digest(2, "c")


def test_a_folder_of_any_model_can_be_the_backbone(settings, cohort, tmp_path):
    folder = write_tiny("gpt2", tmp_path / "mine")
    settings = with_teacher(settings, backbone=str(folder), weights="hub", num_heads=2)
    trained = train_teacher(settings, cohort, tmp_path / "teacher")
    built, bundle = open_trained(trained, settings.teacher, 1)
    assert bundle.spec.backbone == "mine"
    assert str(tmp_path) not in (trained / "origin.json").read_text()
    windows = cut_all(cohort.everyone, settings.shape, "validation")[:3]
    assert np.isfinite(built.forecaster().predict(windows.context, windows.minute_of_day).mean).all()


def test_an_exported_teacher_stands_alone(settings, cohort, tmp_path):
    settings = with_teacher(settings)
    folder = train_teacher(settings, cohort, tmp_path / "teacher")
    served = Forecaster.open(export_trained(folder, settings.teacher, 1))
    windows = cut_all(cohort.everyone, settings.shape, "validation")[:9]
    trained = open_trained(folder, settings.teacher, 1)[0].forecaster().predict(windows.context, windows.minute_of_day)
    assert np.abs(served.predict(windows.context, windows.minute_of_day).mean - trained.mean).max() <= 1e-3


def test_a_damaged_teacher_is_refused_by_name(settings, cohort, tmp_path):
    folder = train_teacher(with_teacher(settings), cohort, tmp_path / "teacher")
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        open_trained(folder, settings.teacher, 1)


def test_a_teacher_is_not_opened_with_other_settings(settings, cohort, tmp_path):
    small = with_teacher(settings)
    folder = train_teacher(small, cohort, tmp_path / "teacher")
    with pytest.raises(IntegrityError, match="other settings"):
        open_trained(folder, with_teacher(settings, prompt="paper").teacher, 1)
