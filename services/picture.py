"""A picture of one forecast: history, fan, mean, and the truth where it is known."""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL, SENSOR_MG_DL
from forecasting.context import Reading
from forecasting.errors import InvalidSetting
from protos.glucast.v1 import forecaster_pb2 as pb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BANDS = (  # widest first: drawn over each other
    (0.025, 0.975, "95 % interval", "#d6e4fa"),
    (0.1, 0.9, "80 % interval", "#aecaf5"),
    (0.25, 0.75, "50 % interval", "#82aeee"),
)
INK, HISTORY, FORECAST, IN_RANGE = "#22303c", "#52616b", "#1f5fc4", "#3a9d6e"
DRAWN = dt.timedelta(hours=6)  # of history


def draw_forecast(
    path: Path,
    answer: pb.ForecastResponse,
    readings: Sequence[Reading],
    truth: Mapping[int, float] | None = None,
    clock: str = "UTC",
) -> None:
    """Write a PNG. readings: mg/dL, oldest first; truth: {minutes ahead: mg/dL}; clock: what the times are on.

    Raises InvalidSetting where matplotlib is not installed (it comes with the train extra) or `path` cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # heavy, and not in the serving image
    except ImportError as error:
        raise InvalidSetting("a picture needs matplotlib, which is not installed; pip install matplotlib") from error
    figure = Figure(figsize=(9.6, 5.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    origin = answer.origin.ToDatetime(tzinfo=dt.UTC)
    _draw_range(axes)
    _draw_history(axes, [reading for reading in readings if reading.time > origin - DRAWN])
    _draw_fan(axes, answer, readings[-1])
    if truth:
        times = [origin + dt.timedelta(minutes=minutes) for minutes in truth]
        axes.plot(
            _days(times), list(truth.values()), "o", ms=4.5, mfc="white", mec=INK, mew=1.2, label="truth", zorder=5
        )
    axes.axvline(_days([origin])[0], color=INK, lw=0.8, ls=(0, (3, 3)))
    _dress(axes, answer, clock)
    figure.legend(frameon=False, fontsize=8, ncols=7, loc="outside lower center")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"the picture cannot be written to {path}: {error}") from error


def _draw_range(axes: "Axes") -> None:
    label = f"{LOW_MG_DL:.0f}–{HIGH_MG_DL:.0f} mg/dL"
    axes.axhspan(LOW_MG_DL, HIGH_MG_DL, color=IN_RANGE, alpha=0.08, lw=0, label=label)
    for edge in (LOW_MG_DL, HIGH_MG_DL):
        axes.axhline(edge, color=IN_RANGE, lw=0.8, alpha=0.6)


def _draw_history(axes: "Axes", readings: Sequence[Reading]) -> None:
    """Dots at readings; a sensor's Low and High lie at the edge of its range."""
    edge = {"low": SENSOR_MG_DL[0], "high": SENSOR_MG_DL[1]}
    glucose = [edge[r.value] if isinstance(r.value, str) else r.value for r in readings]
    axes.plot(_days([r.time for r in readings]), glucose, "o-", color=HISTORY, ms=3, lw=1, label="readings")


def _draw_fan(axes: "Axes", answer: pb.ForecastResponse, last: Reading) -> None:
    """Bands and mean; they begin at the last reading, where nothing is uncertain yet."""
    times = _days([last.time, *(point.time.ToDatetime(tzinfo=dt.UTC) for point in answer.points)])
    start = [float(last.value)] if not isinstance(last.value, str) else [answer.points[0].mean_mg_dl]
    quantiles = [{q.level: q.value_mg_dl for q in point.quantiles} for point in answer.points]
    for low, high, label, shade in BANDS:
        if all({low, high} <= at.keys() for at in quantiles):
            lower, upper = start + [at[low] for at in quantiles], start + [at[high] for at in quantiles]
            axes.fill_between(times, lower, upper, color=shade, lw=0, label=label, zorder=2)
    mean = start + [point.mean_mg_dl for point in answer.points]
    axes.plot(times, mean, color=FORECAST, lw=2.2, label="forecast mean", zorder=4)


def _days(times: Sequence[dt.datetime]) -> list[float]:
    """Times as matplotlib counts them."""
    from matplotlib.dates import date2num

    return [float(date2num(time)) for time in times]


def _dress(axes: "Axes", answer: pb.ForecastResponse, clock: str) -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    model, origin = answer.model, answer.origin.ToDatetime()
    axes.set_title(f"{model.name}, version {model.version}", loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_title("research prototype, not a medical device", loc="right", color=HISTORY, fontsize=8)
    axes.set_xlabel(f"time of {origin:%Y-%m-%d} ({clock})", color=INK)
    axes.set_ylabel("glucose (mg/dL)", color=INK)
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=5, maxticks=9))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 50), max(high, 200))
    axes.margins(x=0.02)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=INK, alpha=0.08)
    axes.spines[["top", "right"]].set_visible(False)
