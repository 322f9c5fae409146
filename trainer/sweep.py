"""A sweep: students over patients, pairs, teacher weights, learning rates and seeds; the best of each is published."""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

from forecasting.baselines import Predictor
from forecasting.bundle import POPULATION, Bundle, read_bundle
from forecasting.errors import InsufficientData, InvalidSetting, RegistryUnavailable
from forecasting.forecaster import Forecaster
from forecasting.metrics import Scores
from forecasting.readers.datasets import Cohort
from forecasting.references import Version
from forecasting.registry import Registry
from forecasting.windows import distinct
from trainer.assessment import alarm_sentences, assess, write_page
from trainer.catalogue import find_backbone, require_pair, safe_name
from trainer.distil import StudentData, StudentRun, student_data
from trainer.evaluate import evaluate
from trainer.kept import drop_state, fingerprint
from trainer.leaderboard import write_leaderboard
from trainer.pipeline import STUDENT, boosting_of, check_models, open_cohort, targets_of
from trainer.progress import Watch
from trainer.publication import (
    Promotion,
    page_beside,
    promote_unless_rolled_back,
    publication_sentence,
    publish_bundle,
    scored_beside,
    with_test_scores,
)
from trainer.room import Share, student_gpus
from trainer.settings import Grid, Pair, SweepSettings
from trainer.stages import Say, Stages, Student, stages_on_ray
from trainer.sweep_record import BOARD, SweepRecord, TrialRecord, mark_published, read_record, write_record
from trainer.tracking import Tracking
from trainer.trials import Ended, Stopping


@dataclass(frozen=True)
class Combination:
    """One point of the grid. teacher "": a student alone, which no teacher makes different."""

    patient: str | None
    teacher: str
    student: str
    teacher_weight: float
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """Says which trial it is; safe for files."""
        taught = f"{find_backbone(self.teacher).name} w{self.teacher_weight:g}" if self.teacher else "alone"
        student = find_backbone(self.student).name
        said = f"{self.patient or POPULATION} {student} {taught} lr{self.learning_rate:g} seed{self.seed}"
        return safe_name(said)


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    combinations: the trials; data: {target: windows}; skipped: {target: why it has no trial}
    """

    settings: SweepSettings
    cohort: Cohort
    combinations: tuple[Combination, ...]
    data: dict[str | None, StudentData]
    skipped: dict[str, str]

    @property
    def key(self) -> str:
        """What the sweep depends on."""
        settings = self.settings.model_dump(mode="json", exclude={"runs", "name", "teacher_workers"})
        windows = {str(target): (d.train.digest, d.validation.digest) for target, d in self.data.items()}
        return fingerprint("sweep", settings, windows)

    @property
    def folder(self) -> Path:
        return (self.settings.runs / "sweeps" / f"{self.settings.name}-{self.key}").resolve()

    @property
    def teachers(self) -> list[str]:
        """Backbones of the teachers that some trial learns from."""
        return list(dict.fromkeys(c.teacher for c in self.combinations if c.teacher))


@dataclass(frozen=True)
class Published:
    """The best student of one target, in the registry. scores: of the test part, {arm: {horizon: scores}}"""

    trial: TrialRecord
    bundle: Bundle
    scores: dict[str, dict[str, Scores]]
    version: Version
    is_new: bool
    promotion: Promotion


def plan_sweep(settings: SweepSettings, say: Say) -> Plan:
    """Read the data and lay out the trials; everything that can be wrong is found here.

    A patient without enough data is skipped, and named. Raises InsufficientData where nobody is left.
    """
    cohort = open_cohort(settings, say)
    pairs = pairs_of(settings)
    for pair in pairs:
        for sentence in require_pair(pair.teacher, pair.student, settings.allow_unsupported):
            say(sentence)
        check_models(with_pair(settings, pair))
    data: dict[str | None, StudentData] = {}
    skipped: dict[str, str] = {}
    for target in targets_of(settings.data.patients, cohort):
        try:
            data[target] = student_data(cohort, target, settings.shape, settings.student_training.max_windows)
        except InsufficientData as error:
            skipped[target or POPULATION] = str(error)
            say(f"skipped: {error}")
    if not data:
        raise InsufficientData(f"no patient of the sweep can be trained for: {'; '.join(skipped.values())}")
    return Plan(settings, cohort, combinations_of(settings, pairs, list(data)), data, skipped)


def pairs_of(settings: SweepSettings) -> list[Pair]:
    """Teachers with their students, by the catalogue's names."""
    grid = settings.sweep
    students = grid.students or (settings.student.backbone,)
    pairs = grid.pairs or tuple(Pair(teacher=settings.teacher.backbone, student=student) for student in students)
    named = [(find_backbone(pair.teacher).name, find_backbone(pair.student).name) for pair in pairs]
    if len(set(named)) < len(named):
        raise InvalidSetting("the sweep names the same pair of backbones twice; name each once")
    return list(pairs)


