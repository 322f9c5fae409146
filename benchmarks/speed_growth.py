"""How cost grows: with the context, with prototypes, with the number of windows."""

from functools import partial
from typing import Any

from benchmarks.measuring import Findings, timed
from benchmarks.speed_forecast import flops, run, session
from benchmarks.subjects import exported, inputs, step_of, student
from forecasting.windows import WindowShape

BATCH = 32


def with_context() -> Findings:
    """Three hours to two days of readings."""
    found = _table("context")
    for length in (36, 72, 144, 288, 576):
        _add(found, f"{length} steps", WindowShape(context_length=length))
    return found


def with_prototypes() -> Findings:
    """The paper has 1,000."""
    found = _table("prototypes")
    for count in (16, 32, 64, 128, 256, 1000):
        _add(found, str(count), WindowShape(), num_prototypes=count)
    return found


def with_horizon() -> Findings:
    """One hour to eight."""
    found = _table("horizon")
    for length in (12, 24, 48, 96):
        _add(found, f"{length} steps", WindowShape(prediction_length=length))
    return found


def _table(what: str) -> Findings:
    columns = (what, "patches", "MB", "forecast of 1", f"forecast of {BATCH}", f"step of {BATCH}", "MFLOP a window")
    return Findings(f"A BERT-tiny student as its {what} grows, ms on one thread", columns)


def _add(found: Findings, value: str, shape: WindowShape, **differences: Any) -> None:
    built = student("bert-tiny", shape, **differences)
    with exported(built) as bundle:
        network = session(bundle.folder / "model.onnx")
        one, many = (timed(partial(run, network, inputs(built, n)[0]), 25, 5) for n in (1, BATCH))
        size = (bundle.folder / "model.onnx").stat().st_size
    found.add(
        **{
            found.columns[0]: value,
            "patches": built.model.num_patches,
            "MB": size / 1e6,
            "forecast of 1": one,
            f"forecast of {BATCH}": many,
            "MFLOP a window": flops(built, BATCH) / BATCH / 1e6,
            f"step of {BATCH}": timed(step_of(built, BATCH), 7),
        }
    )
