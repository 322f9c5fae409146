"""Small real things: series made by hand, a tiny ONNX bundle, the Ohio layout under real ids, one registry."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from forecasting.bundle import Bundle, ModelSpec, write_bundle
from forecasting.cgm import GlucoseSeries
from forecasting.readers.datasets import Cohort, load_cohort
from forecasting.registry import Registry

REPOSITORY = Path(__file__).parents[2]
settings.register_profile("quick", deadline=None, max_examples=50, derandomize=True, database=None)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def series_of() -> Callable[..., GlucoseSeries]:
    """values → a series on a 5-minute grid that starts on a Monday at midnight."""

    def make(values: Any, patient_id: str = "p", **more: Any) -> GlucoseSeries:
        given = {"start": np.datetime64("2025-01-06T00:00:00"), "sampling_minutes": 5} | more
        return GlucoseSeries(patient_id, glucose_mg_dl=np.asarray(values, np.float32), **given)

    return make


@pytest.fixture(scope="session")
def wave() -> Callable[..., np.ndarray]:
    """n whole mg/dL, never twice the same run; `missing` of them NaN at random."""

    def make(n: int, seed: int = 0, missing: float = 0.0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        values = np.rint(140 + 40 * np.sin(np.arange(n) / 17 + seed) + rng.normal(0, 6, n))
        values[rng.random(n) < missing] = np.nan
        return values

    return make


@pytest.fixture(scope="session")
def virtual() -> Cohort:
    return load_cohort("virtual")


@pytest.fixture(scope="session")
def ohio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OhioT1DM/ of simulated people under the ids 570 and 584 of the user's command."""
    folder = tmp_path_factory.mktemp("ohio")
    script = REPOSITORY / "data" / "scripts" / "make_ohio_like_xml.py"
    patients = "adult_002:2018:570,adult_009:2020:584"
    command = [sys.executable, str(script), "--out", str(folder / "OhioT1DM"), "--patients", patients]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """A bundle whose network gives `rise` (units of 50 mg/dL above the last reading) and a fixed fan around it."""

    def make(folder: Path, model: str = "virtual-570", rise: float = 0.0, **spec: Any) -> Bundle:
        folder.mkdir(parents=True)
        fan = np.hstack([[0.0], np.linspace(-1, 1, 9)]) * np.linspace(0.2, 1, 12)[:, None] + rise
        constants = {"fan": fan[None].astype(np.float32), "nothing": np.zeros((1, 1, 1), np.float32)}
        constants |= {"from": np.array([0]), "to": np.array([1]), "axis": np.array([1]), "channel": np.array([2])}
        nodes = [
            helper.make_node("Slice", ["x", "from", "to", "axis"], ["first"]),
            helper.make_node("Slice", ["first", "from", "to", "channel"], ["one"]),
            helper.make_node("Mul", ["one", "nothing"], ["zero"]),
            helper.make_node("Add", ["zero", "fan"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 36, 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 12, 10])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
        )
        (folder / "weights.safetensors").write_bytes(b"weights of a tiny network")
        (folder / "tokenizer.json").write_text('{"a": "tokenizer"}')
        return write_bundle(folder, ModelSpec(model=model, backbone="tiny", **spec), {"rmse": {"30": 20.5}}, {"by": 1})

    return make


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One SQLite registry for all tests (making its tables takes seconds); each test uses its own model names."""
    folder = tmp_path_factory.mktemp("registry")
    return Registry(f"sqlite:///{folder}/mlflow.db", folder / "cache", create=True)
