"""Live accuracy: what counts as the truth, that it counts once, and what it adds to which series."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.inference import truth
from services.inference.forecast_ids import Claim, Ids, Record
from services.inference.truth import LiveAccuracy, Once, Pending

T, MINUTE = 1_740_830_400, 60
LAST = 104.0  # mg/dL, the reading that a forecast was made at
NAME, VERSION = "virtual-population", "3"
FORECAST = ("name", "version", "horizon")
PERSISTENCE = "glucose_persistence_abs_error_mgdl_total"
COUNTERS = {
    "over": "glucose_forecast_over_mgdl_total",
    "under": "glucose_forecast_under_mgdl_total",
    "outcomes": "glucose_forecast_outcomes_total",
    "inside": "glucose_forecast_inside_interval_total",
    "lows": "glucose_lows_total",
    "lows_missed": "glucose_lows_missed_total",
    "low_alarms": "glucose_low_alarms_total",
    "low_alarms_false": "glucose_low_alarms_false_total",
}


class Counted:
    """The series that truth feeds, and what they say."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        made = {key: Counter(name, key, FORECAST, registry=registry) for key, name in COUNTERS.items()}
        self.telemetry = SimpleNamespace(
            **made,
            persistence_abs_error=Counter(PERSISTENCE, "errors of last readings", FORECAST, registry=registry),
            abs_error=Histogram("glucose_forecast_abs_error_mgdl", "errors", FORECAST, registry=registry),
            shadow_abs_error=Histogram(
                "glucose_shadow_abs_error_mgdl", "shadows", ("name", "version", "role", "horizon"), registry=registry
            ),
        )

    def says(self, series: str, horizon: int = 30, **labels: str) -> float | None:
        given = {"name": NAME, "version": VERSION, "horizon": str(horizon), **labels}
        return self.registry.get_sample_value(series, given)

    def all(self, horizon: int = 30) -> dict[str, float]:
        """What every counter says, without those at zero."""
        values = {key: self.says(name, horizon) for key, name in COUNTERS.items()}
        assert None not in values.values(), "a series does not exist"
        return {key: value for key, value in values.items() if value}

    def outcomes(self, horizon: int = 30) -> float:
        return self.says("glucose_forecast_outcomes_total", horizon) or 0.0


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def accuracy(counted) -> LiveAccuracy:
    return LiveAccuracy(counted.telemetry, alarm_low=0.3)


def record(
    origin: int = T, mean: float = 100.0, below_70: float = 0.1, sampling: int = 5, version: str = VERSION
) -> Record:
    claims = tuple(Claim(minutes, mean, mean - 20, mean + 20, below_70) for minutes in (30, 60))
    return Record(NAME, version, "champion", origin, sampling, LAST, claims)


def compare(accuracy: LiveAccuracy, one: Record, readings: dict[int, float]) -> tuple[int, ...]:
    """readings: {seconds: mg/dL}"""
    return accuracy.compare(one, np.array(list(readings), np.int64), np.array(list(readings.values()), np.float64))


def come(pending: Pending, *readings: tuple[int, float]) -> None:
    """Readings of a stream, one by one; (seconds, mg/dL)."""
    for seconds, glucose in readings:
        pending.due(np.array([seconds]), np.array([glucose]))


# --- the truth of a horizon


@pytest.mark.parametrize(("off", "is_truth"), [(0, 1), (-150, 1), (150, 1), (-151, 0), (151, 0)])
def test_the_truth_lies_within_half_a_step_of_the_horizon(accuracy, off, is_truth):
    assert compare(accuracy, record(), {T + 30 * MINUTE + off: 100.0}) == (30,) * is_truth


def test_half_a_step_is_longer_where_the_sensor_reads_more_rarely(accuracy):
    assert compare(accuracy, record(sampling=15), {T + 37 * MINUTE: 100.0}) == (30,)
    assert compare(accuracy, record(sampling=5), {T + 37 * MINUTE: 100.0}) == ()


