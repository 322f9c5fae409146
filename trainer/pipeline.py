"""The whole path: teacher, cached forecasts, students, evaluation, publication."""

from dataclasses import dataclass
from pathlib import Path

from forecasting.baselines import Predictor
from forecasting.bundle import POPULATION, Bundle, read_bundle
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import ALL, EACH, Cohort, load_cohort, split_patients
from forecasting.references import Version, model_name
from forecasting.registry import Registry
from forecasting.windows import distinct
from trainer.assessment import Assessment, alarm_sentences, assess, write_page
from trainer.backbones import check_backbone_settings
from trainer.catalogue import find_backbone, require_pair
from trainer.distil import StudentRun, student_data
from trainer.evaluate import BOOSTING, Evaluation, grow_boosting
from trainer.parallel import JobFailed
from trainer.progress import Watch
from trainer.publication import (
    Promotion,
    page_beside,
    promote_unless_rolled_back,
    publication_sentence,
    publish_bundle,
    with_test_scores,
)
from trainer.settings import PipelineSettings
from trainer.stages import Say, stages_on_ray
from trainer.teacher import open_trained
from trainer.time_llm import check_model_shape

TEACHER, STUDENT, STUDENT_ALONE = "teacher", "student_distilled", "student_alone"


@dataclass(frozen=True)
class Outcome:
    """What became of one student. report: its scores as JSON; page: all that was found, for a person"""

    bundle: Bundle
    report: Path
    page: Path
    evaluation: Evaluation
    version: Version
    is_new: bool
    promotion: Promotion

    @property
    def verdicts(self) -> list[str]:
        """What the test part says, plainly."""
        return verdicts_of(self.evaluation, self.bundle)


def verdicts_of(evaluation: Evaluation, bundle: Bundle) -> list[str]:
    """Of distillation at every horizon, of alarms, and what became of int8 weights."""
    distilled, alone = evaluation.rmse(STUDENT), evaluation.rmse(STUDENT_ALONE)
    sentences = [
        f"distilled against the same student alone at {h} min: {distilled[h] - alone[h]:+.2f} mg/dL RMSE "
        f"({'lower' if distilled[h] < alone[h] else 'no benefit'}; one seed proves nothing)"
        for h in distilled
    ]
    sentences += alarm_sentences(evaluation, STUDENT)
    if told := bundle.metrics.get("int8"):
        became = "kept" if told["kept"] else "not kept, the weights stay float32"
        sentences.append(f"int8 weights: RMSE on validation moved by {told['rmse_moved_mg_dl']:.2f} mg/dL: {became}")
    return sentences


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
    bar = boosting_of(settings, trained.cohort, say, watch)
    return [score_and_publish(settings, trained, student, bar, registry, say, watch) for student in trained.students]


def boosting_of(settings: PipelineSettings, cohort: Cohort, say: Say, watch: Watch) -> dict[str, Predictor]:
    """LightGBM to be scored beside every student, by its arm; nothing where it was not asked for."""
    if not settings.boosting:
        return {}
    say(f"LightGBM, to be scored beside: growing on {len(cohort.everyone)} patients")
    return {BOOSTING: grow_boosting(cohort, settings.shape, settings.student.inputs, watch)}


def distil_students(settings: PipelineSettings, say: Say, watch: Watch) -> list[Path]:
    """The folders of the distilled students' bundles."""
    return [student.distilled for student in train_all(settings, say, watch).students]


def train_all(settings: PipelineSettings, say: Say, watch: Watch) -> Trained:
    """Teacher, its forecasts, and both students of every target, each kept from an equal run where there is one."""
    require_pair(settings.teacher.backbone, settings.student.backbone, settings.allow_unsupported)
    cohort = open_cohort(settings, say)
    check_models(settings)
    if settings.distil_epochs not in (None, settings.student_training.epochs):
        say("the distilled student and the student alone have unequal epochs: their comparison is not fair")
    at_most = settings.student_training.max_windows
    targets = targets_of(settings.data.patients, cohort)
    data = {target: student_data(cohort, target, settings.shape, at_most) for target in targets}
    with stages_on_ray(cohort, settings.runs, say, watch) as stages:
        teacher = stages.teacher(settings)
        forecasts = stages.teacher_forecasts(settings, teacher, distinct(d.train for d in data.values()))
        digest = read_bundle(teacher).digest
        students = [
            stages.student(
                _name_of(target, weight),
                _run_of(settings, cohort.dataset, target, weight, digest),
                data[target],
                forecasts if weight else None,
            )
            for target in targets
            for weight in (settings.teacher_weight, 0.0)
        ]
        for ended in stages.students(students):
            if ended.status == "failed":
                raise JobFailed(f"{ended.name} failed: {ended.error}")
    folders = [student.folder for student in students]
    return Trained(
        cohort, teacher, [Students(t, *pair) for t, *pair in zip(targets, folders[::2], folders[1::2], strict=True)]
    )


