"""A picture of one forecast: history, fan, mean, and the truth where it is known."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL, MG_DL_PER_MMOL_L, SENSOR_MG_DL, Unit
from forecasting.context import Reading
from forecasting.errors import InvalidSetting
from services.client.clock import Clock
from services.client.results import Curve, Forecast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = (  # widest first: drawn over each other
    (0.95, "95 % interval", "#d6e4fa"),
    (0.8, "80 % interval", "#aecaf5"),
    (0.5, "50 % interval", "#82aeee"),
)
INK, HISTORY, FORECAST, IN_RANGE = "#22303c", "#52616b", "#1f5fc4", "#3a9d6e"
DRAWN = dt.timedelta(hours=6)  # of history
BREAK = dt.timedelta(minutes=16)  # without a reading: no line is drawn across
SHOWN_MG_DL = (50.0, 200.0)  # at least
SHARE = 0.9  # of the interval that is written at the end


@dataclass(frozen=True)
class Paper:
    """What is drawn on, and in what: every value in `unit`, every time on `clock`."""

    axes: "Axes"
    clock: Clock
    unit: Unit

    def level(self, glucose_mg_dl: float) -> float:
        """Glucose, as it is drawn."""
        return glucose_mg_dl if self.unit == "mg/dL" else glucose_mg_dl / MG_DL_PER_MMOL_L

    def days(self, times: Sequence[dt.datetime]) -> list[float]:
        """Times as matplotlib counts them, which knows no zones."""
        from matplotlib.dates import date2num

        return [float(date2num(self.clock.at(time).replace(tzinfo=None))) for time in times]

    def text(self, glucose: float) -> str:
        """A drawn value, with as many digits as people write."""
        return f"{glucose:.0f}" if self.unit == "mg/dL" else f"{glucose:.1f}"


def draw_forecast(
    path: Path,
    forecast: Forecast,
    truth: Mapping[int, float] | None = None,
    clock: Clock = Clock(),
    unit: Unit = "mg/dL",
) -> None:
    """Write a PNG of a forecast after the readings that it was made from.

    truth: {minutes ahead: mg/dL}; clock, unit: what times and glucose are drawn in.
    Raises InvalidSetting where matplotlib is not installed (it comes with the train extra) or `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # heavy, and not in the serving image
    except ImportError as error:
        raise InvalidSetting("a picture needs matplotlib, which is not installed; pip install matplotlib") from error
    figure = Figure(figsize=(9.6, 5.0), dpi=150, layout="constrained")
    paper = Paper(figure.add_subplot(), clock, unit)
    _draw_range(paper)
    _draw_history(paper, [reading for reading in forecast.readings if reading.time > forecast.origin - DRAWN])
    _draw_fan(paper, forecast)
    _draw_truth(paper, forecast, truth or {})
    _draw_origin(paper, forecast)
    _dress(paper, forecast)
    figure.legend(frameon=False, fontsize=8, ncols=7, loc="outside lower center", handlelength=1.6, columnspacing=1.6)
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"the picture cannot be written to {path}: {error}") from error


def _draw_range(paper: Paper) -> None:
    low, high = paper.level(LOW_MG_DL), paper.level(HIGH_MG_DL)
    label = f"{paper.text(low)}–{paper.text(high)} {paper.unit}"
    paper.axes.axhspan(low, high, color=IN_RANGE, alpha=0.08, lw=0, label=label, zorder=0)
    for edge in (low, high):
        paper.axes.axhline(edge, color=IN_RANGE, lw=0.8, alpha=0.6, zorder=1)


def _draw_history(paper: Paper, readings: Sequence[Reading]) -> None:
    """Dots at readings, and a line that breaks where none were; Low and High lie at the edge of the sensor's range."""
    if not readings:
        return
    times = [reading.time for reading in readings]
    glucose = np.array([paper.level(_mg_dl(reading)) for reading in readings])
    pauses = 1 + np.flatnonzero(np.diff(np.array([time.timestamp() for time in times])) > BREAK.total_seconds())
    days, glucose = np.insert(paper.days(times), pauses, np.nan), np.insert(glucose, pauses, np.nan)
    paper.axes.plot(days, glucose, "o-", color=HISTORY, ms=3, lw=1, label="readings", zorder=3)


def _mg_dl(reading: Reading) -> float:
    edge = {"low": SENSOR_MG_DL[0], "high": SENSOR_MG_DL[1]}
    return edge[reading.value] if isinstance(reading.value, str) else reading.value


def _draw_fan(paper: Paper, forecast: Forecast) -> None:
    """Bands and mean; they begin at the last reading, where nothing is uncertain yet."""
    curve = forecast.in_unit(paper.unit)
    start = tuple(paper.level(_mg_dl(reading)) for reading in forecast.readings[-1:])
    times = paper.days([*([forecast.origin] if start else []), *curve.times])
    for share, label, shade in BANDS:
        edges = curve.interval(share)
        if edges is not None:
            lower, upper = start + edges[0], start + edges[1]
            paper.axes.fill_between(times, lower, upper, color=shade, lw=0, label=label, zorder=2)
    paper.axes.plot(times, start + curve.mean, color=FORECAST, lw=2.2, label="forecast mean", zorder=4)
    _write_end(paper, curve, times[-1])


def _write_end(paper: Paper, curve: Curve, day: float) -> None:
    """What the last step says, in numbers, beside it."""
    edges = curve.interval(SHARE)
    text = f"{paper.text(curve.mean[-1])} in {curve.minutes_ahead[-1]} min"
    if edges is not None:
        text += f"\n{100 * SHARE:.0f} %: {paper.text(edges[0][-1])}–{paper.text(edges[1][-1])}"
    paper.axes.annotate(
        text,
        (day, curve.mean[-1]),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=FORECAST,
        fontsize=9,
        linespacing=1.3,
    )


def _draw_truth(paper: Paper, forecast: Forecast, truth: Mapping[int, float]) -> None:
    if not truth:
        return
    days = paper.days([forecast.origin + dt.timedelta(minutes=minutes) for minutes in truth])
    glucose = [paper.level(value) for value in truth.values()]
    paper.axes.plot(days, glucose, "o", ms=4.5, mfc="white", mec=INK, mew=1.2, label="truth", zorder=5)


def _draw_origin(paper: Paper, forecast: Forecast) -> None:
    """Where readings end and the forecast begins."""
    (day,) = paper.days([forecast.origin])
    paper.axes.axvline(day, color=INK, lw=0.8, ls=(0, (3, 3)), zorder=3)
    paper.axes.annotate(
        f"forecast at {paper.clock.at(forecast.origin):%H:%M}",
        (day, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-5, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=INK,
        fontsize=9,
    )


def _dress(paper: Paper, forecast: Forecast) -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    axes, model = paper.axes, forecast.model
    axes.set_title(
        f"Glucose of {forecast.patient_id}" if forecast.patient_id else "Glucose",
        loc="left",
        color=INK,
        fontsize=13,
        fontweight="bold",
        pad=12,
    )
    about = f"{model.name}, version {model.version}\nresearch prototype, not a medical device"
    axes.set_title(about, loc="right", color=HISTORY, fontsize=8, pad=10, linespacing=1.4)
    axes.set_xlabel(f"time on {paper.clock.at(forecast.origin):%Y-%m-%d} ({paper.clock.name})", color=INK)
    axes.set_ylabel(paper.unit, color=INK)
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=5, maxticks=9))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    _stretch(paper)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=INK, alpha=0.08)
    axes.tick_params(colors=INK, length=3)
    axes.spines[["top", "right"]].set_visible(False)


def _stretch(paper: Paper) -> None:
    """Show the range around which people judge, and leave room for the words at the end."""
    low, high = paper.axes.get_ylim()
    paper.axes.set_ylim(min(low, paper.level(SHOWN_MG_DL[0])), max(high, paper.level(SHOWN_MG_DL[1])))
    first, last = paper.axes.dataLim.intervalx
    paper.axes.set_xlim(first - 0.01 * (last - first), last + 0.14 * (last - first))