def test_the_nearest_reading_is_the_truth(accuracy, counted):
    readings = {T + 29 * MINUTE: 10.0, T + 30 * MINUTE + 20: 93.0, T + 31 * MINUTE: 300.0, T + 65 * MINUTE: 1.0}
    assert compare(accuracy, record(), readings) == (30,)
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


def test_of_two_readings_equally_near_the_later_entry_is_the_truth(accuracy, counted):
    compare(accuracy, record(), {T + 29 * MINUTE: 300.0, T + 31 * MINUTE: 93.0})
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


def test_readings_in_any_order_and_none_at_all(accuracy, counted):
    assert compare(accuracy, record(), {}) == ()
    assert compare(accuracy, record(), {T + 60 * MINUTE: 90.0, T: 100.0, T + 30 * MINUTE: 104.0}) == (30, 60)
    assert counted.all(30) == {"outcomes": 1, "under": 4, "inside": 1}
    assert counted.all(60) == {"outcomes": 1, "over": 10, "inside": 1}


@pytest.mark.parametrize(("reading", "edge"), [(20.0, 40.0), (39.0, 40.0), (401.0, 400.0), (550.0, 400.0)])
def test_what_a_sensor_cannot_tell_counts_as_its_edge(accuracy, counted, reading, edge):
    compare(accuracy, record(mean=100.0), {T + 30 * MINUTE: reading})
    assert counted.says("glucose_forecast_abs_error_mgdl_sum") == abs(100 - edge)


# --- once


def test_each_horizon_of_a_forecast_counts_once_however_often_it_is_told(accuracy, counted):
    one, half, hour = record(), {T + 30 * MINUTE: 90.0}, {T + 30 * MINUTE: 95.0, T + 60 * MINUTE: 99.0}
    sealed = Ids([b"s"]).seal(one)
    told = [compare(accuracy, Ids([b"s"]).unseal(sealed), readings) for readings in (half, half, hour, hour)]
    assert told == [(30,), (), (60,), ()]
    assert counted.all(30) == {"outcomes": 1, "over": 10, "inside": 1}  # the first truth stays


def test_two_forecasts_that_say_the_same_both_count(accuracy, counted):
    for _ in range(2):
        assert compare(accuracy, record(), {T + 30 * MINUTE: 90.0}) == (30,)
    assert counted.outcomes() == 2


def test_what_no_reading_is_near_may_be_told_later(accuracy):
    one = record()
    assert compare(accuracy, one, {T + 20 * MINUTE: 90.0}) == ()
    assert compare(accuracy, one, {T + 30 * MINUTE: 90.0}) == (30,)


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 6))
def test_the_last_keys_are_remembered_and_no_more(keys, size):
    once, seen = Once(size), []
    for key in keys:
        is_new = key not in seen[-size:]
        assert once.is_new(bytes([key])) is is_new
        seen += [key] if is_new else []
        assert len(once._keys) == len(once._order) == min(len(seen), size)


# --- what is counted


@pytest.mark.parametrize(
    ("value", "below_70", "expected"),
    [
        (100.0, 0.1, {"inside": 1}),
        (80.0, 0.1, {"over": 20, "inside": 1}),  # the ends of the interval belong to it
        (120.0, 0.1, {"under": 20, "inside": 1}),
        (79.0, 0.1, {"over": 21}),
        (121.0, 0.1, {"under": 21}),
        (70.0, 0.1, {"over": 30}),
        (69.0, 0.1, {"over": 31, "lows": 1, "lows_missed": 1}),
        (69.0, 0.2999, {"over": 31, "lows": 1, "lows_missed": 1}),
        (69.0, 0.3, {"over": 31, "lows": 1, "low_alarms": 1}),
        (70.0, 0.3, {"over": 30, "low_alarms": 1, "low_alarms_false": 1}),
        (120.0, 0.9, {"under": 20, "inside": 1, "low_alarms": 1, "low_alarms_false": 1}),
    ],
)
def test_one_truth_adds_to_these_series_and_no_others(accuracy, counted, value, below_70, expected):
    compare(accuracy, record(mean=100.0, below_70=below_70), {T + 30 * MINUTE: value})
    assert counted.all() == {"outcomes": 1, **expected}
    assert counted.says("glucose_forecast_abs_error_mgdl_sum") == abs(value - 100)
    assert counted.says("glucose_forecast_abs_error_mgdl_count") == 1


