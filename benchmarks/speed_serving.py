"""What the settings of an ONNX Runtime session give a student that is served."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnxruntime as ort

from benchmarks.measuring import Findings, timed
from benchmarks.speed_forecast import run
from benchmarks.subjects import exported, inputs, student
from forecasting.forecaster import SLOWER_FUSIONS


def settings(names: tuple[str, ...] = ("bert-tiny", "minilm")) -> Findings:
    """One change at a time against what the service does."""
    columns = ("backbone", "session", "load", "forecast of 1", "cpu of 1, ms", "forecast of 256", "cpu of 256, ms")
    found = Findings("Settings of a session, ms", columns)
    for name in names:
        built = student(name)
        one, many = inputs(built, 1)[0], inputs(built, 256)[0]
        with exported(built) as bundle:
            for what, change in CHANGES.items():
                path = bundle.folder / "model.onnx"
                load = timed(partial(_open, path, *change), 7, 1)
                network = _open(path, *change)
                alone, together = timed(partial(run, network, one), 40, 10), timed(partial(run, network, many), 9)
                found.add(
                    **{
                        "backbone": name,
                        "session": what,
                        "load": load,
                        "forecast of 1": alone,
                        "cpu of 1, ms": 1e3 * alone.cpu,
                        "forecast of 256": together,
                        "cpu of 256, ms": 1e3 * together.cpu,
                    }
                )
    return found


def _two_threads(options: ort.SessionOptions) -> None:
    options.intra_op_num_threads = 2


def _no_arena(options: ort.SessionOptions) -> None:
    options.enable_cpu_mem_arena = False


def _basic_graph(options: ort.SessionOptions) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def _no_graph(options: ort.SessionOptions) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _no_prepacking(options: ort.SessionOptions) -> None:
    options.add_session_config_entry("session.disable_prepacking", "1")


def _nothing(options: ort.SessionOptions) -> None:
    """As ONNX Runtime is by itself, on one thread."""


CHANGES: dict[str, tuple[Callable[[ort.SessionOptions], None], list[str]]] = {
    "as served": (_nothing, SLOWER_FUSIONS),
    "with all fusions": (_nothing, []),
    "two threads": (_two_threads, SLOWER_FUSIONS),
    "no memory arena": (_no_arena, SLOWER_FUSIONS),
    "basic optimisations of the graph": (_basic_graph, SLOWER_FUSIONS),
    "no optimisations of the graph": (_no_graph, SLOWER_FUSIONS),
    "weights not packed ahead": (_no_prepacking, SLOWER_FUSIONS),
}


def _open(path: Path, change: Callable[[ort.SessionOptions], None], left_out: list[str]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    change(options)
    return ort.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
    )
