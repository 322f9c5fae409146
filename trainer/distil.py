"""Train a student on the truth and on its teacher's stored forecasts; export it as a bundle."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from forecasting.bundle import Bundle, read_bundle, write_bundle
from forecasting.conformal import quantile_shifts
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecaster
from forecasting.metrics import Scores
from forecasting.population import Population
from forecasting.readers.datasets import Cohort
from forecasting.references import model_name
from forecasting.windows import Windows, WindowShape, cut_all, thin
from trainer.backbones import weights_digest
from trainer.catalogue import find_backbone
from trainer.evaluate import scores_of
from trainer.export import export_onnx
from trainer.fit import Fitted, Training, build_examples, epochs
from trainer.kept import drop_state, fingerprint, state_of, written_whole
from trainer.progress import unheard
from trainer.quantise import MOST_MOVED_MG_DL, moved_mg_dl, quantise
from trainer.settings import ModelSettings, TrainingSettings
from trainer.teacher import BuiltModel, build_model, save_weights
from trainer.teacher_forecasts import TeacherForecasts


@dataclass(frozen=True)
class StudentData:
    """The windows a student of one target learns from, is chosen by, and is calibrated on."""

    train: Windows
    validation: Windows
    calibration: Windows


def student_data(
    cohort: Cohort, patient: str | None, shape: WindowShape, max_windows: int | None, days: int | None = None
) -> StudentData:
    """Windows of one patient, or of everybody for None.

    days: train on the last so many of the training part alone

    Raises InsufficientData where one of the two parts is empty.
    """
    series = [s for s in cohort.everyone if patient in (None, s.patient_id)]
    train = thin(latest(cut_all(series, shape, "train"), days), max_windows)
    validation = cut_all(series, shape, "validation")
    if not len(train) or not len(validation):
        raise InsufficientData(
            f"{patient or 'everybody'} of {cohort.dataset} has {len(train)} windows to train on and {len(validation)} "
            "to validate with; both are needed: give a longer history"
        )
    return StudentData(train, validation, cut_all(series, shape, "calibration"))


def latest(windows: Windows, days: int | None) -> Windows:
    """One patient's windows of the last days before the end of these; all for None."""
    if days is None or not len(windows):
        return windows
    return windows[windows.origins > windows.origins[-1] - np.timedelta64(days, "D")]


@dataclass(frozen=True)
class StudentRun:
    """One student to train.

    patient:        None for the population's
    teacher_weight: 0 for the student alone
    teacher, teacher_digest: name and digest of the teacher whose forecasts it reads
    start:          bundle of an equal student whose weights it begins with (fine-tuning); None: those of its seed
    """

    dataset: str
    patient: str | None
    shape: WindowShape
    student: ModelSettings
    training: TrainingSettings
    teacher_weight: float
    teacher: str
    teacher_digest: str
    start: Path | None = None

    @property
    def backbone(self) -> str:
        return find_backbone(self.student.backbone).name

    def key(self, data: StudentData) -> str:
        """What the result depends on; a student alone depends on no teacher."""
        parts = (self.student.model_dump(), self.training.model_dump(), self.shape.model_dump())
        teacher = self.teacher_digest if self.teacher_weight else ""
        weights = weights_digest(find_backbone(self.student.backbone), self.student)
        digests = (data.train.digest, data.validation.digest, data.calibration.digest)
        start = read_bundle(self.start).digest if self.start else ""
        return fingerprint("student", weights, *parts, self.teacher_weight, *digests, teacher, start)

    def folder(self, students: Path, data: StudentData) -> Path:
        """Where its bundle is kept."""
        return (students / f"{model_name(self.dataset, self.patient)}-{self.backbone}-{self.key(data)}").resolve()


def train_student(
    run: StudentRun, data: StudentData, forecasts: TeacherForecasts | None, folder: Path
) -> Iterator[float]:
    """Train one student, then write its bundle; yields the validation loss of every epoch.

    A student that is there already, or was cut off, yields again what it had: no epoch is computed twice.
    forecasts: of the teacher, of at least the training windows; None for a student alone
    """
    if folder.is_dir():
        yield from read_bundle(folder).metrics["validation_loss"]
        return
    built = build_model(model_name(run.dataset, run.patient), run.student, run.shape, run.training.seed)
    if run.start is not None:
        built.model.load_trained(load_file(run.start / "weights.safetensors"))
    training = Training(
        built.model,
        build_examples(data.train, built.spec, built.tokenizer, _taught(run, data, forecasts)),
        build_examples(data.validation, built.spec, built.tokenizer),
        built.spec.quantiles,
        run.training,
        unheard,
        run.teacher_weight,
    )
    yield from epochs(training, state_of(folder))
    _write_student(run, data, built, training.fitted(), folder)
    drop_state(folder)


