"""Attempts: one at a time for each thing, and none too soon after one that failed."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from forecasting.errors import IntegrityError

LONGEST_PAUSE_SECONDS = 300.0  # between two attempts to load what failed
REMEMBERED = 4096  # things that are not there; callers choose them, so memory of them must end somewhere

Key = tuple[str, str, str]  # name, number and digest of a version


class OnePerKey:
    """Runs one piece of work for a key at a time; whoever asks meanwhile waits for the same result."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Task] = {}

    async def run(self, key: Any, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `work`, which goes on even when the caller who began it is cancelled."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(work())  # type: ignore[arg-type]
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: Any, done: asyncio.Task) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # fetched here too: every caller may be gone, which is no fault


@dataclass(frozen=True)
class Failure:
    """A version that could not be opened, and when that is tried again (monotonic seconds)."""

    error: IntegrityError
    until: float
    pause: float


class Failures:
    """Versions that could not be opened; each is tried again after pauses that grow."""

    def __init__(self, first_pause: float) -> None:
        self._first_pause = first_pause
        self._known: dict[Key, Failure] = {}

    def check(self, key: Key) -> None:
        """Raises IntegrityError, as it was, while it is too soon for another attempt."""
        failure = self._known.get(key)
        if failure is not None and time.monotonic() < failure.until:
            raise IntegrityError(str(failure.error))  # another each time: a traceback must not grow

    def remember(self, key: Key, error: IntegrityError) -> None:
        """It failed, perhaps again."""
        before = self._known.get(key)
        pause = self._first_pause if before is None else min(2 * before.pause, LONGEST_PAUSE_SECONDS)
        self._known[key] = Failure(error, time.monotonic() + pause, pause)

    def forget(self, key: Key) -> None:
        """It did not fail."""
        self._known.pop(key, None)

    def forget_model(self, name: str) -> None:
        """Whatever failed of this model is tried again when it is next asked for."""
        for key in [key for key in self._known if key[0] == name]:
            self.forget(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._known)


class Absent:
    """References that led nowhere, believed to do so for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, float] = OrderedDict()

    def add(self, reference: str) -> None:
        """It led nowhere just now."""
        self._until[reference] = time.monotonic() + self._seconds
        self._until.move_to_end(reference)
        if len(self._until) > REMEMBERED:
            self._until.popitem(last=False)

    def __contains__(self, reference: str) -> bool:
        return time.monotonic() < self._until.get(reference, 0.0)
