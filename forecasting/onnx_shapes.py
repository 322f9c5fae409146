"""How large everything in a network becomes: each operator's rule. An operator without a rule here is not run.

The operators are those that `trainer/export.py` and `trainer/quantise.py` write over all backbones, and their like, as
other backbones need. Sizes are found for one batch, and not believed: a file may declare any. They may hang on the
batch, through Shape; on readings never.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from forecasting.onnx_file import Node, Unreadable

INT64 = 7  # TensorProto.DataType
MAY_LACK = {"Clip", "Pad", "Slice"}  # an input between others, or at the end
FLAGS = ("allowzero", "keepdims", "noop_with_empty_axes", "transA", "transB")
FLOATS = {1, 10, 11, 16}  # of 32, 16, 64 bits, and bfloat16
SMALL = 4096  # values up to which a constant is followed through the graph: sizes are made of such

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sized:
    """A tensor of the graph. known: its values, where they are whole numbers, few, and the same for all readings;
    is_whole: it may hold whole numbers"""

    shape: Shape
    known: np.ndarray | None = None
    is_whole: bool = False

    @property
    def count(self) -> int:
        """Values that it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Made:
    """What a node makes. work: multiplications, or values that are written"""

    outputs: tuple[Sized, ...]
    work: int


Inputs = Sequence[Sized | None]
Rule = Callable[[Node, Inputs], Made]


def of_constant(values: np.ndarray) -> Sized:
    """A constant of the file."""
    known = values if values.dtype == np.int64 and values.size <= SMALL else None
    return Sized(values.shape, known, values.dtype.kind != "f")


def made_by(node: Node, inputs: Inputs) -> Made:
    """What a node makes of its inputs; raises Unreadable where that has no size, or hangs on readings."""
    rule = RULES[node.domain, node.op]
    if any(one is None for one in inputs) and node.op not in MAY_LACK:  # ONNX Runtime reads it all the same
        raise Unreadable(f"{node.op} lacks an input that it needs")
    if any(node.attributes.get(name, 0) not in (0, 1) for name in FLAGS):
        raise Unreadable(f"{node.op} says neither yes nor no where it must say one")
    try:
        made, is_whole = rule(node, inputs), _is_whole(node, inputs)
    except Unreadable as error:
        raise Unreadable(f"{node.op}: {error}") from error
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise Unreadable(f"{node.op} has inputs that do not fit together") from error
    return replace(made, outputs=tuple(replace(one, is_whole=is_whole) for one in made.outputs))


def _is_whole(node: Node, inputs: Inputs) -> bool:
    """May what a node makes be whole numbers, which division can end a process with?"""
    if node.op == "Cast":
        return node.attributes["to"] not in FLOATS
    if node.op in ("Shape", "Range"):
        return True
    which = inputs[1] if node.op == "Where" else _first(inputs)
    return which is not None and which.is_whole


def _axes(given: Sized | None, rank: int) -> list[int]:
    """Axes that an input names, from 0; each once, and there."""
    axes = [axis % rank for axis in _values(given) if -rank <= axis < rank]
    if len(set(axes)) < len(_values(given)):
        raise Unreadable("it names an axis twice, or one that is not there")
    return axes


def _made(shape: Sequence[int], known: np.ndarray | None = None, inner: int = 1) -> Made:
    one = Sized(tuple(int(size) for size in shape), known)
    if min(one.shape, default=0) < 0:
        raise Unreadable("its answer has a negative size")
    return Made((one,), one.count * inner)


def _values(given: Sized | None) -> list[int]:
    """The values of an input that decides on sizes."""
    if given is None or given.known is None:
        raise Unreadable("a size hangs on readings, or on too many values")
    return [int(value) for value in given.known.reshape(-1)]


def _first(inputs: Inputs) -> Sized:
    if not inputs or inputs[0] is None:
        raise Unreadable("its input is missing")
    return inputs[0]


