"""Held-out scores: what they are beside, which horizons, who is left out, and the gate's comparison."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from forecasting.baselines import Ridge
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecaster
from forecasting.metrics import rmse
from forecasting.windows import WindowShape, cut_all, part_bounds
from trainer.evaluate import compare_at_gate, evaluate, scored_steps
from trainer.settings import ModelSettings
from trainer.teacher import build_model

SHAPE = WindowShape()
LIGHT = {"backbone": "bert-tiny", "weights": "random", "num_layers": 1, "num_prototypes": 8, "d_ff": 8}


@pytest.fixture(scope="module")
def model() -> Forecaster:
    return build_model("small-population", ModelSettings(**LIGHT), SHAPE, 1).forecaster()


@pytest.mark.parametrize(("steps", "minutes"), [(12, [30, 60]), (9, [30, 45]), (3, [15]), (24, [30, 60]), (6, [30])])
def test_the_usual_horizons_are_scored_and_the_last_of_a_shorter_model(steps, minutes):
    assert list(scored_steps(WindowShape(prediction_length=steps))) == minutes


def test_every_arm_is_scored_on_the_same_real_targets(model, cohort):
    evaluation = evaluate({"model": model}, cohort, SHAPE)
    counts = {tuple(arm["mean"][h]["scored"] for h in ("30", "60")) for arm in evaluation.arms.values()}
    windows = cut_all(cohort.chosen, SHAPE, "test")
    assert counts == {tuple(int((~np.isnan(windows.target[:, step])).sum()) for step in (5, 11))}


def test_the_persistence_score_is_the_last_reading_held(cohort, model):
    evaluation = evaluate({"model": model}, cohort, SHAPE)
    windows = cut_all(cohort.chosen, SHAPE, "test").of_patient("adult_002")
    held = rmse(windows.target[:, 5].astype(float), windows.context[:, -1].astype(float))
    assert evaluation.arms["persistence"]["patients"]["adult_002"]["30"]["rmse"] == pytest.approx(held)
    assert evaluation.arms["persistence"]["mean"]["30"]["skill"] == 0


def test_the_mean_is_over_patients_not_over_windows(cohort, model):
    arm = evaluate({"model": model}, cohort, SHAPE).arms["model"]
    own = [scores["60"]["rmse"] for scores in arm["patients"].values()]
    assert arm["mean"]["60"]["rmse"] == pytest.approx(np.mean(own))


def test_a_patient_with_too_short_a_history_is_left_out_by_name(cohort, model):
    short = replace(cohort.everyone[0], patient_id="short", glucose_mg_dl=cohort.everyone[0].glucose_mg_dl[:300])
    crowd = replace(cohort, everyone=(*cohort.everyone, short), chosen=(*cohort.chosen, short))
    evaluation = evaluate({"model": model}, crowd, SHAPE)
    assert "short" not in evaluation.arms["model"]["patients"]
    assert any(sentence.startswith("patient short is left out") for sentence in evaluation.left_out)
    with pytest.raises(InsufficientData, match="no windows in its test part"):
        evaluate({"model": model}, replace(cohort, chosen=(short,)), SHAPE)


def test_the_gate_looks_at_the_calibration_part_and_never_at_the_test_part(cohort, model):
    spoiled = []
    for series in cohort.chosen:
        glucose = series.glucose_mg_dl.copy()
        glucose[part_bounds(series, SHAPE, "test")[0] :] *= 1.5  # whatever happened in the test part
        spoiled.append(replace(series, glucose_mg_dl=glucose))
    other = replace(cohort, chosen=tuple(spoiled), everyone=tuple(spoiled))
    plain, _ = compare_at_gate(model, None, cohort, "ridge")
    spoilt, _ = compare_at_gate(model, None, other, "ridge")
    assert plain == spoilt
    assert not plain.passed


def test_an_equal_challenger_does_not_replace_the_champion(cohort):
    ridge = Ridge.fit(cut_all(cohort.everyone, SHAPE, "train"), cut_all(cohort.everyone, SHAPE, "validation"))
    better = SimpleNamespace(spec=SimpleNamespace(shape=SHAPE), predict_windows=ridge.predict_windows)
    first, _ = compare_at_gate(better, None, cohort, "persistence")
    assert first.passed
    again, _ = compare_at_gate(better, better, cohort, "persistence")
    assert not again.passed
    assert "better than the champion at one horizon at least: not passed" in again.reasons