def test_a_low_is_judged_in_whole_mg_dl_as_alarms_are(accuracy, counted):
    compare(accuracy, record(), {T + 30 * MINUTE: 69.6})
    compare(accuracy, record(), {T + 30 * MINUTE: 69.4})
    assert counted.says("glucose_lows_total") == 1


def test_the_threshold_of_alarms_is_the_services(counted):
    compare(LiveAccuracy(counted.telemetry, alarm_low=0.05), record(below_70=0.1), {T + 30 * MINUTE: 60.0})
    assert counted.all() == {"outcomes": 1, "over": 40, "lows": 1, "low_alarms": 1}


def test_errors_of_both_signs_sum_up_apart(accuracy, counted):
    for value in (90.0, 97.0, 105.0):
        compare(accuracy, record(), {T + 30 * MINUTE: value})
    assert counted.all() == {"outcomes": 3, "over": 13, "under": 5, "inside": 3}


def test_the_last_reading_is_judged_on_the_same_truths_as_the_forecast(accuracy, counted):
    for value in (90.0, 97.0, 550.0):  # 14, 7 and, at the sensor's edge of 400, 296 off
        one = record()
        compare(accuracy, one, {T + 30 * MINUTE: value})
        compare(accuracy, one, {T + 30 * MINUTE: value})  # told again: counted once, as the forecast is
    assert counted.says(PERSISTENCE) == 14 + 7 + 296
    assert counted.outcomes() == 3
    assert counted.says(PERSISTENCE, 60) is None


def test_the_last_reading_outlives_the_seal(accuracy, counted):
    compare(accuracy, Ids([b"s"]).unseal(Ids([b"s"]).seal(record())), {T + 30 * MINUTE: 90.0})
    assert counted.says(PERSISTENCE) == LAST - 90


def test_versions_and_horizons_are_counted_apart(accuracy, counted):
    compare(accuracy, record(), {T + 30 * MINUTE: 90.0})
    compare(accuracy, record(version="4"), {T + 60 * MINUTE: 90.0})
    assert counted.outcomes(30) == counted.says("glucose_forecast_outcomes_total", 60, version="4") == 1
    assert counted.outcomes(60) == 0


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_records_that_hold_what_numpy_computed_are_counted_in_plain_numbers(accuracy, counted, number):
    claim = Claim(30, *(number(value) for value in (100.0, 80.0, 120.0, 0.5)))
    compare(accuracy, Record(NAME, VERSION, "", T, 5, number(LAST), (claim,)), {T + 30 * MINUTE: 90.0})
    assert type(counted.says("glucose_forecast_over_mgdl_total")) is float
    assert type(counted.says(PERSISTENCE)) is float


def test_series_at_hand_are_bounded_and_nothing_is_lost_without_them(counted, monkeypatch):
    monkeypatch.setattr(truth, "SERIES", 2)
    accuracy = LiveAccuracy(counted.telemetry, 0.3)
    for version in ["1", "2", "3", "4"] * 2:
        compare(accuracy, record(version=version), {T + 30 * MINUTE: 90.0})
    assert accuracy._series.cache_info().currsize == 2
    assert [counted.says("glucose_forecast_outcomes_total", version=version) for version in "1234"] == [2.0] * 4


# --- shadows


