"""What people read in the terminal: the matrix of models, a plan, scores."""

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from trainer.catalogue import BACKBONES, ROLES, Backbone
from trainer.settings import PipelineSettings

if TYPE_CHECKING:  # counting takes torch; printing a table does not
    from trainer.model_sizes import Cost, ModelSize
    from trainer.sweep import Plan, Published
    from trainer.sweep_record import SweepRecord

MODEL_HEADINGS = {  # in the README: in a terminal of 80 columns
    "layers": "lay-\ners",
    "width": "width",
    "backbone, M": "backbone\nM",
    "teacher trains, M": "teacher\ntrains",
    "student trains, M": "student\ntrains",
    "student file, MB": "student\nMB",
    "time-llm": "time\nllm",
    "teacher": "tea-\ncher",
    "student": "stu-\ndent",
    "distillation": "dis-\ntil",
}
LABELS = {  # of the arms of an evaluation; a model's own name is its label
    "ridge_pooled": "ridge, pooled",
    "ridge_personal": "ridge, personal",
    "boosting": "LightGBM",
    "level": "last reading",
    "student_alone": "student, alone",
    "student_distilled": "student, distilled",
}
MODELS_LEGEND = (
    "Parameters in millions (M): of the language model, of what a teacher and a student train at the default settings, "
    "and the size of the student's exported file."
)


def models_table(sizes: "dict[str, ModelSize]") -> Table:
    """The matrix of supported backbones and what each costs."""
    table = numbers_table("name", "Supported backbones")
    for heading in MODEL_HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for backbone in BACKBONES.values():
        table.add_row(backbone.name, *_model_cells(backbone, sizes[backbone.name]))
    return table