def with_pair(settings: SweepSettings, pair: Pair) -> SweepSettings:
    """The settings with the backbones of one pair."""
    teacher = settings.teacher.model_copy(update={"backbone": pair.teacher})
    student = settings.student.model_copy(update={"backbone": pair.student})
    return settings.model_copy(update={"teacher": teacher, "student": student})


def combinations_of(
    settings: SweepSettings, pairs: Iterable[Pair], targets: Iterable[str | None]
) -> tuple[Combination, ...]:
    """Every combination once: a student alone is the same whatever its teacher would have been."""
    grid = settings.sweep
    weights = grid.distil_weights or (settings.teacher_weight,)
    rates = grid.learning_rates or (settings.student_training.learning_rate,)
    seeds = grid.seeds or (settings.student_training.seed,)
    points = product(targets, pairs, weights, rates, seeds)
    found = (Combination(t, p.teacher if w else "", p.student, w, r, s) for t, p, w, r, s in points)
    return tuple(dict.fromkeys(found))


def run_sweep(settings: SweepSettings, registry: Registry, say: Say, watch: Watch) -> tuple[SweepRecord, Path]:
    """Train every trial on Ray, and write the record and the leaderboard; (record, folder).

    Trials appear in MLflow as they end. Where the registry goes away meanwhile, training goes on.
    """
    plan = plan_sweep(settings, say)
    before = read_record(plan.folder)
    if before is not None and not before.failed:
        say(f"sweep {plan.folder.name}: kept from an equal run")
        return before, plan.folder
    tracking = Tracking(registry, plan.key)
    tracking.begin(settings)  # a registry that does not answer should be known before hours of training
    try:
        record = SweepRecord(
            settings=_with_whole_paths(settings),
            key=plan.key,
            dataset=plan.cohort.dataset,
            trials=_train(plan, before, tracking, say, watch),
            skipped=plan.skipped,
            baselines={target or POPULATION: _baselines(plan, target) for target in plan.data},
        )
    except BaseException:
        _end_quietly(tracking)
        raise
    write_record(record, plan.folder)
    write_leaderboard(record, plan.folder / BOARD)
    return record, plan.folder


def _with_whole_paths(settings: SweepSettings) -> SweepSettings:
    """As they hold wherever `publish --pending` is run later."""
    folder = settings.data.data_dir
    data = settings.data.model_copy(update={"data_dir": folder and folder.resolve()})
    return settings.model_copy(update={"runs": settings.runs.resolve(), "data": data})


def _end_quietly(tracking: Tracking) -> None:
    try:
        tracking.end("KILLED")
    except RegistryUnavailable:
        return  # the sweep's own error is the one to tell


def _train(
    plan: Plan, before: SweepRecord | None, tracking: Tracking, say: Say, watch: Watch
) -> tuple[TrialRecord, ...]:
    """Run the trials; of a sweep that ended before, those that failed."""
    grid = plan.settings.sweep
    with (
        stages_on_ray(plan.cohort, plan.settings.runs, say, watch) as stages,
        _Recorder(tracking, say) as recorder,
    ):
        share = share_of(grid, stages.room.gpus)
        stages.room.require(share)  # before a teacher is trained
        students = _students(plan, stages)
        by_name = {student.name: student for student in students}
        recorder.records |= {t.name: t for t in (before.trials if before else ()) if t.status != "failed"}
        stopping = Stopping(grid.grace_epochs, grid.reduction) if grid.early_stopping == "asha" else None

        def heard(ended: Ended) -> None:
            recorder.add(_record(by_name[ended.name], ended))

        stages.students([s for s in students if s.name not in recorder.records], share, stopping, heard)
    for student in students:
        if recorder.records[student.name].status == "stopped":
            drop_state(student.folder)
    return tuple(recorder.records[student.name] for student in students)


def share_of(grid: Grid, gpus: int) -> Share:
    """What each trial takes."""
    asked = grid.gpus_per_trial
    return Share(
        grid.cpus_per_trial, student_gpus(gpus) if asked is None else asked, int(grid.memory_per_trial_gb * 1e9)
    )


def _students(plan: Plan, stages: Stages) -> list[Student]:
    """Teachers first, each with one pass over the windows of all targets; then the students to train."""
    windows = distinct(data.train for data in plan.data.values())
    taught = {}
    for teacher in plan.teachers:
        settings = with_pair(plan.settings, Pair(teacher=teacher, student=plan.settings.student.backbone))
        folder = stages.teacher(settings)
        taught[teacher] = read_bundle(folder).digest, stages.teacher_forecasts(settings, folder, windows)
    students = []
    for c in plan.combinations:
        digest, forecasts = taught.get(c.teacher, ("", None))
        run = StudentRun(
            plan.cohort.dataset,
            c.patient,
            plan.settings.shape,
            plan.settings.student.model_copy(update={"backbone": c.student}),
            plan.settings.student_training.model_copy(update={"learning_rate": c.learning_rate, "seed": c.seed}),
            c.teacher_weight,
            find_backbone(c.teacher).name if c.teacher else "",
            digest,
        )
        students.append(stages.student(c.name, run, plan.data[c.patient], forecasts))
    return students


