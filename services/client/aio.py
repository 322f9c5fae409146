"""The client whose methods are awaited."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import cached_property
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
NOT_THE_SERVICES = "Internal error from Core"  # what gRPC says of a message that was written too late


def _asks(build: Callable[P, Call[T]]) -> "Callable[Concatenate[AsyncForecastClient, P], Awaitable[T]]":
    async def method(self: "AsyncForecastClient", *given: P.args, **named: P.kwargs) -> T:
        return await self._answer(build(*given, **named))

    return named_after(build, method)


def _opens(build: Callable[P, Watching]) -> "Callable[Concatenate[AsyncForecastClient, P], AsyncStream]":
    def method(self: "AsyncForecastClient", *given: P.args, **named: P.kwargs) -> "AsyncStream":
        return AsyncStream(self, build(*given, **named))

    return named_after(build, method)


class AsyncForecastClient:
    """ForecastClient for asyncio: the same arguments, and the same methods to be awaited. An async context manager.

    It belongs to the event loop in which it is first asked.
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

    async def __aenter__(self) -> Self:
        _ = self.stub  # made now, for all that `within` gives
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection, and every call on it."""
        await self._channel.close()

    def within(self, seconds: float) -> Self:
        """This client, on the same connection, with another deadline."""
        _ = self.stub
        other = copy.copy(self)
        other.deadline_seconds = seconds
        return other

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        """Of the loop that runs: one that is made before belongs to another."""
        return self.connection.channel(grpc.aio.insecure_channel, grpc.aio.secure_channel)

    @cached_property
    def stub(self) -> Any:  # the published types know the blocking stub's methods only
        return forecaster_pb2_grpc.ForecasterStub(self._channel)

    forecast = _asks(calls.forecast)
    forecast_frame = _asks(calls.forecast_frame)
    forecast_many = _asks(calls.forecast_many)
    report_outcome = _asks(calls.report_outcome)
    list_models = _asks(calls.list_models)
    get_model = _asks(calls.get_model)
    monitor = _opens(calls.monitor)

    async def _answer(self, call: Call[T]) -> T:
        retries = Retries(self.deadline_seconds)
        send = getattr(self.stub, call.method)
        while True:
            try:
                return call.read(
                    await send(call.request, timeout=retries.seconds_left(), metadata=self.connection.metadata())
                )
            except grpc.RpcError as error:
                pause = retries.pause_after(self.connection.refusal(error, self.deadline_seconds))
            await asyncio.sleep(pause)


class AsyncStream:
    """One person's readings, each answered before the next is sent. See Stream, whose methods these are."""

    def __init__(self, client: AsyncForecastClient, watching: Watching) -> None:
        self._client, self._watching = client, watching
        self._call: _StreamCall | None = None
        self._until = 0.0  # of time.monotonic(): when the call under way is to be renewed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, reading: Reading) -> Update:
        """Send one reading, in the stream's unit; what became of it. Raises as Stream.send does."""
        message, was_open = reading_message(reading), self._call is not None
        try:
            response = await self._exchange(message)
        except ServiceError as error:
            if not (was_open and is_broken(error)):
                raise
            response = await self._exchange(message)
        return self._watching.answered(message, response)

    async def close(self) -> None:
        """Tell the service that no reading will come."""
        call, self._call = self._call, None
        if call is not None:
            with suppress(ServiceError):  # which takes nothing from what was answered
                async with self._patience():
                    await call.end()

    async def _exchange(self, reading: pb.Reading) -> pb.MonitorResponse:
        """One reading and its answer, on a stream that is opened where there is none."""
        if time.monotonic() >= self._until:
            await self.close()
        call, self._call = self._call, None
        async with self._patience():
            if call is None:
                call = self._open()
                await call.write(self._watching.start())
            await call.write(pb.MonitorRequest(reading=reading))
            response = await call.read()
        self._call = call  # which has not failed
        return response

    def _open(self) -> "_StreamCall":
        self._until = time.monotonic() + STREAM_SECONDS
        timeout, metadata = STREAM_SECONDS + self._client.deadline_seconds, self._client.connection.metadata()
        return _StreamCall(self._client.stub.Monitor(timeout=timeout, metadata=metadata))

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Wait no longer than the client's deadline; a failure as a ServiceError."""
        seconds = self._client.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise self._client.connection.silence(seconds) from error
        except grpc.RpcError as error:
            raise self._client.connection.refusal(error, seconds) from error


class _StreamCall:
    """A call of gRPC's that fails with what the service said.

    gRPC puts an error of its own in place of that where a message is written after the service has ended the call.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._ended: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    async def write(self, message: pb.MonitorRequest) -> None:
        """Send a message; one that comes too late is passed over, since reading tells why it does."""
        if not self._call.done():
            with suppress(grpc.aio.AioRpcError):
                await self._call.write(message)

    async def read(self) -> pb.MonitorResponse:
        """The next answer; raises AioRpcError."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await self._ended from error
        if response is grpc.aio.EOF:
            raise await self._ended
        return response

    async def end(self) -> None:
        """Say that no message will come, and wait until the service has taken note."""
        if not self._call.done():
            await self._call.done_writing()
            await self._call.read()

    def _note(self, _: object) -> None:
        code, details = _known(self._call.code()), _known(self._call.details())
        if not self._ended.done() and details != NOT_THE_SERVICES:
            initial, trailing = _known(self._call.initial_metadata()), _known(self._call.trailing_metadata())
            self._ended.set_result(grpc.aio.AioRpcError(code, initial, trailing, details))


def _known(answer: Coroutine[Any, Any, T]) -> T:
    """What a call that has ended says at once; nothing is waited for."""
    try:
        answer.send(None)
    except StopIteration as said:
        return said.value
    raise RuntimeError("a call that has ended does not say how")
