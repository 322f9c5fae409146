"""Carbohydrates and insulin by choice: the setting reaches network, bundle and trees, and no other model."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch

from forecasting.errors import InsufficientData, InvalidSetting
from forecasting.events import Events
from forecasting.forecaster import Forecaster
from forecasting.readers.datasets import load_cohort
from forecasting.windows import WindowShape, cut_all, thin
from trainer.boosting import SUMS_STEPS, Boosting, _event_sums
from trainer.distil import StudentRun, student_data, train_student
from trainer.fit import build_examples
from trainer.options import given_options
from trainer.settings import ModelSettings, TrainingSettings, build_settings
from trainer.teacher import build_model

SHAPE = WindowShape(prediction_length=6)
BOTH = ("carbs", "insulin")
TINY = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=8, d_ff=8, inputs=BOTH)


@pytest.fixture(scope="module")
def people():
    return load_cohort("virtual", patients="adult_001,child_001").chosen


@pytest.fixture(scope="module")
def parts(people):
    return {part: thin(cut_all(people, SHAPE, part), 2000) for part in ("train", "validation")}


def given(**options):
    """The options of a command as they come from its parser, all but these at their defaults."""
    defaults = {name: p.default for name, p in inspect.signature(given_options).parameters.items()}
    return given_options(**defaults | options).settings()


def test_one_flag_gives_teacher_and_student_their_inputs():
    settings = given(inputs="carbs, insulin")
    assert (settings.teacher.inputs, settings.student.inputs) == (BOTH, BOTH)
    assert (given().teacher.inputs, given().student.inputs) == ((), ())


def test_a_run_file_gives_each_its_own(tmp_path):
    run = tmp_path / "run.toml"
    run.write_text('[student]\ninputs = ["carbs", "insulin"]\n[teacher]\ninputs = ["insulin"]\n')
    settings = build_settings(run, {})
    assert (settings.teacher.inputs, settings.student.inputs) == (("insulin",), BOTH)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"student.inputs": ["sugar"]}, "student.inputs"),
        ({"student.inputs": ["carbs", "carbs"]}, "names one twice"),
        ({"student.inputs": ["carbs"], "student.normalisation.kind": "revin"}, "need normalisation level"),
    ],
)
def test_inputs_that_cannot_be_stop_the_run(options, sentence):
    with pytest.raises(InvalidSetting, match=sentence):
        build_settings(None, options)


def test_training_sees_what_serving_sees(parts):
    built = build_model("virtual-population", TINY, SHAPE, 1)
    seen = []
    forecaster = Forecaster(built.spec, lambda x, _: seen.append(x) or np.zeros((len(x), 6, 10)))
    forecaster.predict_windows(parts["validation"])
    examples = build_examples(parts["validation"], built.spec, None)
    assert examples.x.shape[2] == len(built.spec.channels)
    np.testing.assert_allclose(np.concatenate(seen), examples.x, rtol=0, atol=1e-6)  # BLAS rounds by the batch


def test_data_that_hold_none_of_it_are_refused(people):
    built = build_model("virtual-population", TINY, SHAPE, 1)
    unknown = Events.on_grid(
        np.stack([np.full(len(people[0].glucose_mg_dl), np.nan)] * 2 + [people[0].events.basal_units_h], 1)
    )
    for events in (None, unknown):
        spec = built.spec if events is None else built.spec.model_copy(update={"inputs": ("carbs",)})
        windows = cut_all([replace(people[0], events=events)], SHAPE, "train")
        with pytest.raises(InsufficientData, match="of which these data hold nothing; leave inputs out"):
            build_examples(windows, spec, None)


def test_a_student_with_inputs_is_exported_and_forecasts_from_them(tmp_path, people):
    torch.set_num_threads(1)
    cohort = load_cohort("virtual", patients="adult_001").only("adult_001")
    run = StudentRun("virtual", "adult_001", SHAPE, TINY, TrainingSettings(epochs=1, batch_size=64), 0.0, "", "")
    data = student_data(cohort, "adult_001", SHAPE, 300)
    list(train_student(run, data, None, tmp_path / "student"))
    student = Forecaster.open(tmp_path / "student")
    assert student.spec.inputs == BOTH
    windows = thin(data.validation, 40)
    assert (student.predict_windows(windows).mean != student.predict(windows.context, windows.minute_of_day).mean).any()


def test_trees_learn_from_sums_over_the_last_hours(parts):
    windows = parts["validation"]
    sums = np.hstack(_event_sums(windows, BOTH))
    assert sums.shape == (len(windows), 3 * len(SUMS_STEPS))
    np.testing.assert_allclose(sums[:, 2], windows.events[:, -12:, 0].sum(axis=1), rtol=1e-5)
    with_inputs, without = (Boosting.fit(parts["train"], windows, inputs=inputs) for inputs in (BOTH, ()))
    changed = replace(windows, timeline=replace(windows.timeline, events=np.zeros_like(windows.timeline.events)))
    assert (with_inputs.predict_windows(windows).mean != with_inputs.predict_windows(changed).mean).any()
    np.testing.assert_array_equal(without.predict_windows(windows).mean, without.predict_windows(changed).mean)


def test_what_is_unknown_is_missing_to_the_trees(people):
    nobody = cut_all([replace(people[0], events=None)], SHAPE, "validation")
    assert np.isnan(np.hstack(_event_sums(nobody, ("insulin",)))).all()
    assert np.hstack(_event_sums(nobody, ("insulin",))).shape[1] == 2 * len(SUMS_STEPS)
