"""What an ONNX file declares, read without trusting it: neither the `onnx` package nor protobuf sees hostile bytes.

The format is protobuf's; its few messages are read here, strictly: a field that is unknown, twice where once is meant,
or of another kind makes the file one that is refused. So no other reader can find more in it than was looked at.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's kinds of fields
LONGEST_NAME = 1024
MOST_PARTS = 1 << 17  # of one kind in one message: what a list of ours holds is far larger than what the file spends
MOST_DIMENSIONS = 8
DTYPES: dict[int, Any] = {  # TensorProto.DataType → what one value is
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
}
TYPED = {"float_data": (1,), "int32_data": (2, 6, 9), "int64_data": (7,)}  # which types each field holds values of

T = TypeVar("T")
Kind = Literal["text", "number", "float", "numbers", "floats", "bytes", "message"]
Fields = dict[int, tuple[str, Kind, bool]]  # {number: (name, kind, may it come several times)}; others are refused


class Unreadable(Exception):
    """The file is none that is read here; the text says why."""


@dataclass(frozen=True)
class Tensor:
    """A constant. values: what it holds, not copied."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class Node:
    """One step of the graph. attributes: numbers, texts, lists of numbers, tensors."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """What a file computes. inputs, outputs: names; dtypes of the inputs by TensorProto.DataType."""

    opsets: dict[str, int]
    nodes: tuple[Node, ...]
    constants: tuple[Tensor, ...]
    inputs: dict[str, int]
    outputs: tuple[str, ...]


_MODEL: Fields = {
    1: ("ir_version", "number", False),
    2: ("producer_name", "text", False),
    3: ("producer_version", "text", False),
    7: ("graph", "message", False),
    8: ("opset_import", "message", True),
}
_OPSET: Fields = {1: ("domain", "text", False), 2: ("version", "number", False)}
_GRAPH: Fields = {
    1: ("node", "message", True),
    2: ("name", "text", False),
    5: ("initializer", "message", True),
    10: ("doc_string", "bytes", False),
    11: ("input", "message", True),
    12: ("output", "message", True),
    13: ("value_info", "bytes", True),
}
_NODE: Fields = {
    1: ("input", "text", True),
    2: ("output", "text", True),
    3: ("name", "text", False),
    4: ("op_type", "text", False),
    5: ("attribute", "message", True),
    6: ("doc_string", "bytes", False),
    7: ("domain", "text", False),
}
_ATTRIBUTE: Fields = {
    1: ("name", "text", False),
    2: ("f", "float", False),
    3: ("i", "number", False),
    4: ("s", "text", False),
    5: ("t", "message", False),
    7: ("floats", "floats", True),
    8: ("ints", "numbers", True),
    13: ("doc_string", "bytes", False),
    20: ("type", "number", False),
}
_ATTRIBUTE_TYPES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
_TENSOR: Fields = {
    1: ("dims", "numbers", True),
    2: ("data_type", "number", False),
    4: ("float_data", "floats", True),
    5: ("int32_data", "numbers", True),
    7: ("int64_data", "numbers", True),
    8: ("name", "text", False),
    9: ("raw_data", "bytes", False),
    12: ("doc_string", "bytes", False),
}
_VALUE: Fields = {1: ("name", "text", False), 2: ("type", "message", False), 3: ("doc_string", "bytes", False)}
_TYPE: Fields = {1: ("tensor_type", "message", False)}
_TENSOR_TYPE: Fields = {1: ("elem_type", "number", False), 2: ("shape", "bytes", False)}
_SPOKEN_OF = {  # what is refused and has a name worth telling
    ("model", 14): "notes of its exporter",
    ("model", 20): "training steps",
    ("model", 25): "functions of its own",
    ("graph", 15): "sparse constants",
    ("attribute", 6): "a graph within a node",
    ("attribute", 11): "graphs within a node",
    ("tensor", 6): "texts",
    ("tensor", 13): "external data",
    ("tensor", 14): "external data",
}


def read_graph(content: bytes) -> Graph:
    """The graph of a model; raises Unreadable."""
    model = _message(memoryview(content), _MODEL, "model")
    if "graph" not in model:
        raise Unreadable("it holds no graph")
    opsets = [_message(one, _OPSET, "opset") for one in model.get("opset_import", ())]
    graph = _message(model["graph"], _GRAPH, "graph")
    return Graph(
        _by_name([(one.get("domain", ""), one.get("version", 0)) for one in opsets], "opset"),
        tuple(_node(one) for one in graph.get("node", ())),
        tuple(_tensor(one) for one in graph.get("initializer", ())),
        _by_name([_value(one) for one in graph.get("input", ())], "input"),
        tuple(_value(one)[0] for one in graph.get("output", ())),
    )


def _by_name(pairs: list[tuple[str, T]], what: str) -> dict[str, T]:
    """Each name once: of two that are called alike another reader may take the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unreadable(f"it holds an {what} twice")
    return found


def _node(view: memoryview) -> Node:
    node = _message(view, _NODE, "node")
    attributes = [_attribute(one) for one in node.get("attribute", ())]
    return Node(
        node.get("op_type", ""),
        node.get("domain", ""),
        tuple(node.get("input", ())),
        tuple(node.get("output", ())),
        _by_name(attributes, "attribute of a node"),
    )


