"""What Forecast answers, over a real connection."""

import datetime as dt
import json

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from forecasting.context import Reading
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client import ModelVersion, ServiceError, in_unit
from services.client.messages import timestamp
from services.inference.engine import FOREIGN
from tests.services.conftest import holds

LAST = dt.datetime(2025, 3, 1, 12, 0, tzinfo=dt.UTC)
BAD, TOO_LITTLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


def request_of(readings: list[Reading], **fields: object) -> pb.ForecastRequest:
    messages = [pb.Reading(time=timestamp(r.time), value=r.value) for r in readings]
    return pb.ForecastRequest(**{"patient_id": "570", "unit": pb.MG_DL, "readings": messages, **fields})


def only(**reading: object) -> pb.ForecastRequest:
    return pb.ForecastRequest(patient_id="570", unit=pb.MG_DL, readings=[pb.Reading(**reading)])


def refused(client, request: pb.ForecastRequest) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        client.ask(request)
    return caught.value


def test_a_forecast_has_the_shape_of_its_model(client, readings):
    answer = client.forecast("570", readings, "mg/dL", utc_offset_minutes=0)
    assert [p.minutes_ahead for p in answer.points] == list(range(5, 65, 5))
    assert answer.origin == LAST
    assert answer.points[-1].time == LAST + dt.timedelta(hours=1)
    for point in answer.points:
        values = [q.value_mg_dl for q in point.quantiles]
        assert len(values) == 9
        assert values == sorted(values)
    assert [r.minutes_ahead for r in answer.risks] == [30, 60]
    assert all(0.01 <= p <= 0.99 for r in answer.risks for p in (r.below_70, r.above_180))
    (warning,) = answer.warnings  # the readings are of March 2025 and no as_of says that this is meant
    assert "minutes old by the clock of this service" in warning


def test_the_forecast_is_what_the_network_says(client, readings):
    answer = client.forecast("somebody-else", readings, "mg/dL", utc_offset_minutes=0)
    last = readings[-1].value
    np.testing.assert_allclose([p.mean_mg_dl for p in answer.points], last - 0.1 * (last - 140), atol=1e-4)


def test_readings_in_mmol_l_give_exactly_the_same_points(client, readings):
    in_mg_dl = client.forecast("570", readings, "mg/dL")
    in_mmol_l = client.forecast("570", in_unit(readings, "mmol/L"), "mmol/L")
    assert in_mmol_l.points == in_mg_dl.points
    assert in_mmol_l.risks == in_mg_dl.risks


def test_a_patients_own_champion_comes_before_the_populations(client, readings):
    own = client.forecast("570", readings, "mg/dL")
    others = client.forecast("571", readings, "mg/dL")
    assert (own.model.name, others.model.name) == ("virtual-570", "virtual-population")
    assert own.points[0].mean_mg_dl == pytest.approx(others.points[0].mean_mg_dl + 30, abs=1e-3)


@pytest.mark.parametrize("reference", ["virtual-population", "virtual-population@champion", "virtual-population/1"])
def test_a_named_model_is_used_whoever_asks(client, readings, shelf, reference):
    answer = client.forecast("570", readings, "mg/dL", model=reference)
    assert answer.model == ModelVersion(
        name="virtual-population",
        version="1",
        digest=shelf.registry.resolve("virtual-population").digest,
        alias="" if reference.endswith("/1") else "champion",
    )


def test_no_clinical_use_is_said_and_not_left_out(client, readings):
    answer = client.ask(request_of(readings))
    assert answer.HasField("clinical_use")
    assert json.loads(MessageToJson(answer))["clinicalUse"] is False


def test_unknown_time_of_day_is_a_warning_and_a_zone_ends_it(client, readings):
    assert any("time of day" in w for w in client.forecast("570", readings, "mg/dL").warnings)
    assert not client.forecast("570", readings, "mg/dL", time_zone="Europe/London", as_of=LAST).warnings


def test_low_and_high_are_readings_at_the_edge_of_the_sensor(client, readings):
    readings[-1] = Reading(LAST, "low")
    answer = client.forecast("571", readings, "mg/dL", utc_offset_minutes=60)
    assert answer.points[0].mean_mg_dl == pytest.approx(40 + 0.1 * 100, abs=1e-3)
    assert any("edge" in warning for warning in answer.warnings)


