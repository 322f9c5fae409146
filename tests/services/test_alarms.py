"""Alarms of one stream: what holds, and what is new, at every edge."""

import numpy as np
import pytest

from services.inference.alarms import Alarm, AlarmKind, Alarms

LOW_NOW, HIGH_NOW, LOW_EXPECTED, HIGH_EXPECTED = AlarmKind
AHEAD = tuple(range(5, 65, 5))
T, MINUTE = 1_740_830_400, 60
NONE = np.zeros(12)


def at(minutes: int, p: float, elsewhere: float = 0.0) -> np.ndarray:
    """(12,) probabilities: p so many minutes ahead."""
    return np.where(np.array(AHEAD) == minutes, p, elsewhere)


def alarms(low: float = 0.3, high: float = 0.5) -> Alarms:
    return Alarms(low, high)


def told(made: list[Alarm]) -> list[tuple[AlarmKind, bool]]:
    return [(alarm.kind, alarm.is_new) for alarm in made]


@pytest.mark.parametrize(
    ("glucose", "kinds"),
    [
        (40.0, [LOW_NOW]),
        (69.0, [LOW_NOW]),
        (70.0, []),
        (120.0, []),
        (180.0, []),
        (181.0, [HIGH_NOW]),
        (400.0, [HIGH_NOW]),
        (3.8 * 18.0156, [LOW_NOW]),
        (3.9 * 18.0156, []),
        (10.0 * 18.0156, []),  # 180.16: a tenth of a mmol/L is no whole mg/dL
        (10.1 * 18.0156, [HIGH_NOW]),
    ],
)
def test_what_is_so_now_is_told_from_whole_mg_dl_with_and_without_a_forecast(glucose, kinds):
    expected = [Alarm(kind, minutes_ahead=0, probability=1.0, is_new=True) for kind in kinds]
    assert alarms().update(T, glucose, AHEAD, NONE, NONE) == expected
    assert alarms().quiet(T, glucose) == expected


@pytest.mark.parametrize(("p", "holds"), [(0.2999, False), (0.3, True), (0.9, True)])
def test_a_low_is_expected_from_the_threshold_on(p, holds):
    made = alarms().update(T, 100, AHEAD, at(20, p), NONE)
    assert made == ([Alarm(LOW_EXPECTED, 20, p, True)] if holds else [])


@pytest.mark.parametrize(("p", "holds"), [(0.4999, False), (0.5, True)])
def test_a_high_is_expected_from_a_threshold_of_its_own_on(p, holds):
    made = alarms().update(T, 100, AHEAD, NONE, at(20, p))
    assert made == ([Alarm(HIGH_EXPECTED, 20, p, True)] if holds else [])


@pytest.mark.parametrize(("minutes", "holds"), [(5, True), (30, True), (35, False), (60, False)])
def test_only_the_next_thirty_minutes_count(minutes, holds):
    made = alarms().update(T, 100, AHEAD, at(minutes, 0.9), at(minutes, 0.9))
    assert told(made) == ([(LOW_EXPECTED, True), (HIGH_EXPECTED, True)] if holds else [])


def test_the_first_step_that_reaches_the_threshold_is_named_with_the_greatest_probability():
    rising = np.array([0.1, 0.2, 0.35, 0.6, 0.5, 0.4, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95])
    assert alarms().update(T, 100, AHEAD, rising, NONE) == [Alarm(LOW_EXPECTED, 15, 0.6, True)]


def test_a_sparser_grid_is_read_by_its_minutes_and_not_by_its_steps():
    made = alarms().update(T, 100, (15, 30, 45, 60), np.array([0.0, 0.4, 0.9, 0.9]), np.zeros(4))
    assert made == [Alarm(LOW_EXPECTED, 30, 0.4, True)]


def test_a_model_that_gives_no_probabilities_or_no_near_step_expects_nothing():
    assert alarms().update(T, 100, AHEAD, np.empty(0), np.empty(0)) == []
    assert alarms().update(T, 100, (45, 60), np.ones(2), np.ones(2)) == []


