"""A study: does distillation help? Every arm on the same windows, against the arm with the same data."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forecasting.baselines import Predictor
from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.readers.datasets import Cohort
from forecasting.windows import Windows, cut_all, thin
from trainer.alarms import LEVEL, LowAlarms, alarm_sentence, low_alarms
from trainer.evaluate import BOOSTING, RIDGE_POOLED, scorable, scores_of
from trainer.kept import fingerprint
from trainer.pipeline import check_models, open_cohort
from trainer.progress import Progress, Watch
from trainer.settings import Comparing, StudySettings
from trainer.stages import Say, Stages, stages_on_ray
from trainer.study_arms import Arms, StudyArms
from trainer.study_record import POPULATION_ALONE, POPULATION_DISTILLED, OfSeed, SetRecord, read_set, write_set

OF_FOLDS = {name for name in Comparing.model_fields if name.startswith("fold")}
OF_KNOWN = {"teacher_seeds", "fewer_seeds", "few_days", "fine_tuning_rate"} | {
    name for name in Comparing.model_fields if name.startswith("personal")
}
WARNING_ARMS = (RIDGE_POOLED, BOOSTING, POPULATION_ALONE, POPULATION_DISTILLED)  # whose alarms of lows are scored


def run_study(settings: StudySettings, say: Say, watch: Watch) -> list[SetRecord]:
    """One record for each data set, and one for new people of all; what an equal study ended is not studied again."""
    check_models(settings)
    cohorts = [open_cohort(_of_set(settings, name), say) for name in _sets(settings)]
    records = [study_set(settings, cohort, say, watch) for cohort in cohorts]
    if settings.study.folds:
        records.append(study_new_people(settings, cohorts, say, watch))
    return records


def _sets(settings: StudySettings) -> tuple[str, ...]:
    return settings.study.datasets or (settings.data.dataset,)


def _of_set(settings: StudySettings, name: str) -> StudySettings:
    return settings.model_copy(update={"data": settings.data.model_copy(update={"dataset": name})})


def study_set(settings: StudySettings, cohort: Cohort, say: Say, watch: Watch) -> SetRecord:
    """Train every arm on one data set, and score all of them on its test part, which is read once."""
    people, left_out = scorable(cohort, settings.shape, "test")
    for sentence in left_out:
        say(sentence)
    windows = _test_windows(people, settings)
    settings = _of_set(settings, cohort.dataset)
    path = _path(settings, cohort.dataset, [windows], OF_FOLDS)
    if (kept := _kept(path, say)) is not None:
        return kept
    with stages_on_ray(cohort, settings.runs, say, watch) as stages:
        at_most = settings.student_training.max_windows
        weight, arms = StudyArms(settings, cohort, people, stages, at_most).of_known_people()
    say(f"scoring {len(arms)} arms on {len(windows)} windows of the test part")
    alarms = _alarms(arms, people, settings, watch)
    record = SetRecord(
        dataset=cohort.dataset,
        settings=settings,
        people=windows.patients,
        windows=len(windows),
        teacher_weight=weight,
        arms=_scores(arms, windows, settings, watch),
        alarms={arm: found.as_json() for arm, found in alarms.items()},
        alarm_findings=alarm_findings(alarms),
    )
    write_set(record, path)
    return record


def study_new_people(settings: StudySettings, cohorts: Sequence[Cohort], say: Say, watch: Watch) -> SetRecord:
    """Everybody forecast by models of the others: folds of the people of all sets, each on its people's test parts."""
    folds = people_in_folds([_scorable_people(cohort, settings) for cohort in cohorts], settings.study.folds)
    windows = [_test_windows(held_out, settings) for held_out in folds]
    path = _path(settings, "new_people", windows, OF_KNOWN)
    if (kept := _kept(path, say)) is not None:
        return kept
    everyone = [named for cohort in cohorts for named in _named(cohort)]
    weight, found = None, []
    with stages_on_ray(cohorts[0], settings.runs, say, watch) as stages:
        for k, held_out in enumerate(folds):
            say(f"fold {k + 1} of {len(folds)}: {len(held_out)} people are new")
            weight, arms = _fold(k, everyone, held_out, settings, stages).of_new_people(weight)
            found.append(_scores(arms, windows[k], settings, watch))
    assert weight is not None, "there are folds"
    record = SetRecord(
        dataset="new people of " + " and ".join(cohort.dataset for cohort in cohorts),
        new_people=True,
        settings=settings,
        people=[series.patient_id for held_out in folds for series in held_out],
        windows=sum(map(len, windows)),
        teacher_weight=weight,
        arms={arm: _joined([scores[arm] for scores in found]) for arm in found[0]},
    )
    write_set(record, path)
    return record


