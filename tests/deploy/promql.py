"""Which series an expression in PromQL reads."""

import re

import promql_parser
from promql_parser import Expr, MatchOp, MatrixSelector, VectorSelector

NAME = "__name__"
DASHBOARD_SPAN = re.compile(r"\$(\{\w+\}|\w+)(?=[\]:])")  # a duration that Grafana puts in: [$__rate_interval]


def metric_names(expression: str) -> set[str]:
    """Every series that an expression reads, also one that a rule records.

    Raises ValueError for what is no PromQL, and for a selector that does not say by name what it reads.
    """
    names: set[str] = set()

    def visit(part: Expr) -> None:
        if isinstance(part, VectorSelector):
            names.add(_name(part))
        elif isinstance(part, MatrixSelector):
            names.add(_name(part.vector_selector))

    promql_parser.walk(promql_parser.parse(DASHBOARD_SPAN.sub("5m", expression)), visit)
    return names


def _name(selector: VectorSelector) -> str:
    if selector.name:
        return selector.name
    for matcher in selector.matchers.matchers:
        if matcher.name == NAME and matcher.op == MatchOp.Equal:
            return matcher.value
    raise ValueError(f"{selector.prettify()} does not say by name which series it reads")