def _record(student: Student, ended: Ended) -> TrialRecord:
    run, finished = student.run, ended.status == "finished"
    return TrialRecord(
        name=ended.name,
        key=student.folder.name.rpartition("-")[2],
        patient=run.patient,
        teacher=run.teacher,
        student=run.backbone,
        teacher_weight=run.teacher_weight,
        learning_rate=run.training.learning_rate,
        seed=run.training.seed,
        status=ended.status,
        error=ended.error,
        seconds=ended.seconds,
        losses=ended.losses,
        validation=read_bundle(student.folder).metrics["validation"] if finished else {},
        folder=student.folder if finished else None,
    )


class _Recorder:
    """Collects records, and writes each to MLflow beside the training, which does not wait for it."""

    def __init__(self, tracking: Tracking, say: Say) -> None:
        self.tracking, self.say = tracking, say
        self.records: dict[str, TrialRecord] = {}
        self.writer = ThreadPoolExecutor(1)
        self.writes: list[Future[str]] = []

    def add(self, record: TrialRecord) -> None:
        self.records[record.name] = record
        self.writes.append(self.writer.submit(self.tracking.trial, record))

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.shutdown(wait=True)
        for write in self.writes:
            try:
                write.result()
            except RegistryUnavailable as error:
                self.say(f"{error}; the sweep goes on, and publishing will catch up")
                return


def _baselines(plan: Plan, target: str | None) -> dict[str, dict[str, Scores]]:
    arms = evaluate({}, plan.cohort.only(target), plan.settings.shape, "validation").arms
    return {arm: scores["mean"] for arm, scores in arms.items()}


def publish_sweep(record: SweepRecord, folder: Path, registry: Registry, say: Say, watch: Watch) -> list[Published]:
    """Bring the registry up to a sweep: nested runs, the best student of each target as challenger, the gate.

    Everything may be there already: nothing is written twice, so that this can be run again after any failure.
    """
    tracking = Tracking(registry, record.key)
    tracking.begin(record.settings)
    runs = {trial.name: tracking.trial(trial) for trial in record.trials}
    cohort = open_cohort(record.settings, lambda sentence: None)
    beside = cache(lambda: boosting_of(record.settings, cohort, say, watch))  # where somebody has to be scored
    published = []
    for target in record.targets:
        best = record.best(target)
        if best is None:
            say(f"{target}: no trial finished, nothing to publish")
            continue
        people = cohort.only(best.patient)
        bundle, scores = _scored(record, best, people, beside, say, watch)
        published.append(_publish(record, best, bundle, scores, people, registry, runs[best.name], say))
    tracking.end("FAILED" if record.failed else "FINISHED", folder / BOARD)
    mark_published(folder, {p.trial.target: f"{p.version.name}/{p.version.version}" for p in published})
    return published


def _publish(
    record: SweepRecord,
    best: TrialRecord,
    bundle: Bundle,
    scores: dict[str, dict[str, Scores]],
    people: Cohort,
    registry: Registry,
    run_id: str,
    say: Say,
) -> Published:
    assert best.folder is not None
    version, is_new = publish_bundle(registry, bundle, run_id)
    registry.attach(version, page_beside(scored_beside(best.folder)[1]))
    say(publication_sentence(version, is_new))
    promotion = promote_unless_rolled_back(registry, version, people, record.settings.gate)
    return Published(best, bundle, scores, version, is_new, promotion)


def _scored(
    record: SweepRecord,
    best: TrialRecord,
    people: Cohort,
    beside: Callable[[], dict[str, Predictor]],
    say: Say,
    watch: Watch,
) -> tuple[Bundle, dict[str, dict[str, Scores]]]:
    """The chosen student with its scores on the test part, and those of the baselines; the part is read once.

    beside: what else is scored
    """
    assert best.folder is not None
    scored, report = scored_beside(best.folder)
    if not (scored.is_dir() and report.is_file() and page_beside(report).is_file()):
        settings = record.settings
        models = beside() | {STUDENT: Forecaster.open(best.folder)}
        at_most = settings.max_test_windows
        found = assess(models, people, settings.shape, "test", at_most, settings.alarms, say, watch)
        bundle, _ = with_test_scores(best.folder, found.evaluation, STUDENT)
        write_page(page_beside(report), found, STUDENT, {STUDENT: bundle}, alarm_sentences(found.evaluation, STUDENT))
    arms_scored = json.loads(report.read_text())["arms"]
    return read_bundle(scored), {arm: scores["mean"] for arm, scores in arms_scored.items()}
