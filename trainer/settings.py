"""What a run is made of. Defaults live here; a run file (TOML) or flags hold only differences; unknown keys stop it."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from forecasting.bundle import QUANTILES, check_inputs
from forecasting.encoding import Normalisation
from forecasting.errors import InvalidSetting, NotFound
from forecasting.events import Input
from forecasting.gate import GateName
from forecasting.windows import WindowShape


class Settings(BaseModel):
    """Typed, frozen, strict."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Settings):
    """Which readings."""

    dataset: str = Field(default="virtual", description="a data set by name, or a path to a tidy CSV or Parquet table")
    data_dir: Path | None = Field(default=None, description="folder of the data sets that are not bundled")
    patients: str = Field(
        default="all",
        description="'all' (one population model), 'each' (a personal model for everybody), ids: 570,584 (one model "
        "each), or several of these",
    )

    @field_validator("patients", mode="before")
    @classmethod
    def _listed(cls, patients: Any) -> Any:
        return ",".join(map(str, patients)) if isinstance(patients, list) else patients


class ModelSettings(Settings):
    """A Time-LLM. Defaults are those of a student; TEACHER_DEFAULTS below differs."""

    backbone: str = Field(default="bert-tiny", description="short name or Hugging Face id")
    weights: str = Field(default="hub", description="hub, random, or a folder in Hugging Face layout")
    num_layers: int | None = Field(default=None, ge=1, description="backbone layers kept; all by default")
    patch_len: int = Field(default=6, ge=1)
    stride: int = Field(default=3, ge=1)
    d_model: int = Field(default=32, ge=1)
    d_ff: int = Field(default=64, ge=1, description="features of the hidden state kept by the head; key width per head")
    num_heads: int = Field(default=8, ge=1)
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="the paper has 0.1; on level-anchored outputs 0 is better"
    )
    prototypes: Literal["vocabulary", "direct"] = Field(
        default="direct", description="learned as they are, or as the paper's map over the whole vocabulary"
    )
    num_prototypes: int = Field(default=64, ge=2)
    bypass: bool = Field(
        default=True,
        description="patches reach the backbone by a linear map too, beside the prototypes, which the paper has alone",
    )
    prompt: Literal["none", "statistics", "paper"] = "none"
    freeze: Literal["backbone", "norms", "nothing"] = "nothing"
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the backbone's weights")
    quantise: Literal["none", "int8"] = Field(
        default="none",
        description="weights of a student's exported file; int8 is kept only where RMSE on validation moves by less "
        "than 0.1 mg/dL",
    )
    normalisation: Normalisation = Normalisation()
    inputs: tuple[Input, ...] = Field(
        default=(), description="known beside glucose and time, where it is recorded: carbs, insulin"
    )
    quantiles: tuple[float, ...] = QUANTILES

    @model_validator(mode="after")
    def _sees_its_inputs(self) -> Self:
        check_inputs(self.inputs, self.normalisation)
        return self

    @field_validator("quantiles")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < level < 1 for level in levels) or list(levels) != sorted(set(levels)):
            raise ValueError("quantiles must ascend, each between 0 and 1")
        if levels and len(levels) % 2 == 0:
            raise ValueError("quantiles must be an odd number of levels (the middle one is the centre), or none")
        return levels


TEACHER_DEFAULTS = {
    "backbone": "bert",
    "d_ff": 128,
    "num_prototypes": 128,
    "prompt": "statistics",
    "freeze": "backbone",
}


# With the context a day of 5-minute readings: as far back as people's sensors and apps usually tell.
A_DAY = WindowShape(history_length=252)


