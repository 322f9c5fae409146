"""What is around every method of a server: who may call, messages in and out, errors as statuses, counts, an id."""

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Any, NoReturn, Protocol

import grpc
from google.protobuf.message import DecodeError, Message

from forecasting.errors import InvalidInput
from services import logs
from services.access import Access, Admit
from services.statuses import status_of

DETAILS = "grpc-status-details-bin"  # metadata that carries google.rpc.Status, by the convention of gRPC
REQUEST_ID = "x-request-id"  # metadata: of a call if it brings one, and of every answer that is an error
GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_CODES = {code.value[0]: code for code in grpc.StatusCode}
Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]
StreamMethod = Callable[[AsyncIterator[Any], grpc.aio.ServicerContext], AsyncIterator[Any]]
Read = Callable[[bytes], Message]


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


class Unwatched:
    """Counts nothing: health and reflection are not what the service is there for."""

    def began(self) -> None:
        """See Watched."""

    def ended(self, code: str, seconds: float) -> None:
        """See Watched."""

    def received(self) -> None:
        """See Watched."""

    def sent(self) -> None:
        """See Watched."""


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


async def _abort(context: grpc.aio.ServicerContext, error: Exception, request_id: str) -> NoReturn:
    status = status_of(error)
    details = ((DETAILS, status.SerializeToString()),) if status.details else ()
    await context.abort(_CODES[status.code], status.message, (*details, (REQUEST_ID, request_id)))


def _code_of(context: grpc.aio.ServicerContext) -> str:
    code: Any = context.code()  # a number or a member, as it was set; None where it was not
    return getattr(_CODES.get(code, code), "name", grpc.StatusCode.UNKNOWN.name)


class _Call:
    """Around one call: it is counted, our errors become statuses with their sentence, others INTERNAL with an id."""

    def __init__(self, context: grpc.aio.ServicerContext, watched: Watched, calls: Calls) -> None:
        self._context, self._watched, self._calls = context, watched, calls
        self._began = time.perf_counter()
        self._request_id = ""
        self._is_over = False

    @property
    def request_id(self) -> str:
        """The caller's own, if it is well formed, else one that is made: not before somebody asks."""
        if not self._request_id and not self._is_over:
            given = (value for key, value in self._context.invocation_metadata() or () if key == REQUEST_ID)
            own = next(given, "")
            self._request_id = own if isinstance(own, str) and GOOD_ID.fullmatch(own) else uuid.uuid4().hex[:16]
        return "" if self._is_over else self._request_id

    async def __aenter__(self) -> None:
        logs.CALL.set(self)
        self._watched.began()
        self._calls.begin()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
                await _abort(self._context, error, self.request_id)
        finally:
            self._is_over = True
            self._calls.end()
            self._watched.ended(self._code(error), time.perf_counter() - self._began)

    def _code(self, error: BaseException | None) -> str:
        if error is None:
            return "OK"
        return _code_of(self._context) if isinstance(error, Exception) else "CANCELLED"


def deadline_of(context: grpc.aio.ServicerContext) -> float | None:
    """When the caller stops waiting, on time.monotonic(); None where they said nothing."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left


def free(request: Any) -> int:
    """What a request costs beyond one call: nothing."""
    return 0


class Wrapping:
    """What is around the methods of one server. Messages are read here, and not by gRPC: after the caller was let in,
    and where an error on the way becomes a status of ours instead of the text of an exception.
    """

    def __init__(self, calls: Calls, access: Access) -> None:
        self._calls, self._access = calls, access

    def unary(
        self, method: Method, read: Read, watched: Watched, admit: Admit | None, cost_of: Callable[[Any], int]
    ) -> Method:
        """A method that gets one message and gives one."""
        calls, charge = self._calls, self._access.charge

        async def answer(content: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with _Call(context, watched, calls):
                if admit is None:
                    return written(await method(read(content), context))
                caller = admit(context)
                request = read(content)
                charge(caller, cost_of(request))
                return written(await method(request, context))

        return answer

    def watch(self, method: Method, read: Read, watched: Watched) -> Method:
        """A method that gets one message and sends many by itself, as that of health does."""
        calls = self._calls

        async def answer(content: bytes, context: grpc.aio.ServicerContext) -> None:
            async with _Call(context, watched, calls):
                await method(read(content), context)

        return answer

    def stream(self, method: StreamMethod, read: Read, watched: Watched, admit: Admit | None) -> StreamMethod:
        """A method that gets many messages and gives many."""
        calls, access = self._calls, self._access

        async def taken(contents: AsyncIterator[bytes], caller: Hashable) -> AsyncIterator[Message]:
            async for content in contents:
                watched.received()
                if admit is not None:
                    access.check_still(caller)
                    while pause := access.seconds_until_next(caller):
                        await asyncio.sleep(pause)
                yield read(content)

        async def answer(contents: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            async with _Call(context, watched, calls):
                caller = admit(context) if admit is not None else None
                with access.stream(caller):
                    async for response in method(taken(contents, caller), context):
                        watched.sent()
                        yield written(response)

        return answer


def reader(kind: type[Message]) -> Read:
    """What reads messages of a kind; raises InvalidInput."""
    parse = kind.FromString

    def read(content: bytes) -> Message:
        try:
            return parse(content)
        except DecodeError:
            raise InvalidInput(f"the message is no {kind.DESCRIPTOR.full_name}; write it by the .proto file") from None

    return read


def written(answer: Message | bytes) -> bytes:
    """A method may also give the bytes of its answer."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()
