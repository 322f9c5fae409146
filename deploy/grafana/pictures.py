"""Pictures of the dashboards without Grafana: their own expressions, asked of a Prometheus, in their own layout."""

import datetime as dt
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import typer
from PIL import Image

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from deploy.grafana.asked import NotAnswered, Prometheus, Series, Span, ask, by_number
from deploy.grafana.panels import COLUMNS
from deploy.grafana.queries import dashboards, first_choices, panels
from deploy.grafana.units import said

COLUMN_INCH, LINE_INCH = 0.72, 0.40  # of Grafana's grid
DPI = 90
MARGIN, HEAD, FOOT = 0.12, 0.62, 0.42  # inches
GAP = 0.05
BACK, CARD, LINE, INK, FAINT = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#8e8e9a"
PALETTE = "#73bf69 #f2cc0c #8ab8ff #ff780a #f2495c #5794f2 #b877d9 #96d98d #ffee52 #c0d8ff #fa6400 #e02f44".split()
COLORS = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "text": INK,
}
HEAT = LinearSegmentedColormap.from_list("heat", [CARD, "#1f4b8e", "#5794f2", "#e0ecff"])

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


# ---------------------------------------------------------------- how a panel is drawn


@dataclass(frozen=True)
class Canvas:
    """The place of one panel within a figure. left, top, width, height: inches from the upper left corner"""

    figure: Figure
    left: float
    top: float
    width: float
    height: float

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes inside, so many inches from each side."""
        page_width, page_height = self.figure.get_size_inches()
        across, up = self.width - left - right, self.height - top - bottom
        x, y = self.left + left, page_height - self.top - self.height + bottom
        return self.figure.add_axes((x / page_width, y / page_height, across / page_width, up / page_height))

    def text(self, x: float, y: float, words: str, **look: Any) -> None:
        """Words at x, y inches from the upper left corner."""
        page_width, page_height = self.figure.get_size_inches()
        at = (self.left + x) / page_width, 1 - (self.top + y) / page_height
        self.figure.text(*at, words, **{"color": INK, "fontsize": 8, "va": "center", **look})

    def card(self) -> None:
        """The panel's own ground."""
        page_width, page_height = self.figure.get_size_inches()
        place = self.left / page_width, 1 - (self.top + self.height) / page_height
        size = self.width / page_width, self.height / page_height
        self.figure.patches.append(
            FancyBboxPatch(
                place, *size, "square,pad=0", transform=self.figure.transFigure, fc=CARD, ec=LINE, lw=0.6, zorder=-1
            )
        )


