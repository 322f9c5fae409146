"""The short way between bytes and columns leads where the way through the objects leads."""

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from protos.glucast.v1 import forecaster_pb2 as pb
from services.inference.messages import LAST, readings_from
from services.inference.wire import Frame, nested, number_mark, plain_readings, time_mark

SECONDS = st.integers(1 << 28, LAST - 1)
VALUES = st.floats(width=64, allow_nan=True)


def request_of(readings: list[pb.Reading], patient_id: str = "570") -> pb.ForecastRequest:
    return pb.ForecastRequest(patient_id=patient_id, unit=pb.MG_DL, readings=readings, model="x", time_zone="UTC")


@given(st.lists(st.tuples(SECONDS, VALUES), min_size=1, max_size=60), st.text("abc570é", max_size=20))
def test_plain_readings_are_those_of_the_objects(pairs, patient_id):
    request = request_of([pb.Reading(time=Timestamp(seconds=s), value=v) for s, v in pairs], patient_id)
    got = plain_readings(request)
    np.testing.assert_array_equal(got.seconds, [s for s, _ in pairs])
    np.testing.assert_array_equal(got.values, [v for _, v in pairs])
    by_objects = readings_from(request.readings, "readings") if all(v > 0 for _, v in pairs) else got
    np.testing.assert_array_equal(got.values, by_objects.values)


@pytest.mark.parametrize(
    "odd",
    [
        pb.Reading(value=100),
        pb.Reading(time=Timestamp(seconds=1_740_000_000)),
        pb.Reading(time=Timestamp(seconds=1_740_000_000), out_of_range=pb.LOW),
        pb.Reading(time=Timestamp(seconds=1_740_000_000, nanos=1), value=100),
        pb.Reading(time=Timestamp(seconds=-5), value=100),
        pb.Reading(time=Timestamp(seconds=1 << 40), value=100),
        pb.Reading(time=Timestamp(seconds=1000), value=100),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_whatever_is_not_plain_is_left_to_the_objects(odd, place):
    readings = [pb.Reading(time=Timestamp(seconds=1_740_000_000 + k), value=100) for k in range(5)]
    readings.insert(place, odd)
    assert plain_readings(request_of(readings)) is None


def test_no_readings_and_a_patient_id_without_end_are_left_to_the_objects():
    assert plain_readings(request_of([])) is None
    one = pb.Reading(time=Timestamp(seconds=1_740_000_000), value=100)
    assert plain_readings(request_of([one], "x" * 300)) is None


@given(st.integers(1 << 28, (1 << 34) - 1), st.floats(allow_nan=False))
def test_a_frame_is_the_message_with_these_values(seconds, number):
    message = pb.ForecastResponse(
        origin=Timestamp(seconds=time_mark(0)),
        points=[pb.ForecastPoint(time=Timestamp(seconds=time_mark(1)), mean_mg_dl=number_mark(0), minutes_ahead=5)],
        risks=[pb.Risk(minutes_ahead=30, below_70=number_mark(1), above_180=number_mark(2))],
    )
    wire = Frame(message, 2, 3).filled_in(np.array([seconds, seconds - 1]), np.array([number, 0.25, -1.5]))
    got = pb.ForecastResponse.FromString(wire)
    assert (got.origin.seconds, got.points[0].time.seconds) == (seconds, seconds - 1)
    assert (got.points[0].mean_mg_dl, got.risks[0].below_70, got.risks[0].above_180) == (number, 0.25, -1.5)
    assert got.points[0].minutes_ahead == 5


@given(st.binary(max_size=40_000))
def test_nested_bytes_are_a_field(content):
    text = content.hex()
    wire = nested(1, pb.GetModelRequest(model=text).SerializeToString())
    assert pb.ListModelsRequest.FromString(nested(1, text.encode())).patient_id == text
    assert pb.MonitorRequest.FromString(wire).WhichOneof("step") == "start"
