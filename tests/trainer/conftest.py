"""Small real things: a cohort cut from the simulated one, and settings that train in seconds."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import TINY

from forecasting.readers.datasets import BUNDLED, Cohort, load_cohort
from forecasting.registry import Registry
from trainer.settings import PipelineSettings, build_settings

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


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
        TINY
        | {
            "data.dataset": str(small_table),
            "runs": tmp_path / "runs",
            "teacher_training.max_windows": 200,
            "student_training.epochs": 2,
            "max_test_windows": 200,
        },
    )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/registry/mlflow.db", tmp_path / "cache", create=True)


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator["Cluster"]:
    """A Ray cluster whose head takes no work; its add_node(num_cpus=…, num_gpus=…) makes another machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # trials that tests define
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()