def _given(inputs: Inputs) -> list[Sized]:
    """Inputs that must all be there."""
    given = [one for one in inputs if one is not None]
    if len(given) < len(inputs):
        raise Unreadable("an input that it needs is left out")
    return given


def _like_first(node: Node, inputs: Inputs) -> Made:
    """Value by value, or along an axis, of the first input's size."""
    return _made(_first(inputs).shape)


def _broadcast(fold: Callable[..., Any] | None = None) -> Rule:
    """Value by value of several inputs. fold: the same for values that are known"""

    def rule(node: Node, inputs: Inputs) -> Made:
        given = _given(inputs)
        shape = np.broadcast_shapes(*(one.shape for one in given))
        values = [one.known for one in given]
        known = None
        if fold is not None and math.prod(shape) <= SMALL and all(value is not None for value in values):
            with np.errstate(all="ignore"):
                known = reduce(fold, values)
        return _made(shape, known)

    return rule


_by_value = _broadcast()


def _div(node: Node, inputs: Inputs) -> Made:
    """Of whole numbers the smallest by -1 has no answer, and the processor ends the process."""
    divisor = _given(inputs)[1]
    if any(one.is_whole for one in _given(inputs)) and (divisor.known is None or (divisor.known == -1).any()):
        raise Unreadable("it divides whole numbers by what may be -1")
    return _by_value(node, inputs)


def _cast(node: Node, inputs: Inputs) -> Made:
    one = _first(inputs)
    return _made(one.shape, one.known if node.attributes["to"] == INT64 else None)


def _shape(node: Node, inputs: Inputs) -> Made:
    shape = _first(inputs).shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    return _made((len(shape),), np.asarray(shape, np.int64))


def _reshape(node: Node, inputs: Inputs) -> Made:
    one, wanted = _first(inputs), _values(inputs[1])
    if node.attributes.get("allowzero", 0) == 0:
        wanted = [one.shape[k] if size == 0 else size for k, size in enumerate(wanted)]
    if -1 in wanted:
        rest = -math.prod(wanted)
        wanted[wanted.index(-1)] = one.count // rest if rest else 0
    if math.prod(wanted) != one.count:
        raise Unreadable("its answer has another number of values")
    return _made(wanted, None if one.known is None else one.known.reshape(wanted))


def _unsqueeze(node: Node, inputs: Inputs) -> Made:
    one = _first(inputs)
    rank = len(one.shape) + len(_values(inputs[1]))
    places, rest = _axes(inputs[1], rank), iter(one.shape)
    shape = [1 if k in places else next(rest) for k in range(rank)]
    return _made(shape, None if one.known is None else one.known.reshape(shape))


def _squeeze(node: Node, inputs: Inputs) -> Made:
    one = _first(inputs)
    ones = [k for k, size in enumerate(one.shape) if size == 1]
    places = _axes(inputs[1], len(one.shape)) if len(inputs) > 1 else ones
    if any(one.shape[k] != 1 for k in places):
        raise Unreadable("it takes out a dimension that is not one")
    shape = [size for k, size in enumerate(one.shape) if k not in places]
    return _made(shape, None if one.known is None else one.known.reshape(shape))


def _transpose(node: Node, inputs: Inputs) -> Made:
    one = _first(inputs)
    order = node.attributes.get("perm", list(range(len(one.shape)))[::-1])
    if sorted(order) != list(range(len(one.shape))):
        raise Unreadable("it orders dimensions that are not there")
    return _made([one.shape[k] for k in order])


def _concat(node: Node, inputs: Inputs) -> Made:
    given = _given(inputs)
    axis = node.attributes["axis"] % len(given[0].shape)
    shape = list(given[0].shape)
    shape[axis] = sum(one.shape[axis] for one in given)
    if any(one.shape[:axis] + one.shape[axis + 1 :] != (*shape[:axis], *shape[axis + 1 :]) for one in given):
        raise Unreadable("its inputs differ in size")
    values = [one.known for one in given if one.known is not None]
    is_known = len(values) == len(given) and math.prod(shape) <= SMALL
    return _made(shape, np.concatenate(values, axis) if is_known else None)


