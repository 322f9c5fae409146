"""The whole path: teacher, cached forecasts, students, evaluation, publication."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecasting.bundle import Bundle, read_bundle, write_bundle
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import ALL, Cohort, load_cohort
from forecasting.registry import Registry, Version, model_name
from forecasting.windows import WindowShape
from trainer.backbones import check_backbone_settings
from trainer.catalogue import find_backbone, require_pair
from trainer.distil import StoredTeacher, StudentRun, student_windows, train_student
from trainer.evaluate import Evaluation, evaluate
from trainer.kept import written_whole
from trainer.parallel import Job, Room, cluster, run_jobs
from trainer.progress import Report, Watch
from trainer.publication import Promotion, promote_unless_rolled_back, publish_bundle
from trainer.settings import ModelSettings, PipelineSettings
from trainer.teacher import open_trained, teacher_key, teacher_windows, train_teacher
from trainer.teacher_forecasts import compute_teacher_forecasts, forecasts_key, write_teacher_forecasts
from trainer.time_llm import check_model_shape

TEACHER, STUDENT, STUDENT_ALONE = "teacher", "student_distilled", "student_alone"
GPU_SHARE = 0.25  # of a GPU, for a student: four train on one
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one student."""

    bundle: Bundle
    report: Path
    evaluation: Evaluation
    version: Version
    is_new: bool
    promotion: Promotion

    @property
    def verdicts(self) -> list[str]:
        """What the test part says of distillation, plainly, at every horizon."""
        distilled, alone = self.evaluation.rmse(STUDENT), self.evaluation.rmse(STUDENT_ALONE)
        return [
            f"distilled against the same student alone at {h} min: {distilled[h] - alone[h]:+.2f} mg/dL RMSE "
            f"({'lower' if distilled[h] < alone[h] else 'no benefit'}; one seed proves nothing)"
            for h in distilled
        ]


@dataclass(frozen=True)
class Students:
    """The two students of one target; patient None: the population."""

    patient: str | None
    distilled: Path
    alone: Path


@dataclass(frozen=True)
class Trained:
    """What training left on disk, and the cohort it was made from."""

    cohort: Cohort
    teacher: Path
    students: list[Students]


def run_pipeline(settings: PipelineSettings, registry: Registry, say: Say, watch: Watch) -> list[Outcome]:
    """Train on Ray, score on the test part once, publish each student and let the gate decide.

    say: hears a sentence at each stage; watch: hears the progress of every job by name
    """
    registry.names()  # one that does not answer should be known before hours of training
    trained = train_all(settings, say, watch)
    return [score_and_publish(settings, trained, student, registry, say, watch) for student in trained.students]


def distil_students(settings: PipelineSettings, say: Say, watch: Watch) -> list[Path]:
    """The folders of the distilled students' bundles."""
    return [student.distilled for student in train_all(settings, say, watch).students]


def train_all(settings: PipelineSettings, say: Say, watch: Watch) -> Trained:
    """Teacher, its forecasts, and both students of every target, each kept from an equal run where there is one."""
    require_pair(settings.teacher.backbone, settings.student.backbone, settings.allow_unsupported)
    data = settings.data
    cohort = load_cohort(data.dataset, data.data_dir, data.patients, settings.shape.sampling_minutes)
    for model in (settings.teacher, settings.student):
        check_model(model, settings.shape)
    for sentence in (*cohort.left_out, *(f"{s.patient_id}: {f}" for s in cohort.chosen for f in s.findings)):
        say(sentence)
    if settings.distil_epochs not in (None, settings.student_training.epochs):
        say("the distilled student and the student alone have unequal epochs: their comparison is not fair")
    for target in targets_of(settings, cohort):  # who cannot be trained for should be known before a teacher is
        model_name(cohort.dataset, target)
        student_windows(settings, cohort, target)
    with stages_on_ray(settings, cohort, say, watch) as stages:
        teacher = stages.teacher()
        students = stages.students(stages.teacher_forecasts(teacher))
    return Trained(cohort, teacher, students)


@contextmanager
def stages_on_ray(settings: PipelineSettings, cohort: Cohort, say: Say, watch: Watch) -> Iterator["Stages"]:
    """The stages of training, with Ray running."""
    say("starting Ray")
    with cluster() as room:
        yield Stages(settings, cohort, room, say, watch)


def targets_of(settings: PipelineSettings, cohort: Cohort) -> list[str | None]:
    """Whom students are made for: each chosen patient, or None, the population, for all."""
    everybody = settings.data.patients.strip().lower() == ALL
    return [None] if everybody else [series.patient_id for series in cohort.chosen]


def check_model(model: ModelSettings, shape: WindowShape) -> None:
    """Everything that can be wrong with a model's settings, found before anything is trained."""
    entry = find_backbone(model.backbone)
    check_backbone_settings(entry, model)
    if entry.hidden_dim is not None:
        check_model_shape(model, shape, entry.hidden_dim)


