"""Boosting as a bar: it beats what it must, knows nobody's test part, and is the same twice."""

import numpy as np
import pytest

from forecasting.baselines import Persistence, Ridge
from forecasting.errors import InsufficientData
from forecasting.metrics import rmse
from forecasting.readers.datasets import load_cohort
from forecasting.windows import WindowShape, cut_all, thin
from trainer.boosting import Boosting

SHAPE = WindowShape(history_length=252, prediction_length=6)


@pytest.fixture(scope="module")
def parts():
    people = load_cohort("virtual", patients="adult_001,adolescent_001,child_001").chosen
    return {part: thin(cut_all(people, SHAPE, part), 6000) for part in ("train", "validation", "test")}


@pytest.fixture(scope="module")
def boosting(parts) -> Boosting:
    return Boosting.fit(parts["train"], parts["validation"])


def test_boosting_beats_persistence_and_comes_near_ridge_or_better(parts, boosting):
    target = parts["test"].target[:, -1]

    def error(predictor) -> float:
        return rmse(target, predictor.predict_windows(parts["test"]).mean[:, -1])

    assert error(boosting) < 0.85 * error(Persistence.fit(parts["validation"]))
    assert error(boosting) < 1.05 * error(Ridge.fit(parts["train"], parts["validation"]))


def test_the_same_windows_grow_the_same_trees(parts, boosting):
    again = Boosting.fit(parts["train"], parts["validation"])
    assert (again.predict_windows(parts["test"]).outputs == boosting.predict_windows(parts["test"]).outputs).all()


def test_its_intervals_hold_what_they_say_on_validation(parts, boosting):
    forecasts, truth = boosting.predict_windows(parts["validation"]), parts["validation"].target
    for k, level in enumerate(forecasts.levels):
        below = np.nanmean(np.where(np.isnan(truth), np.nan, truth <= forecasts.quantiles[..., k]), axis=0)
        assert below == pytest.approx(level, abs=0.01)


def test_without_windows_it_says_so(parts):
    with pytest.raises(InsufficientData, match="give more data"):
        Boosting.fit(parts["train"][:0], parts["validation"])