def shadow(counted: Counted, role: str, what: str, horizon: int = 30, version: str = VERSION) -> float | None:
    return counted.says(f"glucose_shadow_abs_error_mgdl_{what}", horizon, version=version, role=role)


def test_a_forecast_and_its_shadow_are_compared_on_the_same_truth(accuracy, counted):
    champion = record(mean=100.0)
    accuracy.remember_shadow(champion.key, record(mean=95.0, version="4"))
    compare(accuracy, champion, {T + 30 * MINUTE: 90.0})
    assert shadow(counted, "champion", "sum") == 10
    assert shadow(counted, "challenger", "sum", version="4") == 5
    compare(accuracy, champion, {T + 30 * MINUTE: 90.0, T + 60 * MINUTE: 97.0})
    assert [shadow(counted, "champion", "count", horizon) for horizon in (30, 60)] == [1, 1]
    assert shadow(counted, "challenger", "sum", 60, version="4") == 2
    assert counted.outcomes() == 1
    assert counted.says("glucose_forecast_outcomes_total", version="4") is None  # the shadow was not an answer


def test_forecasts_without_a_shadow_leave_the_comparison_alone(accuracy, counted):
    accuracy.remember_shadow(record().key, record(version="4"))
    compare(accuracy, record(), {T + 30 * MINUTE: 90.0})
    assert shadow(counted, "champion", "count") is None


def test_a_horizon_that_the_challenger_does_not_reach_is_compared_for_neither(accuracy, counted):
    champion, challenger = record(), Record(NAME, "4", "challenger", T, 5, LAST, record().claims[:1])
    accuracy.remember_shadow(champion.key, challenger)
    compare(accuracy, champion, {T + 60 * MINUTE: 90.0})
    assert shadow(counted, "champion", "count", 60) is None


def test_the_newest_shadows_are_kept(accuracy, counted, monkeypatch):
    monkeypatch.setattr(truth, "SHADOWS", 2)
    champions = [record() for _ in range(3)]
    for champion in champions:
        accuracy.remember_shadow(champion.key, record(version="4"))
    for champion in champions:
        compare(accuracy, champion, {T + 30 * MINUTE: 90.0})
    assert shadow(counted, "champion", "count") == shadow(counted, "challenger", "count", version="4") == 2


# --- forecasts of a stream that wait for the truth


def test_a_stream_compares_every_forecast_when_its_truth_comes(accuracy, counted):
    pending = Pending(accuracy)
    for k in range(24):  # two hours
        come(pending, (T + k * 5 * MINUTE, 100.0 + k))
        pending.add(record(T + k * 5 * MINUTE, mean=100.0 + k))
    assert (counted.outcomes(30), counted.outcomes(60)) == (18, 12)
    assert counted.all(30)["under"] == 18 * 6  # each forecast beside the reading six steps on
    assert len(pending) == 12  # the last hour's


def test_a_truth_that_comes_exactly_is_not_waited_with(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 30 * MINUTE, 100.0))
    assert counted.outcomes() == 1


def test_a_reading_just_before_the_horizon_waits_whether_a_nearer_one_comes(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 28 * MINUTE, 60.0))
    assert counted.outcomes() == 0
    come(pending, (T + 29 * MINUTE, 70.0), (T + 30 * MINUTE + 5, 93.0), (T + 31 * MINUTE, 200.0))
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


def test_where_none_nearer_comes_the_one_before_is_the_truth(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 28 * MINUTE, 93.0), (T + 40 * MINUTE, 200.0))
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


def test_a_value_corrected_before_it_is_compared_counts_as_corrected(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 29 * MINUTE, 300.0), (T + 29 * MINUTE, 93.0), (T + 34 * MINUTE, 200.0))
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