def models_markdown(sizes: "dict[str, ModelSize]") -> str:
    """The same for the README, with repositories."""
    rows = [
        ("name", "repository", *MODEL_HEADINGS),
        ("---", "---", *("--:" for _ in MODEL_HEADINGS)),
        *((b.name, f"`{b.repository}`", *_model_cells(b, sizes[b.name])) for b in BACKBONES.values()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _model_cells(backbone: Backbone, size: "ModelSize") -> tuple[str, ...]:
    def millions(count: int | None) -> str:
        return "-" if count is None else f"{count / 1e6:,.1f}"

    return (
        f"{backbone.num_layers}",
        "/".join(dict.fromkeys((str(backbone.embed_dim), str(backbone.hidden_dim)))),
        millions(size.backbone),
        millions(size.teacher_trained),
        millions(size.student_trained),
        millions(size.student_exported_bytes),
        *("yes" if role in backbone.roles else "-" for role in ROLES),
    )


def cost_table(backbone: Backbone, cost: "Cost") -> Table:
    """What one backbone costs on this machine."""
    table = Table("what", Column("here", justify="right"), title=backbone.comment, title_justify="left")
    table.add_row("weights", cost.weights)
    table.add_row("parameters, all", f"{cost.parameters:,}")
    table.add_row("parameters, trained", f"{cost.trained:,}")
    table.add_row(f"training step of {cost.step_windows} windows", f"{cost.step_seconds:.3f} s")
    table.add_row("one forecast in torch", f"{1000 * cost.forecast_seconds:.1f} ms")
    if cost.exported_bytes is not None:
        table.add_row("exported student", f"{cost.exported_bytes / 1e6:.1f} MB")
        table.add_row("ONNX against torch, largest difference", f"{cost.export_difference_mg_dl:.1e} mg/dL")
    table.add_row("peak memory of the process", f"{cost.peak_rss_bytes / 1e9:.1f} GB")
    return table


def models_json() -> list[dict[str, Any]]:
    """The matrix for machines."""
    return [
        {
            "name": b.name,
            "label": b.label,
            "repository": b.repository,
            "aliases": list(b.aliases),
            **{role: role in b.roles for role in ROLES},
            "num_layers": b.num_layers,
            "embed_dim": b.embed_dim,
            "hidden_dim": b.hidden_dim,
            "comment": b.comment,
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
    more = [
        what for what, is_asked in (("LightGBM", settings.boosting), ("alarms of lows", settings.alarms)) if is_asked
    ]
    table.add_row("evaluation", ", ".join(["test part, beside persistence and ridge", *more]))
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


def sweep_table(record: "SweepRecord", shown: int = 3) -> Table:
    """The best trials of every patient on the validation part, beside its baselines."""
    from trainer.leaderboard import horizons_of, label_of

    table = numbers_table("patient", "Validation part: the best trials of each patient")
    table.add_column("student", no_wrap=True)
    horizons = horizons_of(record)
    for name in ("seed", "epochs", "loss", *(f"RMSE {h}" for h in horizons)):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for target in record.targets:
        for arm in ("persistence", "ridge_pooled", "ridge_personal"):
            rmse = (f"{record.baselines[target][arm][h]['rmse']:.2f}" for h in horizons)
            table.add_row(target, LABELS.get(arm, arm), "", "", "", *rmse)
        for trial in record.ranked(target)[:shown]:
            rmse = (f"{trial.validation[h]['rmse']:.2f}" if h in trial.validation else trial.status for h in horizons)
            epochs = str(len(trial.losses))
            table.add_row(target, label_of(trial), str(trial.seed), epochs, f"{trial.loss:.4f}", *rmse)
        table.add_section()
    return table


def configurations_table(record: "SweepRecord") -> Table:
    """Every configuration over patients and seeds."""
    from trainer.leaderboard import configurations_of, horizons_of

    table = numbers_table("configuration", "Validation part: mean over patients, ± standard deviation over seeds")
    horizons = horizons_of(record)
    for name in ("finished", "loss", *(f"RMSE {h}" for h in horizons)):
        table.add_column(name, justify="right", no_wrap=True)
    for c in configurations_of(record):
        cells = [f"{c.rmse[h][0]:.2f}{_spread(c.rmse[h][1])}" if h in c.rmse else "-" for h in horizons]
        loss = f"{c.loss:.4f}" if c.whole else "-"
        table.add_row(c.label, f"{c.finished} of {c.of}", loss, *cells, style=None if c.whole else "dim")
    return table


def _spread(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.2f}"


def published_table(published: "list[Published]") -> Table:
    """Who was published, with the scores of the test part."""
    table = numbers_table("model", "Published, scored on the test part (RMSE in mg/dL)")
    horizons = list(next(iter(published[0].scores.values())))
    for name in ("version", *(f"{arm}\n{h}" for arm in ("student", "persist.", "ridge") for h in horizons), "gate"):
        table.add_column(name, justify="right", no_wrap=True)
    for p in published:
        arms = [p.scores[arm] for arm in ("student_distilled", "persistence", "ridge_personal")]
        cells = [f"{scores[h]['rmse']:.1f}" if h in scores else "-" for scores in arms for h in horizons]
        verdict = "champion" if p.promotion.decision.passed else "not passed"
        table.add_row(p.version.name, p.version.version, *cells, verdict)
    return table


def sweep_plan_table(plan: "Plan") -> Table:
    """What a sweep would do."""
    grid, settings = plan.settings.sweep, plan.settings
    table = Table("step", "what", title="Plan (dry run: nothing was trained, read from a hub, or written)")
    table.add_row("data", f"{plan.cohort.dataset}: {len(plan.data)} targets, {len(plan.skipped)} skipped")
    table.add_row("windows", _windows(settings))
    table.add_row("teachers", ", ".join(plan.teachers) or "none: every student is alone")
    table.add_row("teacher forecasts", "computed once for every training window and teacher, then shared")
    table.add_row("trials", f"{len(plan.combinations)}: {_factors(plan)}")
    stopping = f"asha: from epoch {grid.grace_epochs} on, one in {grid.reduction} goes on at each rung"
    table.add_row("early stopping", stopping if grid.early_stopping == "asha" else "none but patience")
    table.add_row("choice", "lowest validation loss of each patient; test part read once, for the chosen")
    table.add_row("publication", f"as challenger; champion through the {settings.gate} gate on the calibration part")
    return table


def _factors(plan: "Plan") -> str:
    varied: dict[str, set[Any]] = {
        "patients": {c.patient for c in plan.combinations},
        "students": {c.student for c in plan.combinations},
        "teacher weights": {c.teacher_weight for c in plan.combinations},
        "learning rates": {c.learning_rate for c in plan.combinations},
        "seeds": {c.seed for c in plan.combinations},
    }
    return " x ".join(f"{len(values)} {name}" for name, values in varied.items())


def numbers_table(first: str, title: str) -> Table:
    """An empty table of figures, narrow enough for a terminal of 80 columns."""
    return Table(
        Column(first, no_wrap=True),
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )
