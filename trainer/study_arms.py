"""Every arm of a study, trained: baselines, teachers, and students of the population and of each person."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forecasting.baselines import PerPatient, Persistence, Predictor, Ridge
from forecasting.bundle import read_bundle
from forecasting.cgm import GlucoseSeries
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import Cohort
from forecasting.windows import Windows, cut_all, distinct
from trainer.boosting import Boosting
from trainer.catalogue import find_backbone
from trainer.distil import StudentData, StudentRun, student_data
from trainer.ensemble import Mixture, boosting_forecasts, mean_taught
from trainer.evaluate import BOOSTING, PERSISTENCE, RIDGE_POOLED, baselines_of
from trainer.kept import fingerprint
from trainer.parallel import JobFailed
from trainer.plain import fit_plain
from trainer.progress import unheard
from trainer.settings import PersonalData, StudySettings, TrainingSettings
from trainer.stages import Stages, Student
from trainer.study_record import (
    ALONE,
    DISTILLED,
    FEW,
    PERSONAL,
    PLAIN,
    POPULATION_ALONE,
    POPULATION_DISTILLED,
    TEACHER,
    TEACHERS,
    TUNED,
    TUNED_DISTILLED,
)
from trainer.teacher import open_trained
from trainer.teacher_forecasts import TeacherForecasts
from trainer.time_llm import spec_of

Arms = dict[str, list[Predictor]]  # {arm: a predictor for each seed, or one}
KINDS: dict[PersonalData, str] = {"all": PERSONAL, "few": FEW}


@dataclass(frozen=True)
class Teaching:
    """What teaches: the digest of all members, and the mean of their mixture for every training window."""

    digest: str
    forecasts: TeacherForecasts


class StudyArms:
    """Every arm of one cohort, trained.

    people: whom the arms are to forecast; of the cohort, or new to it
    max_windows: that population students train on; all for None
    """

    def __init__(
        self,
        settings: StudySettings,
        cohort: Cohort,
        people: list[GlucoseSeries],
        stages: Stages,
        max_windows: int | None,
    ) -> None:
        self.settings, self.cohort, self.people, self.stages, self.say = settings, cohort, people, stages, stages.say
        self.pool = student_data(cohort, None, settings.shape, max_windows)

    def of_known_people(self) -> tuple[float, Arms]:
        """(the teacher weight that validation chose, the arms)"""
        study = self.settings.study
        seeds = study.seeds[: study.fewer_seeds.get(self.cohort.dataset)]
        personal = {kind: self._personal_data(kind) for kind in study.personal}
        arms: Arms = {arm: [one] for arm, one in baselines_of(self.cohort, self.people, self.settings.shape).items()}
        arms |= {BOOSTING: [self._boosting()], PLAIN: [self._plain(seeds[0])]}
        windows = distinct(data.train for data in (self.pool, *(d for own in personal.values() for d in own.values())))
        taught = self._teach(arms, study.teacher_seeds, windows)
        weight = self._choose_weight(taught, seeds[0])
        arms |= self._population(weight, taught, seeds)
        for kind, data in personal.items():
            starts = {seed: self._student_of_all(0.0, taught, seed).folder for seed in seeds[: study.personal_seeds]}
            arms |= self._personal(KINDS[kind], data, weight, taught, starts)
        return weight, arms

    def of_new_people(self, weight: float | None) -> tuple[float, Arms]:
        """(the teacher weight, chosen on the validation part of the known people where none is given, the arms)"""
        study, shape = self.settings.study, self.settings.shape
        seeds = study.seeds[: study.fold_seeds]
        train, validation = (cut_all(self.cohort.everyone, shape, part) for part in ("train", "validation"))
        arms: Arms = {PERSISTENCE: [Persistence.fit(validation)], RIDGE_POOLED: [Ridge.fit(train, validation)]}
        arms[BOOSTING] = [self._boosting()]
        taught = self._teach(arms, study.fold_teacher_seeds, self.pool.train)
        if weight is None:
            weight = self._choose_weight(taught, seeds[0])
        return weight, arms | self._population(weight, taught, seeds)

    def _personal_data(self, kind: PersonalData) -> dict[str, StudentData]:
        study, shape = self.settings.study, self.settings.shape
        days = study.few_days if kind == "few" else None
        return {
            s.patient_id: student_data(self.cohort, s.patient_id, shape, study.personal_windows, days)
            for s in self.people
        }

    def _boosting(self) -> Boosting:
        """On all windows of the training part."""
        shape = self.settings.shape
        train, validation = (cut_all(self.cohort.everyone, shape, part) for part in ("train", "validation"))
        self.say(f"boosting on {len(train)} windows, students on {len(self.pool.train)}")
        return Boosting.fit(train, validation, inputs=self.settings.student.inputs)

    def _plain(self, seed: int) -> Forecaster:
        """The plain network, on the windows of the students."""
        settings = self.settings
        spec = spec_of("plain", settings.student, settings.shape)
        training = settings.student_training.model_copy(update={"seed": seed})
        return fit_plain(spec, self.pool.train, self.pool.validation, training, unheard)

    def _teach(self, arms: Arms, seeds: tuple[int, ...], windows: Windows) -> Teaching:
        """Teachers of several seeds, and boosting; their mixture is what teaches, and all are arms themselves."""
        members, digests, forecasts = [], [], []
        for seed in seeds:
            one = _with_teacher_seed(self.settings, seed)
            folder = self.stages.teacher(one)
            forecasts.append(self.stages.teacher_forecasts(one, folder, windows))
            members.append(open_trained(folder, one.teacher, seed)[0].forecaster())
            digests.append(read_bundle(folder).digest)
        everyone: list[Predictor] = [*members]
        if members:
            arms[TEACHER] = [*members]
        if self.settings.study.boosting_teaches:
            self.say("boosting's forecasts of the training windows, each without its own weeks")
            forecasts.append(boosting_forecasts(windows, self.pool.validation, self.settings.student.inputs))
            everyone += arms[BOOSTING]
        mixture = Mixture.fit(tuple(everyone), self.pool.validation)
        self.say(f"the teachers weigh {', '.join(f'{weight:.2f}' for weight in mixture.weights)} in their mixture")
        arms[TEACHERS] = [mixture]
        taught = mean_taught(forecasts, mixture.weights)
        return Teaching(fingerprint(taught.fingerprint, *digests), taught)

    def _choose_weight(self, taught: Teaching, seed: int) -> float:
        """The teacher weight with the least validation loss of the population student of the first seed."""
        weights = self.settings.study.teacher_weights
        students = [self._student_of_all(w, taught, seed) for w in weights]
        losses = {w: min(ended.losses) for w, ended in zip(weights, self._train(students), strict=True)}
        chosen = min(losses, key=lambda w: losses[w])
        listed = ", ".join(f"{w:g}: {loss:.4f}" for w, loss in losses.items())
        self.say(f"teacher weight {chosen:g} has the least validation loss ({listed})")
        return chosen

    def _population(self, weight: float, taught: Teaching, seeds: tuple[int, ...]) -> Arms:
        """The population's students of every seed, alone and distilled, side by side."""
        alone, distilled = ([self._student_of_all(w, taught, seed) for seed in seeds] for w in (0.0, weight))
        self._train([*alone, *distilled])
        return {POPULATION_ALONE: _opened(alone), POPULATION_DISTILLED: _opened(distilled)}

    def _student_of_all(self, weight: float, taught: Teaching, seed: int) -> Student:
        return self._student(f"population w{weight:g} seed {seed}", None, self.pool, weight, taught, seed)

    def _personal(
        self, kind: str, data: dict[str, StudentData], weight: float, taught: Teaching, starts: dict[int, Path]
    ) -> Arms:
        """Four arms of one student a person: from scratch and from the population's, each alone and distilled.

        starts: {seed: the population student alone of that seed}
        """
        variants = {
            ALONE: (0.0, False),
            DISTILLED: (weight, False),
            TUNED: (0.0, True),
            TUNED_DISTILLED: (weight, True),
        }
        students = {
            (variant, seed, patient): self._student(
                f"{kind} {variant} {patient} {seed}", patient, own, w, taught, seed, start if tuned else None
            )
            for variant, (w, tuned) in variants.items()
            for seed, start in starts.items()
            for patient, own in data.items()
        }
        self._train(list(students.values()))
        return {
            f"{kind}_{variant}": [
                PerPatient({p: Forecaster.open(students[variant, seed, p].folder) for p in data}) for seed in starts
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
        changes: dict = {}
        if patient is not None:
            changes |= {"batch_size": study.personal_batch, "epochs": study.personal_epochs}
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


def _with_teacher_seed(settings: StudySettings, seed: int) -> StudySettings:
    training = settings.teacher_training.model_copy(update={"seed": seed})
    return settings.model_copy(update={"teacher_training": training})
