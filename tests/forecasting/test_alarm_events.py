"""Alarms: every rule of the definition on a timeline made for it, and all of them against a slow plain reference."""

from itertools import chain
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.errors import InsufficientData
from forecasting.metrics import (
    HIGH,
    LOW,
    AlarmCase,
    AlarmRule,
    AlarmScores,
    best_threshold,
    find_events,
    pooled,
    score_alarms,
    sensitivity_at,
    sweep_thresholds,
)

OK, UNDER = 100.0, 60.0


def timeline(*stretches: tuple[float, int]) -> np.ndarray:
    """(mg/dL, steps), one after the other."""
    return np.array(list(chain.from_iterable([value] * steps for value, steps in stretches)), float)


def scored(readings: np.ndarray, active: list[int], rule: AlarmRule = LOW, minutes: int = 5) -> AlarmScores:
    """A forecast at every reading, with an alarm active at the named steps."""
    origins = np.flatnonzero(~np.isnan(readings))
    return score_alarms(origins, np.isin(origins, active).astype(float), readings, minutes, 0.5, rule)


@pytest.mark.parametrize(
    ("stretches", "onsets"),
    [
        ([(OK, 20), (UNDER, 3), (OK, 20)], [20]),
        ([(OK, 20), (UNDER, 2), (OK, 20)], []),  # 10 minutes
        ([(OK, 20), (UNDER, 3), (OK, 3), (UNDER, 3), (OK, 9)], [20, 26]),  # 15 minutes back
        ([(OK, 20), (UNDER, 3), (OK, 2), (UNDER, 9), (OK, 9)], [20]),  # 10 minutes back
        ([(OK, 20), (UNDER, 1), (OK, 2), (UNDER, 3), (OK, 9)], [23]),  # what was too short is no onset
        ([(OK, 20), (UNDER, 3), (OK, 2), (UNDER, 1), (OK, 2), (UNDER, 3), (OK, 9)], [20]),
        ([(OK, 20), (UNDER, 2), (nan, 1), (UNDER, 2), (OK, 20)], []),  # not seen for 15 minutes on end
        ([(OK, 20), (UNDER, 3), (nan, 2), (UNDER, 3)], [20]),
        ([(OK, 20), (UNDER, 3), (nan, 3), (UNDER, 3)], [20, 26]),
        ([(UNDER, 3)], [0]),
        ([(nan, 5)], []),
        ([], []),
    ],
)
def test_an_event_lasts_15_minutes_and_ends_after_15_minutes_back(stretches, onsets):
    assert find_events(timeline(*stretches), 5).tolist() == onsets


def test_fifteen_minutes_are_one_step_of_a_quarter_hour_grid():
    readings = timeline((OK, 4), (UNDER, 1), (OK, 1), (UNDER, 2), (OK, 3))
    assert find_events(readings, 15).tolist() == [4, 6]


def test_readings_are_compared_in_whole_mg_dl():
    ten_mmol_l = 180.156
    assert not find_events(timeline((OK, 9), (ten_mmol_l, 6)), 5, HIGH).size
    assert find_events(timeline((OK, 9), (180.6, 6)), 5, HIGH).tolist() == [9]
    assert not find_events(timeline((OK, 9), (69.6, 6)), 5).size
    assert find_events(timeline((OK, 9), (69.4, 6)), 5).tolist() == [9]


DIP = timeline((OK, 40), (UNDER, 3), (OK, 40))  # onset at step 40, so in time from step 28 to step 37


@pytest.mark.parametrize(("step", "detected"), [(27, 0), (28, 1), (33, 1), (37, 1), (38, 0), (39, 0)])
def test_an_alarm_is_in_time_from_the_horizon_to_15_minutes_before_the_onset(step, detected):
    result = scored(DIP, [step])
    assert (result.events, result.detected) == (1, detected)
    assert result.leads == ((40 - step) * 5.0,) * detected


