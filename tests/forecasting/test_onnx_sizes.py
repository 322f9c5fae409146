"""Sizes that the checks find are those that ONNX Runtime makes: random small networks of operators that change sizes.

Whoever finds a network for which they differ has a way to hide how large it becomes.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from forecasting.onnx_file import read_graph
from forecasting.onnx_shapes import Sized, Unreadable, made_by, of_constant

SHAPE = (2, 4, 3)
FAR = 1 << 62
PLACES = (-FAR, -100, -7, -3, -2, -1, 0, 1, 2, 3, 5, 9, 100, FAR)
AXES = (-3, -2, -1, 0, 1, 2)


class Drawn:
    """A network that grows: nodes, constants, and what can be built on."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values = ["x"]
        for _ in range(self.chance.randint(1, 5)):
            with suppress(ValueError):  # an attribute of no values
                self.chance.choice(STEPS)(self, self.chance.choice(self.values))

    def some(self, of: tuple[int, ...], fewest: int = 1, most: int = 1) -> list[int]:
        return [self.chance.choice(of) for _ in range(self.chance.randint(fewest, most))]

    def constant(self, values: Any, kind: Any = np.int64) -> str:
        self.constants[name := f"c{len(self.constants)}"] = np.asarray(values, kind)
        return name

    def whole(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names[0]

    def made(self, *given: Any, **attributes: Any) -> None:
        self.values.append(self.whole(*given, **attributes))

    def flags(self, *names: str) -> dict[str, int]:
        return {name: self.chance.randint(0, 1) for name in names}

    def content(self) -> bytes:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "drawn",
            [value("x", TensorProto.FLOAT, ["batch", *SHAPE[1:]])],
            [value(name, TensorProto.FLOAT, None) for name in self.values[1:]],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", 20)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def slices(d: Drawn, x: str) -> None:
    more = [d.constant(d.some(AXES)), d.constant(d.some((-3, -2, -1, 1, 2, 5)))][: d.chance.choice([0, 2])]
    d.made("Slice", x, d.constant(d.some(PLACES)), d.constant(d.some(PLACES)), *more)


def sums(d: Drawn, x: str) -> None:
    axes = [d.constant(d.some(AXES, 0, 2))][: d.chance.randint(0, 1)]
    operator = d.chance.choice(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"])
    d.made(operator, x, *axes, **d.flags("keepdims", "noop_with_empty_axes"))


def pads(d: Drawn, x: str) -> None:
    axes = d.some(AXES, 1, 2)
    d.made("Pad", x, d.constant(d.some((-1, 0, 1, 2), 2 * len(axes), 2 * len(axes))), "", d.constant(axes))


def splits(d: Drawn, x: str) -> None:
    if d.chance.random() < 0.5:
        d.made(
            "Split", x, outputs=d.chance.randint(1, 3), axis=d.chance.choice(AXES), num_outputs=d.chance.randint(1, 3)
        )
    else:
        d.made("Split", x, d.constant(d.some((0, 1, 2, 3, 4), 2, 2)), outputs=2, axis=d.chance.choice(AXES))


def by_its_size(d: Drawn, x: str) -> None:
    """A value expanded to a size that is computed from another value's size."""
    ends = {name: d.chance.choice((-4, -1, 0, 1, 5)) for name in ("start", "end") if d.chance.random() < 0.6}
    operator = d.chance.choice(["Add", "Sub", "Mul", "Max"])
    size = d.whole(operator, d.whole("Shape", x, **ends), d.constant(d.some((-2, 0, 1, 2))))
    if d.chance.random() < 0.5:
        size = d.whole("Max", size, d.constant([1]), d.constant(d.some((1, 2))))
    if d.chance.random() < 0.5:
        places = [d.constant(d.some(of)) for of in (PLACES, PLACES, (0,), (-1, 1))]
        size = d.whole("Slice", size, *places)
    d.made("Expand", d.constant(1, np.float32), size)


STEPS: list[Callable[[Drawn, str], None]] = [
    slices,
    sums,
    pads,
    splits,
    by_its_size,
    lambda d, x: d.made("Unsqueeze", x, d.constant(d.some(AXES, 1, 2))),
    lambda d, x: d.made("Squeeze", x, *[d.constant(d.some(AXES))][: d.chance.randint(0, 1)]),
    lambda d, x: d.made("Reshape", x, d.constant(d.some((-1, 0, 1, 2, 3, 4), 1, 3)), **d.flags("allowzero")),
    lambda d, x: d.made("Transpose", x, perm=d.chance.sample(range(3), 3)),
    lambda d, x: d.made("Gather", x, d.constant(d.chance.choice([0, -1, [0], [0, 1], [[0]]])), axis=d.some(AXES)[0]),
    lambda d, x: d.made("Concat", x, d.chance.choice(d.values), axis=d.some(AXES)[0]),
    lambda d, x: d.made("Expand", x, d.constant(d.some((0, 1, 2, 3), 1, 4))),
    lambda d, x: d.made("GatherND", x, d.constant(d.chance.choice([[0], [[0]], [[0, 1]]])), **d.flags("batch_dims")),
]


def sizes_found(content: bytes) -> dict[str, Sized] | None:
    """What the checks find; None for a network that they refuse."""
    graph = read_graph(content)
    sizes = {"x": Sized(SHAPE)} | {one.name: of_constant(one.values) for one in graph.constants}
    for node in graph.nodes:
        try:
            made = made_by(node, [sizes[name] if name else None for name in node.inputs])
        except Unreadable:
            return None
        sizes |= zip(node.outputs, made.outputs, strict=True)
    return sizes if max(one.count for one in sizes.values()) < 1e6 else None


@pytest.mark.parametrize("block", range(4))
def test_what_is_found_is_what_comes_out(block):
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    compared = 0
    for seed in range(block * 500, (block + 1) * 500):
        drawn = Drawn(seed)
        content = drawn.content()
        sizes = sizes_found(content)
        if sizes is None:
            continue
        try:
            session = ort.InferenceSession(content, options)
            answers = session.run(None, {"x": np.ones(SHAPE, np.float32)})
        except Exception:  # noqa: BLE001 - ONNX Runtime's own refusals have no base
            continue
        compared += 1
        found = [sizes[name].shape for name in drawn.values[1:]]
        assert found == [answer.shape for answer in answers], (seed, drawn.nodes, drawn.constants)
    assert compared > 100
