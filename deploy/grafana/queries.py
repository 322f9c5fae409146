"""Dashboards as they are read: their panels, and their expressions with Grafana's variables put in."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.grafana.panels import ALL

FOLDER = Path(__file__).parent / "dashboards"
LABEL_VALUES = re.compile(r"label_values\((?:(?P<series>.+),\s*)?(?P<label>\w+)\)")
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def dashboards(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """{file name without .json: dashboard}"""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that draw something: all but the headings of rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def first_choices(dashboard: dict[str, Any]) -> dict[str, str]:
    """What each variable is when the dashboard opens."""
    return {variable["name"]: _first_choice(variable) for variable in dashboard["templating"]["list"]}


def _first_choice(variable: dict[str, Any]) -> str:
    value = variable["current"]["value"]
    first = value[0] if isinstance(value, list) else value
    return variable["allValue"] if first == ALL else first


def filled_in(expression: str, values: Mapping[str, str]) -> str:
    """An expression as Prometheus gets it. values: {variable without $: text}; raises KeyError for an unknown one."""
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], expression)


def variable_series(variable: dict[str, Any]) -> str | None:
    """The selector whose labels a variable offers; None where its choices are written down."""
    if variable["type"] != "query":
        return None
    found = LABEL_VALUES.fullmatch(variable["definition"])
    if found is None:
        raise ValueError(
            f"variable {variable['name']} asks {variable['definition']}; only label_values(…) is known here"
        )
    return found["series"]