@pytest.mark.parametrize(("step", "false"), [(27, 1), (28, 0), (37, 0), (39, 0), (43, 1)])
def test_an_alarm_is_false_where_no_event_begins_within_the_horizon(step, false):
    result = scored(DIP, [step])
    assert (result.alarms, result.false_alarms) == (1, false)


def test_the_horizon_is_the_rules():
    half_an_hour = AlarmRule(70, "below", horizon_minutes=30)
    assert (scored(DIP, [33], half_an_hour).detected, scored(DIP, [33], half_an_hour).false_alarms) == (0, 1)
    assert (scored(DIP, [34], half_an_hour).detected, scored(DIP, [34], half_an_hour).false_alarms) == (1, 0)


def test_an_alarm_is_raised_again_after_30_minutes_even_if_it_never_ceased():
    flat = timeline((OK, 50))
    assert scored(flat, list(range(20))).alarms == 4  # at 0, 30, 60 and 90 minutes
    assert scored(flat, [0, 5]).alarms == 1
    assert scored(flat, [0, 6]).alarms == 2
    assert scored(flat, [0, 5, 8]).alarms == 2  # 30 minutes after it was raised, not after it was last active


def test_an_alarm_that_stays_active_detects_although_it_was_raised_too_early():
    result = scored(DIP, [25, 26, 27, 28])
    assert (result.detected, result.leads, result.false_alarms) == (1, (60.0,), 1)


def test_windows_already_below_the_threshold_are_left_out():
    result = scored(DIP, [40, 41, 42])
    assert (result.alarms, result.scorable_days) == (0, pytest.approx(80 * 5 / 1440))


def test_a_low_reading_before_an_event_is_no_chance_to_detect_it():
    readings = timeline((OK, 40), (UNDER, 1), (OK, 3), (UNDER, 3), (OK, 30))
    result = scored(readings, [40])  # onset at 44
    assert (result.events, result.detected, result.alarms) == (1, 0, 0)


@pytest.mark.parametrize(("missing", "events"), [([], 1), ([35], 1), ([35, 37], 1), ([35, 36], 0), ([26, 27], 1)])
def test_events_with_a_gap_in_the_horizon_before_their_onset_are_left_out(missing, events):
    readings = DIP.copy()
    readings[missing] = nan
    assert scored(readings, []).events == events


def test_events_at_the_very_beginning_are_left_out():
    assert scored(timeline((OK, 10), (UNDER, 5), (OK, 20)), []).events == 0
    assert scored(timeline((OK, 12), (UNDER, 5), (OK, 20)), []).events == 1


def test_alarms_before_an_event_left_out_are_neither_right_nor_false_nor_scorable_time():
    readings = DIP.copy()
    readings[[35, 36]] = nan
    result = scored(readings, [30])
    assert (result.events, result.alarms, result.false_alarms) == (0, 0, 0)
    assert result.scorable_days == pytest.approx((83 - 3 - 12) * 5 / 1440)


def test_events_before_which_no_forecast_was_made_are_left_out():
    origins = np.arange(45, len(DIP))  # as of a test part that begins after the event
    result = score_alarms(origins, np.zeros(len(origins)), DIP, 5, 0.5)
    assert (result.events, result.scorable_days) == (0, pytest.approx(38 * 5 / 1440))


def test_false_alarms_are_counted_per_day_of_scorable_time():
    readings = timeline((OK, 576), (UNDER, 100))  # two days, and time that does not count
    assert scored(readings, [0, 100, 200, 575]).false_per_day == 1.5


def test_highs_are_scored_by_the_same_rules():
    readings, high = 250 - DIP, timeline((150, 40), (190, 3), (150, 40))
    assert (readings == high).all()
    for active in ([28], [27], [38], list(range(83))):
        assert scored(high, active, HIGH) == scored(DIP, active)


