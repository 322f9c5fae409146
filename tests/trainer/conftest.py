"""Small real things: a cohort cut from the simulated one, and settings that train in seconds."""

from pathlib import Path

import pandas as pd
import pytest

from forecasting.readers.datasets import BUNDLED, Cohort, load_cohort
from trainer.settings import PipelineSettings, build_settings


@pytest.fixture(scope="session")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days of two simulated people as a tidy CSV; dates shifted, so that nothing is cached by name alone."""
    table = pd.read_parquet(BUNDLED)
    table = table[table.patient_id.isin(["adult_002", "child_008"]) & (table.timestamp < "2025-01-16")]
    path = tmp_path_factory.mktemp("data") / "small.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def cohort(small_table: Path) -> Cohort:
    return load_cohort(str(small_table))


@pytest.fixture
def settings(small_table: Path, tmp_path: Path) -> PipelineSettings:
    """A pipeline of two tiny models with random weights."""
    return build_settings(
        None,
        {
            "data.dataset": str(small_table),
            "runs": tmp_path / "runs",
            "teacher.backbone": "bert-tiny",
            "teacher.weights": "random",
            "teacher.num_prototypes": 16,
            "teacher.d_ff": 16,
            "teacher_training.epochs": 1,
            "teacher_training.max_windows": 200,
            "student.backbone": "bert-tiny",
            "student.weights": "random",
            "student.num_prototypes": 16,
            "student.d_ff": 16,
            "student_training.epochs": 2,
            "student_training.max_windows": 300,
            "student_training.batch_size": 32,
            "max_test_windows": 200,
            "gate": "persistence",
        },
    )
