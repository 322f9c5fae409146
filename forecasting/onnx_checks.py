"""Is a network one that we could have written, and small enough to run? Asked before ONNX Runtime sees its bytes.

A checksum says that a file is what was published, not that whoever published it meant well. A file of a kilobyte can
ask for a terabyte, name a file of the machine to read, or loop for ever. What is not known to be harmless is refused.
"""

from dataclasses import dataclass

from forecasting.bundle import ModelSpec
from forecasting.errors import IntegrityError
from forecasting.onnx_file import Graph, Node, Unreadable, read_graph
from forecasting.onnx_shapes import RULES, Sized, made_by, of_constant

OPSETS = {"": (18, 23), "com.microsoft": (1, 1)}  # {domain: (oldest, newest)}
MOST_NODES = 50_000
FLOAT, INT64 = 1, 7  # TensorProto.DataType


@dataclass(frozen=True)
class RunBounds:
    """What a run may take; as they are, enough for a teacher of LLaMA's width.

    batch: forecasts computed together; values: kept at once for each of them, mostly of four bytes; steps:
    multiplications for each, or values that are written
    """

    batch: int = 64
    values: int = 1 << 23
    steps: int = 1 << 41


def check_network(content: bytes, spec: ModelSpec, bounds: RunBounds) -> None:
    """Raises IntegrityError, with the reason, for a network that is not to be run."""
    try:
        graph = read_graph(content)
        _check_opsets(graph)
        _check_operators(graph)
        _check_inputs(graph, spec)
        for batch in (1, bounds.batch):
            _Run(spec, batch).follow(graph, bounds)
    except Unreadable as error:
        raise IntegrityError(f"model.onnx is refused: {error}; export the model again") from error


def _check_opsets(graph: Graph) -> None:
    for domain, version in graph.opsets.items():
        if domain not in OPSETS:
            raise Unreadable(f"it needs the operators of {domain!r}, which no model of ours has")
        oldest, newest = OPSETS[domain]
        if not oldest <= version <= newest:
            name = domain or "ONNX"
            raise Unreadable(f"it needs version {version} of {name}'s operators, {oldest} to {newest} are known")


def _check_operators(graph: Graph) -> None:
    if len(graph.nodes) > MOST_NODES:
        raise Unreadable(f"it has {len(graph.nodes):,} operators, {MOST_NODES:,} are the most")
    for node in graph.nodes:
        if (node.domain, node.op) not in RULES or node.domain not in graph.opsets:
            raise Unreadable(f"it uses {node.domain or 'ONNX'}'s {node.op}, which no model of ours does")


def _check_inputs(graph: Graph, spec: ModelSpec) -> None:
    """Names and types; sizes are found out."""
    expected = {name: FLOAT if name == "x" else INT64 for name in _shapes(spec, 1)}
    if graph.inputs != expected or graph.outputs != ("y",):
        raise Unreadable(
            f"it takes {', '.join(graph.inputs)} and gives {', '.join(graph.outputs)}; model.json says "
            f"{', '.join(expected)} (float32; tokens int64) and y"
        )


def _shapes(spec: ModelSpec, batch: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "x": (batch, spec.shape.context_length, len(spec.channels)),
    }
    if spec.prompt.kind != "none":
        shapes["prompt_ids"] = (batch, spec.prompt.length)
    return shapes


class _Run:
    """One run without numbers: how large everything becomes, what is kept at once, how much is computed."""

    def __init__(self, spec: ModelSpec, batch: int) -> None:
        self._sizes = {name: Sized(shape, is_whole=name != "x") for name, shape in _shapes(spec, batch).items()}
        self._output = (batch, spec.shape.prediction_length, spec.outputs)
        self._batch, self._kept, self._work = batch, 0, 0

    def follow(self, graph: Graph, bounds: RunBounds) -> None:
        """From the inputs to y; raises Unreadable where it is too much, or y of another size than model.json says."""
        for constant in graph.constants:
            self._put(constant.name, of_constant(constant.values))
        ending = _last_uses(graph)
        for k, node in enumerate(graph.nodes):
            self._do(node)
            if self._kept > bounds.values * bounds.batch or self._work > bounds.steps * self._batch:
                raise Unreadable(
                    f"a batch of {self._batch} would take {self._kept:,} values at once and {self._work:,} steps"
                )
            self._kept -= sum(self._sizes[name].count for name in ending.get(k, ()))
        if self._sizes.get("y", Sized(())).shape != self._output:
            raise Unreadable(f"y is of another size than model.json says, {self._output} for {self._batch} windows")

    def _do(self, node: Node) -> None:
        made = made_by(node, [self._find(name) for name in node.inputs])
        for name, output in zip(node.outputs, made.outputs, strict=False):
            self._put(name, output)
        self._kept += sum(output.count for output in made.outputs)
        self._work += made.work

    def _find(self, name: str) -> Sized | None:
        """An input of a node; one that may be left out has no name."""
        if name and name not in self._sizes:
            raise Unreadable(f"a node reads {name!r} before anything has made it")
        return self._sizes.get(name)

    def _put(self, name: str, one: Sized) -> None:
        if not name or name in self._sizes:
            raise Unreadable(f"{name!r} is made twice, or has no name")
        self._sizes[name] = one


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """{node: what nodes made and nobody reads after it}"""
    last = {name: k for k, node in enumerate(graph.nodes) for name in node.outputs}
    last |= {name: k for k, node in enumerate(graph.nodes) for name in node.inputs if name in last}
    ending: dict[int, list[str]] = {}
    for name, k in last.items():
        ending.setdefault(k, []).append(name)
    return ending