def test_the_level_itself_may_be_the_score():
    falling = np.concatenate([np.full(30, 120.0), np.arange(120, 60, -2.5), np.full(10, 100.0)])
    origins = np.arange(len(falling))
    result = score_alarms(origins, -falling, falling, 5, -85.0)  # alarm below 85
    assert (result.events, result.detected, result.leads) == (1, 1, (30.0,))
    mirrored = 250 - falling
    assert score_alarms(origins, mirrored, mirrored, 5, 165.0, HIGH) == result


def test_scores_follow_from_the_counts():
    scores = AlarmScores(events=8, detected=4, alarms=10, false_alarms=8, scorable_days=4, leads=(15, 20, 60, 40))
    assert (scores.sensitivity, scores.precision, scores.false_per_day, scores.median_lead) == (0.5, 0.2, 2, 30)
    assert scores.f1 == pytest.approx(2 / 7)


def test_what_is_nothing_of_nothing_is_no_number():
    nothing = AlarmScores(0, 0, 0, 0, 0, ())
    shares = (nothing.sensitivity, nothing.precision, nothing.f1, nothing.false_per_day, nothing.median_lead)
    assert all(map(isnan, shares))
    assert isnan(AlarmScores(3, 0, 0, 0, 1, ()).f1)
    assert AlarmScores(3, 0, 2, 2, 1, ()).f1 == 0


def test_people_are_pooled_by_their_counts():
    one, other = AlarmScores(2, 1, 4, 3, 1.5, (20.0,)), AlarmScores(8, 8, 8, 0, 0.5, (15.0,) * 8)
    assert pooled([one, other]) == AlarmScores(10, 9, 12, 3, 2.0, (20.0,) + (15.0,) * 8)
    assert pooled([]) == AlarmScores(0, 0, 0, 0, 0, ())


def levels(*scores_before_dips: float) -> AlarmCase:
    """One dip of glucose for each score, with that score an hour to 15 minutes ahead, and 0.25 elsewhere."""
    readings = np.tile(DIP, len(scores_before_dips))
    scores = np.full(len(readings), 0.25)
    for k, score in enumerate(scores_before_dips):
        scores[83 * k + 28 : 83 * k + 38] = score
    return AlarmCase.of(np.arange(len(readings)), scores, readings, 5)


def test_the_best_threshold_has_the_greatest_pooled_f1_and_is_the_highest_of_equals():
    cases = [levels(0.9, 0.7), levels(0.6, 0.1)]
    sweep = sweep_thresholds(cases, [0.0, 0.2, 0.3, 0.55, 0.65, 0.8, 0.95])
    assert [s.detected for s in sweep] == [4, 3, 3, 3, 2, 1, 0]
    assert best_threshold(cases, [0.0, 0.2, 0.3, 0.55, 0.65, 0.8, 0.95]) == 0.55


def test_a_threshold_cannot_be_chosen_where_nothing_happens():
    calm = AlarmCase.of(np.arange(50), np.ones(50), timeline((OK, 50)), 5)
    with pytest.raises(InsufficientData, match="no F1 at any of 2 thresholds"):
        best_threshold([calm], [0.2, 0.5])
    with pytest.raises(InsufficientData, match="lower thresholds"):
        best_threshold([levels(0.9)], [1.0, 2.0])


def test_sensitivity_at_a_rate_of_false_alarms_is_what_a_threshold_reaches():
    sweep = [AlarmScores(10, d, 20, false, 2.0, ()) for d, false in ((9, 10), (7, 4), (6, 5), (2, 0))]
    assert [sensitivity_at(rate, sweep) for rate in (9, 5, 4.9, 2.5, 2, 1.9, 0)] == [0.9, 0.9, 0.7, 0.7, 0.7, 0.2, 0.2]
    assert sensitivity_at(1.0, sweep[:2]) == 0
    assert isnan(sensitivity_at(1.0, [AlarmScores(0, 0, 3, 3, 1.0, ())]))


