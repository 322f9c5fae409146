"""The pictures of a report: arrays in, SVG out. None knows what a run is.

Each is one panel that stays readable 360 points wide; the page puts them side by side where there is room.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL
from trainer.report.grids import GRID_LINES, GRID_ZONES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # that it looked for fonts is no news

P = ParamSpec("P")
Line = tuple["Ink", np.ndarray]

INK, SOFT, FORECAST, IN_RANGE = "#22303c", "#52616b", "#1f5fc4", "#3a9d6e"
BANDS = {0.9: "#d6e4fa", 0.8: "#aecaf5", 0.5: "#82aeee"}  # widest first: drawn over each other
STYLE: Any = {
    "svg.fonttype": "none",  # words stay words
    "svg.hashsalt": "report",  # the same page from the same run
    "text.parse_math": False,  # a $ in a name is a $
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6eaee",
}


@dataclass(frozen=True)
class Ink:
    """How an arm is drawn, everywhere in a report."""

    label: str
    colour: str
    line: str = "-"
    width: float = 1.4


@dataclass(frozen=True)
class Fan:
    """A forecast with its past, in mg/dL; minutes count from the origin. bands: {share: (lower, upper)}"""

    past_minutes: np.ndarray
    past: np.ndarray
    minutes: np.ndarray
    mean: np.ndarray
    truth: np.ndarray
    bands: Mapping[float, tuple[np.ndarray, np.ndarray]]


def drawn(
    width: float, height: float
) -> Callable[[Callable[Concatenate["Axes", P], None]], Callable[Concatenate[P], str]]:
    """Makes an SVG of what a function draws on axes; inches."""

    def decorate(draw: Callable[Concatenate["Axes", P], None]) -> Callable[P, str]:
        def picture(*args: P.args, **kwargs: P.kwargs) -> str:
            from matplotlib import rc_context  # takes half a second
            from matplotlib.figure import Figure

            with rc_context(STYLE):
                figure = Figure(figsize=(width, height), layout="constrained")
                draw(figure.add_subplot(), *args, **kwargs)
                return _svg(figure)

        return picture

    return decorate


@drawn(4.8, 3.5)
def lines_by_minute(axes: "Axes", minutes: Sequence[int], lines: Sequence[Line], unit: str, marked: list[int]) -> None:
    """A line for each arm against minutes ahead, named at its end. marked: the horizons of the tables."""
    for minute in marked:
        axes.axvline(minute, color=SOFT, lw=0.8, ls=(0, (2, 3)))
    for ink, values in lines:
        axes.plot(minutes, values, ink.line, color=ink.colour, lw=ink.width)
    axes.set(xlabel="minutes ahead", ylabel=unit, xticks=_ticks(minutes))
    axes.set_xlim(0, max(minutes))
    _name_ends(axes, [(ink, minutes, values) for ink, values in lines])


@drawn(4.3, 3.0)
def patients_compared(
    axes: "Axes", patients: Sequence[str], own: np.ndarray, rival: np.ndarray | None, inks: tuple[Ink, Ink | None]
) -> None:
    """RMSE of every patient: filled dots for one arm, rings for the other; the top one has the largest error."""
    axes.figure.set_figheight(1.0 + 0.17 * len(patients))  # type: ignore[union-attr]
    order = np.argsort(own)
    rows = np.arange(len(order))
    if rival is not None and inks[1] is not None:
        axes.hlines(rows, own[order], rival[order], color="#c3ccd4", lw=2, zorder=2)
        axes.plot(rival[order], rows, "o", mfc="white", mec=inks[1].colour, mew=1.5, ms=5.5, zorder=3)
    axes.plot(own[order], rows, "o", color=inks[0].colour, ms=6, zorder=4)
    axes.set_yticks(rows, [patients[k] for k in order], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("RMSE, mg/dL")
    axes.grid(axis="x")


@drawn(4.4, 4.5)
def error_grid(axes: "Axes", grid: str, truth: np.ndarray, forecast: np.ndarray, limit: float) -> None:
    """How many forecasts lie where, darker for more, under the lines of a grid. limit: where the axes end, mg/dL"""
    axes.grid(visible=False)
    axes.hexbin(
        np.clip(truth, 0, limit),
        np.clip(forecast, 0, limit),
        gridsize=44,
        extent=(0, limit, 0, limit),
        mincnt=1,
        bins="log",
        cmap=_blues(),
        linewidths=0.1,
        rasterized=True,
    )
    axes.plot([0, limit], [0, limit], color=SOFT, lw=0.7, ls=(0, (3, 3)))
    for line in GRID_LINES[grid]:
        axes.plot(*np.array(line).T, color=INK, lw=1.1)
    for zone, x, y in GRID_ZONES[grid]:
        behind = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5}
        axes.text(x, y, zone, fontsize=12, fontweight="bold", ha="center", va="center", bbox=behind)
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="truth, mg/dL", ylabel="forecast, mg/dL", aspect="equal")
    axes.set(xticks=range(0, int(limit) + 1, 100), yticks=range(0, int(limit) + 1, 100))


@drawn(4.6, 4.9)
def calibration(axes: "Axes", lines: Sequence[tuple[Ink, np.ndarray, np.ndarray]]) -> None:
    """Share of truth at or below each quantile against its level; and, below, how far they are apart.

    lines: (ink, levels, shares)
    """
    figure: Any = axes.figure
    axes.remove()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
    above.plot([0, 100], [0, 100], color=SOFT, lw=1, ls=(0, (3, 3)))
    above.annotate("perfect", (62, 62), xytext=(8, -12), textcoords="offset points", color=SOFT)
    below.axhline(0, color=SOFT, lw=1, ls=(0, (3, 3)))
    for ink, levels, shares in lines:
        above.plot(100 * levels, 100 * shares, ink.line, marker="o", ms=3, color=ink.colour, lw=ink.width)
        below.plot(100 * levels, 100 * (shares - levels), ink.line, marker="o", ms=3, color=ink.colour, lw=ink.width)
    reach = max(3.0, 1.15 * abs(np.array(below.get_ylim())).max())
    above.set(ylabel="truth below it, %", xlim=(0, 100), ylim=(0, 100))
    below.set(xlabel="level of the quantile, %", ylabel="gap, points", ylim=(-reach, reach))


@drawn(4.6, 3.6)
def coverage_by_patient(axes: "Axes", shares: Mapping[float, np.ndarray], ink: Ink) -> None:
    """For each interval: a bar at what it promises, a dot for what each patient got, and their mean in numbers."""
    for place, (nominal, found) in enumerate(shares.items()):
        real = np.sort(100 * found[~np.isnan(found)])
        beside = place + 0.17 * np.sin(2.4 * np.arange(len(real)))  # apart, so that equal ones are seen
        axes.plot(beside, real, "o", ms=4.5, color=ink.colour, alpha=0.5, mew=0)
        axes.hlines(100 * nominal, place - 0.3, place + 0.3, color=INK, lw=2)
        axes.annotate(f"{np.mean(real):.0f} %", (place + 0.32, np.mean(real)), va="center", color=ink.colour)
    names = [f"{100 * nominal:.0f} %" for nominal in shares]
    axes.set_xticks(range(len(shares)), names)
    axes.set(xlabel="interval", ylabel="truth inside, % of readings", xlim=(-0.5, len(shares) - 0.2))


@drawn(3.8, 2.7)
def fan(axes: "Axes", one: Fan, glucose_range: tuple[float, float]) -> None:
    """One forecast: past, mean with its bands, and what happened."""
    axes.axhspan(LOW_MG_DL, HIGH_MG_DL, color=IN_RANGE, alpha=0.08, lw=0)
    for edge in (LOW_MG_DL, HIGH_MG_DL):
        axes.axhline(edge, color=IN_RANGE, lw=0.8, alpha=0.7)
    minutes = np.concatenate([[0], one.minutes])
    for share, (lower, upper) in one.bands.items():
        lower, upper = (np.concatenate([one.past[-1:], edge]) for edge in (lower, upper))
        axes.fill_between(minutes, lower, upper, color=BANDS[share], lw=0)
    axes.axvline(0, color=INK, lw=0.8, ls=(0, (3, 3)))
    axes.plot(one.past_minutes, one.past, "o-", color=SOFT, ms=2.2, lw=1)
    axes.plot(minutes, np.concatenate([one.past[-1:], one.mean]), color=FORECAST, lw=2.2)
    axes.plot(one.minutes, one.truth, "o", ms=4, mfc="white", mec=INK, mew=1.1)
    axes.set(xlabel="minutes from the forecast", ylabel="mg/dL", ylim=glucose_range)
    axes.set(xticks=_ticks([*one.past_minutes, *one.minutes]))


@drawn(3.8, 2.7)
def training(axes: "Axes", train: Sequence[float], validation: Sequence[float], ink: Ink) -> None:
    """Loss by epoch, and a dot at the lowest on validation."""
    curves = [(Ink("validation", ink.colour), validation), (Ink("train", SOFT), train)]
    curves = [(one, losses) for one, losses in curves if losses]
    for one, losses in curves:
        axes.plot(range(1, len(losses) + 1), losses, color=one.colour, lw=1.6, marker=".", ms=4)
    if validation:
        best = int(np.argmin(validation))
        axes.plot(best + 1, validation[best], "o", ms=8, mfc="none", mec=ink.colour, mew=1.5)
    axes.set(xlabel="epoch", ylabel="loss")
    axes.set_xticks(_ticks([1, max(len(losses) for _, losses in curves)], (1, 2, 5, 10, 20, 50, 100)))
    axes.margins(x=0.02)
    _name_ends(axes, [(one, range(1, len(losses) + 1), np.asarray(losses)) for one, losses in curves])


def _name_ends(axes: "Axes", lines: Sequence[tuple[Ink, Sequence[int], np.ndarray]]) -> None:
    """Write each line's name right of its end, none over another, and join the two."""
    lines = [line for line in lines if np.isfinite(line[2]).any()]
    low, high = axes.get_ylim()
    lasts = [np.flatnonzero(np.isfinite(values))[-1] for _, _, values in lines]
    ends = [(xs[last], float(values[last])) for (_, xs, values), last in zip(lines, lasts, strict=True)]
    heights = spread(np.array([y for _, y in ends]), 0.068 * (high - low))
    for (ink, _, _), end, height in zip(lines, ends, heights.tolist(), strict=True):
        axes.annotate(
            ink.label,
            end,
            xytext=(1.06, height),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            color=ink.colour,
            fontsize=8.5,
            fontweight="bold" if ink.width > 2 else "normal",
            arrowprops={"arrowstyle": "-", "color": ink.colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 1},
            annotation_clip=False,
        )


