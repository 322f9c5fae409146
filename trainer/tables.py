"""What people read in the terminal: the matrix of models, a plan, scores."""

from typing import Any

from rich.table import Table

from trainer.catalogue import BACKBONES, ROLES
from trainer.settings import PipelineSettings


def models_table() -> Table:
    """The matrix of supported backbones."""
    table = Table("name", "repository", *(role.replace("_", "-") for role in ROLES), title="Supported backbones")
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
    horizons = list(next(iter(evaluation["arms"].values()))["mean"])
    columns = [f"{name} {h} min" for h in horizons for name in ("RMSE", "MAE", "skill")]
    table = Table("mean over patients, mg/dL", *columns, "90 % interval holds", title=title)
    for arm, scores in evaluation["arms"].items():
        cells = []
        for h in horizons:
            s = scores["mean"][h]
            cells += [f"{s['rmse']:.2f}", f"{s['mae']:.2f}", f"{100 * s['skill']:.0f} %"]
        holds = " / ".join(
            f"{100 * scores['mean'][h]['coverage_90']:.0f} %" for h in horizons if "coverage_90" in scores["mean"][h]
        )
        table.add_row(arm, *cells, holds or "-")
    return table


def patients_table(evaluation: dict[str, Any], title: str) -> Table:
    """RMSE of every patient and arm, one column for each arm and horizon."""
    arms = evaluation["arms"]
    patients = list(next(iter(arms.values()))["patients"])
    table = Table("RMSE 30 / 60 min, mg/dL" if _usual(arms) else "RMSE, mg/dL", *arms, title=title)
    for patient in patients:
        table.add_row(patient, *(_rmses(arm["patients"].get(patient, {})) for arm in arms.values()))
    table.add_section()
    table.add_row("mean", *(_rmses(arm["mean"]) for arm in arms.values()))
    return table


def _usual(arms: dict[str, Any]) -> bool:
    return list(next(iter(arms.values()))["mean"]) == ["30", "60"]


def _rmses(scores: dict[str, Any]) -> str:
    return " / ".join(f"{s['rmse']:.2f}" for s in scores.values()) or "-"
