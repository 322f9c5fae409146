"""What a study leaves of one data set: the scores of every arm, seed and person. Everything told is made from this."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from forecasting.errors import IntegrityError
from forecasting.metrics import Scores
from trainer.kept import write_text
from trainer.settings import StudySettings

PLAIN, TEACHER, TEACHERS = "plain_network", "teacher", "teachers"
ALONE, DISTILLED, TUNED, TUNED_DISTILLED = "alone", "distilled", "fine_tuned", "fine_tuned_distilled"
POPULATION, PERSONAL, FEW = "population", "personal", "personal_few_days"
POPULATION_ALONE, POPULATION_DISTILLED = f"{POPULATION}_{ALONE}", f"{POPULATION}_{DISTILLED}"
OfSeed = dict[str, dict[str, Scores]]  # {patient: {horizon: scores}}


class SetRecord(BaseModel):
    """One data set, or the new people of several, whose names are "set:patient".

    arms: {arm: for each seed, or once where there is none, {patient: {horizon: scores}}}, on the test part
    alarms: {arm: of lows, by the first seed}; alarm_findings: the distilled student's against others', in words
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    settings: StudySettings
    people: list[str]
    windows: int
    teacher_weight: float
    arms: dict[str, list[OfSeed]]
    new_people: bool = False
    alarms: dict[str, dict[str, Any]] = {}
    alarm_findings: list[str] = []

    def person(self, patient: str) -> str:
        """Their name among the people of all sets: "set:patient"."""
        return patient if self.new_people else f"{self.dataset}:{patient}"


def write_set(record: SetRecord, path: Path) -> None:
    """Found whole or not at all."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def read_set(path: Path) -> SetRecord | None:
    """None where there is none yet. Raises IntegrityError for a file that is none."""
    if not path.is_file():
        return None
    try:
        return SetRecord.model_validate_json(path.read_text())
    except ValidationError as error:
        raise IntegrityError(f"{path.name} is no record of a study; remove it and run the study again") from error


def rmse_table(records: list[SetRecord]) -> dict[str, dict[int, dict[str, list[float]]]]:
    """{arm: {horizon in minutes: {person of all sets: [RMSE of every seed]}}}, of arms that all sets have.

    A person is "set:patient", so that sets do not share ids.
    """
    shared = [arm for arm in records[0].arms if all(arm in record.arms for record in records)]
    table: dict[str, dict[int, dict[str, list[float]]]] = {}
    for arm in shared:
        for record in records:
            for seed in record.arms[arm]:
                for patient, scores in seed.items():
                    for horizon, found in scores.items():
                        own = table.setdefault(arm, {}).setdefault(int(horizon), {})
                        own.setdefault(record.person(patient), []).append(found["rmse"])
    return table


def strata_of(records: list[SetRecord]) -> dict[str, str]:
    """{person: data set}"""
    people = [record.person(patient) for record in records for patient in record.people]
    return {person: person.partition(":")[0] for person in people}