def open_cohort(settings: PipelineSettings, say: Say) -> Cohort:
    """The data set and its chosen patients; says who was left out, and what was found in the readings."""
    data = settings.data
    cohort = load_cohort(data.dataset, data.data_dir, data.patients, settings.shape.sampling_minutes)
    for sentence in (*cohort.left_out, *(f"{s.patient_id}: {f}" for s in cohort.chosen for f in s.findings)):
        say(sentence)
    return cohort


def targets_of(patients: str, cohort: Cohort) -> list[str | None]:
    """Whom students are made for: patients by id, each of everybody, or None, the population, for "all".

    Raises InvalidSetting for a patient whose id cannot name a model.
    """
    targets: list[str | None] = []
    for word in split_patients(patients):
        targets += [None] if word == ALL else [s.patient_id for s in cohort.everyone] if word == EACH else [word]
    for target in targets:
        model_name(cohort.dataset, target)
    return list(dict.fromkeys(targets))


def check_models(settings: PipelineSettings) -> None:
    """Everything that can be wrong with the models' settings, found before anything is trained."""
    for model in (settings.teacher, settings.student):
        entry = find_backbone(model.backbone)
        check_backbone_settings(entry, model)
        if entry.hidden_dim is not None:
            check_model_shape(model, settings.shape, entry.hidden_dim)


def _run_of(
    settings: PipelineSettings, dataset: str, target: str | None, weight: float, teacher_digest: str
) -> StudentRun:
    training = settings.student_training
    if weight and settings.distil_epochs is not None:
        training = training.model_copy(update={"epochs": settings.distil_epochs})
    teacher = find_backbone(settings.teacher.backbone).name
    return StudentRun(dataset, target, settings.shape, settings.student, training, weight, teacher, teacher_digest)


def _name_of(target: str | None, weight: float) -> str:
    return f"{target or POPULATION} {'distilled' if weight else 'alone'}"


def score_and_publish(
    settings: PipelineSettings,
    trained: Trained,
    student: Students,
    beside: dict[str, Predictor],
    registry: Registry,
    say: Say,
    watch: Watch,
) -> Outcome:
    """Score a student on the test part, write its page, publish it, and let the gate decide."""
    cohort = trained.cohort.only(student.patient)
    say(f"evaluation on the test part of {len(cohort.chosen)} patients")
    found = _assess(settings, trained, student, beside, say, watch)
    bundle, report = with_test_scores(student.distilled, found.evaluation, STUDENT)
    bundles = {TEACHER: read_bundle(trained.teacher), STUDENT_ALONE: read_bundle(student.alone), STUDENT: bundle}
    page = write_page(page_beside(report), found, STUDENT, bundles, verdicts_of(found.evaluation, bundle))
    version, is_new = publish_bundle(registry, bundle)
    registry.attach(version, page)
    say(publication_sentence(version, is_new))
    say("gate: scoring on the calibration part")
    promotion = promote_unless_rolled_back(registry, version, cohort, settings.gate)
    return Outcome(bundle, report, page, found.evaluation, version, is_new, promotion)


def _assess(
    settings: PipelineSettings,
    trained: Trained,
    student: Students,
    beside: dict[str, Predictor],
    say: Say,
    watch: Watch,
) -> Assessment:
    teacher, _ = open_trained(trained.teacher, settings.teacher, settings.teacher_training.seed)
    models = beside | {
        TEACHER: teacher.forecaster(),
        STUDENT_ALONE: Forecaster.open(student.alone),
        STUDENT: Forecaster.open(student.distilled),
    }
    cohort, at_most = trained.cohort.only(student.patient), settings.max_test_windows
    return assess(models, cohort, settings.shape, "test", at_most, settings.alarms, say, watch, slow=(TEACHER,))
