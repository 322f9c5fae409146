"""How any of our servers starts and stops: health, reflection, errors as statuses, drain."""

import asyncio
import logging
import signal
import traceback
import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forecasting.errors import (
    InsufficientData,
    IntegrityError,
    InvalidInput,
    InvalidSetting,
    NotFound,
    RegistryUnavailable,
)

STATUS = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidSetting: grpc.StatusCode.INTERNAL,  # of this service: no caller can have caused it
    InsufficientData: grpc.StatusCode.FAILED_PRECONDITION,
    NotFound: grpc.StatusCode.NOT_FOUND,
    IntegrityError: grpc.StatusCode.DATA_LOSS,
    RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
}
OPTIONS = (
    ("grpc.so_reuseport", 0),  # otherwise a second server shares a busy port without a word
    ("grpc.max_receive_message_length", 8 << 20),  # bytes; also what limits the work of one request
    ("grpc.max_connection_age_ms", 300_000),  # balancers choose per connection: let them choose again
    ("grpc.max_connection_age_grace_ms", 30_000),
)
NO_REGISTRY = "the model registry does not answer and this model is not loaded; try again later"
READY = "ready"  # the health name that tells readiness; "" and the services' names tell liveness

_log = logging.getLogger("glucast.serving")
UnaryMethod = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]]


def status_of(error: Exception) -> grpc.StatusCode | None:
    """The status of the nearest type in the table; None for what no caller can have caused."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), None)


class UnaryInterceptor(grpc.aio.ServerInterceptor):
    """Goes around every unary method; streams (health, reflection) and unknown methods pass as they are."""

    @abstractmethod
    def around(self, method: UnaryMethod, path: str) -> UnaryMethod:
        """What is called instead of `method`; path: /package.Service/Method."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = self.around(cast(UnaryMethod, handler.unary_unary), handler_call_details.method)
        return grpc.unary_unary_rpc_method_handler(
            cast(Any, method),  # the published types know methods of the other, synchronous server only
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class ErrorsAsStatuses(UnaryInterceptor):
    """Our errors become statuses with their sentence; anything else INTERNAL with an id and nothing more."""

    def around(self, method: UnaryMethod, path: str) -> UnaryMethod:
        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await method(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the outermost edge: nothing may leave it as it is
                code = status_of(error)
                if code is None or code is grpc.StatusCode.INTERNAL:
                    await context.abort(grpc.StatusCode.INTERNAL, _log_internal(error))
                if code is grpc.StatusCode.UNAVAILABLE:  # the sentence says where the registry is
                    _log.warning("unavailable: %s", error)
                    await context.abort(code, NO_REGISTRY)
                await context.abort(code, str(error))

        return answer


def _log_internal(error: Exception) -> str:
    """Log where an unforeseen error came from; what the caller is told. Its text may quote readings: left out."""
    reference = uuid.uuid4().hex[:12]
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error("internal error %s: %s\n%s", reference, type(error).__name__, frames)
    return f"internal error {reference}; the service's log says more under this id"


class GrpcServer:
    """One grpc.aio server with health, errors as statuses and, when asked for, reflection.

    Services are added to `server` before `start`.
    """

    def __init__(
        self, services: Sequence[str], interceptors: Sequence[grpc.aio.ServerInterceptor] = (), reflected: bool = False
    ) -> None:
        """services: full names, such as glucast.v1.Forecaster; interceptors: outermost first."""
        self.server = grpc.aio.server(interceptors=[*interceptors, ErrorsAsStatuses()], options=OPTIONS)
        self._services = tuple(services)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        if reflected:
            names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.server)

    async def start(self, host: str, port: int) -> int:
        """Listen, alive and not yet ready; the port, chosen by the system where 0 was given.

        Raises InvalidSetting where the address cannot be used.
        """
        try:
            bound = self.server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise InvalidSetting(f"cannot listen on {host}:{port}; is the port taken? Choose another") from error
        for name in ("", *self._services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(READY, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.server.start()
        return bound

    async def be_ready(self) -> None:
        await self._health.set(READY, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, refuse new requests, give the running ones `drain_seconds`."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(drain_seconds)


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set from now on, in place of ending the process."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told
