"""Held-out scores: what they are beside, which horizons, who is left out, and the gate's comparison."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from forecasting.baselines import Ridge
from forecasting.bundle import Bundle
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecaster
from forecasting.metrics import rmse
from forecasting.population import Population
from forecasting.windows import WindowShape, cut_all, part_bounds
from trainer import assessment
from trainer.assessment import assess, share_unlike, unlike_sentences
from trainer.evaluate import compare_at_gate, evaluate, grow_boosting, scored_steps
from trainer.score_tables import alarms_table, more_scores_table, patients_table, scores_table, unflagged_sentence
from trainer.settings import A_DAY, ModelSettings
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


def test_without_flagged_windows_errors_are_those_of_the_others(cohort, model):
    (series,) = cohort.only("adult_002").chosen
    glucose = series.glucose_mg_dl.copy()
    begin = part_bounds(series, SHAPE, "test")[0] + 100
    glucose[begin : begin + 30] = np.nan  # as long as a new sensor takes; the half day after it is doubtful
    one = replace(cohort, chosen=(replace(series, glucose_mg_dl=glucose),))
    evaluation = evaluate({"model": model}, one, SHAPE)
    windows, told = evaluation.scored, evaluation.as_json()
    after = windows.origins - (series.start + np.timedelta64(5 * (begin + 30), "m"))
    doubtful = (after >= np.timedelta64(0)) & (after < np.timedelta64(13, "h"))  # and the hour that looks back on it
    share = told["protocol"]["flagged"]["warm_up"]
    assert share == pytest.approx(doubtful.mean(), abs=1.5 / len(windows))
    assert told["protocol"]["flagged"]["any"] >= share > 0
    assert set(told["unflagged"]) == set(told["arms"])
    assert told["unflagged"]["model"]["30"] != told["arms"]["model"]["mean"]["30"]["rmse"]


def test_where_nothing_is_flagged_nothing_changes(cohort, model):
    calm = []
    for series in cohort.chosen:
        slow = 140 + 30 * np.sin(np.arange(len(series.glucose_mg_dl)) / 40)
        calm.append(replace(series, glucose_mg_dl=slow.astype(np.float32)))
    evaluation = evaluate({"model": model}, replace(cohort, chosen=tuple(calm)), SHAPE)
    assert set(evaluation.flagged.values()) == {0}
    for arm, unflagged in evaluation.unflagged.items():
        assert unflagged == pytest.approx(evaluation.rmse(arm))


@pytest.fixture(scope="module")
def low_cohort(cohort):
    """The same people, 40 mg/dL lower: lows in every part."""
    lowered = tuple(replace(s, glucose_mg_dl=np.maximum(s.glucose_mg_dl - 40, 45)) for s in cohort.everyone)
    return replace(cohort, everyone=lowered, chosen=lowered)


@pytest.fixture(scope="module")
def assessed(low_cohort, model):
    """With everything beside it, on thinned windows."""
    models = {"boosting": grow_boosting(low_cohort, SHAPE), "model": model}
    return assess(models, low_cohort, SHAPE, "test", 150, True, lambda sentence: None, slow=("model",))


def test_lightgbm_and_alarms_are_scored_beside_a_model(assessed):
    told = assessed.evaluation.as_json()
    assert list(told["arms"]) == ["persistence", "ridge_pooled", "ridge_personal", "boosting", "model"]
    assert set(told["alarms"]) == {"level", "ridge_pooled", "ridge_personal", "boosting", "model"}
    rmse_of = {arm: scores["mean"]["30"]["rmse"] for arm, scores in told["arms"].items()}
    assert rmse_of["boosting"] < rmse_of["persistence"]


def test_alarms_are_scored_on_every_window_however_few_are_scored_otherwise(assessed):
    evaluation = assessed.evaluation
    assert len(evaluation.scored) <= 150 < evaluation.of_windows
    days = evaluation.alarms["level"].everybody.scorable_days
    assert 0.7 * evaluation.of_windows < days * 288 <= evaluation.of_windows


def test_alarms_of_a_slow_arm_are_left_out_of_a_large_set_and_that_is_said(low_cohort, model, monkeypatch):
    monkeypatch.setattr(assessment, "SLOW_UP_TO", 100)
    heard = []
    found = assess({"teacher": model}, low_cohort, SHAPE, "test", 50, True, heard.append, slow=("teacher",))
    assert "teacher" not in found.evaluation.alarms
    assert any(sentence.startswith("alarms of the teacher are left out") for sentence in heard)


def test_without_lows_to_choose_a_threshold_by_the_rest_is_scored_and_that_is_said(cohort, model):
    heard = []
    found = assess({"model": model}, cohort, SHAPE, "test", 50, True, heard.append)
    assert found.evaluation.alarms is None
    assert "alarms" not in found.evaluation.as_json()
    assert heard[-1].startswith("alarms are not scored: nobody has a low")


def test_a_renamed_arm_is_renamed_everywhere(assessed):
    told = assessed.evaluation.renamed("model", "virtual-570").as_json()
    for block in ("arms", "unflagged", "alarms"):
        assert "virtual-570" in told[block]
        assert "model" not in told[block]


def test_tables_fit_a_terminal_of_80_columns(assessed):
    told = assessed.evaluation.as_json()
    console = Console(width=80)
    for table in (scores_table, more_scores_table, patients_table, alarms_table):
        wide = table(told, "title")
        assert Console(width=200).measure(wide).maximum <= 80, table.__name__
        with console.capture() as captured:
            console.print(wide)
        assert "LightGBM" in captured.get()
        assert "…" not in captured.get()
    assert "LightGBM" in unflagged_sentence(told)


def test_days_unlike_the_learned_ones_are_counted_and_told(cohort, tmp_path):
    windows = cut_all(cohort.everyone, A_DAY, "test")
    spec = build_model("small-population", ModelSettings(**LIGHT), A_DAY, 1).spec
    judging = spec.model_copy(update={"learned_from": Population.of(windows)})
    bundles = [Bundle(tmp_path, "digest", one, {}, {}) for one in (spec, judging)]
    assert share_unlike(bundles[0], windows) is None
    assert unlike_sentences(bundles[0], windows) == []
    share = share_unlike(bundles[1], windows)
    assert 0.005 < share < 0.03
    assert unlike_sentences(bundles[1], windows) == [
        f"{share:.1%} of these days are unlike those that the model learned from"
    ]
