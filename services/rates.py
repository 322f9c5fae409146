"""How often one caller may call: a bucket of tokens for each, filled steadily, emptied by calls."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from urllib.parse import unquote

MOST_CALLERS = 10_000  # remembered; whoever has not called for longest is forgotten, and begins with a full bucket


class Rates:
    """Allowances of callers. A call costs the same however many callers there are, and memory is bounded."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, float(burst), clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # {caller: (left, then)}

    def take(self, caller: Hashable) -> float:
        """Count one call: 0 where it may be made now, else the seconds until it may."""
        left, now = self._left_of(caller)
        self._keep(caller, left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self._per_second

    def charge(self, caller: Hashable, cost: int) -> None:
        """Let a call that was let through cost so much more, even more than is left."""
        left, now = self._left_of(caller)
        self._keep(caller, left - cost, now)

    def _left_of(self, caller: Hashable) -> tuple[float, float]:
        now = self._clock()
        left, then = self._left.pop(caller, (self._burst, now))
        return min(self._burst, left + (now - then) * self._per_second), now

    def _keep(self, caller: Hashable, left: float, now: float) -> None:
        self._left[caller] = left, now  # at the end: whoever has not called for longest is the first
        if len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)


@lru_cache(maxsize=4096)
def host_of(peer: str) -> str:
    """Who a peer of gRPC (ipv4:127.0.0.1:4711) is: its address; of IPv6 the network, all of which one may have."""
    kind, _, rest = peer.partition(":")
    address = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    if kind != "ipv6":
        return address or peer
    try:
        mapped = IPv6Address(address).ipv4_mapped
        return str(mapped or ip_network(f"{address}/64", strict=False))
    except ValueError:
        return peer
