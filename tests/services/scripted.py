"""A server that says what a test tells it to, and remembers how it was asked."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from tests.services.certificates import Authority, Pair

METHODS = {m.name: m for m in pb.DESCRIPTOR.services_by_name["Forecaster"].methods if not m.client_streaming}


@dataclass
class Seen:
    """One call as it came. seconds_left: of its deadline; None where it had none."""

    method: str
    request: object
    at: float
    seconds_left: float | None
    metadata: dict[str, str]


@dataclass
class Script:
    """What is answered: `fail` is called with each call's context first, and may end it."""

    fail: Callable[[grpc.ServicerContext], None] = lambda context: None
    seen: list[Seen] = field(default_factory=list)
    address: str = ""

    def note(self, method: str, request: object, context: grpc.ServicerContext) -> None:
        left, metadata = context.time_remaining(), dict(context.invocation_metadata())
        self.seen.append(Seen(method, request, time.monotonic(), left, metadata))


class _Servicer(forecaster_pb2_grpc.ForecasterServicer):
    def __init__(self, script: Script) -> None:
        self._script = script
        for name, method in METHODS.items():
            setattr(self, name, self._answering(name, getattr(pb, method.output_type.name)))

    def _answering(self, name: str, answer: type) -> Callable:
        def method(request: object, context: grpc.ServicerContext) -> object:
            self._script.note(name, request, context)
            self._script.fail(context)
            return answer()

        return method

    def Monitor(self, requests: Iterator[pb.MonitorRequest], context: grpc.ServicerContext) -> Iterator:
        self._script.note("Monitor", next(requests), context)
        for request in requests:
            self._script.fail(context)
            yield pb.MonitorResponse(time=request.reading.time, use=pb.NEWEST)


@contextmanager
def scripted(
    fail: Callable[[grpc.ServicerContext], None] = lambda context: None,
    pair: Pair | None = None,
    clients: Authority | None = None,
) -> Iterator[Script]:
    """A server on a free port of this machine. pair: TLS with it; clients: who must have signed a client's own."""
    script = Script(fail)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        forecaster_pb2_grpc.add_ForecasterServicer_to_server(_Servicer(script), server)
        script.address = f"127.0.0.1:{_listen(server, pair, clients)}"
        server.start()
        try:
            yield script
        finally:
            server.stop(0).wait()


def _listen(server: grpc.Server, pair: Pair | None, clients: Authority | None) -> int:
    if pair is None:
        return server.add_insecure_port("127.0.0.1:0")
    own = [(Path(pair.key).read_bytes(), Path(pair.certificate).read_bytes())]
    roots = clients.file.read_bytes() if clients else None
    return server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(own, roots, clients is not None))


def failing(code: grpc.StatusCode, times: int, retry_seconds: float | None = None) -> Callable:
    """A failure with one status so many times, with a hint where one is given."""
    left = [times]

    def fail(context: grpc.ServicerContext) -> None:
        if left[0]:
            left[0] -= 1
            status = status_pb2.Status(code=code.value[0], message="try elsewhere")
            if retry_seconds is not None:
                delay = Duration()
                delay.FromMicroseconds(int(retry_seconds * 1e6))
                status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            details = status.SerializeToString() if status.details else b""
            context.set_trailing_metadata((("grpc-status-details-bin", details), ("x-request-id", "r17")))
            context.abort(code, "try elsewhere")

    return fail
