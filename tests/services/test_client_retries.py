"""The clients ask again where a service did not take their call or says when to come back, and only there."""

import time
from itertools import pairwise

import grpc
import pytest

from services.client import ServiceError
from tests.services.conftest import LAST, readings_until
from tests.services.faces import both_faces
from tests.services.scripted import METHODS, failing, scripted

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
HINT = 0.2  # seconds


def asked(face, code, times, retry_seconds=None, deadline_seconds=5.0):
    """What came of a call to a server that fails so, and what the server saw."""
    with scripted(failing(code, times, retry_seconds)) as server:
        try:
            return face(server.address, deadline_seconds).ask("get_model", "m"), server.seen
        except ServiceError as error:
            return error, server.seen


@both_faces
def test_a_call_that_was_not_taken_is_asked_again(face):
    answer, seen = asked(face, grpc.StatusCode.UNAVAILABLE, 2)
    assert (type(answer).__name__, len(seen)) == ("Model", 3)


@both_faces
def test_it_gives_up_in_the_end(face):
    error, seen = asked(face, grpc.StatusCode.UNAVAILABLE, 99)
    assert (error.status, len(seen)) == (grpc.StatusCode.UNAVAILABLE, 5)


@both_faces
@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "INTERNAL"])
def test_what_was_refused_is_not_asked_again(face, code):
    error, seen = asked(face, grpc.StatusCode[code], 1)
    assert (error.status, len(seen)) == (grpc.StatusCode[code], 1)
    assert (error.sentence, error.request_id) == ("try elsewhere", "r17")


@both_faces
def test_a_hint_is_waited_for_and_not_much_longer(face):
    _, seen = asked(face, FULL, 2, HINT)
    assert len(seen) == 3
    for before, after in pairwise(seen):
        assert HINT <= after.at - before.at < 1.5 * HINT + 0.2


@both_faces
def test_a_hint_beyond_the_deadline_is_told_at_once_in_the_services_words(face):
    began = time.monotonic()
    error, seen = asked(face, FULL, 99, 60.0)
    assert (error.status, error.sentence, error.retry_seconds, len(seen)) == (FULL, "try elsewhere", 60.0, 1)
    assert time.monotonic() - began < 2


@both_faces
def test_asking_again_ends_with_the_deadline(face):
    began = time.monotonic()
    error, seen = asked(face, FULL, 99, HINT, deadline_seconds=0.7)
    assert (error.status, error.sentence) == (FULL, "try elsewhere")
    assert 2 <= len(seen) <= 4
    assert time.monotonic() - began < 1.5


@both_faces
def test_no_hint_means_no_storm(face):
    _, seen = asked(face, FULL, 99, 0.0, deadline_seconds=0.5)
    assert len(seen) <= 11


@both_faces
def test_no_call_of_any_method_is_without_a_deadline(face):
    with scripted() as server:
        client = face(server.address, 3.0)
        client.ask("forecast", "570", readings_until(), "mg/dL")
        client.ask("forecast_many", [])
        client.ask("report_outcome", [])
        client.ask("list_models")
        client.ask("get_model", "m")
        client.watch(readings_until(steps=1), "570", "mg/dL")
        lefts = {one.method: one.seconds_left for one in server.seen}
    assert lefts.keys() == {*METHODS, "Monitor"}
    stream = lefts.pop("Monitor")
    assert list(lefts.values()) == pytest.approx([3.0] * len(METHODS), abs=1)
    assert stream == pytest.approx(24 * 3600, rel=0.01)  # gRPC rounds long ones


@both_faces
def test_a_stream_that_breaks_goes_on_with_what_it_had(face):
    failures = [lambda context: None, failing(grpc.StatusCode.UNAVAILABLE, 1)]
    readings = readings_until(LAST, steps=4)

    def fail(context):
        failures.pop(0)(context) if failures else None

    with scripted(fail) as server:
        updates = face(server.address).watch(readings[2:], "570", "mg/dL", history=readings[:2], forecast_ids=["id"])
        starts = [one.request.start for one in server.seen]
    assert [update.time for update in updates] == [reading.time for reading in readings[2:]]
    assert [len(start.history) for start in starts] == [2, 3]
    assert [list(start.forecast_ids) for start in starts] == [["id"], []]


@both_faces
def test_a_reading_that_is_not_answered_is_given_up_after_the_deadline(face):
    with scripted(lambda context: time.sleep(1.5)) as server:
        began = time.monotonic()
        with pytest.raises(ServiceError, match=r"did not answer within 0.3 s") as silent:
            face(server.address, 0.3).watch(readings_until(steps=1), "570", "mg/dL")
        assert time.monotonic() - began < 1.2
    assert silent.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