def _taught(run: StudentRun, data: StudentData, forecasts: TeacherForecasts | None) -> np.ndarray | None:
    if not run.teacher_weight:
        return None
    assert forecasts is not None, "a taught student needs its teacher's forecasts"
    taught = forecasts.of(data.train)
    return taught if run.training.teach_quantiles else taught[..., :1]


def _write_student(run: StudentRun, data: StudentData, built: BuiltModel, fitted: Fitted, folder: Path) -> None:
    with written_whole(folder) as scratch:
        difference = export_onnx(built.model, built.spec, scratch / "model.onnx")
        save_weights(built, scratch)
        metrics: dict[str, Any] = {
            "export_difference_mg_dl": difference,
            "train_loss": list(fitted.train_loss),
            "validation_loss": list(fitted.validation_loss),
        }
        spec = built.spec.model_copy(update={"learned_from": Population.of(data.train)})
        bundle = write_bundle(scratch, spec, metrics, _origin(run, data, built, fitted))
        bundle = _calibrated(bundle, data.calibration)
        scores = _validation_scores(bundle, data.validation)
        if run.student.quantise == "int8":
            metrics["int8"], scores = _quantised(bundle, data.validation, scores)
        write_bundle(scratch, bundle.spec, metrics | {"validation": scores}, bundle.origin)


def _calibrated(bundle: Bundle, calibration: Windows) -> Bundle:
    """The same with quantiles that hold what they say on the calibration part; as it was where that has too few.

    Its origin says which.
    """
    try:
        forecasts = Forecaster.open(bundle).predict_windows(calibration)
        shifts = quantile_shifts(calibration.target, forecasts.quantiles, forecasts.levels, calibration.patient_ids)
    except InsufficientData as error:
        return write_bundle(bundle.folder, bundle.spec, {}, bundle.origin | {"calibration": str(error)})
    rounded = tuple(tuple(round(float(shift), 3) for shift in row) for row in shifts)
    spec = bundle.spec.model_copy(update={"quantile_shifts": rounded})
    return write_bundle(bundle.folder, spec, {}, bundle.origin | {"calibration": calibration.digest})


def _validation_scores(bundle: Bundle, validation: Windows) -> dict[str, Scores]:
    """{horizon: scores}, of the exported file, which is what is served."""
    forecasts = Forecaster.open(bundle).predict_windows(validation)
    return scores_of(validation, forecasts, bundle.spec.shape)["mean"]  # type: ignore[no-any-return]


def _quantised(
    bundle: Bundle, validation: Windows, scores: dict[str, Scores]
) -> tuple[dict[str, Any], dict[str, Scores]]:
    """What came of eight-bit weights, and the scores of the file that was kept."""
    path = bundle.folder / "model.onnx"
    exact = path.read_bytes()
    quantise(path)
    after = _validation_scores(write_bundle(bundle.folder, bundle.spec, {}, bundle.origin), validation)
    moved = moved_mg_dl(*({h: each["rmse"] for h, each in found.items()} for found in (scores, after)))
    told = {"kept": moved < MOST_MOVED_MG_DL, "rmse_moved_mg_dl": moved}
    if told["kept"]:
        return told, after
    path.write_bytes(exact)
    return told, scores


def _origin(run: StudentRun, data: StudentData, built: BuiltModel, fitted: Fitted) -> dict[str, Any]:
    return {
        "kind": "student",
        "dataset": run.dataset,
        "patient": run.patient,
        **built.origin(run.student),
        "training": run.training.model_dump(mode="json"),
        "teacher_weight": run.teacher_weight,
        "teacher": {"name": run.teacher, "digest": run.teacher_digest} if run.teacher_weight else None,
        "start": read_bundle(run.start).digest if run.start else None,
        "windows": {"train": data.train.digest, "validation": data.validation.digest},
        "best_epoch": fitted.best_epoch,
    }