@dataclass(frozen=True)
class Stages:
    """What is trained, in order. Every stage keeps its result under a fingerprint, and uses an equal one again."""

    settings: PipelineSettings
    cohort: Cohort
    room: Room
    say: Say
    watch: Watch

    @property
    def targets(self) -> list[str | None]:
        return targets_of(self.settings, self.cohort)

    def teacher(self) -> Path:
        """The teacher's folder."""
        settings = self.settings
        key = teacher_key(settings, *teacher_windows(settings.data, settings.shape, settings.teacher_training))
        name = find_backbone(settings.teacher.backbone).name
        folder = (settings.runs / "teachers" / f"{self.cohort.dataset}-{name}-{key}").resolve()
        if folder.is_dir():
            self.say(f"teacher {folder.name}: kept from an equal run")
            return folder
        self.say(f"teacher {folder.name}: training on {len(self.cohort.everyone)} patients")
        arguments = {"settings": settings, "folder": folder, "dataset": self.cohort.dataset}
        run_jobs([self._wide_job("teacher", train_teacher, arguments)], self.watch)
        return folder

    def teacher_forecasts(self, teacher: Path) -> list[StoredTeacher]:
        """The teacher's forecasts of each target's training windows: computed once, then read by every student."""
        name, digest = find_backbone(self.settings.teacher.backbone).name, read_bundle(teacher).digest
        stored, jobs = [], []
        for target in self.targets:
            train, _ = student_windows(self.settings, self.cohort, target)
            key = forecasts_key(digest, train)
            path = (self.settings.runs / "teacher_forecasts" / f"{key}.npz").resolve()
            stored.append(StoredTeacher(name, digest, path, key))
            if path.is_file():
                self.say(f"teacher forecasts {key}: kept from an equal run")
                continue
            self.say(f"teacher forecasts {key}: {len(train)} windows")
            arguments = {"settings": self.settings, "folder": teacher, "target": target, "stored": stored[-1]}
            jobs.append(self._wide_job(_named("teacher forecasts", target), cache_forecasts, arguments))
        run_jobs(jobs, self.watch)
        return stored

    def students(self, stored: list[StoredTeacher]) -> list[Students]:
        """A distilled student and one alone for every target, all of them trained side by side."""
        runs = [
            StudentRun(self.settings, target, weight, forecasts)
            for target, forecasts in zip(self.targets, stored, strict=True)
            for weight in (self.settings.teacher_weight, 0.0)
        ]
        folders = [self._student_folder(run) for run in runs]
        missing = {folder: run for folder, run in zip(folders, runs, strict=True) if not folder.is_dir()}
        self.say(f"students: {len(missing)} to train, {len(runs) - len(missing)} kept from equal runs")
        gpus = GPU_SHARE * min(1, self.room.gpus)
        jobs = [
            Job(_label(run), train_student, {"run": run, "folder": folder}, 1, gpus) for folder, run in missing.items()
        ]
        run_jobs(jobs, self.watch)
        return [Students(t, *pair) for t, *pair in zip(self.targets, folders[::2], folders[1::2], strict=True)]

    def _wide_job(self, name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Job:
        """A job that takes all the room there is."""
        return Job(name, function, arguments, self.room.cpus, min(1, self.room.gpus))

    def _student_folder(self, run: StudentRun) -> Path:
        key = run.key(*student_windows(run.settings, self.cohort, run.patient))
        name = model_name(self.cohort.dataset, run.patient)
        backbone = find_backbone(run.settings.student.backbone).name
        return (run.settings.runs / "students" / f"{name}-{backbone}-{key}").resolve()


def cache_forecasts(
    settings: PipelineSettings, folder: Path, target: str | None, stored: StoredTeacher, report: Report
) -> None:
    """One pass of a trained teacher over the windows that a student learns from."""
    built, _ = open_trained(folder, settings.teacher, settings.teacher_training.seed)
    data = settings.data
    cohort = load_cohort(data.dataset, data.data_dir, sampling_minutes=settings.shape.sampling_minutes)
    train, _ = student_windows(settings, cohort, target)
    forecasts = compute_teacher_forecasts(built.forecaster(), train, stored.key, report)
    write_teacher_forecasts(forecasts, stored.forecasts)


def _label(run: StudentRun) -> str:
    return _named((STUDENT if run.teacher_weight else STUDENT_ALONE).replace("_", " "), run.patient)


def _named(what: str, patient: str | None) -> str:
    return f"{what} ({patient})" if patient else what


def score_and_publish(
    settings: PipelineSettings, trained: Trained, student: Students, registry: Registry, say: Say, watch: Watch
) -> Outcome:
    """Score a student on the test part, publish it, and let the gate decide."""
    cohort = trained.cohort if student.patient is None else trained.cohort.only(student.patient)
    say(f"evaluation on the test part of {len(cohort.chosen)} patients")
    teacher, _ = open_trained(trained.teacher, settings.teacher, settings.teacher_training.seed)
    arms = {
        TEACHER: teacher.forecaster(),
        STUDENT_ALONE: Forecaster.open(student.alone),
        STUDENT: Forecaster.open(student.distilled),
    }
    evaluation = evaluate(arms, cohort, settings.shape, "test", settings.max_test_windows, watch)
    bundle, report = _with_test_scores(student.distilled, evaluation)
    version, is_new = publish_bundle(registry, bundle)
    say(f"{version.name} version {version.version}: {'published' if is_new else 'published before, nothing new'}")
    say("gate: scoring on the calibration part")
    promotion = promote_unless_rolled_back(registry, version, cohort, settings.gate)
    return Outcome(bundle, report, evaluation, version, is_new, promotion)


def _with_test_scores(folder: Path, evaluation: Evaluation) -> tuple[Bundle, Path]:
    """A copy of the bundle with its scores inside, and the file beside it with the whole evaluation.

    What training left stays as it was, for the next run to keep.
    """
    trained = read_bundle(folder)
    scored = folder.with_name(folder.name + "-scored")
    report = folder.with_name(folder.name + "-report.json")
    report.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n")
    scores = {"protocol": evaluation.as_json()["protocol"], "mean": evaluation.arms[STUDENT]["mean"]}
    with written_whole(scored) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True)
        write_bundle(scratch, trained.spec, trained.metrics | {"test": scores}, trained.origin)
    return read_bundle(scored), report
