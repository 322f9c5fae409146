"""Warnings of lows by models: thresholds come from validation, every window is scored, people can be drawn anew."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from forecasting.bundle import QUANTILES
from forecasting.cgm import GlucoseSeries
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecasts
from forecasting.metrics import AlarmScores
from forecasting.windows import Windows, WindowShape, cut_all, part_bounds
from trainer.alarms import LEVEL, LowAlarms, f1_difference, low_alarms, low_scores

SHAPE = WindowShape()


@dataclass(frozen=True)
class Knowing:
    """Forecasts the truth, give or take; `worth` 0 knows nothing."""

    worth: float = 1.0

    def predict_windows(self, windows: Windows) -> Forecasts:
        truth = np.where(np.isnan(windows.target), 140, windows.target).astype(np.float64)
        mean = self.worth * truth + (1 - self.worth) * 140
        return Forecasts.of(mean, mean[..., None] + 20 * (np.array(QUANTILES) - 0.5), QUANTILES)


def person(name: str, days: int = 12) -> GlucoseSeries:
    """Falls below 70 for half an hour every five hours, from 130 within half an hour."""
    period = np.concatenate([np.full(48, 130), np.linspace(125, 72, 6), np.full(6, 60)])
    glucose = np.tile(period, -(-days * 288 // len(period)))[: days * 288].astype(np.float32)
    return GlucoseSeries(name, np.datetime64("2025-01-01", "s"), 5, glucose)


PEOPLE = (person("a"), person("b"))


@pytest.fixture(scope="module")
def found() -> dict[str, LowAlarms]:
    return low_alarms({"knowing": Knowing(), "blind": Knowing(0.0)}, PEOPLE, SHAPE)


def test_who_knows_what_comes_foretells_every_low_in_time_and_nothing_else(found):
    knowing = found["knowing"].everybody
    assert knowing.events > 10
    assert knowing.sensitivity == knowing.precision == knowing.f1 == 1
    assert set(knowing.leads) <= {15.0, 20.0, 25.0, 30.0}
    assert found["knowing"].sensitivity_at(0) == 1


def test_one_score_for_everything_never_warns(found):
    blind = found["blind"].everybody
    assert blind.alarms == blind.detected == 0
    assert found["blind"].as_json()["precision"] is None
    assert found["blind"].as_json()["sensitivity"] == 0


def test_the_last_reading_warns_by_its_level(found):
    assert set(found) == {LEVEL, "knowing", "blind"}
    assert found[LEVEL].threshold < -70
    assert found[LEVEL].everybody.detected > 0


def test_thresholds_do_not_depend_on_the_part_that_is_scored(found):
    spoiled = []
    for series in PEOPLE:
        glucose = series.glucose_mg_dl.copy()
        glucose[part_bounds(series, SHAPE, "test")[0] :] += 15  # whatever happened in the test part
        spoiled.append(replace(series, glucose_mg_dl=glucose))
    again = low_alarms({"knowing": Knowing()}, spoiled, SHAPE)
    assert again["knowing"].threshold == found["knowing"].threshold
    assert again["knowing"].everybody != found["knowing"].everybody


def test_forecasts_that_are_there_are_not_made_again(found):
    known = {"knowing": Knowing().predict_windows(cut_all(PEOPLE, SHAPE, "test"))}
    seen = []
    again = low_alarms({"knowing": Knowing()}, PEOPLE, SHAPE, "test", known, lambda name, p: seen.append(p.total))
    assert again["knowing"] == found["knowing"]
    assert seen == [len(cut_all(PEOPLE, SHAPE, "validation"))]


def test_every_person_counts_by_themselves(found):
    assert list(found["knowing"].people) == ["a", "b"]
    assert found["knowing"].everybody.events == sum(own.events for own in found["knowing"].people.values())


def test_the_score_looks_half_an_hour_ahead_and_no_further():
    mean = np.full((2, 12), 140.0)
    mean[0, 5], mean[1, 6] = 50, 50  # at 30 and at 35 minutes
    quantiles = mean[..., None] + 20 * (np.array(QUANTILES) - 0.5)
    assert low_scores(Forecasts.of(mean, quantiles, QUANTILES), SHAPE).tolist() == [0.99, 0.01]
    without = low_scores(Forecasts(mean[..., None], ()), SHAPE)
    assert without.tolist() == [-50, -140]


def test_without_lows_in_the_validation_part_no_threshold_can_be_chosen():
    calm = replace(PEOPLE[0], glucose_mg_dl=np.full(3000, 120, np.float32))
    with pytest.raises(InsufficientData, match="nobody has a low"):
        low_alarms({}, [calm], SHAPE)


def test_a_low_cannot_be_foretold_in_steps_longer_than_the_warning():
    with pytest.raises(InsufficientData, match="too long"):
        low_alarms({}, [], WindowShape(sampling_minutes=20))


def alarms_of(*counts: tuple[int, int, int, int]) -> LowAlarms:
    people = {str(k): AlarmScores(*own, scorable_days=5.0, leads=()) for k, own in enumerate(counts)}
    return LowAlarms(0.5, people, ())


def test_differences_of_f1_are_those_of_the_same_people_drawn_anew():
    good, bad = alarms_of(*[(10, 8, 10, 2)] * 6), alarms_of(*[(10, 4, 10, 6)] * 6)
    difference, (low, high) = f1_difference(good, bad)
    assert difference == pytest.approx(0.4)
    assert (low, high) == pytest.approx((0.4, 0.4))  # people do not differ
    mixed = alarms_of(*[(10, 8, 10, 2)] * 3, *[(10, 2, 10, 8)] * 3)
    difference, (low, high) = f1_difference(mixed, bad)
    assert low < difference < high


def test_f1_of_drawn_people_is_that_of_their_sums():
    uneven = alarms_of((30, 3, 4, 1), (2, 2, 9, 7))
    nothing = alarms_of((30, 0, 4, 4), (2, 0, 9, 9))
    assert f1_difference(uneven, nothing)[0] == pytest.approx(uneven.everybody.f1)
    assert f1_difference(uneven, uneven) == (0, (0, 0))
