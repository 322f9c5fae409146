"""The options that several commands share, declared once, and the settings they add up to."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.kept import results_folder
from trainer.settings import PipelineSettings, RunSettings, build_settings, teacher_weight_of

DATA, MODELS, WINDOWS, TRAINING, GRID = "Data", "Models", "Windows", "Training", "Sweep"
DATASET_HELP = "virtual, t1d_uom, azt1d, ohiot1dm, or a path to a tidy CSV or Parquet."
WEIGHTS = "hub, random, a folder in Hugging Face layout, or package:NAME/FOLDER."

Dataset = Annotated[
    str | None,
    typer.Option(help=DATASET_HELP, rich_help_panel=DATA),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the data sets that are not bundled.", envvar="GLUCAST_DATA_DIR", rich_help_panel=DATA),
]
Patients = Annotated[
    str | None,
    typer.Option(
        help="'all': one population model. 'each', or 570,584: one personal model each; the teacher still learns "
        "from everybody.",
        rich_help_panel=DATA,
    ),
]
Runs = Annotated[
    Path | None,
    typer.Option(
        help="Folder for what runs write, `runs` by default; on several machines one that all of them share.",
        envvar="GLUCAST_RUNS",
    ),
]
RegistryUri = Annotated[
    str | None,
    typer.Option(help="MLflow tracking URI; sqlite:///registry/mlflow.db by default.", envvar="MLFLOW_TRACKING_URI"),
]


@dataclass(frozen=True)
class Given:
    """What the options of a command said: a run file, and {dotted key: value} with None where nothing was given."""

    run: Path | None
    options: dict[str, Any]

    def settings(self) -> PipelineSettings:
        """What they add up to."""
        return self.settings_of(PipelineSettings, None, {})

    def settings_of(self, kind: type[RunSettings], run: Path | None, more: dict[str, Any]) -> RunSettings:
        """Settings of another kind, from a run file of its own and more options."""
        settings = build_settings(run or self.run, {**self.options, **more}, kind)
        return settings.model_copy(update={"runs": results_folder() / settings.runs})


def given_options(
    run: Annotated[Path | None, typer.Option(help="Run file (TOML) with differences from the defaults.")] = None,
    dataset: Dataset = None,
    data_dir: DataDir = None,
    patients: Patients = None,
    teacher: Annotated[
        str | None, typer.Option(help="Teacher backbone, short name or full id.", rich_help_panel=MODELS)
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="Student backbone, short name or full id.", rich_help_panel=MODELS)
    ] = None,
    teacher_weights: Annotated[
        str | None, typer.Option(help=f"Where the teacher's weights come from: {WEIGHTS}", rich_help_panel=MODELS)
    ] = None,
    student_weights: Annotated[
        str | None, typer.Option(help=f"Where the student's weights come from: {WEIGHTS}", rich_help_panel=MODELS)
    ] = None,
    teacher_layers: Annotated[
        int | None,
        typer.Option(
            "--teacher-layers",
            "--llm-layers",
            help="Layers of the teacher's backbone that are kept.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    student_layers: Annotated[
        int | None, typer.Option(help="Layers of the student's backbone that are kept.", rich_help_panel=MODELS)
    ] = None,
    teacher_prompt: Annotated[
        str | None, typer.Option(help="none, statistics (mg/dL), or paper.", rich_help_panel=MODELS)
    ] = None,
    student_prompt: Annotated[
        str | None, typer.Option(help="The same for the student.", rich_help_panel=MODELS)
    ] = None,
    teacher_freeze: Annotated[
        str | None,
        typer.Option(help="What stays as it is: backbone, norms are trained, or nothing.", rich_help_panel=MODELS),
    ] = None,
    student_freeze: Annotated[
        str | None, typer.Option(help="The same for the student.", rich_help_panel=MODELS)
    ] = None,
    student_quantise: Annotated[
        str | None,
        typer.Option(
            help="int8: the exported file with 8-bit weights, where its forecasts stay as good.", rich_help_panel=MODELS
        ),
    ] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(help="level (anchored on the last reading) or revin (the paper's).", rich_help_panel=MODELS),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            help="What teacher and student know beside glucose and time, where it is recorded: carbs,insulin.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    quantiles: Annotated[
        str | None, typer.Option(help="Levels such as 0.1,0.5,0.9, an odd number of them.", rich_help_panel=MODELS)
    ] = None,
    allow_unsupported: Annotated[
        bool,
        typer.Option(
            "--allow-unsupported", help="Go past the matrix of roles, with a warning.", rich_help_panel=MODELS
        ),
    ] = False,
    context_length: Annotated[
        int | None, typer.Option(help="Steps of the past that are seen (36: three hours).", rich_help_panel=WINDOWS)
    ] = None,
    history_length: Annotated[
        int | None,
        typer.Option(
            help="Steps before those, of which mean, spread and change are known (252: a day in all; 0: none).",
            rich_help_panel=WINDOWS,
        ),
    ] = None,
    prediction_length: Annotated[
        int | None, typer.Option(help="Steps that are forecast (12: one hour).", rich_help_panel=WINDOWS)
    ] = None,
    sampling_minutes: Annotated[
        int | None, typer.Option(help="Minutes between two readings.", rich_help_panel=WINDOWS)
    ] = None,
    teacher_epochs: Annotated[int | None, typer.Option(help="Epochs of the teacher.", rich_help_panel=TRAINING)] = None,
    student_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of the student alone, and of the distilled one.", rich_help_panel=TRAINING),
    ] = None,
    distill_epochs: Annotated[
        int | None,
        typer.Option(
            "--distill-epochs",
            "--distil-epochs",
            help="Epochs of the distilled student, where they should differ: the comparison is then unequal.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of teacher and students.", rich_help_panel=TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Windows in a training step.", rich_help_panel=TRAINING)
    ] = None,
    max_train_windows: Annotated[
        int | None,
        typer.Option(
            help="Train teacher and students on at most so many windows, evenly spaced.", rich_help_panel=TRAINING
        ),
    ] = None,
    max_test_windows: Annotated[
        int | None, typer.Option(help="Score at most so many windows, evenly spaced.", rich_help_panel=TRAINING)
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Weight of the truth; used as alpha / (alpha + beta).", rich_help_panel=TRAINING),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Weight of the teacher; used as beta / (alpha + beta).", rich_help_panel=TRAINING),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", rich_help_panel=TRAINING)] = None,
    teacher_workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train the teacher together: one per GPU, or one, by default.", rich_help_panel=TRAINING
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing",
            help="Less memory, more time: compute each layer again for its gradient.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile", help="torch.compile, for long trainings; needs a C++ compiler.", rich_help_panel=TRAINING
        ),
    ] = None,
    runs: Runs = None,
) -> Given:
    """What was given: settings are the defaults, then the run file, then these options."""
    levels, known = _listed(quantiles), _listed(inputs)
    return Given(
        run,
        {
            "data.dataset": dataset,
            "data.data_dir": data_dir,
            "data.patients": patients,
            "teacher.backbone": teacher,
            "teacher.weights": teacher_weights,
            "student.backbone": student,
            "student.weights": student_weights,
            "teacher.num_layers": teacher_layers,
            "student.num_layers": student_layers,
            "teacher.prompt": teacher_prompt,
            "student.prompt": student_prompt,
            "teacher.freeze": teacher_freeze,
            "student.freeze": student_freeze,
            "student.quantise": student_quantise,
            "teacher.normalisation.kind": normalisation,
            "student.normalisation.kind": normalisation,
            "teacher.inputs": known,
            "student.inputs": known,
            "teacher.quantiles": levels,
            "student.quantiles": levels,
            "allow_unsupported": allow_unsupported or None,
            "shape.context_length": context_length,
            "shape.history_length": history_length,
            "shape.prediction_length": prediction_length,
            "shape.sampling_minutes": sampling_minutes,
            "teacher_training.epochs": teacher_epochs,
            "student_training.epochs": student_epochs,
            "distil_epochs": distill_epochs,
            "teacher_training.learning_rate": lr,
            "student_training.learning_rate": lr,
            "teacher_training.gradient_checkpointing": gradient_checkpointing,
            "student_training.gradient_checkpointing": gradient_checkpointing,
            "teacher_training.compile": compile,
            "student_training.compile": compile,
            "teacher_training.batch_size": batch_size,
            "student_training.batch_size": batch_size,
            "teacher_training.seed": seed,
            "student_training.seed": seed,
            "teacher_training.max_windows": max_train_windows,
            "student_training.max_windows": max_train_windows,
            "max_test_windows": max_test_windows,
            "teacher_weight": teacher_weight_of(alpha, beta),
            "teacher_workers": teacher_workers,
            "runs": runs,
        },
    )


def _listed(text: str | None) -> list[str] | None:
    """What stands between the commas; None where nothing was given."""
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of `given_options`; it receives `given` and its own options."""
    shared = inspect.signature(given_options, eval_str=True).parameters
    own = {n: p for n, p in inspect.signature(command, eval_str=True).parameters.items() if n != "given"}

    @wraps(command)
    def with_options(**options: Any) -> None:
        given = given_options(**{name: options.pop(name) for name in shared})
        command(given=given, **options)

    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared.values(), *own.values())]
    )
    return with_options