def test_one_missing_reading_is_filled_and_two_are_not(client, readings):
    assert "filled" in " ".join(client.forecast("570", readings[:30] + readings[31:], "mg/dL").warnings)
    error = refused(client, request_of(readings[:30] + readings[32:]))
    assert error.status is TOO_LITTLE
    assert "gaps of more than 1" in error.sentence


def shuffled(readings):
    return [readings[1], readings[0], *readings[2:]]


def moved(readings, **by):
    return [Reading(r.time + dt.timedelta(**by), r.value) for r in readings]


def test_a_forecast_needs_a_reading_that_is_fresh_at_its_moment(client, readings):
    at = {minutes: timestamp(LAST + dt.timedelta(minutes=minutes)) for minutes in (-3, -1, 14, 16)}
    for minutes in (-1, 14):
        client.ask(request_of(readings, as_of=at[minutes]))
    assert refused(client, request_of(readings, as_of=at[16])).status is TOO_LITTLE
    assert refused(client, request_of(readings, as_of=at[-3])).status is BAD


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        pytest.param(lambda r: request_of(r, patient_id=""), BAD, "no patient_id", id="no patient"),
        pytest.param(lambda r: request_of(r, patient_id="a b"), BAD, "cannot name a model", id="odd patient"),
        pytest.param(lambda r: request_of(r, patient_id="population"), BAD, "cannot name", id="reserved patient"),
        pytest.param(lambda r: request_of(r, unit=pb.UNIT_UNSPECIFIED), BAD, "no unit", id="no unit"),
        pytest.param(lambda r: request_of(r, unit=7), BAD, "no unit", id="unknown unit"),
        pytest.param(lambda r: request_of(in_unit(r, "mmol/L")), BAD, "ambiguous", id="mmol/L called mg/dL"),
        pytest.param(lambda r: request_of(r, unit=pb.MMOL_L), BAD, "outside 10 to 600", id="mg/dL called mmol/L"),
        pytest.param(lambda r: request_of([]), BAD, "no readings", id="empty"),
        pytest.param(lambda r: request_of(shuffled(r)), BAD, "oldest first", id="unsorted"),
        pytest.param(lambda r: request_of([r[0], *r]), BAD, "same time", id="duplicated"),
        pytest.param(lambda r: request_of([*r[:-1], Reading(LAST, 601.0)]), BAD, "outside 10", id="too high"),
        pytest.param(lambda r: request_of([*r[:-1], Reading(LAST, -1.0)]), BAD, "outside 10", id="negative"),
        pytest.param(lambda r: request_of([*r[:-1], Reading(LAST, np.nan)]), BAD, "not a number", id="NaN"),
        pytest.param(lambda r: request_of([*r[:-1], Reading(LAST, np.inf)]), BAD, "outside 10", id="infinite"),
        pytest.param(lambda r: request_of(moved(r, days=20_000)), BAD, "ahead of", id="future"),
        pytest.param(lambda r: request_of(moved(r, days=70_000)), BAD, "1970 to 2199", id="another century"),
        pytest.param(lambda r: request_of(r, time_zone="Mars/Olympus"), BAD, "no time zone", id="unknown zone"),
        pytest.param(lambda r: request_of(r, time_zone="../etc"), BAD, "no time zone", id="zone as a path"),
        pytest.param(lambda r: request_of(r, time_zone=""), BAD, "no time zone", id="empty zone"),
        pytest.param(lambda r: request_of(r, utc_offset_minutes=3600), BAD, "-840 to 840", id="offset in seconds"),
        pytest.param(
            lambda r: request_of(r, as_of=Timestamp(seconds=1 << 60)), BAD, "timestamp", id="as_of out of time"
        ),
        pytest.param(lambda r: request_of(r, as_of=Timestamp(nanos=-1)), BAD, "timestamp", id="negative nanos"),
        pytest.param(lambda _: only(value=100), BAD, "no time", id="reading without time"),
        pytest.param(lambda _: only(time=timestamp(LAST)), BAD, "no glucose", id="reading without value"),
        pytest.param(lambda _: only(time=timestamp(LAST), out_of_range=0), BAD, "no glucose", id="flag without word"),
        pytest.param(lambda r: request_of(r, model="no such/thing"), BAD, "no model reference", id="odd reference"),
        pytest.param(lambda r: request_of(r[-35:]), TOO_LITTLE, "longer history", id="too short"),
        pytest.param(
            lambda r: request_of(r, model="nobody"), grpc.StatusCode.NOT_FOUND, "there is no nobody", id="unknown model"
        ),
        pytest.param(
            lambda r: request_of(r, model="virtual-570/99"),
            grpc.StatusCode.NOT_FOUND,
            "there is no virtual-570/99",
            id="unknown version",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(client, readings, make, code, words):
    error = refused(client, make(readings))
    assert (error.status, words in error.sentence) == (code, True), error.sentence
    assert "\n" not in error.sentence
    assert "Error" not in error.sentence


EATER = "virtual-eater"


@pytest.fixture(scope="module")
def eater(shelf, client) -> str:
    """The name of a model that knows carbohydrates and insulin, once the service has seen it."""
    shelf.put(EATER, inputs=("carbs", "insulin"))
    assert holds(lambda: not isinstance(outcome(client, EATER), ServiceError), 15)
    return EATER


def outcome(client, model: str) -> object:
    try:
        return client.get_model(model)
    except ServiceError as error:
        return error


def event(minutes_before: float, **amount: float) -> pb.Event:
    return pb.Event(time=timestamp(LAST - dt.timedelta(minutes=minutes_before)), **amount)


def asked(client, readings, model: str, *events: pb.Event) -> tuple[float, list[str]]:
    """The mean of the first step, and the warnings about what was eaten and taken."""
    answer = client.ask(request_of(readings, model=model, events=events, utc_offset_minutes=0))
    return answer.points[0].mean_mg_dl, [w for w in answer.warnings if "clock" not in w and w != FOREIGN]


def test_without_events_a_model_that_knows_them_forecasts_and_says_so(client, readings, eater):
    last = readings[-1].value
    mean, warnings = asked(client, readings, eater)
    np.testing.assert_allclose(mean, last - 0.1 * (last - 140), atol=1e-4)
    assert warnings == ["this model knows carbohydrates and insulin, of which nothing was sent: it forecast without"]


def test_what_was_eaten_reaches_the_forecast_and_none_is_not_unknown(client, readings, eater):
    unknown, _ = asked(client, readings, eater)
    none, warnings = asked(client, readings, eater, event(300, carbs_g=0))
    assert warnings == ["this model knows insulin, of which nothing was sent: it forecast without"]
    eaten, warnings = asked(client, readings, eater, event(0, carbs_g=50), event(200, basal_units_h=0.8))
    assert warnings == []
    np.testing.assert_allclose([none - unknown, eaten - unknown], [10, 60], atol=1e-3)


def test_what_came_after_the_last_reading_is_not_used(client, readings, eater):
    before = asked(client, readings, eater, event(10, bolus_units=2), event(300, carbs_g=0))
    after = asked(client, readings, eater, event(10, bolus_units=2), event(300, carbs_g=0), event(-1, carbs_g=80))
    assert after == (before[0], ["1 events came after the last reading and were not used"])


def test_a_model_that_knows_no_events_says_so(client, readings):
    plain, _ = asked(client, readings, "")
    mean, warnings = asked(client, readings, "", event(5, carbs_g=50))
    assert mean == plain
    assert warnings == ["events were sent, but this model does not know carbohydrates or insulin"]


@pytest.mark.parametrize(
    ("wrong", "sentence", "field"),
    [
        (event(5, carbs_g=-1), "events[0]: carbs_g is -1; 0 to 500 g is allowed", "events[0].carbs_g"),
        (event(5, bolus_units=101), "events[0]: bolus_units is 101; 0 to 100 U is allowed", "events[0].bolus_units"),
        (event(5, basal_units_h=float("nan")), "basal_units_h is nan; 0 to 50 U/h is", "events[0].basal_units_h"),
        (event(5), "events[0] has no amount; send carbs_g, bolus_units or basal_units_h", "events[0]"),
        (pb.Event(carbs_g=3), "events[0] has no time; send the instant of every event", "events[0].time"),
    ],
)
def test_an_event_that_is_none_is_refused_with_its_field(client, readings, eater, wrong, sentence, field):
    error = refused(client, request_of(readings, model=eater, events=[wrong]))
    assert error.status == BAD
    assert sentence in error.sentence
    assert [violation.field for violation in error.violations] == [field]


def test_a_model_tells_what_it_knows(client, eater):
    assert client.get_model(eater).inputs == ("carbs", "insulin")
    assert client.get_model("virtual-population").inputs == ()