def slow_onsets(readings: list[float], minutes: int, below: bool, mg_dl: float) -> list[int]:
    """Step after step, as a person watching would count."""
    onsets, is_in_event, inside, outside = [], False, 0, 0
    for step, value in enumerate(readings):
        is_beyond = not isnan(value) and (round(value) < mg_dl if below else round(value) > mg_dl)
        inside, outside = (inside + 1, 0) if is_beyond else (0, outside + 1)
        if is_in_event and outside * minutes >= 15:
            is_in_event = False
        if not is_in_event and inside * minutes >= 15:
            is_in_event = True
            onsets.append(step - inside + 1)
    return onsets


def slow_scores(origins, scores, readings, minutes, threshold, rule) -> AlarmScores:
    """The definition read out in plain Python, everything in minutes, nothing remembered between questions."""
    below, horizon = rule.direction == "below", rule.horizon_minutes

    def is_usable(step: int) -> bool:
        value = readings[step]
        return not isnan(value) and not (
            round(value) < rule.threshold_mg_dl if below else round(value) > rule.threshold_mg_dl
        )

    def has_gap(onset: int) -> bool:
        before = [readings[s] if s >= 0 else nan for s in range(onset - horizon // minutes, onset)]
        known = "".join("." if isnan(value) else "x" for value in before)
        start = onset - horizon // minutes
        if start > 0 and known.startswith(".") and isnan(readings[start - 1]):
            return True  # the gap began earlier
        return start < 0 or ".." in known

    def in_time(onset: int) -> list[int]:
        return [s for s in score_of if is_usable(s) and 15 <= (onset - s) * minutes <= horizon]

    def ahead(step: int, onsets: list[int]) -> bool:
        return any(0 < (onset - step) * minutes <= horizon for onset in onsets)

    score_of = dict(zip(origins, scores, strict=True))
    onsets = slow_onsets(readings, minutes, below, rule.threshold_mg_dl)
    counted = [onset for onset in onsets if not has_gap(onset) and in_time(onset)]
    left_out = [onset for onset in onsets if onset not in counted]
    scorable = [s for s in score_of if is_usable(s) and (ahead(s, counted) or not ahead(s, left_out))]
    alarms: list[int] = []
    for step in scorable:
        if score_of[step] > threshold and (not alarms or (step - alarms[-1]) * minutes >= 30):
            alarms.append(step)
    leads = []
    for onset in counted:
        active = [s for s in in_time(onset) if score_of[s] > threshold]
        leads += [float((onset - active[0]) * minutes)] if active else []
    false = sum(not ahead(step, counted) for step in alarms)
    return AlarmScores(len(counted), len(leads), len(alarms), false, len(scorable) * minutes / 1440, tuple(leads))


STRETCHES = st.lists(
    st.tuples(
        st.sampled_from([60.0, 69.4, 69.6, 100.0, 100.0, 120.0, 180.2, 180.6, 220.0, nan]),
        st.sampled_from([1, 2, 3, 4, 7, 13, 25]),
    ),
    max_size=20,
)


@settings(max_examples=300, deadline=None)
@given(
    stretches=STRETCHES,
    seed=st.integers(0, 2**32 - 1),
    minutes=st.sampled_from([5, 10, 15]),
    direction=st.sampled_from(["below", "above"]),
    horizon=st.sampled_from([30, 60]),
    share=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_alarms_agree_with_the_slow_reference(stretches, seed, minutes, direction, horizon, share):
    readings = timeline(*stretches)
    rng = np.random.default_rng(seed)
    origins = np.flatnonzero(rng.random(len(readings)) < share)
    scores = np.round(rng.random(len(origins)), 1)
    rule = AlarmRule(70 if direction == "below" else 180, direction, horizon)
    for threshold in (0.0, 0.5, 0.8, 1.0):
        ours = score_alarms(origins, scores, readings, minutes, threshold, rule)
        plain = (origins.tolist(), scores.tolist(), readings.tolist())
        assert ours == slow_scores(*plain, minutes, threshold, rule)
