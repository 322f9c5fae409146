"""Settings: defaults, run files, flags."""

import pytest

from forecasting.errors import InvalidSetting, NotFound
from trainer.settings import build_settings, teacher_weight_of


def test_flags_override_the_run_file_which_overrides_defaults(tmp_path):
    run = tmp_path / "run.toml"
    run.write_text("teacher_weight = 0.2\n[student_training]\nepochs = 7\nlearning_rate = 0.01\n")
    settings = build_settings(run, {"student_training.epochs": 3, "student_training.seed": None})
    assert settings.teacher_weight == 0.2
    assert settings.student_training.epochs == 3
    assert settings.student_training.learning_rate == 0.01
    assert settings.student_training.batch_size == 256
    assert settings.teacher.prompt == "statistics"


def test_an_unknown_key_stops_the_run(tmp_path):
    run = tmp_path / "run.toml"
    run.write_text("[student]\nbackbon = 'bert'\n")
    with pytest.raises(InvalidSetting, match=r"student\.backbon"):
        build_settings(run, {})


def test_a_value_of_the_wrong_kind_is_named_with_what_came():
    with pytest.raises(InvalidSetting, match=r"student_training.epochs: .*got -1"):
        build_settings(None, {"student_training.epochs": -1})


@pytest.mark.parametrize("levels", [["0.5", "0.1", "0.9"], ["0.1", "0.9"], ["0", "0.5", "1"]])
def test_quantiles_that_make_no_fan_are_refused(levels):
    with pytest.raises(InvalidSetting, match="quantiles"):
        build_settings(None, {"teacher.quantiles": levels, "student.quantiles": levels})


def test_teacher_and_student_must_forecast_the_same_quantiles():
    with pytest.raises(InvalidSetting, match="the same quantiles"):
        build_settings(None, {"student.quantiles": ["0.1", "0.5", "0.9"]})


def test_a_missing_run_file_is_one_sentence(tmp_path):
    with pytest.raises(NotFound, match="there is no run file"):
        build_settings(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("alpha", "beta", "weight"), [(0.5, 0.5, 0.5), (0.9, 0.1, 0.1), (3, 1, 0.25), (None, None, None), (None, 0.3, 0.3)]
)
def test_alpha_and_beta_become_the_teacher_weight(alpha, beta, weight):
    assert teacher_weight_of(alpha, beta) == (None if weight is None else pytest.approx(weight))


def test_weights_that_add_up_to_nothing_are_refused():
    with pytest.raises(InvalidSetting, match="alpha 0"):
        teacher_weight_of(0, 0)
