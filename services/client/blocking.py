"""The client whose methods wait for their answers."""

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from forecasting.context import Reading
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.client import calls
from services.client.calls import Call, Watching
from services.client.connection import Connection
from services.client.credentials import Tls
from services.client.faces import named_after
from services.client.messages import reading_message
from services.client.refusals import ServiceError
from services.client.results import Update
from services.client.retries import STREAM_SECONDS, Retries, is_broken

P = ParamSpec("P")
T = TypeVar("T")


def _asks(build: Callable[P, Call[T]]) -> "Callable[Concatenate[ForecastClient, P], T]":
    def method(self: "ForecastClient", *given: P.args, **named: P.kwargs) -> T:
        return self._answer(build(*given, **named))

    return named_after(build, method)


def _opens(build: Callable[P, Watching]) -> "Callable[Concatenate[ForecastClient, P], Stream]":
    def method(self: "ForecastClient", *given: P.args, **named: P.kwargs) -> "Stream":
        return Stream(self, build(*given, **named))

    return named_after(build, method)


class ForecastClient:
    """Asks a forecaster at an address (host:port). A context manager; every call has a deadline.

    Within it, what a service did not take is asked again: a service that is replaced costs its callers time alone.
    One that has too much to do is asked again when it said so.

    tls:        True, or a Tls with files; without it the connection is plain
    token_file: holds the token that every call carries; read again when it changes
    Raises InvalidSetting for files that cannot be used, and for a token without TLS to another machine.
    """

    def __init__(
        self,
        address: str,
        deadline_seconds: float = 5.0,
        *,
        tls: Tls | bool = False,
        token_file: Path | None = None,
    ) -> None:
        self.connection = Connection(address, tls, token_file)
        self.deadline_seconds = deadline_seconds
        self._channel = self.connection.channel(grpc.insecure_channel, grpc.secure_channel)
        self.stub = forecaster_pb2_grpc.ForecasterStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._channel.close()

    def within(self, seconds: float) -> Self:
        """This client, on the same connection, with another deadline."""
        other = copy.copy(self)
        other.deadline_seconds = seconds
        return other

    forecast = _asks(calls.forecast)
    forecast_frame = _asks(calls.forecast_frame)
    forecast_many = _asks(calls.forecast_many)
    report_outcome = _asks(calls.report_outcome)
    list_models = _asks(calls.list_models)
    get_model = _asks(calls.get_model)
    monitor = _opens(calls.monitor)

    def ask(self, request: pb.ForecastRequest) -> pb.ForecastResponse:
        """Send a request as it is; the answer as it came. Raises ServiceError."""
        return self._answer(Call("Forecast", request, lambda answer: answer))

    def _answer(self, call: Call[T]) -> T:
        retries = Retries(self.deadline_seconds)
        send = getattr(self.stub, call.method)
        while True:
            try:
                return call.read(
                    send(call.request, timeout=retries.seconds_left(), metadata=self.connection.metadata())
                )
            except grpc.RpcError as error:
                pause = retries.pause_after(self.connection.refusal(error, self.deadline_seconds))
            time.sleep(pause)


class Stream:
    """One person's readings, each answered before the next is sent. A context manager; see ForecastClient.monitor."""

    def __init__(self, client: ForecastClient, watching: Watching) -> None:
        self._client, self._watching = client, watching
        self._steps: queue.SimpleQueue[pb.MonitorRequest | None] = queue.SimpleQueue()
        self._call: Any = None
        self._until = 0.0  # of time.monotonic(): when the call under way is to be renewed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, reading: Reading) -> Update:
        """Send one reading, in the stream's unit; what became of it.

        Raises InvalidInput for a naive time; ServiceError where the stream is refused, or nobody answers within the
        client's deadline. What is wrong with the reading alone is the update's `problem`.
        """
        message, was_open = reading_message(reading), self._call is not None
        try:
            response = self._exchange(message)
        except ServiceError as error:
            if not (was_open and is_broken(error)):
                raise
            response = self._exchange(message)
        return self._watching.answered(message, response)

    def close(self) -> None:
        """Tell the service that no reading will come."""
        call, self._call = self._call, None
        if call is not None:
            self._steps.put(None)
            with suppress(ServiceError), self._patience(call):  # which takes nothing from what was answered
                next(call, None)

    def _exchange(self, reading: pb.Reading) -> pb.MonitorResponse:
        """One reading and its answer, on a stream that is opened where there is none."""
        if time.monotonic() >= self._until:
            self.close()
        call = self._call or self._open()
        self._call = None
        self._steps.put(pb.MonitorRequest(reading=reading))
        with self._patience(call):
            response = next(call)
        self._call = call  # which has not failed
        return response

    def _open(self) -> Any:
        self._steps = queue.SimpleQueue()
        self._steps.put(self._watching.start())
        self._until = time.monotonic() + STREAM_SECONDS
        return self._client.stub.Monitor(
            iter(self._steps.get, None),
            timeout=STREAM_SECONDS + self._client.deadline_seconds,
            metadata=self._client.connection.metadata(),
        )

    @contextmanager
    def _patience(self, call: Any) -> Iterator[None]:
        """Give the call up after the client's deadline; its failure as a ServiceError."""
        seconds = self._client.deadline_seconds
        bell = threading.Timer(seconds, call.cancel)
        bell.start()
        try:
            yield
        except (grpc.RpcError, StopIteration) as error:
            if isinstance(error, StopIteration) or error.code() is grpc.StatusCode.CANCELLED:
                raise self._client.connection.silence(seconds) from error
            raise self._client.connection.refusal(error, seconds) from error
        finally:
            bell.cancel()