class TrainingSettings(Settings):
    """How long and how fast."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1, description="share of all steps in which the rate rises")
    clip_norm: float = Field(default=1.0, gt=0)
    patience: int = Field(default=3, ge=1, description="epochs without a better validation loss before stopping")
    max_windows: int | None = Field(
        default=None, ge=1, description="train on at most this many windows, evenly spaced; all by default"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="keep only what goes into each layer of the backbone; compute it again for gradients"
    )
    compile: bool = Field(
        default=False,
        description="torch.compile: a minute at the start, then steps that are a few percent faster on a CPU",
    )
    teach_quantiles: bool = Field(
        default=False, description="a student copies its teacher's quantiles too, not its mean alone"
    )
    seed: int = Field(default=1, ge=0)


class PipelineSettings(Settings):
    """Teacher, cached forecasts, students, evaluation, publication."""

    data: DataSettings = DataSettings()
    shape: WindowShape = A_DAY
    teacher: ModelSettings = ModelSettings(**TEACHER_DEFAULTS)  # type: ignore[arg-type]
    teacher_training: TrainingSettings = TrainingSettings()
    teacher_workers: int | None = Field(
        default=None, ge=1, description="processes that train the teacher together; one per GPU, or one, by default"
    )
    student: ModelSettings = ModelSettings()
    student_training: TrainingSettings = TrainingSettings(batch_size=256)
    distil_epochs: int | None = Field(
        default=None, ge=1, description="epochs of the distilled student, if not the same"
    )
    teacher_weight: float = Field(default=0.5, ge=0, le=1, description="w in (1 - w) truth + w teacher")
    max_test_windows: int | None = Field(
        default=None, ge=1, description="score at most this many windows of the test part, evenly spaced"
    )
    boosting: bool = Field(default=True, description="score LightGBM beside the students; about a minute")
    alarms: bool = Field(
        default=True, description="score warnings of lows, for which every window of two parts is forecast"
    )
    gate: GateName = "ridge"
    allow_unsupported: bool = Field(default=False, description="go past the matrix of supported roles, with a warning")
    runs: Path = Field(default=Path("runs"), description="folder for what the run writes")

    @model_validator(mode="after")
    def _same_quantiles(self) -> Self:
        if self.teacher.quantiles != self.student.quantiles:
            raise ValueError("teacher and student must forecast the same quantiles")
        return self


class Pair(Settings):
    """A teacher and a student of its own."""

    teacher: str
    student: str


class Grid(Settings):
    """What a sweep varies: every combination is a trial. What is not given stays as the run settings have it."""

    pairs: tuple[Pair, ...] | None = Field(default=None, description="teachers with their students")
    students: tuple[str, ...] | None = Field(default=None, description="student backbones of the one teacher")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    distil_weights: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        default=None, description="values of teacher_weight; 0: the student alone"
    )
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    early_stopping: Literal["asha", "none"] = Field(
        default="asha", description="asha stops the worse of a patient's trials early; none where arms are compared"
    )
    grace_epochs: int = Field(default=3, ge=1, description="epochs before a trial may be stopped")
    reduction: int = Field(default=3, ge=2, description="one in so many trials goes on at each rung")
    cpus_per_trial: int = Field(default=1, ge=1, description="also its number of threads")
    gpus_per_trial: float | None = Field(default=None, ge=0, description="a quarter where there are GPUs, by default")
    memory_per_trial_gb: float = Field(default=1.5, gt=0, description="what Ray sets aside for each trial")

    @field_validator("pairs", "students", "seeds", "distil_weights", "learning_rates")
    @classmethod
    def _not_empty(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and not values:
            raise ValueError("is empty, so that the sweep has no trial; give at least one value or leave it out")
        if values is not None and len(set(map(str, values))) < len(values):
            raise ValueError("names a value twice; name each once")
        return values

    @model_validator(mode="after")
    def _one_way_to_name_students(self) -> Self:
        if self.pairs is not None and self.students is not None:
            raise ValueError("give pairs, or students of the one teacher, not both")
        return self


PersonalData = Literal["all", "few"]


class Comparing(Settings):
    """What a study compares beside its baselines. All seeds are of one order of data and one schedule."""

    datasets: tuple[str, ...] = Field(
        default=(), description="data sets, each with models of its own; the one of the run by default"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2, 3)
    fewer_seeds: dict[str, int] = Field(
        default={}, description="{data set: the first so many of the seeds}, where a set is large"
    )
    teacher_seeds: tuple[Annotated[int, Field(ge=0)], ...] = (1, 2)
    teacher_weights: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.3, 0.6, 0.9), description="of which the one with the least validation loss is used"
    )
    boosting_teaches: bool = Field(default=True, description="boosting is a member of the ensemble of teachers")
    personal: tuple[PersonalData, ...] = Field(
        default=("all", "few"), description="arms of one student for each person: on all data, and on that of few days"
    )
    personal_seeds: int = Field(default=1, ge=1, description="of the seeds, the first so many for personal students")
    personal_windows: int = Field(default=8000, ge=1, description="that a personal student trains on, at most")
    personal_batch: int = Field(default=64, ge=1)
    personal_epochs: int = Field(default=12, ge=1)
    fine_tuning_rate: float = Field(default=3e-4, gt=0, description="learning rate of students that begin as another")
    few_days: int = Field(default=14, ge=1, description="of data that the arms of little data have")
    folds: int = Field(
        default=0,
        description="of all sets' people, each forecast by models of the others; 0 for none",
    )
    fold_seeds: int = Field(default=1, ge=1, description="of the seeds, the first so many for students of folds")
    fold_windows: int | None = Field(default=None, ge=1, description="that students of folds train on, at most")
    fold_teacher_seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="teachers of each fold beside boosting"
    )

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Self:
        if not self.boosting_teaches and not (self.teacher_seeds and (self.fold_teacher_seeds or not self.folds)):
            raise ValueError("nobody teaches: give teacher_seeds (and fold_teacher_seeds), or let boosting teach")
        if self.folds == 1 or self.folds < 0:
            raise ValueError(f"folds must be 2 or more, or 0 for none (got {self.folds})")
        return self

    @field_validator("datasets", "seeds", "teacher_seeds", "teacher_weights")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("names a value twice; name each once")
        return values


class StudySettings(PipelineSettings):
    """A pipeline whose arms are compared instead of published."""

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    study: Comparing = Comparing()


class SweepSettings(PipelineSettings):
    """A pipeline whose students are varied."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="of the sweep, in MLflow too")
    sweep: Grid = Grid()


