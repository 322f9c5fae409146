"""What one model version did since it was opened, for callers who ask; Prometheus' series cannot be read back."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace


@dataclass(slots=True)
class Total:
    """How often something happened, and how long that took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        """It happened so often more, in so long together."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class Parts:
    """How long batches took, in seconds: reading what was sent, the network, writing the answers."""

    batches: int = 0
    reading: float = 0.0
    network: float = 0.0
    writing: float = 0.0

    def add(self, batches: int, seconds: tuple[float, float, float]) -> None:
        """So many more batches, whose parts took so long."""
        reading, network, writing = seconds
        self.batches += batches
        self.reading += reading
        self.network += network
        self.writing += writing


class Statistics:
    """Counts of one model version. Batches are added from any thread, the rest from the event loop.

    waits: of forecasts in the queue; successes, failures: of requests that bring tensors
    last_at: seconds since 1970 of the last batch, 0 before the first
    """

    def __init__(self) -> None:
        self.waits, self.successes, self.failures = Total(), Total(), Total()
        self.last_at = 0.0
        self._by_size: dict[int, Parts] = {}
        self._adding = threading.Lock()

    def add_batch(self, size: int, seconds: tuple[float, float, float]) -> None:
        """A batch of so many forecasts was computed; seconds: of its parts"""
        with self._adding:
            parts = self._by_size.get(size)
            if parts is None:
                parts = self._by_size[size] = Parts()
            parts.add(1, seconds)
            self.last_at = time.time()

    def by_size(self) -> dict[int, Parts]:
        """The batches of each size until now, smallest first."""
        with self._adding:
            return {size: replace(parts) for size, parts in sorted(self._by_size.items())}

    @contextmanager
    def request(self, began: float) -> Iterator[None]:
        """Around the rest of a request that began at a time.perf_counter(); one that is given up counts as neither."""
        try:
            yield
        except Exception:
            self.failures.add(1, time.perf_counter() - began)
            raise
        self.successes.add(1, time.perf_counter() - began)
