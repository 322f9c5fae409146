"""How any of our servers starts and stops: health, reflection, one wrapper around every method, drain."""

import asyncio
import logging
import signal
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, Protocol

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forecasting.errors import (
    GlucastError,
    InsufficientData,
    IntegrityError,
    InvalidInput,
    InvalidSetting,
    NotFound,
    Overloaded,
    RegistryUnavailable,
    TooLate,
)


class Stopping(GlucastError):
    """The service is stopping; the caller goes on with another."""


STATUS = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidSetting: grpc.StatusCode.INTERNAL,  # of this service: no caller can have caused it
    InsufficientData: grpc.StatusCode.FAILED_PRECONDITION,
    NotFound: grpc.StatusCode.NOT_FOUND,
    IntegrityError: grpc.StatusCode.DATA_LOSS,
    RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    Stopping: grpc.StatusCode.UNAVAILABLE,
}
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),  # bytes; also what limits the work of one request
    ("grpc.max_concurrent_streams", 4096),  # of one connection; what waits beyond them waits at the caller
    ("grpc.server.max_pending_requests", 192),  # read and not yet taken up; more are refused by gRPC itself,
    ("grpc.server.max_pending_requests_hard_limit", 384),  # which costs far less than refusing them here
    # Balancers choose per connection: let clients choose again. What runs on an old connection, a stream above all,
    # goes on there for as long as it lasts: no grace period cuts it.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.keepalive_time_ms", 120_000),  # phones vanish without a word; their streams must not stay
    ("grpc.keepalive_timeout_ms", 20_000),
)
QUIET_SECONDS = 0.02  # without a new call, after which no more is expected
TAKE_IN_SECONDS = 1.0  # and how long that is waited for
DETAILS = "grpc-status-details-bin"  # metadata that carries google.rpc.Status, by the convention of gRPC
NO_REGISTRY = "the model registry does not answer and this model is not loaded; try again later"
READY = "ready"  # the health name that tells readiness; "" and the services' names tell liveness

_log = logging.getLogger("glucast.serving")
Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
StreamMethod = Callable[[AsyncIterator[Any], grpc.aio.ServicerContext], AsyncIterator[Any]]


class Watched(Protocol):
    """What counts the calls of one method."""

    def began(self) -> None:
        """A call came."""

    def ended(self, code: str, seconds: float) -> None:
        """It was answered with this status, so long after it came."""

    def received(self) -> None:
        """A message of the caller came."""

    def sent(self) -> None:
        """A message went out."""


