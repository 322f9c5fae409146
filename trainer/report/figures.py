"""From a run to the pictures of its report: what is drawn, and what is said of it in words."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.evaluate import PERSISTENCE
from trainer.report import plots
from trainer.report.numbers import GRIDS, coverages, examples, interval_ends, rmse_by_step, shares_below
from trainer.report.plots import Fan, Ink, Line
from trainer.report.record import RunReport, arm_label, is_baseline
from trainer.report.tables import grid_shares, number

HIGHLIGHT, PLAIN = "#1f5fc4", "#52616b"
COLOURS = ("#c2410c", "#00795a", "#a03b7a", "#8a5a00", "#2187bd", "#6b4f2a", "#7c3aed")
GRID_LIMITS = (400.0, 500.0, 600.0)  # mg/dL: where the axes of an error grid may end
PAST_STEPS = 3  # of history in an example, in lengths of its forecast
EXAMPLES = 3


@dataclass(frozen=True)
class Picture:
    """source: a data URI; alt: what it shows, for those who do not see it; caption: what to read from it"""

    source: str
    alt: str
    caption: str


def picture(svg: str, alt: str, caption: str) -> Picture:
    return Picture("data:image/svg+xml;base64," + b64encode(svg.encode()).decode(), alt, caption)


def inks_of(report: RunReport) -> dict[str, Ink]:
    """A colour for every arm: the highlighted one stands out, baselines are dashed, persistence is grey and dotted."""
    inks = {}
    colours = iter(COLOURS * (1 + len(report.arms) // len(COLOURS)))
    for arm in dict.fromkeys([*report.evaluation["arms"], *report.forecasts]):
        if arm == report.highlighted:
            inks[arm] = Ink(arm_label(arm), HIGHLIGHT, "-", 2.6)
        elif arm == PERSISTENCE:
            inks[arm] = Ink(arm_label(arm), PLAIN, ":")
        else:
            inks[arm] = Ink(arm_label(arm), next(colours), "--" if is_baseline(arm) else "-")
    return inks


def by_minute(report: RunReport, inks: dict[str, Ink]) -> list[Picture]:
    """RMSE at every step, and how much of persistence's is saved."""
    minutes, marked = report.shape.minutes_ahead, [int(h) for h in report.steps]
    errors = {arm: rmse_by_step(report.windows, f) for arm, f in report.forecasts.items()}
    lines = _highlighted_last(errors, inks, report)
    alt = "Root mean squared error against minutes ahead. " + _ends(lines, minutes, "mg/dL", "{:.1f}")
    svg = plots.lines_by_minute(minutes, lines, "RMSE, mg/dL", marked)
    pictures = [picture(svg, alt, "RMSE at every step, mean over people. Lower is better.")]
    if PERSISTENCE in errors and len(errors) > 1:
        saved = {arm: 100 * (1 - rmse / errors[PERSISTENCE]) for arm, rmse in errors.items()}
        lines = _highlighted_last(saved, inks, report)
        alt = "Error saved against persistence by minutes ahead. " + _ends(lines, minutes, "%", "{:.0f}")
        svg = plots.lines_by_minute(minutes, lines, "RMSE below persistence, %", marked)
        pictures.append(
            picture(svg, alt, "The same, as the share of persistence's error that is saved. Higher is better.")
        )
    return pictures


def _highlighted_last(values: dict[str, np.ndarray], inks: dict[str, Ink], report: RunReport) -> list[Line]:
    """Over the others."""
    return [(inks[arm], values[arm]) for arm in sorted(values, key=lambda arm: arm == report.highlighted)]


def _ends(lines: Sequence[Line], minutes: Sequence[int], unit: str, pattern: str) -> str:
    ends = "; ".join(f"{ink.label} {number(values[-1], pattern)}" for ink, values in lines)
    return f"At {minutes[-1]} minutes, in {unit}: {ends}."


def people_pictures(report: RunReport, inks: dict[str, Ink]) -> list[Picture]:
    """One for each horizon that at least two people have."""
    return [_by_person(report, h, inks) for h in report.steps if len(report.by_patient(report.highlighted, h)) > 1]


def _by_person(report: RunReport, horizon: str, inks: dict[str, Ink]) -> Picture:
    """The highlighted arm beside the best baseline, for every person."""
    own, rival = report.by_patient(report.highlighted, horizon), report.best_baseline(horizon)
    beside = report.by_patient(rival, horizon) if rival else {}
    people = [p for p in own if not rival or p in beside]
    ours = np.array([own[p] for p in people])
    theirs = np.array([beside[p] for p in people]) if rival else None
    pair = (inks[report.highlighted], inks[rival] if rival else None)
    svg = plots.patients_compared([report.labels[p] for p in people], ours, theirs, pair)
    said = f"{horizon} min ahead. Filled: {pair[0].label}"
    if theirs is not None and pair[1]:
        won = int((ours < theirs).sum())
        said += f"; ring: {pair[1].label}. The filled one is lower for {won} of {len(people)} people"
    return picture(svg, f"RMSE of every person, {said}.", f"{said}.")


