"""A study: does distillation help? Every arm on the same windows, against the arm with the same data."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forecasting.baselines import PerPatient, Predictor
from forecasting.bundle import read_bundle
from forecasting.cgm import GlucoseSeries
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import Cohort
from forecasting.windows import Windows, cut_all, distinct, thin
from trainer.boosting import Boosting
from trainer.catalogue import find_backbone
from trainer.distil import StudentData, StudentRun, student_data
from trainer.ensemble import Mixture, averaged, boosting_forecasts
from trainer.evaluate import BOOSTING, baselines_of, scorable, scores_of
from trainer.kept import fingerprint
from trainer.parallel import JobFailed
from trainer.pipeline import check_models, open_cohort
from trainer.plain import fit_plain
from trainer.progress import Progress, Watch, unheard
from trainer.settings import StudySettings, TrainingSettings
from trainer.stages import Say, Stages, Student, stages_on_ray
from trainer.study_record import SetRecord, read_set, write_set
from trainer.teacher import open_trained
from trainer.teacher_forecasts import TeacherForecasts
from trainer.time_llm import spec_of

PLAIN, TEACHER, TEACHERS = "plain_network", "teacher", "teachers"
ALONE, DISTILLED, TUNED, TUNED_DISTILLED = "alone", "distilled", "fine_tuned", "fine_tuned_distilled"
POPULATION, PERSONAL, FEW = "population", "personal", "personal_few_days"
PAIRS = (  # what counts as a gain by distillation: the same data, the same beginning
    (f"{POPULATION}_{DISTILLED}", f"{POPULATION}_{ALONE}"),
    (f"{PERSONAL}_{DISTILLED}", f"{PERSONAL}_{ALONE}"),
    (f"{PERSONAL}_{TUNED_DISTILLED}", f"{PERSONAL}_{TUNED}"),
    (f"{FEW}_{DISTILLED}", f"{FEW}_{ALONE}"),
    (f"{FEW}_{TUNED_DISTILLED}", f"{FEW}_{TUNED}"),
)
BARS = (  # what a student must meet
    (f"{POPULATION}_{DISTILLED}", BOOSTING),
    (f"{POPULATION}_{ALONE}", BOOSTING),
    (f"{POPULATION}_{DISTILLED}", TEACHERS),
)
Arms = dict[str, list[Predictor]]  # {arm: a predictor for each seed, or one}


@dataclass(frozen=True)
class Teaching:
    """The ensemble of teachers: its members, its digest, its forecasts of every training window."""

    members: tuple[Forecaster, ...]
    digest: str
    forecasts: TeacherForecasts


def run_study(settings: StudySettings, say: Say, watch: Watch) -> list[SetRecord]:
    """One record for each data set; a set whose equal study ended is not studied again."""
    names = settings.study.datasets or (settings.data.dataset,)
    data = [settings.data.model_copy(update={"dataset": name}) for name in names]
    return [study_set(settings.model_copy(update={"data": each}), say, watch) for each in data]


def study_set(settings: StudySettings, say: Say, watch: Watch) -> SetRecord:
    """Train every arm on one data set, and score all of them on its test part, which is read once."""
    cohort = open_cohort(settings, say)
    check_models(settings)
    people, left_out = scorable(cohort, settings.shape, "test")
    for sentence in left_out:
        say(sentence)
    windows = thin(cut_all(people, settings.shape, "test"), settings.max_test_windows)
    key = fingerprint("study", settings.model_dump(mode="json", exclude={"runs", "name"}), windows.digest)
    path = (settings.runs / "studies" / f"{settings.name}-{cohort.dataset}-{key}.json").resolve()
    if (kept := read_set(path)) is not None:
        say(f"{path.name}: kept from an equal study")
        return kept
    with stages_on_ray(cohort, settings.runs, say, watch) as stages:
        weight, arms = _Arms(settings, cohort, people, stages, say).all()
    say(f"scoring {len(arms)} arms on {len(windows)} windows of the test part")
    record = SetRecord(
        dataset=cohort.dataset,
        settings=settings,
        people=windows.patients,
        windows=len(windows),
        teacher_weight=weight,
        arms={arm: _scores(arm, predictors, windows, settings, watch) for arm, predictors in arms.items()},
    )
    write_set(record, path)
    return record


def _scores(arm: str, predictors: list[Predictor], windows: Windows, settings: StudySettings, watch: Watch) -> list:
    """Per seed {patient: {horizon: scores}}."""
    found = []
    for k, predictor in enumerate(predictors, 1):
        found.append(scores_of(windows, predictor.predict_windows(windows), settings.shape)["patients"])
        watch(f"scoring {arm}", Progress(k, len(predictors)))
    return found


class _Arms:
    """Every arm of one data set, trained."""

    def __init__(
        self, settings: StudySettings, cohort: Cohort, people: list[GlucoseSeries], stages: Stages, say: Say
    ) -> None:
        self.settings, self.cohort, self.people, self.stages, self.say = settings, cohort, people, stages, say
        study, shape = settings.study, settings.shape
        self.seeds = study.seeds[: study.fewer_seeds.get(cohort.dataset)]
        self.pool = student_data(cohort, None, shape, settings.student_training.max_windows)
        self.own = {s.patient_id: self._data(s.patient_id, None) for s in people} if study.personal else {}
        self.few = {s.patient_id: self._data(s.patient_id, study.few_days) for s in people} if study.personal else {}

    def _data(self, patient: str, days: int | None) -> StudentData:
        return student_data(self.cohort, patient, self.settings.shape, self.settings.study.personal_windows, days)

    def all(self) -> tuple[float, Arms]:
        """(the teacher weight that validation chose, the arms)"""
        arms = self._baselines()
        taught = self._teach(arms)
        weight = self._choose_weight(taught)
        alone = self._population(0.0, taught)
        distilled = self._population(weight, taught)
        arms |= {f"{POPULATION}_{ALONE}": _opened(alone), f"{POPULATION}_{DISTILLED}": _opened(distilled)}
        for kind, data in ((PERSONAL, self.own), (FEW, self.few)):
            if data:
                arms |= self._personal(kind, data, weight, taught, [student.folder for student in alone])
        return weight, arms

    def _baselines(self) -> Arms:
        """Persistence, ridge, boosting on all windows of the training part, and the plain network."""
        shape = self.settings.shape
        train, validation = (cut_all(self.cohort.everyone, shape, part) for part in ("train", "validation"))
        self.say(f"boosting and the plain network on {len(train)} and {len(self.pool.train)} windows")
        boosting = Boosting.fit(train, validation, inputs=self.settings.student.inputs)
        return {
            **{arm: [one] for arm, one in baselines_of(self.cohort, self.people, shape).items()},
            BOOSTING: [boosting],
            PLAIN: [self._plain(seed) for seed in self.seeds],
        }

    def _plain(self, seed: int) -> Forecaster:
        settings = self.settings
        spec = spec_of("plain", settings.student, settings.shape)
        training = settings.student_training.model_copy(update={"seed": seed})
        return fit_plain(spec, self.pool.train, self.pool.validation, training, unheard)

    def _teach(self, arms: Arms) -> Teaching:
        """Teachers of several seeds and boosting; their mean is the teacher, and an arm itself."""
        windows = distinct(data.train for data in (self.pool, *self.own.values(), *self.few.values()))
        members, folders, forecasts = [], [], []
        for seed in self.settings.study.teacher_seeds:
            one = _with_teacher_seed(self.settings, seed)
            folder = self.stages.teacher(one)
            forecasts.append(self.stages.teacher_forecasts(one, folder, windows))
            members.append(open_trained(folder, one.teacher, seed)[0].forecaster())
            folders.append(folder)
        arms[TEACHER] = list(members)
        everyone: list[Predictor] = list(members)
        if self.settings.study.boosting_teaches:
            self.say("boosting's forecasts of the training windows, each without its own weeks")
            forecasts.append(boosting_forecasts(windows, self.pool.validation, self.settings.student.inputs))
            everyone += arms[BOOSTING]
        arms[TEACHERS] = [Mixture(tuple(everyone))]
        stored = averaged(forecasts) if len(forecasts) > 1 else forecasts[0]
        return Teaching(tuple(members), fingerprint(stored.fingerprint, *map(_digest, folders)), stored)

    def _choose_weight(self, taught: Teaching) -> float:
        """The teacher weight with the least validation loss of the population student of the first seed."""
        weights = self.settings.study.teacher_weights
        students = [self._student(f"population w{w:g}", None, self.pool, w, taught, self.seeds[0]) for w in weights]
        losses = {w: min(ended.losses) for w, ended in zip(weights, self._train(students), strict=True)}
        chosen = min(losses, key=lambda w: losses[w])
        listed = ", ".join(f"{w:g}: {loss:.4f}" for w, loss in losses.items())
        self.say(f"teacher weight {chosen:g} has the least validation loss ({listed})")
        return chosen

    def _population(self, weight: float, taught: Teaching) -> list[Student]:
        kind = DISTILLED if weight else ALONE
        students = [self._student(f"population {kind} {s}", None, self.pool, weight, taught, s) for s in self.seeds]
        self._train(students)
        return students

    def _personal(
        self, kind: str, data: dict[str, StudentData], weight: float, taught: Teaching, population: list[Path]
    ) -> Arms:
        """Four arms of one student a person: from scratch and from the population's, each alone and distilled."""
        variants = {
            ALONE: (0.0, False),
            DISTILLED: (weight, False),
            TUNED: (0.0, True),
            TUNED_DISTILLED: (weight, True),
        }
        students = {
            (variant, seed, patient): self._student(
                f"{kind} {variant} {patient} {seed}", patient, own, w, taught, seed, population[k] if tuned else None
            )
            for variant, (w, tuned) in variants.items()
            for k, seed in enumerate(self.seeds)
            for patient, own in data.items()
        }
        self._train(list(students.values()))
        return {
            f"{kind}_{variant}": [
                PerPatient({p: Forecaster.open(students[variant, seed, p].folder) for p in data}) for seed in self.seeds
            ]
            for variant in variants
        }

    def _student(
        self,
        name: str,
        patient: str | None,
        data: StudentData,
        weight: float,
        taught: Teaching,
        seed: int,
        start: Path | None = None,
    ) -> Student:
        settings = self.settings
        run = StudentRun(
            self.cohort.dataset,
            patient,
            settings.shape,
            settings.student,
            self._training(patient, start).model_copy(update={"seed": seed}),
            weight,
            find_backbone(settings.teacher.backbone).name,
            taught.digest,
            start,
        )
        return self.stages.student(name, run, data, taught.forecasts if weight else None)

    def _training(self, patient: str | None, start: Path | None) -> TrainingSettings:
        training, study = self.settings.student_training, self.settings.study
        changes: dict = {} if patient is None else {"batch_size": study.personal_batch}
        if start is not None:
            changes["learning_rate"] = study.fine_tuning_rate
        return training.model_copy(update=changes)

    def _train(self, students: list[Student]) -> list:
        ended = self.stages.students(students)
        for one in ended:
            if one.status == "failed":
                raise JobFailed(f"{one.name} failed: {one.error}; run the study again, what ended is kept")
        return ended


def _opened(students: Iterable[Student]) -> list[Predictor]:
    return [Forecaster.open(student.folder) for student in students]


def _digest(folder: Path) -> str:
    return read_bundle(folder).digest


def _with_teacher_seed(settings: StudySettings, seed: int) -> StudySettings:
    training = settings.teacher_training.model_copy(update={"seed": seed})
    return settings.model_copy(update={"teacher_training": training})