def status_of(error: Exception) -> status_pb2.Status:
    """What a caller is told of an error: code, sentence, details. An unforeseen one is logged and told by its id."""
    code = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        return status_pb2.Status(code=code.value[0], message=_log_internal(error))
    if isinstance(error, RegistryUnavailable):  # the sentence says where the registry is
        _log.warning("unavailable: %s", error)
        return status_pb2.Status(code=code.value[0], message=NO_REGISTRY)
    status = status_pb2.Status(code=code.value[0], message=str(error))
    if isinstance(error, InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromMicroseconds(int(error.retry_seconds * 1e6))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _log_internal(error: Exception) -> str:
    """Log where an unforeseen error came from; what the caller is told. Its text may quote readings: left out."""
    reference = uuid.uuid4().hex[:12]
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s\n%s", reference, type(error).__name__, frames)
    return f"internal error {reference}; the service's log says more under this id"


_CODES = {code.value[0]: code for code in grpc.StatusCode}


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    status = status_of(error)
    details = ((DETAILS, status.SerializeToString()),) if status.details else ()
    await context.abort(_CODES[status.code], status.message, details)


def _code_of(context: grpc.aio.ServicerContext) -> str:
    code: Any = context.code()  # a number or a member, as it was set; None where it was not
    return getattr(_CODES.get(code, code), "name", grpc.StatusCode.UNKNOWN.name)


class Calls:
    """How many calls of all methods are under way."""

    def __init__(self) -> None:
        self.begun = 0  # since the start
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def begin(self) -> None:
        """One more."""
        self.begun += 1
        self._count += 1
        self._none.clear()

    def end(self) -> None:
        """One less."""
        self._count -= 1
        if not self._count:
            self._none.set()

    async def ended(self) -> None:
        """Wait until none is."""
        await self._none.wait()


class _Call:
    """Around one call: it is counted, our errors become statuses with their sentence, others INTERNAL with an id."""

    def __init__(self, context: grpc.aio.ServicerContext, watched: Watched, calls: Calls) -> None:
        self._context, self._watched, self._calls = context, watched, calls
        self._began = time.perf_counter()

    async def __aenter__(self) -> None:
        self._watched.began()
        self._calls.begin()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
                await _abort(self._context, error)
        finally:
            self._calls.end()
            self._watched.ended(self._code(error), time.perf_counter() - self._began)

    def _code(self, error: BaseException | None) -> str:
        if error is None:
            return "OK"
        return _code_of(self._context) if isinstance(error, Exception) else "CANCELLED"


def _unary(method: Method, watched: Watched, calls: Calls) -> Method:
    async def answer(request: Message, context: grpc.aio.ServicerContext) -> Message:
        async with _Call(context, watched, calls):
            return await method(request, context)

    return answer


def _stream(method: StreamMethod, watched: Watched, calls: Calls) -> StreamMethod:
    async def counted(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            watched.received()
            yield request

    async def answer(requests: AsyncIterator[Message], context: grpc.aio.ServicerContext) -> AsyncIterator[Message]:
        async with _Call(context, watched, calls):
            async for response in method(counted(requests), context):
                watched.sent()
                yield response

    return answer


def _handler(
    method: MethodDescriptor,
    servicer: Any,
    watched: Watched,
    calls: Calls,
    around: Callable[[str, str, Method], Method],
) -> grpc.RpcMethodHandler:
    receive = GetMessageClass(method.input_type).FromString
    send = _serialiser(GetMessageClass(method.output_type))
    function: Any = getattr(servicer, method.name)  # the published types know the synchronous server's methods only
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream(function, watched, calls), receive, send)  # type: ignore[arg-type]
    function = around(method.containing_service.full_name, method.name, function)
    return grpc.unary_unary_rpc_method_handler(_unary(function, watched, calls), receive, send)  # type: ignore[arg-type]


def _serialiser(answer: type[Message]) -> Callable[[Message | bytes], bytes]:
    """A method may also give the bytes of its answer."""
    serialise = answer.SerializeToString
    return lambda given: given if isinstance(given, bytes) else serialise(given)


class GrpcServer:
    """One grpc.aio server with health, errors as statuses and, when asked for, reflection."""

    def __init__(self, reflected: bool = False, share_port: bool = False) -> None:
        """share_port: let other processes listen on the same port too."""
        # without the option a second server shares a busy port without a word
        self.server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", int(share_port))))
        self._services: list[str] = []
        self._calls = Calls()
        self._reflected = reflected
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    def add(
        self,
        service: ServiceDescriptor,
        servicer: Any,
        watch: Callable[[str, str, str], Watched],
        around: Callable[[str, str, Method], Method] = lambda service, name, method: method,
    ) -> None:
        """Serve a service; before `start`. watch: called with service, method and type, what counts its calls;
        around: what is called in place of a unary method.

        The wrapper is made once for each method: an interceptor would be called, and would cost, for every call.
        """
        name = service.full_name
        handlers = {
            method.name: _handler(
                method, servicer, watch(service.full_name, method.name, type_of(method)), self._calls, around
            )
            for method in service.methods
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        self._services.append(name)

    async def start(self, host: str, port: int) -> int:
        """Listen, alive and not yet ready; the port, chosen by the system where 0 was given.

        Raises InvalidSetting where the address cannot be used.
        """
        if self._reflected:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.server)
        try:
            bound = self.server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise InvalidSetting(f"cannot listen on {host}:{port}; is the port taken? Choose another") from error
        for name in ("", *self._services):
            await self.tell(name, True)
        await self.tell(READY, False)
        await self.server.start()
        return bound

    async def tell(self, name: str, is_serving: bool) -> None:
        """Set what health answers under a name, also to those who watch it."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(name, status.SERVING if is_serving else status.NOT_SERVING)

    async def retire(self, pause_seconds: float) -> None:
        """Say NOT_SERVING under every name, and let balancers notice while requests are still taken."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(pause_seconds)

    async def take_in(self) -> None:
        """Wait until what was sent has come to its method: gRPC cancels what it has read and not handed over.

        To be called while nothing is answered, so that callers who wait for answers send nothing new.
        """
        begun, end = -1, time.monotonic() + TAKE_IN_SECONDS
        while begun != self._calls.begun and time.monotonic() < end:
            begun = self._calls.begun
            await asyncio.sleep(QUIET_SECONDS)

    async def stop(self, drain_seconds: float) -> None:
        """Refuse new requests, and give the running ones `drain_seconds`; none runs afterwards."""
        await self.server.stop(drain_seconds)
        await self._calls.ended()  # gRPC returns while a handler that was aborted still cleans up


def type_of(method: MethodDescriptor) -> str:
    """The reference's name of how a method sends: UNARY or BIDI_STREAM."""
    return "BIDI_STREAM" if method.client_streaming else "UNARY"


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on, in place of ending the process."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told
