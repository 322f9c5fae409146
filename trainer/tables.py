"""What people read in the terminal: the matrix of models, a plan, scores."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from trainer.catalogue import BACKBONES, ROLES
from trainer.settings import PipelineSettings


def models_table() -> Table:
    """The matrix of supported backbones."""
    table = Table(
        "name",
        Column("repository", overflow="fold"),
        *(role.replace("_", "-") for role in ROLES),
        title="Supported backbones",
    )
    for backbone in BACKBONES.values():
        marks = ("yes" if role in backbone.roles else "-" for role in ROLES)
        table.add_row(backbone.name, backbone.repository, *marks)
    return table


def models_json() -> list[dict[str, Any]]:
    """The same for machines."""
    return [
        {
            "name": b.name,
            "label": b.label,
            "repository": b.repository,
            "aliases": list(b.aliases),
            **{role: role in b.roles for role in ROLES},
        }
        for b in BACKBONES.values()
    ]


def plan_table(settings: PipelineSettings, data: str) -> Table:
    """What a run would do."""
    teacher, student = settings.teacher, settings.student
    epochs = settings.distil_epochs or settings.student_training.epochs
    w = settings.teacher_weight
    table = Table("step", "what", title="Plan (dry run: nothing was trained, read from a hub, or written)")
    table.add_row("data", data)
    table.add_row("windows", _windows(settings))
    table.add_row("teacher", _model(teacher.backbone, teacher.weights, settings.teacher_training.epochs))
    table.add_row("teacher forecasts", "computed once for every training window, then shared")
    table.add_row("student alone", _model(student.backbone, student.weights, settings.student_training.epochs))
    table.add_row("student distilled", _model(student.backbone, student.weights, epochs))
    table.add_row("loss", f"{1 - w:g} · truth + {w:g} · teacher")
    table.add_row("evaluation", "test part, beside persistence and ridge")
    table.add_row("publication", f"as challenger; champion through the {settings.gate} gate on the calibration part")
    return table


def _windows(settings: PipelineSettings) -> str:
    shape = settings.shape
    minutes = shape.sampling_minutes
    return (
        f"{shape.context_length} steps in, {shape.prediction_length} out "
        f"({shape.context_length * minutes} and {shape.prediction_length * minutes} minutes)"
    )


def _model(backbone: str, weights: str, epochs: int) -> str:
    return f"{backbone}, weights: {weights}, {epochs} epochs"


def scores_table(evaluation: dict[str, Any], title: str) -> Table:
    """Mean over patients of every arm at every horizon, from an evaluation's JSON."""
    table = _numbers("mean over patients\nminutes ahead", title)
    horizons = _horizons(evaluation)
    for name in ("RMSE", "MAE", "skill", "in 90 %"):
        for horizon in horizons:
            table.add_column(f"{name}\n{horizon}", justify="right", no_wrap=True)
    for arm, scores in evaluation["arms"].items():
        mean = [scores["mean"][h] for h in horizons]
        cells = [f"{s[name]:.2f}" for name in ("rmse", "mae") for s in mean]
        cells += [f"{100 * s['skill']:.0f} %" for s in mean]
        cells += [f"{100 * s['coverage_90']:.0f} %" if "coverage_90" in s else "-" for s in mean]
        table.add_row(arm, *cells)
    return table


def patients_table(evaluation: dict[str, Any], title: str) -> Table:
    """RMSE of every patient and arm at every horizon."""
    arms, horizons = evaluation["arms"], _horizons(evaluation)
    table = _numbers(f"RMSE at\n{' / '.join(horizons)} min", title)
    for arm in arms:
        table.add_column(arm.replace(", ", "\n"), justify="right", no_wrap=True)
    for patient in next(iter(arms.values()))["patients"]:
        table.add_row(patient, *(_rmses(arm["patients"].get(patient, {})) for arm in arms.values()))
    table.add_section()
    table.add_row("mean", *(_rmses(arm["mean"]) for arm in arms.values()))
    return table


def _numbers(first: str, title: str) -> Table:
    """An empty table of figures, narrow enough for a terminal of 80 columns."""
    return Table(
        Column(first, no_wrap=True),
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )


def _horizons(evaluation: dict[str, Any]) -> list[str]:
    return list(next(iter(evaluation["arms"].values()))["mean"])


def _rmses(scores: dict[str, Any]) -> str:
    return "/".join(f"{s['rmse']:.1f}" for s in scores.values()) or "-"
