"""A whole study of three people with the smallest models: every arm on the same windows, and nothing done twice."""

from pathlib import Path

import pandas as pd
import pytest

from forecasting.readers.datasets import BUNDLED
from trainer.settings import StudySettings, build_settings
from trainer.study import BARS, PAIRS, run_study

SMALL = {
    "name": "small",
    "max_test_windows": 300,
    "study.seeds": (1, 2),
    "study.teacher_seeds": (1,),
    "study.teacher_weights": (0.5,),
    "study.personal_windows": 200,
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
    table[table.patient_id.isin(["adult_002", "child_008"])].to_parquet(few)
    settings = build_settings(None, SMALL | {"data.dataset": str(few), "runs": tmp_path / "runs"}, StudySettings)
    said: list[str] = []
    [record] = run_study(settings, said.append, lambda name, progress: None)
    assert {arm for pair in (*PAIRS, *BARS) for arm in pair} <= set(record.arms)
    assert {len(record.arms[arm]) for pair in PAIRS for arm in pair} == {2}
    scored = {p: s["30"]["scored"] for p, s in record.arms["persistence"][0].items()}
    assert set(scored) == {"adult_002", "child_008"}
    for seeds in record.arms.values():
        assert all({p: s["30"]["scored"] for p, s in seed.items()} == scored for seed in seeds)
    assert any("teacher weight 0.5" in sentence for sentence in said)

    said.clear()
    assert run_study(settings, said.append, lambda name, progress: None) == [record]
    assert said == ["small-few-" + record_key(tmp_path) + ": kept from an equal study"]


def record_key(tmp_path: Path) -> str:
    [path] = (tmp_path / "runs" / "studies").glob("small-few-*.json")
    return path.name.removeprefix("small-few-")