def test_what_is_so_already_is_not_expected_and_the_opposite_may_be():
    high = np.full(12, 0.9)
    assert told(alarms().update(T, 60, AHEAD, high, NONE)) == [(LOW_NOW, True)]
    assert told(alarms().update(T, 200, AHEAD, NONE, high)) == [(HIGH_NOW, True)]
    assert told(alarms().update(T, 60, AHEAD, high, high)) == [(LOW_NOW, True), (HIGH_EXPECTED, True)]
    assert told(alarms().update(T, 200, AHEAD, high, high)) == [(HIGH_NOW, True), (LOW_EXPECTED, True)]


def test_without_a_forecast_nothing_is_expected():
    state = alarms()
    state.update(T, 100, AHEAD, at(20, 0.9), at(20, 0.9))
    assert state.quiet(T + 5 * MINUTE, 100) == []


def test_an_alarm_is_new_once_and_holds_on():
    state = alarms()
    made = [state.update(T + k * 5 * MINUTE, 100, AHEAD, at(20, 0.9), NONE) for k in range(30)]
    assert [told(one) for one in made] == [[(LOW_EXPECTED, k == 0)] for k in range(30)]


def test_a_second_answer_to_the_same_newest_reading_is_not_new():
    state = alarms()
    assert told(state.quiet(T, 60)) == [(LOW_NOW, True)]
    assert told(state.quiet(T, 60)) == [(LOW_NOW, False)]


@pytest.mark.parametrize(("seconds", "is_new"), [(10 * MINUTE, False), (30 * MINUTE - 1, False), (30 * MINUTE, True)])
def test_an_alarm_that_ended_is_new_again_thirty_minutes_after_it_last_held(seconds, is_new):
    state = alarms()
    state.quiet(T - 5 * MINUTE, 60)
    state.quiet(T, 60)
    assert state.quiet(T + 5 * MINUTE, 100) == []
    assert told(state.quiet(T + seconds, 60)) == [(LOW_NOW, is_new)]


def test_what_comes_back_too_soon_and_stays_is_told_when_it_is_armed_again():
    state = alarms()
    state.quiet(T, 60)
    state.quiet(T + 5 * MINUTE, 100)
    made = {minutes: told(state.quiet(T + minutes * MINUTE, 60)) for minutes in range(10, 50, 5)}
    assert [minutes for minutes, one in made.items() if one == [(LOW_NOW, True)]] == [30]
    assert all(one[0][0] is LOW_NOW for one in made.values())


def test_flicker_is_told_once_in_thirty_minutes():
    state = alarms()
    made = {minutes: state.quiet(T + minutes * MINUTE, 60 if minutes % 10 == 0 else 100) for minutes in range(0, 95, 5)}
    assert [minutes for minutes, one in made.items() if one and one[0].is_new] == [0, 30, 60, 90]


@pytest.mark.parametrize(("minutes", "is_new"), [(29, False), (30, True), (300, True)])
def test_after_a_long_silence_what_still_holds_is_new(minutes, is_new):
    state = alarms()
    state.quiet(T, 60)
    assert told(state.quiet(T + minutes * MINUTE, 60)) == [(LOW_NOW, is_new)]


def test_alarms_are_armed_each_by_itself():
    state = alarms()
    assert told(state.update(T, 100, AHEAD, at(20, 0.9), NONE)) == [(LOW_EXPECTED, True)]
    assert told(state.update(T + 5 * MINUTE, 60, AHEAD, at(20, 0.9), NONE)) == [(LOW_NOW, True)]
    assert told(state.update(T + 10 * MINUTE, 75, AHEAD, at(20, 0.9), at(25, 0.6))) == [
        (LOW_EXPECTED, False),
        (HIGH_EXPECTED, True),
    ]
    assert told(state.update(T + 15 * MINUTE, 60, AHEAD, NONE, NONE)) == [(LOW_NOW, False)]


def test_streams_do_not_share_their_alarms():
    first, second = alarms(), alarms()
    first.quiet(T, 60)
    assert told(second.quiet(T, 60)) == [(LOW_NOW, True)]
