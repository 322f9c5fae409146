"""When a call is asked again, for both clients.

UNAVAILABLE        the service did not take the call: gRPC itself asks again (SERVICE_CONFIG)
RESOURCE_EXHAUSTED after the pause that the service asks for, where it ends within the deadline
anything else      never
"""

import random
import time

import grpc

from protos.glucast.v1 import forecaster_pb2 as pb
from services.client.refusals import ServiceError

# Of a call that a service which stops, or starts, did not take: asking again does no harm. The waits add up to 4 s.
RETRY = {"maxAttempts": 5, "initialBackoff": "0.25s", "maxBackoff": "2s", "backoffMultiplier": 2}
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": pb.DESCRIPTOR.services_by_name["Forecaster"].full_name}],
            "retryPolicy": RETRY | {"retryableStatusCodes": ["UNAVAILABLE"]},
        }
    ]
}
SHORTEST_PAUSE = 0.05  # seconds; a hint of zero must not become a storm
STREAM_SECONDS = 24 * 3600.0  # a stream lasts so long, then it is opened anew: no call is without a deadline
LATER = 1.5  # times the hint at most: those who were refused together must not come back together


class Retries:
    """One call's deadline, and its attempts within it."""

    def __init__(self, deadline_seconds: float) -> None:
        self._end = time.monotonic() + deadline_seconds

    def seconds_left(self) -> float:
        """Until the deadline; what the next attempt may take."""
        return max(0.0, self._end - time.monotonic())

    def pause_after(self, refusal: ServiceError) -> float:
        """Seconds to wait before asking again; raises the refusal where asking again is of no use."""
        if refusal.status is not grpc.StatusCode.RESOURCE_EXHAUSTED or refusal.retry_seconds is None:
            raise refusal
        pause = max(SHORTEST_PAUSE, refusal.retry_seconds) * random.uniform(1.0, LATER)
        if pause >= self.seconds_left():
            raise refusal
        return pause


def is_broken(refusal: ServiceError) -> bool:
    """Did a stream end because its service stopped, or the way to it broke? Then another goes on where it was."""
    return refusal.status is grpc.StatusCode.UNAVAILABLE