def read_run_file(path: Path) -> dict[str, Any]:
    """The differences a run file holds; a relative path in it is taken from where the command runs."""
    if not path.is_file():
        raise NotFound(f"there is no run file {path}; see trainer/runs/ for examples")
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InvalidSetting(f"{path.name} is not readable as TOML: {error}") from error


RunSettings = TypeVar("RunSettings", bound=PipelineSettings)


def build_settings(
    run_file: Path | None,
    overrides: dict[str, Any],
    kind: type[RunSettings] = PipelineSettings,  # type: ignore[assignment]
) -> RunSettings:
    """Defaults, then the run file, then flags ({"student.weights": "random"}; None means not given).

    Raises InvalidSetting that names the key, what came and what is allowed.
    """
    settings: dict[str, Any] = {"teacher": dict(TEACHER_DEFAULTS), "student_training": {"batch_size": 256}}
    _merge(settings, read_run_file(run_file) if run_file else {})
    for dotted, value in overrides.items():
        if value is not None:
            *sections, key = dotted.split(".")
            place = settings
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "settings"
        said = first["msg"].removeprefix("Value error, ")
        came = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise InvalidSetting(f"{key}: {said[0].lower()}{said[1:]}{came}") from error


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def teacher_weight_of(alpha: float | None, beta: float | None) -> float | None:
    """Truth weight alpha and teacher weight beta → w = beta / (alpha + beta); None where neither was given."""
    if alpha is None and beta is None:
        return None
    if alpha is None or beta is None:
        given = alpha if beta is None else beta
        other = 1.0 - float(given)  # type: ignore[arg-type]
        alpha, beta = (given, other) if beta is None else (other, given)
    if alpha is None or beta is None or alpha < 0 or beta < 0 or alpha + beta <= 0:
        raise InvalidSetting(f"alpha {alpha} and beta {beta} must not be negative, and one of them must be positive")
    return beta / (alpha + beta)
