"""Log lines: what they hold, which call they belong to, and that no exception's text is ever among it."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys

import grpc
import pytest

from forecasting.forecaster import Forecaster
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services import logs
from services.calls import Calls, _Call
from services.inference.telemetry import Telemetry
from services.logs import JsonLines, TextLines, log_loop_errors

SECRET = "patient 570 had 412 mg/dL"
KIND = ValueError


class Named:
    """A call that counts how often it is asked for its id."""

    asked = 0

    @property
    def request_id(self) -> str:
        self.asked += 1
        return "abc-1"


def lines_of(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    """A logger of its own, and what it wrote."""
    written, logger = io.StringIO(), logging.Logger("glucast.tested")
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return logger, written


def fail() -> None:
    raise KIND(SECRET)


def test_a_json_line_holds_time_level_logger_message_call_and_worker():
    logger, written = lines_of(JsonLines(worker=3))
    logs.CALL.set(Named())
    logger.warning("%s is full", "the queue")
    logs.CALL.set(None)
    logger.info('a "quoted"\nline')
    first, second = (json.loads(line) for line in written.getvalue().splitlines())
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "warning",
        "logger": "glucast.tested",
        "message": "the queue is full",
        "request_id": "abc-1",
        "worker": 3,
    }
    assert second["message"] == 'a "quoted"\nline'
    assert "request_id" not in second


@pytest.mark.parametrize("formatter", [TextLines(None), JsonLines(None)], ids=["text", "json"])
def test_no_line_holds_the_text_of_an_exception_and_each_says_where_it_was(formatter):
    logger, written = lines_of(formatter)
    try:
        fail()
    except ValueError as error:
        logger.exception("it went wrong")
        logger.error("again", exc_info=error)
        logger.error("and: %s", logs.without_text(error))
    assert written.getvalue().count("ValueError") == 3
    assert written.getvalue().count("in fail") == 3
    assert SECRET not in written.getvalue()


async def test_an_error_that_nobody_awaited_is_logged_without_its_text(caplog):
    log_loop_errors(asyncio.get_running_loop())

    async def fails() -> None:
        fail()

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    del task
    await asyncio.sleep(0)
    assert "an error that nobody awaited: ValueError" in caplog.text
    assert "in fail" in caplog.text
    assert SECRET not in caplog.text


def refusal_of(address: str, request: pb.ForecastRequest, *metadata: tuple[str, str]) -> grpc.RpcError:
    with grpc.insecure_channel(address) as channel:
        ask = forecaster_pb2_grpc.ForecasterStub(channel).Forecast
        with pytest.raises(grpc.RpcError) as refused:
            ask(request, metadata=metadata, timeout=5)
    return refused.value


def metadata_of(address: str, *given: tuple[str, str]) -> dict[str, str]:
    """What comes with the refusal of an empty request."""
    return dict(refusal_of(address, pb.ForecastRequest(), *given).trailing_metadata())


def test_a_refusal_names_the_callers_id_or_one_that_is_made(service):
    assert metadata_of(service.address, ("x-request-id", "From.Phone_7-a"))["x-request-id"] == "From.Phone_7-a"
    made = {metadata_of(service.address)["x-request-id"] for _ in range(5)}
    assert len(made) == 5
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in made)


@pytest.mark.parametrize("odd", ["", "a" * 65, "two words", 'a"b', "../../x", "570@home"])
def test_an_id_that_is_not_well_formed_is_replaced(service, odd):
    assert re.fullmatch("[0-9a-f]{16}", metadata_of(service.address, ("x-request-id", odd))["x-request-id"])


@pytest.mark.parametrize("letter", ["a", "é", "💉"])
def test_a_refusal_that_quotes_much_still_comes_through(service, letter):
    """A status travels in metadata, which has no room for what a hostile message holds."""
    with grpc.insecure_channel(service.address) as channel:
        ask = forecaster_pb2_grpc.ForecasterStub(channel).GetModel
        with pytest.raises(grpc.RpcError) as refused:
            ask(pb.GetModelRequest(model=letter * 20_000), timeout=5)
    assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert refused.value.details().endswith("…")
    assert len(refused.value.details().encode()) < 900


def test_a_fault_is_logged_under_the_id_of_its_call(service, readings, monkeypatch, capture, client):
    client.forecast("570", readings, "mg/dL")  # the model is open

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Forecaster, "predict", broken)
    request = pb.ForecastRequest(patient_id="570", unit=pb.MG_DL)
    for reading in readings:
        request.readings.add(value=120.0).time.FromDatetime(reading.time)
    error = refusal_of(service.address, request, ("x-request-id", "call-7"))
    assert error.code() is grpc.StatusCode.INTERNAL
    line = next(json.loads(line) for line in capture.getvalue().splitlines() if "internal error" in line)
    assert line["request_id"] == dict(error.trailing_metadata())["x-request-id"] == "call-7"
    assert line["message"].split()[2].rstrip(":") in error.details()
    assert "RuntimeError" in line["message"]
    assert SECRET not in capture.getvalue()


@pytest.fixture
def capture():
    """What the service logs as JSON."""
    written, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines(None))
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


def test_a_call_that_goes_well_is_never_asked_for_its_id(client, readings, monkeypatch):
    """What is made for nobody costs every caller."""
    client.forecast("570", readings, "mg/dL")  # opening the model logs a line
    monkeypatch.setattr("services.calls.uuid.uuid4", lambda: pytest.fail("an id was made"))
    assert client.forecast("570", readings, "mg/dL").points


def test_what_a_call_began_does_not_speak_for_it_once_it_has_ended():
    class Context:
        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return (("x-request-id", "mine"),)

    async def one_call() -> list[str]:
        said = []
        async with _Call(Context(), Telemetry().rpc("s", "m", "UNARY"), Calls()):
            task = asyncio.create_task(later(said))
            said.append(logs.request_id())
        await task
        return said

    async def later(said: list[str]) -> None:
        await asyncio.sleep(0.01)
        said.append(logs.request_id())

    assert asyncio.run(one_call()) == ["mine", ""]


def test_the_real_process_writes_json_lines(tmp_path):
    """Every line of it: also those of libraries."""
    options = ["--port", "0", "--metrics-port", "0", "--log-format", "json", "--host", "0.0.0.0"]
    environment = {**os.environ, "GLUCAST_REGISTRY": f"sqlite:///{tmp_path}/none.db", "GLUCAST_CACHE": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.inference", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "listens on" in process.stdout.readline()
    finally:
        process.terminate()
        _, written = process.communicate(timeout=20)
    lines = [json.loads(line) for line in written.splitlines()]
    assert lines[0]["level"] == "warning"
    assert "without tokens (--token-file) and without TLS" in lines[0]["message"]
    assert {"time", "level", "logger", "message"} <= lines[-1].keys()
