"""What is told of a study: gains against the arm with the same data, people of all sets once, verdicts plainly."""

import numpy as np
import pytest

from forecasting.errors import IntegrityError
from trainer.settings import StudySettings
from trainer.study_record import SetRecord, read_set, rmse_table, strata_of, write_set
from trainer.study_results import comparisons_by_kind, comparisons_of, means_of, means_table, share_covered, study_json

ALONE, DISTILLED = "population_alone", "population_distilled"


def record(dataset: str, people: int, seeds: int, gain: float, *arms: str) -> SetRecord:
    """Everybody has an RMSE of their own; that of the distilled arm is `gain` times as large, seeds differ a little."""

    def scores(arm: str, patient: int, seed: int) -> dict:
        rmse = (15.0 + patient) * (gain if arm == DISTILLED else 1.0) + 0.01 * seed
        found = {"rmse": rmse, "mae": 0.7 * rmse, "crps": 0.5 * rmse, "coverage_80": 0.8, "clarke_a": 90.0}
        return {"30": found, "60": {name: 1.5 * value for name, value in found.items()}}

    return SetRecord(
        dataset=dataset,
        settings=StudySettings(),
        people=[f"p{k}" for k in range(people)],
        windows=100,
        teacher_weight=0.3,
        arms={
            arm: [{f"p{k}": scores(arm, k, seed) for k in range(people)} for seed in range(seeds)]
            for arm in (ALONE, DISTILLED, *arms)
        },
    )


def test_people_of_several_sets_stay_apart_and_keep_their_seeds():
    records = [record("one", 3, 2, 0.9, "boosting"), record("two", 4, 5, 0.9)]
    table = rmse_table(records)
    assert set(table) == {ALONE, DISTILLED}  # of arms that all sets have
    assert len(table[ALONE][30]) == 7
    assert [len(table[ALONE][30][f"{name}:p0"]) for name in ("one", "two")] == [2, 5]
    assert strata_of(records)["two:p3"] == "two"


@pytest.mark.parametrize(("gain", "verdict"), [(0.95, "better"), (1.0, "no benefit"), (1.05, "worse")])
def test_a_comparison_says_what_it_found(gain, verdict):
    found = comparisons_of([record("one", 8, 3, gain), record("two", 10, 2, gain)])
    assert [(c.arm, c.against, c.horizon, c.people) for c in found] == [
        (DISTILLED, ALONE, 30, 18),
        (DISTILLED, ALONE, 60, 18),
    ]
    assert {c.verdict for c in found} == {verdict}
    assert found[0].ratio == pytest.approx(gain, abs=1e-3)


def test_means_are_over_people_and_seeds():
    means = means_of(record("one", 3, 2, 1.0))
    assert means[ALONE]["30"]["rmse"] == pytest.approx(np.mean([15, 16, 17]) + 0.005)
    assert study_json([record("one", 6, 2, 1.0)])["sets"]["one"]["means"][ALONE]["60"]["coverage_80"] == pytest.approx(
        1.2
    )
    assert means_table(record("one", 3, 2, 1.0)).row_count == 2


def test_people_whom_models_know_and_new_ones_are_never_compared_as_one():
    known = record("one", 7, 1, 1.0)
    new = known.model_copy(
        update={
            "dataset": "new people of one",
            "new_people": True,
            "people": [f"one:{p}" for p in known.people],
            "arms": {a: [{f"one:{p}": v for p, v in s.items()} for s in seeds] for a, seeds in known.arms.items()},
        }
    )
    found = comparisons_by_kind([known, new])
    assert {kind: {c.people for c in own} for kind, own in found.items()} == {"known people": {7}, "new people": {7}}
    assert strata_of([new]) == {f"one:p{k}": "one" for k in range(7)}
    assert len(study_json([known, new])["comparisons"]) == 4


def test_the_share_of_people_with_usual_intervals_is_counted():
    seed = {f"p{k}": {"30": {"coverage_80": share}} for k, share in enumerate((0.69, 0.7, 0.8, 0.9, 0.91))}
    assert share_covered([seed, seed], "30") == pytest.approx(0.6)


def test_a_record_is_found_again_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / "studies" / "one.json"
    assert read_set(path) is None
    kept = record("one", 2, 1, 1.0)
    write_set(kept, path)
    assert read_set(path) == kept
    path.write_text(path.read_text()[:-20])
    with pytest.raises(IntegrityError, match="run the study again"):
        read_set(path)
