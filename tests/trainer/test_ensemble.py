"""Teachers that are several: a mean is a mean, and boosting never forecasts a window that it was grown on."""

import numpy as np
import pytest
from scipy.optimize import minimize

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData, InvalidSetting
from forecasting.forecaster import Forecasts
from forecasting.windows import Windows, WindowShape, cut_windows, thin
from trainer import ensemble
from trainer.ensemble import FOLDS, Mixture, boosting_forecasts, folds_of, mean_taught, mixture_weights
from trainer.teacher_forecasts import TeacherForecasts

SHAPE = WindowShape(context_length=6, prediction_length=2)


def series(days: int) -> GlucoseSeries:
    steps = np.arange(days * 288)
    glucose = 150 + 40 * np.sin(steps / 30) + np.random.default_rng(1).normal(0, 3, len(steps))
    return GlucoseSeries("a", np.datetime64("2025-03-01T00:00:00"), 5, glucose.astype(np.float32))


@pytest.fixture(scope="module")
def parts() -> tuple[Windows, Windows]:
    return tuple(thin(cut_windows(series(70), SHAPE, part), 1500) for part in ("train", "validation"))


class Constant:
    def __init__(self, value: float) -> None:
        self.value = value

    def predict_windows(self, windows: Windows) -> Forecasts:
        return Forecasts(np.full((len(windows), 2, 10), self.value), (0.1,) * 9)


def test_a_mixture_is_the_weighted_mean_of_its_members(parts):
    found = Mixture((Constant(100.0), Constant(140.0)), np.array([0.75, 0.25])).predict_windows(parts[1])
    assert (found.outputs == 110).all()


def test_weights_are_those_of_least_squared_error_by_another_solver():
    generator = np.random.default_rng(3)
    truth = generator.normal(150, 40, (400, 2))
    members = [truth + generator.normal(bias, spread, truth.shape) for bias, spread in ((0, 10), (3, 12), (-2, 30))]
    truth[::7] = np.nan
    found = mixture_weights(members, truth)

    def error(weights: np.ndarray) -> float:
        return float(np.nanmean((sum(w * m for w, m in zip(weights, members, strict=True)) - truth) ** 2))

    other = minimize(
        error,
        np.full(3, 1 / 3),
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx(other.x, abs=1e-3)
    assert error(found) <= error(other.x) + 1e-9


def test_a_member_that_only_adds_error_has_no_weight():
    truth = np.random.default_rng(1).normal(150, 40, (300, 2))
    good = truth + np.random.default_rng(2).normal(0, 5, truth.shape)
    worse = good + 3 * (good - truth)
    assert mixture_weights([good, worse], truth) == pytest.approx([1, 0], abs=1e-9)


def test_what_a_mixture_teaches_is_its_mean_window_by_window():
    ids = np.array(["a@1", "a@2"])
    first, second = (TeacherForecasts(ids, np.full((2, 2, 10), v, np.float32), str(v)) for v in (100, 140))
    both = mean_taught([first, second], np.array([0.5, 0.5]))
    assert both.values.shape == (2, 2, 1)
    assert (both.values == 120).all()
    assert both.fingerprint != mean_taught([first, second], np.array([0.4, 0.6])).fingerprint
    with pytest.raises(InvalidSetting, match="different windows"):
        mean_taught([first, TeacherForecasts(ids[::-1], second.values, "other")], np.array([0.5, 0.5]))


def test_boosting_forecasts_each_week_without_having_seen_it(parts, monkeypatch):
    train, validation = parts
    seen: list[tuple[set, set]] = []

    class Spy:
        levels = (0.1,) * 9

        @staticmethod
        def fit(learned: Windows, checked: Windows, inputs: tuple = ()) -> "Spy":
            spy = Spy()
            spy.learned = set(learned.ids.tolist())
            return spy

        def predict_windows(self, windows: Windows) -> Forecasts:
            seen.append((self.learned, set(windows.ids.tolist())))
            return Constant(len(seen)).predict_windows(windows)

    monkeypatch.setattr(ensemble, "Boosting", Spy)
    stored = boosting_forecasts(train, validation)
    assert (stored.window_ids == train.ids).all()
    assert all(not learned & asked and learned | asked == set(train.ids.tolist()) for learned, asked in seen)
    assert len(seen) == FOLDS
    assert set(np.unique(stored.values)) == {1.0, 2.0, 3.0}


def test_folds_are_whole_weeks_and_need_as_many(parts):
    train, _ = parts
    weeks = train.origins.astype("datetime64[D]").astype(int) // 7
    fold = folds_of(train)
    assert all(len(set(fold[weeks == week].tolist())) == 1 for week in set(weeks.tolist()))
    with pytest.raises(InsufficientData, match="weeks"):
        folds_of(cut_windows(series(12), SHAPE, "train"))