def error_grids(report: RunReport) -> list[Picture]:
    """Every grid at every horizon, with the shares of its zones."""
    found = []
    for horizon, step in report.steps.items():
        truth, forecast = report.windows.target[:, step].astype(np.float64), report.published.mean[:, step]
        real = ~np.isnan(truth)
        limit = next((end for end in GRID_LIMITS if end >= np.nanmax(truth)), GRID_LIMITS[-1])
        for grid in GRIDS:
            shares = grid_shares(report, report.highlighted, horizon, grid)
            zones = ", ".join(f"{zone} {number(share, '{:.1%}')}" for zone, share in shares.items())
            said = f"{grid}, {horizon} min ahead: {zones}, of {real.sum():,} forecasts."
            svg = plots.error_grid(grid, truth[real], forecast[real], limit)
            found.append(picture(svg, f"Forecast against truth on the error grid of {said}", said))
    return found


def calibration_pictures(report: RunReport, inks: dict[str, Ink]) -> list[Picture]:
    """Quantiles of every arm that has some, and the intervals of the highlighted one by person."""
    found = []
    arms = [arm for arm, forecasts in report.forecasts.items() if forecasts.levels]
    for horizon, step in report.steps.items():
        if arms:
            found.append(_calibration(report, arms, horizon, step, inks))
    for horizon, step in report.steps.items():
        if shares := coverages(report.windows, report.published, step):
            found.append(_coverage(report, shares, horizon, inks[report.highlighted]))
    return found


def _calibration(report: RunReport, arms: list[str], horizon: str, step: int, inks: dict[str, Ink]) -> Picture:
    shares = {arm: shares_below(report.windows, report.forecasts[arm], step) for arm in arms}
    levels = {arm: np.asarray(report.forecasts[arm].levels) for arm in arms}
    worst = "; ".join(f"{inks[a].label} {100 * np.abs(shares[a] - levels[a]).max():.1f}" for a in arms)
    lines = [(inks[arm], levels[arm], shares[arm]) for arm in sorted(arms, key=lambda a: a == report.highlighted)]
    said = f"{horizon} min ahead"
    alt = f"Share of truth below each quantile against its level, {said}. Largest gap in points: {worst}."
    return picture(plots.calibration(lines), alt, f"Quantiles of every arm, {said}. Below: how far from the diagonal.")


def _coverage(report: RunReport, shares: dict[float, np.ndarray], horizon: str, ink: Ink) -> Picture:
    spread = "; ".join(
        f"{100 * nominal:.0f} %: {100 * np.nanmin(found):.0f}–{100 * np.nanmax(found):.0f} %"
        for nominal, found in shares.items()
    )
    said = (
        f"Intervals of {ink.label}, {horizon} min ahead. A dot for each person, their mean, a bar at what is promised."
    )
    alt = f"{said} Lowest to highest person at {spread}."
    return picture(plots.coverage_by_patient(shares, ink), alt, said)


def example_pictures(report: RunReport) -> dict[str, list[Picture]]:
    """{"best", "median", "worst": forecasts of the highlighted arm}, judged at the last horizon."""
    if not report.steps:
        return {}
    horizon, step = list(report.steps.items())[-1]
    chosen = examples(report.windows, report.published, step, EXAMPLES)
    return {name: _examples(report, rows, horizon, step) for name, rows in chosen.items()}


def _examples(report: RunReport, rows: list[int], horizon: str, step: int) -> list[Picture]:
    """On one scale, so that they compare."""
    fans = [_fan(report, row) for row in rows]
    glucose_range, found = _range_of(fans), []
    for row, fan in zip(rows, fans, strict=True):
        person = report.labels[report.windows.patient_ids[row]]
        said = f"{person}: {fan.mean[step]:.0f} foretold, {fan.truth[step]:.0f} came at {horizon} min"
        found.append(picture(plots.fan(fan, glucose_range), f"One forecast and what happened, in mg/dL. {said}.", said))
    return found


def _fan(report: RunReport, row: int) -> Fan:
    shape, forecasts = report.shape, report.published
    window = report.windows[row : row + 1]
    past = window.context[0][-PAST_STEPS * shape.prediction_length :].astype(np.float64)
    ends = {share: interval_ends(forecasts.levels, share) for share in plots.BANDS}
    quantiles = forecasts.quantiles[row]
    return Fan(
        shape.sampling_minutes * np.arange(1 - len(past), 1),
        past,
        np.array(shape.minutes_ahead),
        forecasts.mean[row],
        window.target[0].astype(np.float64),
        {share: (quantiles[:, pair[0]], quantiles[:, pair[1]]) for share, pair in ends.items() if pair},
    )


def _range_of(fans: Sequence[Fan]) -> tuple[float, float]:
    """What all of them need, and never less than where people judge."""
    drawn = [
        np.concatenate([f.past, f.mean, f.truth, *(edge for band in f.bands.values() for edge in band)]) for f in fans
    ]
    low, high = min(np.nanmin(d) for d in drawn), max(np.nanmax(d) for d in drawn)
    return min(50.0, float(low) - 10), max(200.0, float(high) + 10)


def training_pictures(report: RunReport, inks: dict[str, Ink]) -> list[Picture]:
    """Losses by epoch of everything that was trained."""
    found = []
    for name, curves in report.curves.items():
        losses = curves.validation
        if not (losses or curves.train):
            continue
        label, said = arm_label(name), ""
        if losses:
            said = f": lowest on validation {min(losses):.4f} in epoch {int(np.argmin(losses)) + 1} of {len(losses)}"
        svg = plots.training(curves.train, losses, inks.get(name, Ink(label, HIGHLIGHT)))
        found.append(picture(svg, f"Loss by epoch of {label}{said}.", f"{label}{said}"))
    return found
