"""How any of our servers starts and stops: TLS, health, reflection, what is around every method, drain."""

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from forecasting.errors import InvalidSetting
from services.access import Access
from services.calls import Calls, Method, Unwatched, Watched, Wrapping, free, reader, written
from services.certificates import Certificates
from services.followed_files import FollowedFiles
from services.tokens import Scope

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
READY = "ready"  # the health name that tells readiness; "" and the services' names tell liveness

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def _credentials(followed: FollowedFiles[Certificates]) -> grpc.ServerCredentials:
    """TLS with the newest certificates: gRPC asks for them at every new connection."""
    shown = followed.now()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        newest = followed.now()
        if newest is shown:
            return None
        shown = newest
        return _configuration(newest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        renewed,  # type: ignore[arg-type]  # None is "as before"
        shown.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.certificate)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)


async def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """Start it; the port. Raises InvalidSetting where the address cannot be used."""
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidSetting(f"cannot listen on {address}; is the port taken? Choose another") from error
    await server.start()
    return bound


def _handler(method: MethodDescriptor, function: Any) -> grpc.RpcMethodHandler:
    """What gRPC calls: with the bytes of a message; it gets bytes, and from health a message."""
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(function, None, None)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(function, None, written)  # type: ignore[arg-type]
    return grpc.unary_unary_rpc_method_handler(function, None, None)


class GrpcServer:
    """One grpc.aio server with health, errors as statuses and, when asked for, TLS and reflection."""

    def __init__(
        self,
        reflected: bool = False,
        share_port: bool = False,
        access: Access | None = None,
        certificates: FollowedFiles[Certificates] | None = None,
        health_port: int | None = None,
    ) -> None:
        """share_port: let other processes listen on the same port too. access: all may call everything without it.
        health_port: where health is answered as well, and nothing else, without TLS"""
        # without the option a second server shares a busy port without a word
        options = (*OPTIONS, ("grpc.so_reuseport", int(share_port)))
        self.server = grpc.aio.server(options=options)
        self._probed = None if health_port is None else (grpc.aio.server(options=options), health_port)
        self._handlers: dict[str, grpc.GenericRpcHandler] = {}
        self._calls = Calls()
        self._access = access or Access()
        self._wrapping = Wrapping(self._calls, self._access)
        self._certificates = certificates
        self._reflected = reflected
        self._health = health.aio.HealthServicer()
        self.add(HEALTH, self._health, scope_of=lambda method: Scope.OPEN)  # probes have no tokens

    def add(
        self,
        service: ServiceDescriptor,
        servicer: Any,
        watch: Callable[[str, str, str], Watched] = lambda service, name, kind: Unwatched(),
        around: Callable[[str, str, Method], Method] = lambda service, name, method: method,
        scope_of: Callable[[str], Scope] = lambda method: Scope.FORECAST,
        cost_of: Callable[[Any], int] = free,
    ) -> None:
        """Serve a service; before `start`. watch: called with service, method and type, what counts its calls;
        around: what is called in place of a unary method; scope_of: what a method asks of a caller's token;
        cost_of: as how many more calls than one a request counts.

        The wrapper is made once for each method: an interceptor would be called, and would cost, for every call.
        """
        name, wrapping = service.full_name, self._wrapping

        def wrapped(method: MethodDescriptor) -> Any:
            function: Any = getattr(servicer, method.name)
            watched, read = watch(name, method.name, type_of(method)), reader(GetMessageClass(method.input_type))
            admit = self._access.admission(scope_of(method.name))
            if method.client_streaming:
                return wrapping.stream(function, read, watched, admit)
            if method.server_streaming:
                return wrapping.watch(function, read, watched)
            return wrapping.unary(around(name, method.name, function), read, watched, admit, cost_of)

        handlers = {method.name: _handler(method, wrapped(method)) for method in service.methods}
        self._handlers[name] = grpc.method_handlers_generic_handler(name, handlers)
        self.server.add_generic_rpc_handlers((self._handlers[name],))

    async def start(self, host: str, port: int) -> int:
        """Listen, alive and not yet ready; the port, chosen by the system where 0 was given.

        Raises InvalidSetting where the address cannot be used.
        """
        if self._reflected:
            names = (*self._handlers, reflection.SERVICE_NAME)
            self.add(REFLECTION, reflection.aio.ReflectionServicer(names))
        for name in ("", *self._handlers):
            await self.tell(name, True)
        await self.tell(READY, False)
        credentials = None if self._certificates is None else _credentials(self._certificates)
        bound = await _listen(self.server, f"{host}:{port}", credentials)
        if self._probed is not None:
            server, health_port = self._probed
            server.add_generic_rpc_handlers((self._handlers[HEALTH.full_name],))
            await _listen(server, f"{host}:{health_port}")
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
        if self._probed is not None:
            await self._probed[0].stop(0)
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