def _attribute(view: memoryview) -> tuple[str, Any]:
    """Name and value; the value that its type speaks of, and no other may be there."""
    found = _message(view, _ATTRIBUTE, "attribute")
    which = _ATTRIBUTE_TYPES.get(found.get("type", 0), "")
    others = found.keys() - {"name", "type", "doc_string", which}
    if not which or others:
        raise Unreadable("an attribute of a node is of no type that is known")
    default: Any = [] if which in ("ints", "floats") else {"f": 0.0, "i": 0, "s": ""}.get(which)
    value = found.get(which, default)
    if which == "t":
        value = _tensor(value if value is not None else memoryview(b""))
    return found.get("name", ""), value


def _value(view: memoryview) -> tuple[str, int]:
    """Name and element type of an input or output; its shape is not looked at: it is found out, not believed."""
    value = _message(view, _VALUE, "value")
    kind = _message(value.get("type", memoryview(b"")), _TYPE, "type")
    tensor = _message(kind.get("tensor_type", memoryview(b"")), _TENSOR_TYPE, "tensor type")
    return value.get("name", ""), tensor.get("elem_type", 0)


def _tensor(view: memoryview) -> Tensor:
    """A constant whose bytes are all there, as many as its dimensions say."""
    found = _message(view, _TENSOR, "tensor")
    name, dims, kind = found.get("name", ""), found.get("dims", []), found.get("data_type", 0)
    if kind not in DTYPES:
        raise Unreadable(f"constant {name!r} is of type {kind}, which no model of ours has")
    if len(dims) > MOST_DIMENSIONS or any(dim < 0 for dim in dims):
        raise Unreadable(f"constant {name!r} has impossible dimensions")
    values = _values(found, kind)
    if math.prod(dims) != len(values):
        raise Unreadable(f"constant {name!r} declares {math.prod(dims):,} values and holds {len(values):,}")
    try:
        return Tensor(name, values.reshape(dims))
    except ValueError as error:  # of no values, in dimensions beyond what there can be
        raise Unreadable(f"constant {name!r} has impossible dimensions") from error


def _values(found: dict[str, Any], kind: int) -> np.ndarray:
    """(values,) of a tensor, from the one field that may hold them."""
    dtype, held = DTYPES[kind], found.keys() & {"raw_data", *TYPED}
    if held == {"raw_data"} and len(found["raw_data"]) % dtype.itemsize == 0:
        return np.frombuffer(found["raw_data"], dtype)
    which = next(iter(held), "")
    if held == {"raw_data"} or len(held) > 1 or (held and kind not in TYPED[which]):
        raise Unreadable(f"the bytes of constant {found.get('name', '')!r} do not fit its type")
    try:
        return np.asarray(found.get(which, []), dtype)
    except OverflowError as error:
        raise Unreadable(f"constant {found.get('name', '')!r} holds a number that its type cannot") from error


def _message(view: memoryview, fields: Fields, what: str) -> dict[str, Any]:
    """{field: value, or list of values}."""
    found: dict[str, Any] = {}
    for number, wire, value in _parts(view):
        if number not in fields:
            raise Unreadable(f"it holds {_SPOKEN_OF.get((what, number), f'an unknown part ({what} {number})')}")
        name, kind, is_repeated = fields[number]
        if name in found and not is_repeated:
            raise Unreadable(f"a {what} holds its {name} twice")
        read = _read(value, wire, kind, f"{what} {name}")
        if not is_repeated:
            found[name] = read
        else:
            found.setdefault(name, []).extend(read if kind in ("numbers", "floats") else [read])
        if is_repeated and len(found[name]) > MOST_PARTS:
            raise Unreadable(f"a {what} holds more than {MOST_PARTS:,} of {name}")
    return found


def _read(value: Any, wire: int, kind: Kind, what: str) -> Any:
    """A field's value as its kind has it."""
    match kind, wire:
        case ("message" | "bytes", 2):
            return value
        case ("text", 2) if len(value) <= LONGEST_NAME:
            return _text(value)
        case ("number", 0):
            return _signed(value)
        case ("numbers", 0):
            return [_signed(value)]
        case ("numbers", 2) if len(value) <= 10 * MOST_PARTS:
            return list(_packed(value))
        case ("float" | "floats", 5):
            one = float(np.frombuffer(value, "<f4")[0])
            return one if kind == "float" else [one]
        case ("floats", 2) if len(value) % 4 == 0 and len(value) <= 4 * MOST_PARTS:
            return np.frombuffer(value, "<f4").tolist()
    raise Unreadable(f"the {what} is damaged")


def _text(value: memoryview) -> str:
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("it holds a name that is no text") from error


def _signed(value: int) -> int:
    """Protobuf's int64: two's complement in 64 bits."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _packed(view: memoryview) -> Iterator[int]:
    at = 0
    while at < len(view):
        value, at = _varint(view, at)
        yield _signed(value)


def _parts(view: memoryview) -> Iterator[tuple[int, int, Any]]:
    """(field number, kind, value) of each field: a number, or the bytes of it."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        wire = tag & 7
        if wire == VARINT:
            value, at = _varint(view, at)
            yield tag >> 3, wire, value
            continue
        length = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            length, at = _varint(view, at)
        if length is None or length > len(view) - at:
            raise Unreadable("it is cut off, or no ONNX file")
        yield tag >> 3, wire, view[at : at + length]
        at += length


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """(value, where the next thing begins); at most 64 bits."""
    value = 0
    for k in range(10):
        if at + k >= len(view):
            break
        byte = view[at + k]
        value |= (byte & 127) << (7 * k)
        if byte < 128 and value < 1 << 64:
            return value, at + k + 1
    raise Unreadable("it is cut off, or no ONNX file")