def draw(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """One panel: its ground, its title, and what was found or that nothing was."""
    canvas.card()
    canvas.text(0.1, 0.16, _cut(panel["title"], canvas.width - 0.2, 8.5), fontsize=8.5, weight="bold")
    shown = [one for one in shown if not np.isnan(one.values).all()]
    if not shown:
        canvas.text(canvas.width / 2, canvas.height / 2 + 0.1, "no data", color=FAINT, fontsize=12, ha="center")
        return
    kinds = {"stat": _stat, "timeseries": _curves, "bargauge": _bars, "table": _table, "heatmap": _heatmap}
    kinds[panel["type"]](canvas, panel, shown, span)


def _stat(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """Numbers, each in the colour of its threshold, with its name where there are several."""
    columns = len(shown) if len(shown) <= 2 else (len(shown) + 1) // 2
    lines = -(-len(shown) // columns)
    room = (canvas.height - 0.3) / lines
    for k, one in enumerate(shown):
        x = canvas.width * (k % columns + 0.5) / columns
        y = 0.3 + room * (k // columns + 0.5)
        named = len(shown) > 1 or bool(panel["targets"][0]["legendFormat"] != "__auto")
        number = _words(panel, one.last) or _said(panel, one.last)
        size = min(22.0, 26 * room, 72 * 0.86 * canvas.width / columns / (0.68 * len(number)))
        canvas.text(x, y - 0.08 * named, number, ha="center", fontsize=size, color=_color(panel, one), weight="bold")
        if named:
            canvas.text(
                x, y + size / 100, _cut(one.name, canvas.width / columns, 7), ha="center", fontsize=7, color=FAINT
            )


def _curves(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """Lines over time, on each other where the panel says so, and a legend with their last values."""
    legend, rows = _legend_lines(canvas, panel, shown)
    colors = [_line_color(panel, one.name, PALETTE[k % len(PALETTE)]) for k, one in enumerate(shown)]
    axes = _time_axes(canvas, span, bottom=0.34 + 0.16 * rows)
    field, custom = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["defaults"]["custom"]
    below = np.zeros(len(shown[0].times))
    for k, one in enumerate(shown):
        color, values = colors[k], one.values
        if custom["stacking"]["mode"] == "normal":
            values = below + np.nan_to_num(one.values)
            axes.fill_between(_dates(one.times), below, values, color=color, alpha=custom["fillOpacity"] / 100, lw=0)
            below = values
        axes.plot(
            _dates(one.times),
            values,
            color=color,
            lw=1.2,
            ls=_line_style(panel, one.name),
            marker=_marker(values),
            ms=2,
        )
    axes.set_ylim(field.get("min"), field.get("max"))
    _room_above(axes, field)
    if custom["thresholdsStyle"]["mode"] != "off":
        _lines_at_steps(axes, field["thresholds"]["steps"])
    axes.yaxis.set_major_formatter(lambda value, _: said(value, field["unit"], field.get("decimals")))
    for x, y, k, words in legend:
        canvas.text(x, canvas.height - 0.16 * (rows - y) + 0.02, "▬", color=colors[k], fontsize=6)
        canvas.text(x + 0.14, canvas.height - 0.16 * (rows - y) + 0.02, words, fontsize=6.5, color=INK)


def _bars(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """One bar for each series."""
    axes = canvas.axes(0.12, 0.32, 0.7, 0.08)
    most = max(one.last for one in shown) or 1.0
    for k, one in enumerate(shown):
        axes.barh(k, one.last, height=0.42, color=_color(panel, one), alpha=0.8)
        axes.text(0, k - 0.36, _cut(one.name, canvas.width - 0.8, 7), fontsize=7, color=INK, va="bottom")
        axes.text(
            most * 1.03, k, _said(panel, one.last), fontsize=9, color=_color(panel, one), va="center", weight="bold"
        )
    axes.set_xlim(0, most)
    axes.set_ylim(max(len(shown), 3) - 0.4, -0.9)
    axes.axis("off")


def _table(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """A line for each series: the labels in the order of the panel, and the value."""
    organized = panel["transformations"][0]["options"]
    labels = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    cells = [[organized["renameByName"][label] for label in labels]]
    for one in sorted(shown, key=lambda one: [by_number(one.labels.get(label, "")) for label in labels[:2]]):
        cells.append([_said(panel, one.last) if label == "Value" else one.labels.get(label, "") for label in labels])
    rows = int((canvas.height - 0.5) / 0.24)
    cells = [[word if len(word) <= 26 else word[:12] + "…" for word in line] for line in cells[:rows]]
    widths = [max(len(line[k]) for line in cells) + 2 for k in range(len(labels))]
    for y, line in enumerate(cells):
        x = 0.15
        for width, word in zip(widths, line, strict=True):
            canvas.text(x, 0.44 + 0.24 * y, word, fontsize=8, color="#6e9fff" if y == 0 else INK)
            x += (canvas.width - 0.3) * width / sum(widths)


def _heatmap(canvas: Canvas, panel: dict[str, Any], shown: list[Series], span: Span) -> None:
    """A cell for each bucket and time; Prometheus counts upwards, so each bucket less the one below it."""
    shown = sorted(shown, key=lambda one: float(one.labels["le"]))
    counts = np.diff(np.nan_to_num(np.array([one.values for one in shown])), axis=0, prepend=0).clip(min=0)
    used = np.flatnonzero(counts.sum(axis=1) > 0.01)
    if not len(used):
        canvas.text(canvas.width / 2, canvas.height / 2 + 0.1, "nothing counted", color=FAINT, fontsize=12, ha="center")
        return
    first, last = max(0, used[0] - 1), min(len(shown), used[-1] + 2)
    axes = _time_axes(canvas, span, bottom=0.4, left=0.95)
    edges = np.append(shown[0].times, shown[0].times[-1] + span.step)
    axes.pcolormesh(_dates(edges), np.arange(last - first + 1), np.sqrt(counts[first:last]), cmap=HEAT, rasterized=True)
    unit = panel["fieldConfig"]["defaults"]["unit"]
    names = [
        "∞" if one.labels["le"] == "+Inf" else said(float(one.labels["le"]), unit, None) for one in shown[first:last]
    ]
    axes.set_yticks(np.arange(last - first) + 0.5, [f"≤ {name}" for name in names])
    axes.grid(visible=False)


# ---------------------------------------------------------------- axes, colours, words


def _time_axes(canvas: Canvas, span: Span, bottom: float, left: float = 0.68) -> Axes:
    axes = canvas.axes(left, 0.36, 0.14, bottom)
    axes.set_facecolor(CARD)
    axes.set_xlim(*_dates(np.array([span.start, span.end])))
    locator = AutoDateLocator(minticks=3, maxticks=max(4, int(canvas.width * 1.2)))
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.grid(color=LINE, lw=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def _dates(seconds: np.ndarray) -> np.ndarray:
    return date2num(seconds.astype("datetime64[s]"))


def _room_above(axes: Axes, field: Mapping[str, Any]) -> None:
    low, high = axes.get_ylim()
    if field.get("max") is None:
        axes.set_ylim(low, high + 0.06 * (high - low))


def _marker(values: np.ndarray) -> str:
    """A point that stands alone between gaps would not be seen as a line."""
    return "o" if (~np.isnan(values)).sum() < 3 else ""


def _override(panel: Mapping[str, Any], name: str, what: str) -> dict[str, Any]:
    """What an override says of a series by its name; empty where none does."""
    for override in panel["fieldConfig"]["overrides"]:
        if re.search(override["matcher"]["options"].strip("/"), name):
            for one in override["properties"]:
                if one["id"] == what:
                    return one["value"]
    return {}


def _line_style(panel: Mapping[str, Any], name: str) -> Any:
    style = _override(panel, name, "custom.lineStyle")
    return (0, tuple(style["dash"])) if style else "-"


def _line_color(panel: Mapping[str, Any], name: str, otherwise: str) -> str:
    color = _override(panel, name, "color").get("fixedColor", otherwise)
    return COLORS.get(color, color)


def _lines_at_steps(axes: Axes, steps: Sequence[Mapping[str, Any]]) -> None:
    """Where the thresholds are, if the picture reaches there."""
    low, high = axes.get_ylim()
    for one in steps:
        if one["value"] is not None and low <= one["value"] <= high:
            axes.axhline(one["value"], color=COLORS.get(one["color"], one["color"]), lw=0.9, ls="--", alpha=0.8)


def _color(panel: Mapping[str, Any], one: Series) -> str:
    fixed = _override(panel, one.name, "color")
    if fixed:
        return fixed["fixedColor"]
    color = ""
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or one.last >= step["value"]:
            color = step["color"]
    return COLORS.get(color, color)


def _words(panel: Mapping[str, Any], value: float) -> str | None:
    for mapping in panel["fieldConfig"]["defaults"]["mappings"]:
        if f"{value:g}" in mapping["options"]:
            return mapping["options"][f"{value:g}"]["text"]
    return None


def _said(panel: Mapping[str, Any], value: float) -> str:
    field = panel["fieldConfig"]["defaults"]
    return said(value, field["unit"], field.get("decimals"))


def _cut(words: str, inches: float, size: float) -> str:
    most = max(4, int(inches * 72 / (size * 0.56)))
    return words if len(words) <= most else words[: most - 1] + "…"


def _legend_lines(
    canvas: Canvas, panel: Mapping[str, Any], shown: list[Series]
) -> tuple[list[tuple[float, int, int, str]], int]:
    """Where each legend stands, (x, line, number of the series, words), and how many lines there are: up to five."""
    placed: list[tuple[float, int, int, str]] = []
    x, line = 0.1, 0
    for k, one in enumerate(shown):
        if _override(panel, one.name, "custom.hideFrom").get("legend"):
            continue
        words = f"{_cut(one.name, canvas.width - 0.9, 6.5)}  {_said(panel, one.last)}"
        wide = 0.28 + len(words) * 6.5 * 0.54 / 72
        if x > 0.1 and x + wide > canvas.width - 0.05:
            x, line = 0.1, line + 1
        if line == 5:
            return placed, 5
        placed.append((x, line, k, words))
        x += wide
    return placed, line + 1


# ---------------------------------------------------------------- a whole dashboard


def picture(prometheus: Prometheus, dashboard: dict[str, Any], values: Mapping[str, str], span: Span) -> Image.Image:
    """A dashboard as one picture."""
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    width, height = 2 * MARGIN + COLUMNS * COLUMN_INCH, HEAD + FOOT + lines * LINE_INCH
    figure = Figure(figsize=(width, height), facecolor=BACK)
    page = Canvas(figure, 0, 0, width, height)
    page.text(MARGIN, 0.22, dashboard["title"], fontsize=14, weight="bold")
    page.text(width - MARGIN, 0.22, _when(span), fontsize=9, ha="right", color=FAINT)
    chosen = "   ".join(f"{one['label']}: {_choice(values[one['name']])}" for one in dashboard["templating"]["list"])
    page.text(MARGIN, 0.47, chosen, fontsize=8, color=FAINT)
    for panel in dashboard["panels"]:
        canvas = _place(figure, panel["gridPos"])
        if panel["type"] == "row":
            canvas.text(0.02, canvas.height / 2, f"⌄  {panel['title']}", fontsize=9.5, weight="bold")
        else:
            draw(canvas, panel, ask(prometheus, panel, values, span), span)
    page.text(
        MARGIN,
        height - 0.2,
        "Drawn by deploy/grafana/pictures.py from what a Prometheus had scraped, with the dashboard's own expressions "
        "and layout. Not a screenshot of Grafana, whose lines, fonts and legends differ.",
        fontsize=8,
        color=FAINT,
        style="italic",
    )
    return _image(figure)


def _place(figure: Figure, grid: Mapping[str, int]) -> Canvas:
    left, top = MARGIN + grid["x"] * COLUMN_INCH, HEAD + grid["y"] * LINE_INCH
    return Canvas(figure, left + GAP, top + GAP, grid["w"] * COLUMN_INCH - 2 * GAP, grid["h"] * LINE_INCH - 2 * GAP)


def _when(span: Span) -> str:
    start, end = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (span.start, span.end))
    return f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"


def _choice(value: str) -> str:
    return "All" if value == ".*" else value


def _image(figure: Figure) -> Image.Image:
    with io.BytesIO() as whole:
        figure.savefig(whole, dpi=DPI, facecolor=BACK)
        return Image.open(whole).convert("RGB").quantize(96, dither=Image.Dither.NONE)  # a third of the bytes


@app.command()
def pictures(
    prometheus: Annotated[str, typer.Option(help="where it answers, http://host:port")] = "http://127.0.0.1:9090",
    out: Annotated[Path, typer.Option(help="folder for NAME.png of each dashboard")] = Path("docs/dashboards"),
    minutes: Annotated[float, typer.Option(min=1, help="how far back the pictures look")] = 15.0,
    until: Annotated[float | None, typer.Option(help="where they end, in seconds since 1970; else now")] = None,
    scrape: Annotated[float, typer.Option(min=0.1, help="seconds between two scrapes; rates look over four")] = 15.0,
    choose: Annotated[
        list[str] | None, typer.Option(help="a variable's choice, such as window=1h; may be given again")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="a dashboard by its file's name; may be given again")] = None,
) -> None:
    """Draw every dashboard from a running Prometheus, where there is no Grafana to make a screenshot of.

    Reads deploy/grafana/dashboards/*.json, asks every panel's expressions with Grafana's variables filled in, and draws
    the panels where the dashboard has them. What has no data says so.

    The local stack: `make up`, some minutes of use, then `python -m deploy.grafana.pictures --choose window=1h`.
    """
    end = until or dt.datetime.now(dt.UTC).timestamp()
    span = Span(end - 60 * minutes, end, scrape)
    chosen = dict(one.split("=", 1) for one in choose or [])
    out.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        if only and name not in only:
            continue
        values = first_choices(dashboard)
        values |= {variable: value for variable, value in chosen.items() if variable in values}
        try:
            image = picture(Prometheus(prometheus), dashboard, values, span)
        except NotAnswered as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        image.save(out / f"{name}.png", optimize=True)
        typer.echo(f"{out / name}.png  {sum(1 for _ in panels(dashboard))} panels")


if __name__ == "__main__":
    app(prog_name="python -m deploy.grafana.pictures")
