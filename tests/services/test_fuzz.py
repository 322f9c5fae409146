"""Whatever bytes come, to whichever method: a status that fits and tells nothing, and a service that goes on."""

import gc
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from threading import Event

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, status_pb2

from protos.glucast.v1 import forecaster_pb2 as pb
from protos.inference import open_inference_pb2 as oip
from services.calls import DETAILS
from tests.services.conftest import becomes_ready, holds, samples, scrape, service_of
from tests.services.fuzzing import PATIENT, VALUE, fuzzed, honest

FORECASTER = pb.DESCRIPTOR.services_by_name["Forecaster"]
OPEN_INFERENCE = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
METHODS = {method.name: method for service in (FORECASTER, OPEN_INFERENCE) for method in service.methods}
TRITON_STATUS = "triton_grpc_error"  # metadata: end a stream of ModelInfer with the status of its first error
WAVE = 14  # calls that are sent together, beside honest ones, so that what is wrong with one may harm another
PATIENCE_SECONDS = 20
FITTING = {
    "OK",
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNIMPLEMENTED",
}
IN_TIME = {  # refused by gRPC, or for a timeout that was asked for; never because nothing came
    "RESOURCE_EXHAUSTED": re.compile("larger than max|deadline would pass"),
    "DEADLINE_EXCEEDED": re.compile("would come after its deadline"),
}
TEXT_AT_MOST = 3000  # characters of a sentence and its details: some thousand bytes more do not reach every client
TELLTALE = re.compile(r"<class|Traceback|File \"|\b[A-Z]\w*(?:Error|Exception)\b")
MARKER = re.compile(f"{PATIENT[:8]}|{PATIENT[8:]}|{VALUE}")


@dataclass
class Answer:
    """What came back: statuses, of the call and of single results, and messages."""

    statuses: list[tuple[str, str]] = field(default_factory=list)  # code, all that its text and details hold
    messages: list[Message] = field(default_factory=list)


