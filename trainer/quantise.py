"""Eight-bit weights for an exported student, kept only where its forecasts stay what they were.

By blocks: of weights, and of the activations of one row. So a forecast still does not depend on its batch mates;
ONNX Runtime's dynamic quantisation scales activations by the largest of the whole batch, which moves a forecast with
the company it keeps (measured in docs/performance.md).
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from forecasting.gate import Rmse

BLOCK = 128  # values that share a scale
EIGHT_BIT_PRODUCTS = 4  # ONNX Runtime's accuracy level: activations are brought to eight bits too, block by block
MOST_MOVED_MG_DL = 0.1


def quantise(path: Path) -> None:
    """Replace the weights of a model's matrix products by eight-bit ones."""
    with _quiet():
        quantiser = MatMulNBitsQuantizer(
            onnx.load(path), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=EIGHT_BIT_PRODUCTS
        )
        quantiser.process()
    path.write_bytes(quantiser.model.model.SerializeToString(deterministic=True))


def moved_mg_dl(before: Rmse, after: Rmse) -> float:
    """The largest change of RMSE at any horizon."""
    return max(abs(after[horizon] - before[horizon]) for horizon in before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser tells of every product that it looks at; its errors are exceptions."""
    logger = logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
