"""A run written up for a person: one HTML page with its pictures inside, which needs nothing else."""

import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from trainer.alarms import EQUALLY_FALSE
from trainer.kept import code_digest, write_text
from trainer.report import figures, tables
from trainer.report.record import RunReport, arm_label

LIBRARIES = ("numpy", "onnxruntime", "torch", "transformers")  # what forecasts depend on
FLAGS = {  # kinds of doubt, in words
    "warm_up": "first 12 hours after a pause that suggests a new sensor",
    "jump": "faster than glucose moves",
    "compression": "like the low of a sensor that is lain on",
    "clock": "back and forth, as a folded clock",
    "any": "any of these",
}
IS_LEFT_OUT = " is left out: "  # parts the person from the reason, in sentences of an evaluation


def write_report(report: RunReport, path: Path) -> None:
    """One HTML file. Raises InvalidSetting where its parts do not belong together."""
    report.check()
    environment = Environment(loader=PackageLoader("trainer"), autoescape=select_autoescape(), trim_blocks=True)
    write_text(path, environment.get_template("report.html").render(_contents(report)))


def _contents(report: RunReport) -> dict[str, Any]:
    inks = figures.inks_of(report)
    return {
        "report": report,
        "lead": _lead(report),
        "comparisons": [tables.comparison(report, horizon, inks) for horizon in report.horizons],
        "by_minute": figures.by_minute(report, inks),
        "by_person": figures.people_pictures(report, inks),
        "error_grids": figures.error_grids(report),
        "zones": [tables.zones(report, horizon, inks) for horizon in report.steps],
        "calibrations": [tables.calibrations(report, horizon, inks) for horizon in report.steps],
        "calibration_pictures": figures.calibration_pictures(report, inks),
        "alarms": tables.alarms(report, inks),
        "unflagged": tables.unflagged(report, inks),
        "equal_rate": EQUALLY_FALSE,
        "flagged": _flagged(report),
        "examples": figures.example_pictures(report),
        "training": figures.training_pictures(report, inks),
        "costs": tables.costs(report, inks),
        "provenance": _provenance(report),
        "left_out": _left_out(report),
    }


def _lead(report: RunReport) -> dict[str, Any]:
    """The summary's numbers: every baseline beside the published arm, and what came of it."""
    horizons = [h for h in report.horizons if report.mean(report.highlighted, h)]
    rivals = [arm for arm in report.arms if arm != report.highlighted]
    return {
        "arm": arm_label(report.highlighted),
        "horizons": horizons,
        "rmse": _rmses(report, report.highlighted, horizons),
        "beside": {arm_label(arm): _rmses(report, arm, horizons) for arm in rivals},
        "verdicts": [_verdict(report, horizon) for horizon in horizons if report.best_baseline(horizon)],
        "people": len(report.windows.patients),
    }


def _rmses(report: RunReport, arm: str, horizons: list[str]) -> list[str]:
    return [tables.number(report.mean(arm, horizon).get("rmse"), "{:.2f}") for horizon in horizons]


def _verdict(report: RunReport, horizon: str) -> str:
    """The published arm against the best baseline, plainly."""
    rival = str(report.best_baseline(horizon))
    gained = report.mean(rival, horizon)["rmse"] - report.mean(report.highlighted, horizon)["rmse"]
    said = f"{tables.number(gained, '{:.2f}')} mg/dL lower" if round(gained, 2) > 0 else "no benefit"
    if round(gained, 2) < 0:
        said += f" ({tables.number(-gained, '{:.2f}')} mg/dL higher)"
    return f"{said} at {horizon} min ({arm_label(rival)})"


def _provenance(report: RunReport) -> dict[str, str]:
    protocol = report.evaluation["protocol"]
    shape = report.shape
    return {
        "data": str(protocol["dataset"]),
        "part scored": str(protocol["part"]),
        "windows": f"{protocol['windows']:,} scored of {protocol['of_windows']:,}",
        "window": f"{shape.context_length} readings before, {shape.prediction_length} ahead, "
        f"every {shape.sampling_minutes} min",
        "how scored": str(protocol["aggregation"]),
        "unit": str(protocol["unit"]),
        "digest of the windows": report.windows.digest,
        "digest of the code": code_digest(),
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in LIBRARIES)]),
    } | report.provenance


def _flagged(report: RunReport) -> list[str]:
    """Share of the windows with each kind of doubt."""
    shares: dict[str, float] = report.evaluation["protocol"].get("flagged", {})
    return [f"{FLAGS.get(kind, kind)} {tables.number(share, '{:.1%}')}" for kind, share in shares.items()]


def _left_out(report: RunReport) -> list[str]:
    """Who was not scored and why; without names, how many for each reason."""
    sentences = report.evaluation.get("left_out", [])
    if report.names:
        return list(sentences)
    reasons = Counter(sentence.rpartition(IS_LEFT_OUT)[2] for sentence in sentences if IS_LEFT_OUT in sentence)
    return [f"{count} left out: {reason}" for reason, count in reasons.items()]
