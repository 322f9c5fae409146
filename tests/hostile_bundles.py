"""Bundles that somebody who may publish, and means no good, could publish: signed, and whole by their manifest."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forecasting.bundle import MANIFEST

Network = onnx.ModelProto
BILLION = 1_000_000_000
WIDE = np.zeros(300_000, np.float32)


def sign(folder: Path) -> str:
    """Write a manifest that is true of whatever the folder holds; its digest."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    content = json.dumps({"format_version": 1, "files": files}).encode()
    (folder / MANIFEST).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def before_the_end(*nodes: onnx.NodeProto, **constants: object) -> Callable[[Network], None]:
    """Nodes of which the last makes `odd`, one value for each window or for all, which is added to the forecast."""

    def change(model: Network) -> None:
        graph = model.graph
        graph.node[-1].output[0] = "sound"
        odd = helper.make_node("ReduceMax", ["odd"], ["most"], keepdims=0)
        graph.node.extend([*nodes, odd, helper.make_node("Add", ["sound", "most"], ["y"])])
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())

    return change


def looped(operator: str) -> Callable[[Network], None]:
    """A loop of 2^62 turns, or a branch."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("turn", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])] if operator == "Loop" else [],
        [value("on", TensorProto.BOOL, [])],
    )
    names = {"body": body} if operator == "Loop" else {"then_branch": body, "else_branch": body}
    node = helper.make_node(operator, ["turns", "yes"][operator == "If" :], [], **names)
    return before_the_end(node, turns=np.int64(1 << 62), yes=np.True_, odd=np.float32([0]))


def external(location: str, inline: bool = True) -> Callable[[Network], None]:
    """A constant whose bytes lie in a file."""

    def change(model: Network) -> None:
        tensor = next(one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT)
        if not inline:
            tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def declared(*dims: int) -> Callable[[Network], None]:
    """A constant that says it is larger than its bytes."""

    def change(model: Network) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def opset(domain: str, version: int) -> Callable[[Network], None]:
    def change(model: Network) -> None:
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", 20), helper.make_opsetid(domain, version)][not domain :])

    return change


def hidden(of: str) -> list[onnx.NodeProto]:
    """A value expanded to a size that hangs on the size of another: 36 to the sixth where that is a window's."""
    return [
        helper.make_node("Shape", [of], ["size"], start=1, end=2),
        helper.make_node("Mul", ["size", "size"], ["squared"]),
        helper.make_node("Mul", ["squared", "squared"], ["fourth"]),
        helper.make_node("Mul", ["fourth", "squared"], ["sixth"]),
        helper.make_node("Expand", ["none", "sixth"], ["odd"]),
    ]


def attribute_twice(model: Network) -> None:
    for _ in range(2):
        model.graph.node[0].attribute.append(helper.make_attribute("axis", 1))


def beyond(model: Network) -> None:
    model.graph.initializer.append(TensorProto(name="odd", data_type=TensorProto.UINT8, dims=[1], int32_data=[300]))


def nothing(model: Network) -> None:
    model.graph.initializer.append(
        TensorProto(name="odd", data_type=TensorProto.FLOAT, dims=[0, (1 << 63) - 1, (1 << 63) - 1])
    )


def renamed(model: Network) -> None:
    model.graph.output[0].name = "z"
    model.graph.node[-1].output[0] = "z"


def more_inputs(model: Network) -> None:
    model.graph.input.append(helper.make_tensor_value_info("file", TensorProto.FLOAT, [1]))


def no_inputs(model: Network) -> None:
    del model.graph.input[:]


def other_types(model: Network) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def sequences(model: Network) -> None:
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


def functions(model: Network) -> None:
    identity = [helper.make_node("Identity", ["a"], ["b"])]
    made = helper.make_function("own", "F", ["a"], ["b"], identity, [helper.make_opsetid("", 20)])
    model.functions.append(made)