def _split(node: Node, inputs: Inputs) -> Made:
    one, parts = _first(inputs), len(node.outputs)
    axis = node.attributes.get("axis", 0) % len(one.shape)
    whole = -(-one.shape[axis] // parts)
    sizes = _values(inputs[1]) if len(inputs) > 1 else [whole] * (parts - 1) + [one.shape[axis] - whole * (parts - 1)]
    if node.attributes.get("num_outputs", parts) != parts:  # ONNX Runtime ends the process over it
        raise Unreadable("it has another number of outputs than it says")
    if len(sizes) != parts or min(sizes) < 0 or sum(sizes) != one.shape[axis]:
        raise Unreadable("it splits into other parts than there are")
    outputs = tuple(Sized((*one.shape[:axis], size, *one.shape[axis + 1 :])) for size in sizes)
    return Made(outputs, one.count)


def _slice(node: Node, inputs: Inputs) -> Made:
    one = _first(inputs)
    starts, ends = _values(inputs[1]), _values(inputs[2])
    rank = len(one.shape)
    axes = _axes(inputs[3], rank) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
    steps = _values(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    places = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = _places(start, end, step, one.shape[axis])
    shape = [len(range(*place.indices(size))) for place, size in zip(places, one.shape, strict=True)]
    return _made(shape, None if one.known is None else one.known[tuple(places)])


def _places(start: int, end: int, step: int, size: int) -> slice:
    """As ONNX means it: Python begins before the first value where it counts back, and ONNX at the first."""
    if step > 0:
        return slice(start, end, step)
    return slice(max(start, -size), None if end < -size else end, step)


def _gather(node: Node, inputs: Inputs) -> Made:
    one, indices = _given(inputs)
    axis = node.attributes.get("axis", 0) % len(one.shape)
    shape = (*one.shape[:axis], *indices.shape, *one.shape[axis + 1 :])
    is_known = one.known is not None and indices.known is not None and math.prod(shape) <= SMALL
    return _made(shape, np.take(one.known, indices.known, axis) if is_known else None)  # type: ignore[arg-type]


def _gather_elements(node: Node, inputs: Inputs) -> Made:
    return _made(_given(inputs)[1].shape)


def _gather_nd(node: Node, inputs: Inputs) -> Made:
    one, indices = _given(inputs)
    depth = indices.shape[-1] + node.attributes.get("batch_dims", 0)
    if depth > len(one.shape):
        raise Unreadable("it looks deeper than its input is")
    return _made((*indices.shape[:-1], *one.shape[depth:]))


def _expand(node: Node, inputs: Inputs) -> Made:
    return _made(np.broadcast_shapes(_first(inputs).shape, tuple(_values(inputs[1]))))


def _range(node: Node, inputs: Inputs) -> Made:
    start, end, step = (_values(one)[0] for one in inputs)
    count = max(0, -(-(end - start) // step))
    return _made((count,), np.arange(start, end, step) if count <= SMALL else None)


def _pad(node: Node, inputs: Inputs) -> Made:
    one, pads = _first(inputs), _values(inputs[1])
    rank = len(one.shape)
    axes = _axes(inputs[3], rank) if len(inputs) > 3 and inputs[3] is not None else list(range(rank))
    if len(pads) != 2 * len(axes):
        raise Unreadable("it pads dimensions that are not there")
    shape = list(one.shape)
    for k, axis in enumerate(axes):
        shape[axis] += pads[k] + pads[k + len(axes)]
    return _made(shape)


def _reduced(node: Node, inputs: Inputs, rank: int) -> list[int]:
    """Those axes that are named; without any all of them, or none where the node says so."""
    named = _axes(inputs[1], rank) if len(inputs) > 1 and inputs[1] is not None else []
    return named if named or node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))


def _reduce(node: Node, inputs: Inputs) -> Made:
    """Its work is to read all of its input."""
    one = _first(inputs)
    places, keeps = _reduced(node, inputs, len(one.shape)), node.attributes.get("keepdims", 1)
    made = _made([1 if k in places else size for k, size in enumerate(one.shape) if keeps or k not in places])
    return Made(made.outputs, one.count)


def _matmul(node: Node, inputs: Inputs) -> Made:
    left, right = (one.shape for one in _given(inputs))
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        raise Unreadable("its matrices do not fit together")
    return _made((*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1]), inner=left[-1])


def _gemm(node: Node, inputs: Inputs) -> Made:
    left, right = (one.shape for one in _given(inputs[:2]))
    rows, inner = left[::-1] if node.attributes.get("transA", 0) else left
    found, columns = right[::-1] if node.attributes.get("transB", 0) else right
    if inner != found:
        raise Unreadable("its matrices do not fit together")
    return _made((rows, columns), inner=inner)


def _matmul_nbits(node: Node, inputs: Inputs) -> Made:
    """Weights of a few bits, (N, blocks, bytes of a block), with a scale for each block."""
    left, weights, scales = (one.shape for one in _given(inputs[:3]))
    inner, columns, block, bits = (node.attributes[name] for name in ("K", "N", "block_size", "bits"))
    blocks = -(-inner // block)
    if left[-1] != inner or weights != (columns, blocks, block * bits // 8) or math.prod(scales) != columns * blocks:
        raise Unreadable("its weights are of another size than it says")
    return _made((*left[:-1], columns), inner=inner)


def _conv(node: Node, inputs: Inputs) -> Made:
    """(batch, channels, …) by (filters, channels of a group, …)."""
    one, kernel = (given.shape for given in _given(inputs[:2]))
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or len(one) != len(kernel):
        raise Unreadable("it is padded in a way that is not known here")
    ranks = len(one) - 2
    strides, dilations = (node.attributes.get(name, [1] * ranks) for name in ("strides", "dilations"))
    pads = node.attributes.get("pads", [0] * 2 * ranks)
    if min([*strides, *dilations], default=1) < 1:
        raise Unreadable("it steps backwards")
    sizes = [
        (one[k + 2] + pads[k] + pads[k + ranks] - dilations[k] * (kernel[k + 2] - 1) - 1) // strides[k] + 1
        for k in range(ranks)
    ]
    return _made((one[0], kernel[0], *sizes), inner=math.prod(kernel[1:]))


_ALIKE = (
    "Abs Ceil Clip Cos CumSum Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsNaN LayerNormalization LeakyRelu "
    "Log LogSoftmax Neg Not Reciprocal Relu Round Sigmoid Sign Sin Softmax Softplus Sqrt Tanh"
)
_BY_VALUE = "And Equal Greater GreaterOrEqual Less LessOrEqual Min Mod Or Pow Where"
_FOLDED: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum}

RULES: dict[tuple[str, str], Rule] = {
    **{("", name): _like_first for name in _ALIKE.split()},
    **{("", name): _by_value for name in _BY_VALUE.split()},
    **{("", name): _broadcast(fold) for name, fold in _FOLDED.items()},
    ("", "Cast"): _cast,
    ("", "Concat"): _concat,
    ("", "Conv"): _conv,
    ("", "Div"): _div,
    ("", "Expand"): _expand,
    ("", "Gather"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "GatherND"): _gather_nd,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "Pad"): _pad,
    ("", "Range"): _range,
    **{("", name): _reduce for name in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")},
    ("", "Reshape"): _reshape,
    ("", "Shape"): _shape,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Squeeze"): _squeeze,
    ("", "Transpose"): _transpose,
    ("", "Unsqueeze"): _unsqueeze,
    ("com.microsoft", "MatMulNBits"): _matmul_nbits,
}