def people_in_folds(sets: Sequence[Sequence[GlucoseSeries]], count: int, seed: int = 0) -> list[list[GlucoseSeries]]:
    """People in folds of about equal numbers, in each of which every set has its share; who is where, a seed says.

    Raises InsufficientData where there are fewer people than folds.
    """
    if sum(map(len, sets)) < count:
        raise InsufficientData(f"{count} folds need as many people, there are {sum(map(len, sets))}")
    shuffled = [people[k] for people in sets for k in np.random.default_rng(seed).permutation(len(people))]
    return [shuffled[k::count] for k in range(count)]


def _fold(
    k: int, everyone: Sequence[GlucoseSeries], held_out: list[GlucoseSeries], settings: StudySettings, stages: Stages
) -> StudyArms:
    new = {series.patient_id for series in held_out}
    others = tuple(series for series in everyone if series.patient_id not in new)
    cohort = Cohort(f"new_people_{k + 1}", others, others, ())
    return StudyArms(settings, cohort, held_out, replace(stages, cohort=cohort), settings.study.fold_windows)


def _named(cohort: Cohort) -> Iterator[GlucoseSeries]:
    """Everybody under a name that no one of another set has."""
    for series in cohort.everyone:
        yield replace(series, patient_id=f"{cohort.dataset}:{series.patient_id}")


def _scorable_people(cohort: Cohort, settings: StudySettings) -> list[GlucoseSeries]:
    known = {series.patient_id for series in scorable(cohort, settings.shape, "test")[0]}
    return [named for series, named in zip(cohort.everyone, _named(cohort), strict=True) if series.patient_id in known]


def _test_windows(people: Sequence[GlucoseSeries], settings: StudySettings) -> Windows:
    return thin(cut_all(people, settings.shape, "test"), settings.max_test_windows)


def _path(settings: StudySettings, of: str, windows: Sequence[Windows], indifferent: set[str]) -> Path:
    """Where the record is kept. indifferent: settings of the study that it does not depend on"""
    excluded: Any = {"runs": True, "name": True, "data": True, "study": {"datasets", *indifferent}}
    said = settings.model_dump(mode="json", exclude=excluded)
    key = fingerprint("study", said, *(each.digest for each in windows))
    return (settings.runs / "studies" / f"{settings.name}-{of}-{key}.json").resolve()


def _kept(path: Path, say: Say) -> SetRecord | None:
    record = read_set(path)
    if record is not None:
        say(f"{path.name}: kept from an equal study")
    return record


def _scores(arms: Arms, windows: Windows, settings: StudySettings, watch: Watch) -> dict[str, list[OfSeed]]:
    """{arm: per seed {patient: {horizon: scores}}}"""
    found: dict[str, list[OfSeed]] = {}
    for done, (arm, predictors) in enumerate(arms.items(), 1):
        found[arm] = [
            scores_of(windows, one.predict_windows(windows), settings.shape)["patients"] for one in predictors
        ]
        watch("scoring arms", Progress(done, len(arms)))
    return found


def _joined(folds: list[list[OfSeed]]) -> list[OfSeed]:
    """Scores of several folds, seed by seed."""
    return [{p: scores for fold in seeds for p, scores in fold.items()} for seeds in zip(*folds, strict=True)]


def _alarms(arms: Arms, people: list[GlucoseSeries], settings: StudySettings, watch: Watch) -> dict[str, LowAlarms]:
    """Alarms of lows by the first seed of some arms; none where they are not asked for."""
    asked: dict[str, Predictor] = {arm: arms[arm][0] for arm in WARNING_ARMS if settings.alarms}
    return low_alarms(asked, people, settings.shape, watch=watch) if asked else {}


def alarm_findings(alarms: dict[str, LowAlarms]) -> list[str]:
    """The distilled student's alarms against each of the others, in words."""
    rivals = [arm for arm in (RIDGE_POOLED, LEVEL, BOOSTING, POPULATION_ALONE) if arm in alarms]
    return [alarm_sentence(alarms[POPULATION_DISTILLED], rival, alarms[rival]) for rival in rivals]
