"""Who may call, and how often. What a method asks for is settled when the server is put together, not at every call."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from forecasting.errors import Overloaded
from services.followed_files import FollowedFiles
from services.rates import Rates, host_of
from services.tokens import PermissionDenied, Scope, Tokens, Unauthenticated

DEAREST = 4096  # calls that one may count as, whatever it says of itself
LATER = 10.0  # seconds after which one who has too many streams may try again
NO_ADMIN = (
    "the service has no tokens, and without them nobody may change what others are answered by; start it with "
    "--token-file, and send a token of the scope admin"
)
Admit = Callable[[grpc.aio.ServicerContext], Hashable]  # who calls; raises where they may not


class Access:
    """What callers may do. Without tokens everything but administration is open, as on a machine of one's own."""

    def __init__(
        self, tokens: FollowedFiles[Tokens] | None = None, rates: Rates | None = None, streams_per_caller: int = 0
    ) -> None:
        """streams_per_caller: that may be open at once; 0 does not limit them"""
        self._tokens, self._rates, self._streams_per_caller = tokens, rates, streams_per_caller
        self._streams: Counter[Hashable] = Counter()

    def admission(self, scope: Scope) -> Admit | None:
        """What each call of a method of this scope goes through first; None where there is nothing to ask."""
        if scope is Scope.OPEN:
            return None
        if self._tokens is None and scope is Scope.ADMIN:
            return _refuse
        if self._tokens is None and self._rates is None and not self._streams_per_caller:
            return None
        return partial(self._admit, scope)

    def charge(self, caller: Hashable, cost: int) -> None:
        """Count a call as so many more, which the caller pays off before the next."""
        if self._rates is not None and cost > 0:
            self._rates.charge(caller, min(cost, DEAREST))

    def seconds_until_next(self, caller: Hashable) -> float:
        """How long a stream waits before its next message is taken: a stream is slowed, and not refused."""
        return 0.0 if self._rates is None else self._rates.take(caller)

    def check_still(self, caller: Hashable) -> None:
        """Before each message of a stream, which may last for days; raises Unauthenticated where the token is gone."""
        if self._tokens is not None and not self._tokens.now().knows(caller):
            raise Unauthenticated("the stream's token is known here no longer; open another with a new token")

    @contextmanager
    def stream(self, caller: Hashable) -> Iterator[None]:
        """Around a stream; raises Overloaded where the caller has too many open."""
        if self._streams_per_caller and self._streams[caller] >= self._streams_per_caller:
            raise Overloaded(
                f"{self._streams_per_caller} streams of this caller are open, which is all that it may have; "
                "end one first",
                LATER,
            )
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]

    def _admit(self, scope: Scope, context: grpc.aio.ServicerContext) -> Hashable:
        caller = self._caller(scope, context)
        if self._rates is not None and (pause := self._rates.take(caller)):
            raise Overloaded(f"this caller has made more calls than it may; come again in {pause:.1f} s", pause)
        return caller

    def _caller(self, scope: Scope, context: grpc.aio.ServicerContext) -> Hashable:
        """Whom calls are counted for: who holds the token, else the address."""
        if self._tokens is None:
            return host_of(context.peer())
        holder = self._tokens.now().holder(_authorization(context))
        if holder.scope < scope:
            raise PermissionDenied("the call's token does not allow this method; it needs one of the scope admin")
        return holder.digest


def _authorization(context: grpc.aio.ServicerContext) -> Any:
    return next((value for key, value in context.invocation_metadata() or () if key == "authorization"), None)


def _refuse(context: grpc.aio.ServicerContext) -> Hashable:
    raise PermissionDenied(NO_ADMIN)