@pytest.mark.parametrize(("newest", "is_counted"), [(60, True), (65, True), (66, False), (300, False)])
def test_a_late_truth_counts_until_a_step_after_the_last_horizon(accuracy, counted, newest, is_counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 30 * MINUTE, 100.0), (T + newest * MINUTE, 100.0))
    come(pending, (T + 30 * MINUTE, 100.0), (T + 59 * MINUTE, 100.0))
    assert counted.outcomes(30) == 1
    assert counted.outcomes(60) == is_counted
    assert len(pending) == 0 or not is_counted


def test_a_gap_is_not_the_truth_and_late_readings_may_still_fill_it(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    come(pending, (T + 50 * MINUTE, 100.0))
    assert (counted.outcomes(), len(pending)) == (0, 1)
    come(pending, (T + 30 * MINUTE, 93.0))
    assert counted.all() == {"outcomes": 1, "over": 7, "inside": 1}


def test_several_readings_at_once_are_as_good_as_one_by_one(accuracy, counted):
    pending = Pending(accuracy)
    pending.add(record())
    seconds = T + MINUTE * np.arange(0, 75, 5)
    pending.due(seconds, np.full(len(seconds), 93.0))
    assert (counted.outcomes(30), counted.outcomes(60), len(pending)) == (1, 1, 0)
    pending.due(seconds[:0], np.empty(0))  # nothing came


def test_what_was_reported_meanwhile_is_not_counted_again_and_waits_no_longer(accuracy, counted):
    pending, one = Pending(accuracy), record()
    pending.add(one)
    compare(accuracy, one, {T + 30 * MINUTE: 100.0, T + 60 * MINUTE: 100.0})
    come(pending, (T + 30 * MINUTE, 90.0), (T + 60 * MINUTE, 90.0))
    assert (counted.outcomes(30), counted.outcomes(60), len(pending)) == (1, 1, 0)


def test_the_same_forecast_named_twice_waits_once(accuracy):
    pending, one = Pending(accuracy), record()
    pending.add(one)
    pending.add(one)
    assert len(pending) == 1


def test_at_most_64_forecasts_wait_and_the_oldest_give_way(accuracy, counted):
    pending = Pending(accuracy)
    for k in range(70):
        pending.add(record(T + k))
    assert len(pending) == 64
    come(pending, (T + 30 * MINUTE + 70, 100.0))
    assert counted.outcomes() == 64


def test_a_forecast_that_claims_nothing_waits_for_nothing(accuracy):
    pending = Pending(accuracy)
    pending.add(Record(NAME, VERSION, "", T, 5, LAST, ()))
    come(pending, (T, 100.0))
    assert len(pending) == 0


@settings(max_examples=100, deadline=None)
@example(jitter=[100] + [0] * 6 + [-100] + [0] * 22, missing=set())  # two readings equally near to a horizon
@given(st.lists(st.integers(-100, 100), min_size=30, max_size=30), st.sets(st.integers(0, 29)))
def test_a_stream_finds_the_truths_that_a_report_of_all_readings_finds(jitter, missing):
    """Five-minute readings, none on the dot and some missing; forecasts from each of them."""
    streamed, reported = Counted(), Counted()
    times = [T + k * 5 * MINUTE + jitter[k] for k in range(30) if k not in missing]
    readings = {time: 60.0 + (time * 7) % 90 for time in times}
    pending, records = Pending(LiveAccuracy(streamed.telemetry, 0.3)), [record(time) for time in times]
    for one in records:
        come(pending, (one.origin, readings[one.origin]))
        pending.add(one)
    come(pending, (T + 300 * MINUTE, 100.0))  # whatever lies just before its horizon is settled now
    accuracy = LiveAccuracy(reported.telemetry, 0.3)
    for one in records:
        compare(accuracy, one, readings | {T + 300 * MINUTE: 100.0})
    for horizon in (30, 60):
        assert streamed.outcomes(horizon) == reported.outcomes(horizon)
        for series in ("glucose_forecast_abs_error_mgdl_sum", "glucose_lows_total"):
            assert (streamed.says(series, horizon) or 0) == pytest.approx(reported.says(series, horizon) or 0)
