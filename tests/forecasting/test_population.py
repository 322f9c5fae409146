"""Who a model learned from: ranges of days, a sentence for a day unlike those, silence where too little is known."""

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from forecasting.bundle import ModelSpec
from forecasting.cgm import GlucoseSeries
from forecasting.context import Readings, context_from
from forecasting.history import STATISTICS
from forecasting.population import WORDS, Population
from forecasting.windows import Windows, WindowShape, cut_all

SHAPE = WindowShape(context_length=6, prediction_length=2, history_length=66)
START = np.datetime64("2025-03-01T00:00:00")
USUAL = Population(history_mean=(110, 200), history_deviation=(20, 90), history_change=(2, 7))


def person(name: str, mean: float, swing: float, days: int = 30) -> GlucoseSeries:
    steps = np.arange(days * 288)
    noise = np.random.default_rng(len(name)).normal(0, 3, len(steps))
    glucose = mean + swing * np.sin(steps / 11) * (1 + 0.3 * np.sin(steps / 500)) + noise
    return GlucoseSeries(name, START, 5, glucose.astype(np.float32))


@pytest.fixture(scope="module")
def days() -> Windows:
    return cut_all([person("a", 140, 40), person("bb", 180, 60)], SHAPE, "train")


def day(**changes: float) -> np.ndarray:
    usual = dict(zip(STATISTICS, (150.0, 45.0, 4.0, 1.0), strict=True))
    return np.array([*(usual | changes).values()], np.float32)


def test_ranges_hold_99_of_100_days_each_with_everybody_weighing_the_same(days):
    more_of_one = days[np.concatenate([np.flatnonzero(days.patient_ids == "a").repeat(5), np.arange(len(days))])]
    found, other = Population.of(days), Population.of(more_of_one)
    for name in WORDS:
        low, high = getattr(found, name)
        values, known = days.history[:, STATISTICS.index(name)], days.history[:, 3] >= 0.5
        inside = [((values >= low) & (values <= high))[known & (days.patient_ids == p)].mean() for p in days.patients]
        assert np.mean(inside) == pytest.approx(0.99, abs=0.002)
        assert getattr(other, name) == pytest.approx((low, high), abs=0.3)


def test_people_who_vary_less_are_outside_and_the_learned_ones_are_not(days):
    found = Population.of(days)
    assert found.outside(days.history).mean() < 0.03
    healthy = cut_all([person("c", 105, 8)], SHAPE, "train")
    assert found.outside(healthy.history)[healthy.history[:, 3] >= 0.5].all()


@pytest.mark.parametrize(
    ("unlike", "words"),
    [
        ({"history_mean": 95.0}, "a mean of 95 mg/dL, 110 to 200 there"),
        ({"history_deviation": 12.0}, "a standard deviation of 12 mg/dL, 20 to 90 there"),
        ({"history_change": 15.8}, "a mean change from reading to reading of 16 mg/dL, 2 to 7 there"),
        ({"history_mean": 95.0, "history_deviation": 12.0}, "95 mg/dL, 110 to 200 there; a standard deviation of 12"),
    ],
)
def test_a_day_that_is_unlike_is_told_with_its_numbers(unlike, words):
    assert USUAL.outside(day(**unlike)[None]).all()
    assert words in USUAL.warning(day(**unlike))


def test_a_usual_day_and_one_that_is_hardly_known_are_not_judged():
    for one in (day(), day(history_mean=95.0, history_known=0.49)):
        assert not USUAL.outside(one[None]).any()
        assert USUAL.warning(one) is None


def test_edges_of_a_range_are_inside():
    for name in WORDS:
        for edge in getattr(USUAL, name):
            assert USUAL.warning(day(**{name: edge})) is None


def test_a_request_is_told_that_its_day_is_unlike():
    seconds = np.arange(72) * 300 + int(dt.datetime(2025, 3, 1, tzinfo=dt.UTC).timestamp())
    quiet = Readings(seconds, 100 + 5 * np.sin(np.arange(72) / 5))
    asked = {"as_of": float(seconds[-1]), "utc_offset": dt.timedelta(0)}
    told = context_from(quiet, "mg/dL", SHAPE, **asked, learned_from=USUAL)
    assert told.is_unlike
    assert [w for w in told.warnings if "unlike those that the model learned from" in w]
    usual = replace(quiet, values=150 + 45 * np.sin(np.arange(72) / 12))
    context = context_from(usual, "mg/dL", SHAPE, **asked, learned_from=USUAL)
    assert not context.is_unlike
    assert not context.warnings


def test_windows_that_know_no_day_give_no_population():
    assert Population.of(cut_all([person("a", 140, 40)], WindowShape(), "train")) is None


def test_a_model_without_a_history_cannot_judge_days():
    with pytest.raises(ValidationError, match="learned_from"):
        ModelSpec(model="m", backbone="b", shape=WindowShape(), learned_from=USUAL)


@pytest.mark.parametrize("wrong", [(200.0, 110.0), (float("nan"), 200.0), (-1.0, 200.0), (0.0, float("inf"))])
def test_ranges_that_are_none_are_refused(wrong):
    with pytest.raises(ValidationError):
        Population(history_mean=wrong, history_deviation=(20, 90), history_change=(2, 7))
