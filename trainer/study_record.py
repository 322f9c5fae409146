"""What a study leaves of one data set: the scores of every arm, seed and person. Everything told is made from this."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from forecasting.errors import IntegrityError
from forecasting.metrics import Scores
from trainer.kept import write_text
from trainer.settings import StudySettings

OfSeed = dict[str, dict[str, Scores]]  # {patient: {horizon: scores}}


class SetRecord(BaseModel):
    """One data set.

    arms: {arm: for each seed, or once where there is none, {patient: {horizon: scores}}}, on the test part
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    settings: StudySettings
    people: list[str]
    windows: int
    teacher_weight: float
    arms: dict[str, list[OfSeed]]


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
                        own.setdefault(f"{record.dataset}:{patient}", []).append(found["rmse"])
    return table


def strata_of(records: list[SetRecord]) -> dict[str, str]:
    """{person: data set}"""
    return {f"{record.dataset}:{patient}": record.dataset for record in records for patient in record.people}
