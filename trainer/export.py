"""Fold a model, write it as one ONNX file, and prove that the file forecasts what the model does."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor

from forecasting.bundle import ModelSpec
from forecasting.cgm import SENSOR_MG_DL
from forecasting.errors import IntegrityError
from trainer.time_llm import Folded, TimeLLM

OPSET = 20
TOLERANCE_MG_DL = 1e-3
CHECKED_BATCHES = (1, 2, 3, 32)


def export_onnx(model: TimeLLM, spec: ModelSpec, path: Path) -> float:
    """Write `path`; returns the largest difference to the torch model found, in mg/dL.

    Raises IntegrityError where the file differs by more than 1e-3 mg/dL at any batch size.
    """
    folded = Folded(model.cpu())
    # Two rows, one with a hole in the prompt's mask: with one row the batch dimension freezes unnoticed.
    example = _random_inputs(spec, 2)
    batch = torch.export.Dim("batch", min=1, max=4096)
    shapes = tuple({0: batch} for _ in example)
    with _quiet():
        torch.onnx.export(
            folded,
            example,
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["x", "prompt_ids"][: len(example)],
            output_names=["y"],
            dynamic_shapes=shapes,
            verbose=False,
        )
    _strip_notes(path)
    difference = largest_difference(folded, spec, path)
    if difference > TOLERANCE_MG_DL:
        raise IntegrityError(
            f"{path.name} differs from the trained model by {difference:.2g} mg/dL; "
            f"at most {TOLERANCE_MG_DL} is allowed"
        )
    return difference


def _strip_notes(path: Path) -> None:
    """Take out the exporter's notes: stack traces with folders of this machine, half a megabyte of them."""
    model: Any = onnx.load(path)
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
        values = [*part.value_info, *getattr(part, "initializer", [])]
        for item in (*part.node, *values):
            item.doc_string = ""
            del item.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def largest_difference(folded: Folded, spec: ModelSpec, path: Path) -> float:
    """Largest |ONNX − torch| over random windows at several batch sizes, in mg/dL."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    worst = 0.0
    for size in CHECKED_BATCHES:
        inputs = _random_inputs(spec, size)
        with torch.inference_mode():
            expected = folded(*inputs).numpy()
        found = session.run(["y"], dict(zip(["x", "prompt_ids"], [i.numpy() for i in inputs], strict=False)))[0]
        worst = max(worst, float(np.abs(found - expected).max()))
    # a window of revin is scaled by its own deviation, which the sensor's range bounds
    widest = (SENSOR_MG_DL[1] - SENSOR_MG_DL[0]) / 2
    return worst * (spec.normalisation.scale_mg_dl if spec.normalisation.kind == "level" else widest)


def _random_inputs(spec: ModelSpec, rows: int) -> tuple[Tensor, ...]:
    """Inputs of a model: normal values, and prompts of random length where it reads any."""
    generator = torch.Generator().manual_seed(rows)
    shape = (rows, spec.shape.context_length, len(spec.channels))
    x = torch.randn(shape, generator=generator)
    if spec.prompt.kind == "none":
        return (x,)
    ids = torch.randint(1, 24, (rows, spec.prompt.length), generator=generator)
    ids[0, spec.prompt.length // 2 :] = spec.prompt.pad_id
    return x, ids


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its steps and warns about its own internals; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