def send(
    channel: grpc.Channel, method: MethodDescriptor, wire: Iterable[bytes], metadata: Sequence[tuple[str, str]] = ()
) -> Answer:
    """Send the bytes of one message, or of a stream of them, and wait for all that comes back."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    read = GetMessageClass(method.output_type).FromString
    options = {"timeout": PATIENCE_SECONDS, "metadata": metadata}
    answer = Answer()
    try:
        if method.client_streaming:
            for message in channel.stream_stream(path, response_deserializer=read)(iter(wire), **options):
                answer.messages.append(message)
        else:
            answer.messages.append(channel.unary_unary(path, response_deserializer=read)(*wire, **options))
        answer.statuses.append(("OK", ""))
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ()).get(DETAILS, b"")
        answer.statuses.append((error.code().name, f"{error.details()} {bytes(details).decode(errors='replace')}"))
    for message in answer.messages:
        answer.statuses += problems_in(message)
    return answer


def problems_in(message: Message) -> list[tuple[str, str]]:
    """The problems of single results, which are no status of the call."""
    match message:
        case pb.ForecastBatchResponse() | pb.ReportOutcomeResponse():
            found = [result.problem for result in message.results if result.HasField("problem")]
        case pb.MonitorResponse() if message.HasField("problem"):
            found = [message.problem]
        case oip.ModelStreamInferResponse() if message.error_message:
            found = [status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message=message.error_message)]
        case _:
            found = []
    return [(code_pb2.Code.Name(one.code), one.SerializeToString().decode(errors="replace")) for one in found]


def numbers_in(answer: Answer) -> np.ndarray:
    """What was forecast, by either protocol."""
    (message,) = answer.messages
    if isinstance(message, oip.ModelInferResponse):
        return np.frombuffer(message.raw_output_contents[0], "<f4")
    return np.array([[p.mean_mg_dl, *(q.value_mg_dl for q in p.quantiles)] for p in message.points]).ravel()


@dataclass(frozen=True)
class Besieged:
    """A service, and what it answers to honest calls as long as all is well."""

    channel: grpc.Channel
    metrics_url: str
    honest: list[tuple[MethodDescriptor, list[bytes], np.ndarray]]
    forecast_id: str

    def withstands(self, method: MethodDescriptor, calls: int, seed: int) -> list[str]:
        """Send about so many spoilt calls, some at a time and honest ones beside them; what was wrong with answers."""
        random, wrong = Random(f"{method.name} {seed}"), []
        sources = honest(method, self.forecast_id)
        with ThreadPoolExecutor(WAVE + len(self.honest)) as pool:
            for _ in range(calls // WAVE):
                wires = [fuzzed(random, method, sources) for _ in range(WAVE)]
                sent = [(method, wire) for wire in wires] + [(method, wire) for method, wire, _ in self.honest]
                answers = list(pool.map(lambda one: send(self.channel, *one), sent))
                for wire, answer in zip(wires, answers[:WAVE], strict=True):
                    wrong += [f"{fault}\n    {wire!r:.400}" for fault in faults(answer)]
                for (_, _, numbers), answer in zip(self.honest, answers[WAVE:], strict=True):
                    assert answer.statuses == [("OK", "")]
                    np.testing.assert_array_equal(numbers_in(answer), numbers)
        return wrong


@pytest.fixture(scope="module")
def besieged(shelf, tmp_path_factory) -> Iterator[Besieged]:
    """One of its own: it need not be well afterwards."""
    cache = tmp_path_factory.mktemp("besieged")
    with service_of(registry=shelf.registry.uri, cache=cache) as where, grpc.insecure_channel(where.address) as channel:
        assert becomes_ready(where.address)
        calls = [(METHODS[name], [honest(METHODS[name])[0].SerializeToString()]) for name in ("Forecast", "ModelInfer")]
        answers = [send(channel, *call) for call in calls]
        expected = [(*call, numbers_in(answer)) for call, answer in zip(calls, answers, strict=True)]
        yield Besieged(channel, where.metrics_url, expected, answers[0].messages[0].forecast_id)


def faults(answer: Answer) -> list[str]:
    """What no answer may be or say."""
    return [f"{fault}: {text:.300}" for code, text in answer.statuses for fault in _faults(code, text)]


def _faults(code: str, text: str) -> Iterator[str]:
    if code not in FITTING and not (code in IN_TIME and IN_TIME[code].search(text)):
        yield f"is {code}"
    for match in TELLTALE.finditer(text):
        yield f"tells {match[0]}"
    for match in MARKER.finditer(text):
        yield f"repeats {match[0]}"
    if len(text) > TEXT_AT_MOST:
        yield f"has {len(text)} characters"


def assert_withstands(besieged: Besieged, name: str, calls: int, seed: int, caplog) -> None:
    with caplog.at_level(logging.INFO):
        wrong = besieged.withstands(METHODS[name], calls, seed)
    assert not wrong, f"{len(wrong)} faults\n" + "\n".join(wrong[:10])
    told = [match[0] for match in (*TELLTALE.finditer(caplog.text), *MARKER.finditer(caplog.text))]
    assert not told, caplog.text[:2000]


@pytest.mark.parametrize("name", METHODS)
def test_no_bytes_harm_the_service_or_make_it_tell_anything(name, besieged, caplog):
    assert_withstands(besieged, name, 2 * WAVE, 1, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_nor_do_ten_thousand(name, besieged, caplog):
    assert_withstands(besieged, name, 10_000 // len(METHODS) + WAVE, 2, caplog)


def test_streams_that_go_wrong_leave_nothing_behind(besieged):
    for name in ("Monitor", "ModelStreamInfer"):
        besieged.withstands(METHODS[name], WAVE, 3)
    for series in ("glucose_monitor_streams", "glucose_infer_queue_depth"):
        assert holds(lambda series=series: sum(samples(scrape(besieged.metrics_url), series)) == 0, 2), series


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        pytest.param("Monitor", lambda wire: wire[1:], id="no start"),
        pytest.param("Monitor", lambda wire: [*wire, wire[0]], id="start again"),
        pytest.param("Monitor", lambda wire: [*wire[:2], b"\xff"], id="no message"),
        pytest.param("ModelStreamInfer", lambda wire: [b"\xff", *wire * 3], id="no message, tensors after it"),
        pytest.param("ModelStreamInfer", lambda wire: [one + b"\x0a\x01x" for one in wire * 3], id="no such model"),
    ],
)
def test_a_stream_that_is_refused_while_more_may_come_is_no_word_in_the_log(name, spoil, besieged, caplog):
    """What waits for its next message ends too; asyncio logs what nobody asks for, and the trace quotes the refusal."""
    wire = spoil([message.SerializeToString() for message in honest(METHODS[name])])
    refused = Event()

    def held_open() -> Iterator[bytes]:
        yield from wire
        refused.wait(PATIENCE_SECONDS)

    for _ in range(10):  # what is collected first, and so what is logged, is chance
        answer = send(besieged.channel, METHODS[name], held_open(), ((TRITON_STATUS, "true"),))
        assert answer.statuses[0][0] in ("INVALID_ARGUMENT", "NOT_FOUND")
    refused.set()
    gc.collect()
    assert not caplog.text


def test_what_is_no_message_is_the_callers_mistake(besieged):
    ((code, text),) = send(besieged.channel, METHODS["Forecast"], [b"\xff"]).statuses
    assert code == "INVALID_ARGUMENT"
    assert "glucast.v1.ForecastRequest" in text
