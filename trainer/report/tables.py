"""The tables of a report: rows of words and numbers, ready to be printed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from forecasting.metrics import AlarmScores
from trainer.report.numbers import GRIDS, calibration_error, coverages, shares_below, zone_shares
from trainer.report.plots import Ink
from trainer.report.record import Cost, RunReport, arm_label

NOTHING = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Cell:
    """is_best: nothing else in the column is better, as printed"""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    ink: Ink
    cells: tuple[Cell, ...]
    is_highlighted: bool = False


@dataclass(frozen=True)
class Table:
    """title: what all of it is about; the first column names the arm of a row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Column:
    """A score: how it is printed, and how far a printed value is from perfect (None: nothing is best)."""

    name: str
    score: str
    pattern: str
    distance: Callable[[float], float] | None = abs


COMPARED = (
    Column("RMSE", "rmse", "{:.2f}"),
    Column("MAE", "mae", "{:.2f}"),
    Column("MARD", "mard", "{:.2f} %"),
    Column("bias", "bias", "{:+.2f}"),
    Column("skill", "skill", "{:.3f}", lambda skill: -skill),
    Column("temporal gain", "temporal_gain", "{:.0f} min", lambda minutes: -minutes),
    Column("90 % coverage", "coverage_90", "{:.1%}", lambda share: abs(share - 0.9)),
    Column("90 % width", "width_90", "{:.0f}", None),
)


def number(value: float | None, pattern: str) -> str:
    """With a true minus sign, and a unit that stays on its line; a dash for nothing."""
    if value is None or not np.isfinite(value):
        return NOTHING
    text = pattern.format(value).replace("%", " %").replace("  %", " %").replace(" ", NO_BREAK)
    return text.replace("-", "−") if any(c in text for c in "123456789") else text.lstrip("+-")


def comparison(report: RunReport, horizon: str, inks: dict[str, Ink]) -> Table:
    """Every arm at one horizon, the best of each column marked; and how far the patients are apart."""
    scores = [report.mean(arm, horizon) for arm in report.arms]
    columns = [_cells([s.get(column.score) for s in scores], column) for column in COMPARED]
    columns.append([Cell(_apart(report, arm, horizon)) for arm in report.arms])
    columns.append([Cell(number(s.get("patients"), "{:.0f}")) for s in scores])
    names = [*(column.name for column in COMPARED), "RMSE over people", "people"]
    return Table(f"{horizon} minutes ahead", ("arm", *names), _rows(report, report.arms, inks, columns))


def _cells(values: Sequence[float | None], column: Column) -> list[Cell]:
    texts = [number(value, column.pattern) for value in values]
    best = None
    if column.distance is not None and len(values) > 1:
        found = [(column.distance(v), text) for v, text in zip(values, texts, strict=True) if v is not None]
        best = min(found)[1] if found else None
    return [Cell(text, text == best and text != NOTHING) for text in texts]


def _apart(report: RunReport, arm: str, horizon: str) -> str:
    """Standard deviation and range of the RMSE over patients."""
    own = list(report.by_patient(arm, horizon).values())
    if len(own) < 2:
        return NOTHING
    return f"± {np.std(own, ddof=1):.2f} ({min(own):.1f}–{max(own):.1f})"


def _rows(
    report: RunReport, arms: Sequence[str], inks: dict[str, Ink], columns: Sequence[Sequence[Cell]]
) -> tuple[Row, ...]:
    return tuple(
        Row(inks[arm], cells, arm == report.highlighted)
        for arm, cells in zip(arms, zip(*columns, strict=True), strict=True)
    )


def zones(report: RunReport, horizon: str, inks: dict[str, Ink]) -> Table:
    """Share of forecasts in zone A, and in D and E together, of every arm on every grid."""
    arms = [arm for arm in report.arms if arm in report.forecasts]
    columns, names = [], []
    for grid in GRIDS:
        shares = [grid_shares(report, arm, horizon, grid) for arm in arms]
        columns.append(_cells([s["A"] for s in shares], Column(f"{grid} A", "", "{:.1%}", lambda share: -share)))
        columns.append(_cells([s["D"] + s["E"] for s in shares], Column("D+E", "", "{:.2%}")))
        names += [f"{grid} A", f"{grid} D+E"]
    return Table(f"Zones, {horizon} minutes ahead", ("arm", *names), _rows(report, arms, inks, columns))


def grid_shares(report: RunReport, arm: str, horizon: str, grid: str) -> dict[str, float]:
    """{zone: share of the forecasts of one arm at one horizon}"""
    step = report.steps[horizon]
    return zone_shares(grid, report.windows.target[:, step], report.forecasts[arm].mean[:, step])


