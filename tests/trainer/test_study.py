"""A whole study of a few people with the smallest models: every arm on the same windows, and nothing done twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.readers.datasets import BUNDLED
from trainer.settings import StudySettings, build_settings
from trainer.study import WARNING_ARMS, people_in_folds, run_study
from trainer.study_record import POPULATION_ALONE
from trainer.study_results import BARS, PAIRS

PEOPLE = ["adult_002", "child_008", "adolescent_003", "adult_005"]
SMALL = {
    "name": "small",
    "max_test_windows": 300,
    "study.seeds": (1, 2),
    "study.teacher_seeds": (1,),
    "study.teacher_weights": (0.5,),
    "study.personal_windows": 200,
    "study.personal_seeds": 2,
    "study.personal_epochs": 1,
    "study.folds": 2,
    "study.fold_windows": 400,
    "teacher.backbone": "bert-tiny",
    "teacher.weights": "random",
    "teacher.prompt": "none",
    "teacher.d_ff": 32,
    "teacher_training.epochs": 1,
    "teacher_training.max_windows": 300,
    "student.weights": "random",
    "student.stride": 6,
    "student_training.epochs": 1,
    "student_training.max_windows": 400,
}


@pytest.mark.slow
def test_every_arm_is_scored_on_the_same_windows_and_a_second_study_is_kept(tmp_path: Path):
    table = pd.read_parquet(BUNDLED)
    few = tmp_path / "few.parquet"
    table[table.patient_id.isin(PEOPLE)].to_parquet(few)
    settings = build_settings(None, SMALL | {"data.dataset": str(few), "runs": tmp_path / "runs"}, StudySettings)
    said: list[str] = []
    known, new = run_study(settings, said.append, lambda name, progress: None)
    assert {arm for pair in (*PAIRS, *BARS) for arm in pair} <= set(known.arms)
    assert {len(known.arms[arm]) for pair in PAIRS for arm in pair} == {2}
    scored = {p: s["30"]["scored"] for p, s in known.arms["persistence"][0].items()}
    assert set(scored) == set(PEOPLE)
    for seeds in known.arms.values():
        assert all({p: s["30"]["scored"] for p, s in seed.items()} == scored for seed in seeds)
    assert any("teacher weight 0.5" in sentence for sentence in said)
    assert set(known.alarms) == {"level", *WARNING_ARMS}
    assert len(known.alarm_findings) == 4

    assert sorted(new.people) == [f"few:{name}" for name in sorted(PEOPLE)]
    assert all(set(seed) == set(new.people) for seeds in new.arms.values() for seed in seeds)
    assert len({len(seed) for seeds in new.arms.values() for seed in seeds}) == 1
    assert new.arms[POPULATION_ALONE][0]["few:child_008"]["30"] != known.arms[POPULATION_ALONE][0]["child_008"]["30"]

    said.clear()
    assert run_study(settings, said.append, lambda name, progress: None) == [known, new]
    assert [sentence.partition(": ")[2] for sentence in said] == ["kept from an equal study"] * 2


def test_folds_have_everybody_once_and_a_share_of_each_set():
    def people(name: str, count: int) -> list[GlucoseSeries]:
        nothing = np.zeros(1, np.float32)
        return [GlucoseSeries(f"{name}{k}", np.datetime64("2025-01-01"), 5, nothing) for k in range(count)]

    folds = people_in_folds([people("a", 8), people("b", 25)], 5)
    names = [[series.patient_id for series in fold] for fold in folds]
    assert sorted(name for fold in names for name in fold) == sorted(
        s.patient_id for s in (*people("a", 8), *people("b", 25))
    )
    assert all(len(fold) in (6, 7) for fold in names)
    assert all(1 <= sum(name.startswith("a") for name in fold) <= 2 for fold in names)
    with pytest.raises(InsufficientData, match="5 folds"):
        people_in_folds([people("a", 4)], 5)