def spread(values: np.ndarray, gap: float) -> np.ndarray:
    """The values in their order, moved as little as keeps neighbours a gap apart."""
    groups: list[list[float]] = []  # of neighbours that touch, each centred on the mean of its values
    for value in np.sort(values).tolist():
        groups.append([value])
        while len(groups) > 1 and _top(groups[-2], gap) + gap > _bottom(groups[-1], gap):
            last = groups.pop()
            groups[-1] += last
    moved = np.concatenate([_bottom(g, gap) + gap * np.arange(len(g)) for g in groups]) if groups else values
    return moved[np.argsort(np.argsort(values, kind="stable"), kind="stable")]


def _bottom(group: list[float], gap: float) -> float:
    return float(np.mean(group)) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return float(np.mean(group)) + gap * (len(group) - 1) / 2


def _ticks(values: Sequence[Any], steps: Sequence[int] = (5, 10, 15, 30, 60, 120, 240, 480)) -> list[int]:
    """Round values between the least and the greatest, about six of them."""
    first, last = int(min(values)), int(max(values))
    step = next((step for step in steps if (last - first) / step <= 6), steps[-1])
    return list(range(-(-first // step) * step, last + 1, step))


def _blues() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blues", ["#dbe7fa", "#82aeee", FORECAST, "#0b2a5e"])


def _svg(figure: Any) -> str:
    text = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", dpi=200, metadata=nothing)
    svg = text.getvalue().partition("<svg")[2].join(("<svg", ""))
    return svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")  # narrower than what was measured