def calibrations(report: RunReport, horizon: str, inks: dict[str, Ink]) -> Table:
    """How far each arm's quantiles are from what they promise, and what its intervals hold."""
    arms = [arm for arm in report.arms if arm in report.forecasts and report.forecasts[arm].levels]
    found = [_calibration(report, arm, report.steps[horizon]) for arm in arms]
    promises = sorted({promise for one in found for promise in one})
    columns = [_cells([one.get(p) for one in found], Column("", "", "{:.1%}", partial(_gap, p))) for p in promises]
    names = ["mean gap" if promise == 0 else f"in {100 * promise:.0f} %" for promise in promises]
    return Table(f"Calibration, {horizon} minutes ahead", ("arm", *names), _rows(report, arms, inks, columns))


def _calibration(report: RunReport, arm: str, step: int) -> dict[float, float]:
    """{what is promised: what came}: a mean gap of 0, and the share of every interval."""
    forecasts = report.forecasts[arm]
    gap = calibration_error(shares_below(report.windows, forecasts, step), forecasts.levels)
    intervals = coverages(report.windows, forecasts, step)
    return {0.0: gap} | {share: float(np.nanmean(found)) for share, found in intervals.items()}


def _gap(promise: float, value: float) -> float:
    return abs(value - promise)


ALARMS: dict[str, Callable[[AlarmScores], str]] = {
    "events": lambda a: str(a.events),
    "detected": lambda a: str(a.detected),
    "alarms": lambda a: str(a.alarms),
    "false": lambda a: str(a.false_alarms),
    "sensitivity": lambda a: number(a.sensitivity, "{:.1%}"),
    "precision": lambda a: number(a.precision, "{:.1%}"),
    "F1": lambda a: number(a.f1, "{:.2f}"),
    "false a day": lambda a: number(a.false_per_day, "{:.2f}"),
    "lead": lambda a: number(a.median_lead, "{:.0f} min"),
}
COSTS: dict[str, Callable[[Cost], str]] = {
    "parameters": lambda c: number(c.parameters, "{:,}"),
    "file": lambda c: number(c.file_mb, "{:.1f} MB"),
    "one forecast": lambda c: number(c.latency_ms, "{:.2f} ms"),
    "in batches": lambda c: number(c.batch_per_second, "{:,.0f} a second"),
}


def unflagged(report: RunReport, inks: dict[str, Ink]) -> Table:
    """RMSE of every arm on all windows and on those without a doubtful reading, and the difference."""
    found: dict[str, dict[str, float]] = report.evaluation.get("unflagged", {})
    arms = [arm for arm in report.arms if found.get(arm)]
    columns, names = [], []
    for horizon in report.horizons:
        everything = [report.mean(arm, horizon).get("rmse") for arm in arms]
        without = [found[arm].get(horizon) for arm in arms]
        changes = [None if a is None or b is None else b - a for a, b in zip(everything, without, strict=True)]
        columns += [_cells(everything, COMPARED[0]), _cells(without, COMPARED[0])]
        columns.append(_cells(changes, Column("", "", "{:+.2f}", None)))
        names += [f"all, {horizon} min", "unflagged", "change"]
    return Table("RMSE without flagged windows", ("arm", *names), _rows(report, arms, inks, columns) if arms else ())


def alarms(report: RunReport, inks: dict[str, Ink]) -> Table:
    """What warnings were worth, at the threshold of each arm and at equally many false alarms."""
    table = _table("Warnings of lows", report, report.alarms or {}, ALARMS, inks)
    if not report.equal_alarms:
        return table
    at_equal = [Cell(number(report.equal_alarms.get(arm), "{:.1%}")) for arm in report.alarms or {}]
    rows = (replace(row, cells=(*row.cells, cell)) for row, cell in zip(table.rows, at_equal, strict=True))
    return replace(table, columns=(*table.columns, "at equal"), rows=tuple(rows))


def costs(report: RunReport, inks: dict[str, Ink]) -> Table:
    return _table("Size and speed", report, report.costs, COSTS, inks)


def _table(
    title: str, report: RunReport, of: dict[str, Any], columns: dict[str, Callable[[Any], str]], inks: dict[str, Ink]
) -> Table:
    rows = tuple(
        Row(
            inks.get(arm, Ink(arm_label(arm), "#94a3b8")),
            tuple(Cell(print_it(one)) for print_it in columns.values()),
            arm == report.highlighted,
        )
        for arm, one in of.items()
    )
    return Table(title, ("arm", *columns), rows)
