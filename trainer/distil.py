"""Train a student on the truth and on its teacher's cached forecasts; export it as a bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecasting.bundle import write_bundle
from forecasting.errors import InsufficientData
from forecasting.readers.datasets import Cohort, load_cohort
from forecasting.registry import model_name
from forecasting.windows import Windows, cut_all, thin
from trainer.backbones import weights_digest
from trainer.catalogue import find_backbone
from trainer.export import export_onnx
from trainer.fit import Fitted, build_examples, fit
from trainer.kept import fingerprint, written_whole
from trainer.progress import Report
from trainer.settings import PipelineSettings, TrainingSettings
from trainer.teacher import BuiltModel, build_model, save_weights
from trainer.teacher_forecasts import read_teacher_forecasts


def student_windows(settings: PipelineSettings, cohort: Cohort, patient: str | None) -> tuple[Windows, Windows]:
    """Train and validation windows of one patient, or of everybody for None.

    Raises InsufficientData where one of the two is empty.
    """
    series = [s for s in cohort.everyone if patient in (None, s.patient_id)]
    train = thin(cut_all(series, settings.shape, "train"), settings.student_training.max_windows)
    validation = cut_all(series, settings.shape, "validation")
    if not len(train) or not len(validation):
        raise InsufficientData(
            f"{patient or 'everybody'} of {cohort.dataset} has {len(train)} windows to train on and {len(validation)} "
            "to validate with; both are needed: give a longer history"
        )
    return train, validation


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher as a student sees it: a file of forecasts. It cannot tell where they came from."""

    name: str
    digest: str
    forecasts: Path
    key: str


@dataclass(frozen=True)
class StudentRun:
    """One student to train. patient None: the population's; teacher_weight 0: the student alone."""

    settings: PipelineSettings
    patient: str | None
    teacher_weight: float
    teacher: StoredTeacher

    @property
    def training(self) -> TrainingSettings:
        """Only a distilled student may have epochs of its own, when they were asked for."""
        training = self.settings.student_training
        if self.teacher_weight and self.settings.distil_epochs is not None:
            return training.model_copy(update={"epochs": self.settings.distil_epochs})
        return training

    def key(self, train: Windows, validation: Windows) -> str:
        """What the result depends on; a student alone depends on no teacher."""
        settings = self.settings
        parts = (settings.student.model_dump(), self.training.model_dump(), settings.shape.model_dump())
        teacher = self.teacher.key if self.teacher_weight else ""
        weights = weights_digest(find_backbone(settings.student.backbone), settings.student)
        return fingerprint("student", weights, *parts, self.teacher_weight, train.digest, validation.digest, teacher)


def train_student(run: StudentRun, folder: Path, report: Report) -> Path:
    """Train one student, export it and write its bundle."""
    data, shape = run.settings.data, run.settings.shape
    cohort = load_cohort(data.dataset, data.data_dir, run.patient or "all", shape.sampling_minutes)
    train, validation = student_windows(run.settings, cohort, run.patient)
    built = build_model(model_name(cohort.dataset, run.patient), run.settings.student, shape, run.training.seed)
    teacher_mg_dl = None
    if run.teacher_weight:
        teacher_mg_dl = read_teacher_forecasts(run.teacher.forecasts, run.teacher.key).of(train)
    fitted = fit(
        built.model,
        build_examples(train, built.spec, built.tokenizer, teacher_mg_dl),
        build_examples(validation, built.spec, built.tokenizer),
        built.spec.quantiles,
        run.training,
        report,
        run.teacher_weight,
    )
    origin = _origin(run, cohort.dataset, built, fitted)
    origin["windows"] = {"train": train.digest, "validation": validation.digest}
    with written_whole(folder) as scratch:
        difference = export_onnx(built.model, built.spec, scratch / "model.onnx")
        save_weights(built, scratch)
        metrics = {"export_difference_mg_dl": difference, "validation_loss": list(fitted.validation_loss)}
        write_bundle(scratch, built.spec, metrics, origin)
    return folder


def _origin(run: StudentRun, dataset: str, built: BuiltModel, fitted: Fitted) -> dict[str, Any]:
    teacher = {"name": run.teacher.name, "digest": run.teacher.digest} if run.teacher_weight else None
    return {
        "kind": "student",
        "dataset": dataset,
        "patient": run.patient,
        **built.origin(run.settings.student),
        "training": run.training.model_dump(mode="json"),
        "teacher_weight": run.teacher_weight,
        "teacher": teacher,
        "best_epoch": fitted.best_epoch,
    }