def sparse(model: Network) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    where = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, [1 << 40]))


def too_many(model: Network) -> None:
    model.graph.node.extend(helper.make_node("Neg", ["x"], [f"n{k}"]) for k in range(60_000))


def twice(model: Network) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def twice_as_long(model: Network) -> None:
    model.graph.node[-1].output[0] = "half"
    model.graph.node.append(helper.make_node("Concat", ["half", "half"], ["y"], axis=1))


def texts(model: Network) -> None:
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [1], [b"w"]))


_matrix = np.zeros((1024, 1024), np.float32)
_node = helper.make_node
NETWORKS: dict[str, tuple[Callable[[Network], None], str]] = {  # {what: (how it is made, what is said of it)}
    "foreign operators": (opset("evil.example", 1), "needs the operators of 'evil.example'"),
    "operators of the future": (opset("", 99), "needs version 99 of ONNX's operators, 18 to 23 are known"),
    "operators of long ago": (opset("", 7), "needs version 7"),
    "a Microsoft operator that nobody needs": (
        lambda model: (
            opset("com.microsoft", 1)(model),
            before_the_end(_node("Tokenizer", ["x"], ["odd"], domain="com.microsoft"))(model),
        )[0],
        "uses com.microsoft's Tokenizer",
    ),
    "an operator of a domain that is not imported": (
        before_the_end(_node("MatMulNBits", ["x"], ["odd"], domain="com.microsoft")),
        "uses com.microsoft's MatMulNBits",
    ),
    "bytes in a file of the folder": (external("weights.safetensors", inline=False), "holds external data"),
    "bytes in a file of the machine": (external("/etc/passwd"), "holds external data"),
    "bytes in a file above": (external("../../secret", inline=False), "holds external data"),
    "a constant larger than its bytes": (declared(BILLION, BILLION), "declares 1,000,000,000,000,000,000 values and"),
    "a constant of a size beyond 64 bits": (declared(*[1 << 62] * 3), "values and holds"),
    "a constant of a negative size": (declared(-1), "has impossible dimensions"),
    "a constant of a hundred dimensions": (declared(*[1] * 100), "has impossible dimensions"),
    "a constant of texts": (texts, "holds texts"),
    "a constant that is there twice": (twice, "is made twice"),
    "a sparse constant": (sparse, "holds sparse constants"),
    "ConstantOfShape": (
        before_the_end(_node("ConstantOfShape", ["size"], ["odd"]), size=[BILLION]),
        "uses ONNX's ConstantOfShape",
    ),
    "a value expanded to gigabytes": (
        before_the_end(_node("Expand", ["small", "size"], ["odd"]), small=np.float32([0]), size=[BILLION * 100]),
        "would take 100,000",
    ),
    "a range of gigabytes": (
        before_the_end(
            _node("Range", ["none", "stop", "step"], ["odd"]),
            none=np.int64(0),
            stop=np.int64(1 << 50),
            step=np.int64(1),
        ),
        "would take 1,125,",
    ),
    "two vectors broadcast to a matrix of gigabytes": (
        before_the_end(_node("Mul", ["tall", "wide"], ["odd"]), tall=WIDE[:, None], wide=WIDE[None]),
        "would take 90,000,",
    ),
    "a window padded to gigabytes": (
        before_the_end(_node("Pad", ["x", "pads"], ["odd"]), pads=[0, 0, 0, 0, BILLION, 0]),
        "would take",
    ),
    "what grows with the square of the batch": (
        before_the_end(
            _node("Reshape", ["x", "column"], ["tall"]),
            _node("Reshape", ["x", "row"], ["wide"]),
            _node("MatMul", ["tall", "wide"], ["all"]),
            _node("Mul", ["all", "all"], ["more"]),
            _node("Mul", ["all", "more"], ["odd"]),
            column=[-1, 1],
            row=[1, -1],
        ),
        "a batch of 64 would take",
    ),
    "products without an end": (
        before_the_end(
            *(_node("MatMul", [f"m{k}", "matrix"], [f"m{k + 1}"]) for k in range(20)),
            _node("Identity", ["m20"], ["odd"]),
            m0=_matrix,
            matrix=_matrix,
        ),
        "steps",
    ),
    "a size that hangs on readings": (
        before_the_end(
            _node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
            _node("Reshape", ["whole", "flat"], ["sizes"]),
            _node("Slice", ["sizes", "from0", "to1"], ["size"]),
            _node("Expand", ["small", "size"], ["odd"]),
            flat=[-1],
            from0=[0],
            to1=[1],
            small=np.float32([0]),
        ),
        "a size hangs on readings",
    ),
    "a division that ends the process": (
        before_the_end(
            _node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
            _node("Mul", ["whole", "none"], ["zeros"]),
            _node("Add", ["zeros", "least"], ["low"]),
            _node("Add", ["zeros", "minus"], ["by"]),
            _node("Div", ["low", "by"], ["quotient"]),
            _node("Cast", ["quotient"], ["odd"], to=TensorProto.FLOAT),
            none=[0],
            least=[-(1 << 63)],
            minus=[-1],
        ),
        "divides whole numbers by what may be -1",
    ),
    "a division that ends the process as the network is opened": (
        before_the_end(
            _node("Div", ["least", "minus"], ["quotient"]),
            _node("Cast", ["quotient"], ["odd"], to=TensorProto.FLOAT),
            least=np.int32([-(1 << 31)]),
            minus=np.int32([-1]),
        ),
        "divides whole numbers by what may be -1",
    ),
    "a sum over no axis, of which its size is known wrongly": (
        before_the_end(
            _node("ReduceSum", ["x"], ["all"], noop_with_empty_axes=1),
            *hidden("all"),
            none=np.float32([0]),
        ),
        "would take",
    ),
    "a slice backwards from before the first": (
        before_the_end(
            _node("Slice", ["x", "before", "least", "second", "back"], ["all"]),
            _node("Shape", ["all"], ["size"]),
            _node("Gather", ["size", "second"], ["single"]),
            _node("Mul", ["single", "billions"], ["many"]),
            _node("Expand", ["small", "many"], ["odd"]),
            before=[-100],
            least=[-(1 << 62)],
            second=[1],
            back=[-1],
            billions=[BILLION * 100],
            small=np.float32([0]),
        ),
        "would take 100,000",
    ),
    "the greatest of three, of which the third is large": (
        before_the_end(
            _node("Add", ["least", "many"], ["third"]),
            _node("Max", ["least", "least", "third"], ["size"]),
            _node("Expand", ["small", "size"], ["odd"]),
            least=[1],
            many=[BILLION * 100],
            small=np.float32([0]),
        ),
        "would take 100,000",
    ),
    "a split into fewer parts than it has, which ends the process": (
        before_the_end(_node("Split", ["x"], ["odd", "even"], axis=1, num_outputs=1)),
        "has another number of outputs than it says",
    ),
    "an input left out where none may be, which ends the process": (
        before_the_end(_node("Max", ["x", ""], ["odd"])),
        "Max lacks an input that it needs",
    ),
    "a bias left out by an empty name, which ends the process": (
        before_the_end(_node("LayerNormalization", ["x", "ones", ""], ["odd"]), ones=np.ones(5, np.float32)),
        "LayerNormalization lacks an input that it needs",
    ),
    "a flag that is neither yes nor no": (
        before_the_end(_node("ReduceSum", ["x"], ["odd"], keepdims=7)),
        "says neither yes nor no",
    ),
    "an axis that is named twice": (
        before_the_end(_node("Unsqueeze", ["x", "axes"], ["odd"]), axes=[0, 0]),
        "names an axis twice",
    ),
    "an attribute that is there twice": (attribute_twice, "holds an attribute of a node twice"),
    "operators of two versions": (
        lambda model: model.opset_import.extend([helper.make_opsetid("", 20)]),
        "holds an opset twice",
    ),
    "a number that its type cannot hold": (beyond, "holds a number that its type cannot"),
    "a constant of nothing in dimensions that cannot be": (nothing, "has impossible dimensions"),
    "a loop": (looped("Loop"), "holds a graph within a node"),
    "a branch": (looped("If"), "holds a graph within a node"),
    "functions": (functions, "holds functions of its own"),
    "60,000 operators": (too_many, "it has 60,00. operators, 50,000 are the most"),
    "an input more": (more_inputs, "it takes x, file and gives y; model.json says x"),
    "no input": (no_inputs, "it takes  and gives y"),
    "an input of another type": (other_types, "it takes x and gives y; model.json says x .float32"),
    "an input that is no tensor": (sequences, "holds an unknown part"),
    "another output": (renamed, "gives z"),
    "an answer of another size": (twice_as_long, "y is of another size than model.json says"),
}
BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {  # of model.onnx
    "nothing": (lambda sound: b"", "it holds no graph"),
    "no ONNX": (lambda sound: b"\x80\x04\x95cos\nsystem\n", "cut off, or no ONNX file|unknown part"),
    "a file cut off": (lambda sound: sound[: len(sound) // 2], "cut off|unknown part|no graph"),
    "two graphs, which protobuf would join": (lambda sound: sound + sound, "a model holds its ir_version twice"),
    "a part that nobody knows": (lambda sound: sound + b"\xfa\x3f\x01x", "holds an unknown part"),
    "a length beyond the file": (lambda sound: sound + b"\x3a\xff\xff\xff\xff\x0f", "cut off|twice"),
    "a number without an end": (lambda sound: sound + b"\xff" * 40, "cut off"),
}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
}


def with_parts(**parts: object) -> bytes:
    return json.dumps(TOKENIZER | parts).encode()


def replacing(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


TOKENIZERS: dict[str, tuple[bytes, str]] = {
    "a pattern that takes for ever": (
        with_parts(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}),
        r"has the pattern '\(a\+\)\+\$'",
    ),
    "one that is hidden in a row": (
        with_parts(normalizer={"type": "Sequence", "normalizers": [replacing({"Regex": "(.*)*x"}, "")]}),
        "has the pattern",
    ),
    "a row of doublings": (
        with_parts(normalizer={"type": "Sequence", "normalizers": [replacing({"String": "a"}, "aa")] * 60}),
        "replaces texts by longer ones",
    ),
    "a long text before each": (
        with_parts(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
        "puts a long text before each",
    ),
    "tokens without an end around a text": (
        with_parts(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[UNK]", "type_id": 0}}] * 100_000,
                "pair": [],
                "special_tokens": {"[UNK]": {"id": "[UNK]", "ids": [0], "tokens": ["[UNK]"]}},
            }
        ),
        "puts 100,000 tokens around a text",
    ),
    "values without an end": (b'{"normalizer": [' + b"[]," * 1_500_000 + b"[]]}", "holds more than 2,000,000 values"),
    "depth without an end": (b"[" * 1_000_000, "is no tokenizer"),
    "no tokenizer": (b'{"a": 1}', "is no tokenizer"),
    "parts of no kind": (with_parts(model={"type": "Evil"}), "cannot be opened"),
    "no text": (struct.pack("<d", 1.5), "is no tokenizer"),
}


def spoil_network(folder: Path, what: str) -> None:
    """Make the sound network in a folder one of the hostile ones."""
    path = folder / "model.onnx"
    if what in BYTES:
        path.write_bytes(BYTES[what][0](path.read_bytes()))
        return
    model = onnx.load(path)
    NETWORKS[what][0](model)
    path.write_bytes(model.SerializeToString())


SENTENCES = {what: sentence for what, (_, sentence) in (NETWORKS | BYTES).items()}
