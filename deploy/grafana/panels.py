"""What a dashboard is made of, and Grafana's JSON for it. A module of each dashboard says which panels it has."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

SOURCE = {"type": "prometheus", "uid": "prometheus"}
SCHEMA_VERSION = 41
COLUMNS = 24  # of Grafana's grid
ALL = "$__all"  # Grafana's word for every choice
FEW = "few outcomes"  # in a legend: grey, and dashed where it is a line
LAST_READING = "last reading"  # in a legend: dotted
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#8e8e9a"

Kind = Literal["stat", "timeseries", "bargauge", "table", "heatmap"]
Steps = tuple[tuple[float | None, str], ...]  # (from which value, colour); the first is from None


@dataclass(frozen=True)
class Query:
    """One expression. legend: Grafana's pattern, such as {{version}}; empty: the labels"""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel. unit: Grafana's id of it; steps: its thresholds; words: (value, word) shown instead

    line_at_steps: thresholds are drawn; stacked: series lie on each other; columns: (label, heading) of a table
    colors: (legend, colour) of lines that mean the same everywhere
    """

    kind: Kind
    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    width: int
    steps: Steps = ((None, BLUE),)
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[tuple[str, str], ...] = ()
    line_at_steps: bool = False
    stacked: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    colors: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> int:
        """The same whatever is put before or behind: links to a panel stay."""
        return crc32(self.title.encode()) % 1_000_000


@dataclass(frozen=True)
class Row:
    """Panels beside each other under a heading; they go on in the next line where the width is used up."""

    title: str
    height: int
    panels: tuple[Panel, ...]


def row(title: str, height: int, *panels: Panel) -> Row:
    """A row as it reads best in a table."""
    return Row(title, height, panels)


@dataclass(frozen=True)
class Variable:
    """What can be chosen above a dashboard. query: label_values(…), or the choices with commas; chosen: at first"""

    name: str
    label: str
    query: str
    chosen: str = ALL
    description: str = ""


@dataclass(frozen=True)
class Board:
    """One dashboard. file: its name without .json; since: how far it looks back at first; refresh: how often it asks"""

    file: str
    uid: str
    title: str
    description: str
    since: str
    refresh: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]


def board_json(board: Board) -> dict[str, Any]:
    """The whole dashboard, as Grafana reads it from a file."""
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["glucast"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one cross-hair in all panels
        "timezone": "utc",
        "time": {"from": f"now-{board.since}", "to": "now"},
        "refresh": board.refresh,
        "links": [_link()],
        "annotations": {"list": []},
        "templating": {"list": [_variable_json(variable) for variable in board.variables]},
        "panels": list(_placed(board.rows)),
    }


def _link() -> dict[str, Any]:
    return {"type": "dashboards", "title": "glucast", "tags": ["glucast"], "asDropdown": False, "keepTime": True}


def _placed(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """Headings and panels from top to bottom, each with its place in the grid."""
    top = 0
    for row in rows:
        heading = {"id": crc32(f"row {row.title}".encode()) % 1_000_000 + 1_000_000, "type": "row", "title": row.title}
        yield heading | {"collapsed": False, "panels": [], "gridPos": _place(0, top, COLUMNS, 1)}
        left, top = 0, top + 1
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + row.height
            yield _panel_json(panel) | {"gridPos": _place(left, top, panel.width, row.height)}
            left += panel.width
        top += row.height


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel_json(panel: Panel) -> dict[str, Any]:
    return {
        "id": panel.id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [_query_json(panel, query, chr(ord("A") + k)) for k, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _field_json(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        "transformations": [_organized(panel)] if panel.kind == "table" else [],
    }


def _query_json(panel: Panel, query: Query, ref_id: str) -> dict[str, Any]:
    now_alone = panel.kind in ("stat", "bargauge", "table")
    shape = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    return {
        "refId": ref_id,
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": shape,
        "instant": now_alone,
        "range": not now_alone,
        "editorMode": "code",
    }


def _field_json(panel: Panel) -> dict[str, Any]:
    numbers = {"decimals": panel.decimals, "min": panel.minimum, "max": panel.maximum}
    return {
        "unit": panel.unit,
        **{name: value for name, value in numbers.items() if value is not None},
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in panel.steps]},
        "mappings": _mappings(panel),
        "noValue": "no data",
        "custom": _drawing(panel),
    }


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.words:
        return []
    words = {value: {"text": word, "index": k} for k, (value, word) in enumerate(panel.words)}
    return [{"type": "value", "options": words}]


def _drawing(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 25 if panel.stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if panel.line_at_steps else "off"},
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """What comes from few outcomes, and what is no model's, looks otherwise than the rest."""
    unnamed = {"id": "custom.hideFrom", "value": {"legend": True, "tooltip": False, "viz": False}}
    dashed = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [4, 6]}}
    dotted = {"id": "custom.lineStyle", "value": {"fill": "dot", "dash": [1, 3]}}
    looks = {
        FEW: [_fixed(GREY), dashed, unnamed] if panel.kind == "timeseries" else [_fixed(GREY)],
        LAST_READING: [dotted],
    }
    looks = {word: look for word, look in looks.items() if any(word in query.legend for query in panel.queries)}
    looks |= {f"^{name}$": [_fixed(color)] for name, color in panel.colors}
    return [
        {"matcher": {"id": "byRegexp", "options": f"/{word}/"}, "properties": properties}
        for word, properties in looks.items()
    ]


def _fixed(color: str) -> dict[str, Any]:
    return {"id": "color", "value": {"mode": "fixed", "fixedColor": color}}


def _options(panel: Panel) -> dict[str, Any]:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "timeseries":
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "stat":
            look = {"colorMode": "value", "graphMode": "none", "textMode": "auto", "justifyMode": "center"}
            return {"reduceOptions": last, "orientation": "auto", **look}
        case "bargauge":
            return {"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color"}
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}
        case "heatmap":
            colors = {"mode": "scheme", "scheme": "Blues", "exponent": 0.5, "steps": 64}
            return {"calculate": False, "color": colors, "yAxis": {"unit": panel.unit}, "legend": {"show": True}}


def _organized(panel: Panel) -> dict[str, Any]:
    """The columns of a table: only the labels that are named, in their order, and the value behind them."""
    headings = dict(panel.columns)
    hidden = {name: True for name in ("Time", "__name__", "job") if name not in headings}
    order = {label: k for k, label in enumerate(headings)}
    options = {"excludeByName": hidden, "indexByName": order, "renameByName": headings}
    return {"id": "organize", "options": options}


def _variable_json(variable: Variable) -> dict[str, Any]:
    common = {"name": variable.name, "label": variable.label, "description": variable.description, "hide": 0}
    if variable.query.startswith("label_values("):
        return common | {
            "type": "query",
            "datasource": SOURCE,
            "definition": variable.query,
            "query": {"qryType": 1, "query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2,  # whenever the time range changes
            "sort": 3,  # by number
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": [ALL]},
        }
    choices = variable.query.split(",")
    return common | {
        "type": "custom",
        "query": variable.query,
        "multi": False,
        "includeAll": False,
        "current": {"text": variable.chosen, "value": variable.chosen},
        "options": [{"text": one, "value": one, "selected": one == variable.chosen} for one in choices],
    }
