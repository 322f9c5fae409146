"""Forecasts: the paper's form, ours folded in torch, ours in ONNX Runtime with 32- and 8-bit weights. One thread."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from benchmarks.measuring import Findings, Times, flops_of, gemm_rate, timed
from benchmarks.subjects import (
    SHAPE,
    STUDENTS,
    contexts,
    exported,
    inputs,
    paper_form,
    student,
    teacher,
    tensors,
)
from benchmarks.verdicts import Goal, console
from forecasting.bundle import Bundle
from forecasting.forecaster import open_session
from trainer.quantise import quantise
from trainer.teacher import BuiltModel
from trainer.time_llm import Folded

BATCHES = (1, 32, 256)
PAPER_BATCHES = {1: 5, 32: 3}  # rounds; 256 takes eight times 32, and the memory of a server
UNIT_MG_DL = 50.0  # of the network's output


def every_student(names: tuple[str, ...] = STUDENTS) -> Findings:
    """Latency and throughput of every student backbone."""
    columns = ("backbone", "batch", "paper form", "folded torch", "ONNX", "ONNX int8", "x", "forecasts/s", "% of GEMM")
    found = Findings("Forecasts, ms on one thread; x: ONNX against the paper form at the same batch", columns)
    limit = gemm_rate()
    for place, name in enumerate(names, 1):
        console.print(f"{name}, {place} of {len(names)}", style="dim")
        papers = _paper_times(name)
        built = student(name)
        with exported(built) as bundle:
            size = (bundle.folder / "model.onnx").stat().st_size
            found.notes.append(f"{name}: {size / 1e6:.2f} MB, largest difference of the file to torch was checked")
            plain = session(bundle.folder / "model.onnx")
            quantise(bundle.folder / "model.onnx")
            small = session(bundle.folder / "model.onnx")
            for batch in BATCHES:
                ours = timed(partial(run, plain, inputs(built, batch)[0]), 15, seconds=8)
                found.add(
                    **{
                        "backbone": name,
                        "batch": batch,
                        "paper form": papers.get(batch, ""),
                        "folded torch": timed(_torch_run(built, batch), 7, seconds=8),
                        "ONNX": ours,
                        "ONNX int8": timed(partial(run, small, inputs(built, batch)[0]), 15, seconds=8),
                        "x": round(papers[batch].wall / ours.wall, 1) if batch in papers else "",
                        "forecasts/s": round(batch / ours.wall),
                        "% of GEMM": round(100 * flops(built, batch) / ours.wall / limit),
                        "file_bytes": size,
                    }
                )
    return found


def bert_tiny_goals() -> Findings:
    """The three goals of a BERT-tiny student."""
    found = every_student(("bert-tiny",))
    by_batch = {row["batch"]: row for row in found.rows}
    found.goals = [
        Goal("BERT-tiny, one forecast: times faster than the paper form", by_batch[1]["x"], 80, at_most=False),
        Goal("BERT-tiny, 256 at once: forecasts a second on one core", by_batch[256]["forecasts/s"], 2500, False),
        Goal("BERT-tiny, model.onnx", by_batch[1]["file_bytes"] / 1e6, 3, unit=" MB"),
    ]
    return found


def near_the_limit() -> Findings:
    """How near folded torch comes to this machine's fp32 GEMM rate: a MiniLM teacher with its prompt."""
    found = Findings(
        "Folded torch against the measured fp32 GEMM rate, ms on one thread",
        ("model", "tokens", "batch", "time", "GFLOP/s", "% of GEMM"),
    )
    limit = gemm_rate()
    built = teacher()
    tokens = built.model.trim(tensors(built, 32)[1]).shape[1] + built.model.num_patches  # type: ignore[union-attr]
    for batch in (1, 32, 64, 128):
        times = timed(_torch_run(built, batch), 9)
        rate = flops(built, batch) / times.wall
        found.add(
            model="MiniLM, 6 layers, with prompt",
            tokens=tokens,
            batch=batch,
            time=times,
            **{"GFLOP/s": rate / 1e9, "% of GEMM": round(100 * rate / limit)},
        )
    found.notes.append(f"GEMM of 2048 x 2048: {limit / 1e9:.0f} GFLOP/s")
    found.goals = [Goal("MiniLM, batch 32: share of the GEMM rate", found.rows[1]["% of GEMM"], 60, False, " %")]
    return found


def eight_bits() -> Findings:
    """ONNX Runtime's dynamic int8 against int8 by blocks: time, size, and what a forecast's company does to it."""
    columns = ("backbone", "weights", "MB", "batch 1", "batch 256", "moves mg/dL", "company moves mg/dL")
    found = Findings(
        "Eight-bit weights, ms on one thread; moves: root mean square against float32; company: other batch mates",
        columns,
    )
    for name in ("bert-tiny", "minilm"):
        built = student(name)
        with exported(built) as bundle:
            for kind, prepare in QUANTISERS.items():
                _add_weights(found, built, bundle, kind, prepare)
    return found


def _dynamic(path: Path) -> None:
    logging.disable(logging.INFO)  # a line for every tensor that it looks at
    quantize_dynamic(str(path), str(path), weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)


QUANTISERS: dict[str, Callable[[Path], None]] = {
    "float32": lambda path: None,
    "int8 by blocks": quantise,
    "int8 dynamic": _dynamic,
}


def _add_weights(
    found: Findings, built: BuiltModel, bundle: Bundle, kind: str, prepare: Callable[[Path], None]
) -> None:
    path = bundle.folder / f"{kind.replace(' ', '-')}.onnx"
    path.write_bytes(bundle.read("model.onnx"))
    exact = session(path)
    prepare(path)
    other = session(path)
    x = inputs(built, 64)[0]
    wild = np.concatenate([x[:1], 4 * x[1:]])
    alone, in_company = run(other, x[:1]), run(other, wild)[:1]
    found.add(
        **{
            "backbone": name_of(built),
            "weights": kind,
            "MB": path.stat().st_size / 1e6,
            "batch 1": timed(partial(run, other, x[:1]), 30),
            "batch 256": timed(partial(run, other, inputs(built, 256)[0]), 9),
            "moves mg/dL": float(np.sqrt(((run(other, x) - run(exact, x)) ** 2).mean()) * UNIT_MG_DL),
            "company moves mg/dL": float(np.abs(alone - in_company).max() * UNIT_MG_DL),
        }
    )


def name_of(built: BuiltModel) -> str:
    return built.spec.backbone


def session(path: Path) -> ort.InferenceSession:
    """As it is served."""
    return open_session(path.read_bytes())


def run(network: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    return network.run(["y"], {"x": x})[0]  # type: ignore[no-any-return]


def flops(built: BuiltModel, batch: int) -> int:
    """Of one folded forward pass; folding itself is not counted."""
    return flops_of(_torch_run(built, batch))


def _torch_run(built: BuiltModel, batch: int) -> Callable[[], object]:
    folded = Folded(built.model)
    x, ids = tensors(built, batch)
    ids = built.model.trim(ids)

    @torch.inference_mode()
    def forward() -> object:
        return folded(x, ids)

    return forward


def _paper_times(name: str) -> dict[int, Times]:
    form = paper_form(name).eval()

    @torch.inference_mode()
    def forward(glucose: torch.Tensor) -> object:
        return form(glucose)

    return {
        batch: timed(partial(forward, torch.from_numpy(contexts(batch, SHAPE))), rounds, 1, seconds=15)
        for batch, rounds in PAPER_BATCHES.items()
    }
