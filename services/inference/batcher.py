"""Dynamic batching of one model version: forecasts that wait at the same time are computed together.

A batch closes when it is full or when its first forecast has waited long enough, and while one is computed the next
one gathers. Only what is still wanted is computed: a caller who gave up, or whose deadline would pass, is left out.
Mates share nothing but the time: each has a future of its own, and values do not depend on who else is in the batch.

Reading requests and writing answers belong to the batch too: done one after another, between nothing else, they take
a third of the time that they take between the calls of a server.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL
from forecasting.context import Context
from forecasting.errors import IntegrityError, Overloaded, TooLate
from forecasting.events import EVENTS
from forecasting.forecaster import Forecaster
from services.inference.statistics import Statistics
from services.inference.telemetry import ModelTelemetry

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
CAUTION = 1.5  # an accepted forecast that comes too late is worse than one refused in time
SWEEP_SECONDS = 0.05  # between two walks through a full queue for those who gave up
LEARNING = 0.2  # weight of the newest batch in the running mean of how long a forecast takes
TOO_LATE = "the forecast would come after its deadline and was not computed; allow more time, or try again"


@dataclass(frozen=True)
class Limits:
    """How one model version is batched.

    size: forecasts computed together at most; wait_seconds: how long the first of them waits for others
    queue: forecasts that may wait; concurrent: batches computed at the same time
    inline_seconds: a batch that takes no longer, none of it bulk, is computed in the event loop itself: handing it to
    a thread, whose core knows nothing of it yet, takes as long as computing a few forecasts
    """

    size: int = 64
    wait_seconds: float = 0.002
    queue: int = 1024
    concurrent: int = 1
    inline_seconds: float = 0.01


@dataclass(frozen=True, slots=True)
class Row:
    """One forecast in mg/dL.

    outputs:   (steps, 1 + levels), the mean and then the quantiles
    below_low: (steps,) P(< 70 mg/dL); above_high: (steps,) P(> 180 mg/dL); empty for a model without quantiles
    """

    outputs: np.ndarray
    below_low: np.ndarray
    above_high: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(steps,)"""
        return self.outputs[:, 0]

    @property
    def quantiles(self) -> np.ndarray:
        """(steps, levels)"""
        return self.outputs[:, 1:]


class Job(Protocol[T_co]):
    """What becomes a forecast. Both methods are called in the thread of the batch."""

    def prepare(self) -> Context:
        """What the model looks at; an exception is this job's outcome alone."""

    def finish(self, context: Context, row: Row) -> T_co:
        """The outcome, made from the forecast."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A context that is there already; its outcome is the row."""

    context: Context

    def prepare(self) -> Context:
        """See Job."""
        return self.context

    def finish(self, context: Context, row: Row) -> Row:
        """See Job."""
        return row


@dataclass(frozen=True, slots=True)
class _Failed:
    """An outcome that is an exception."""

    error: Exception


@dataclass(slots=True, eq=False)
class _Waiting:
    """A job in the queue. deadline, since: seconds of time.monotonic()."""

    job: Job[Any]
    bulk: bool
    deadline: float | None
    since: float
    future: "asyncio.Future[Any]"


class Batcher:
    """Used from one event loop; batches run in `executor`."""

    def __init__(self, forecaster: Forecaster, executor: Executor, limits: Limits, telemetry: ModelTelemetry) -> None:
        self._forecaster, self._executor = forecaster, executor
        self._limits, self.telemetry = limits, telemetry
        self.statistics = Statistics()
        self._urgent: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._running = 0
        self._is_held = False
        self._gathering_since = self._swept_at = 0.0
        self._seconds_each = 0.0  # running mean; 0 until the first batch has shown it

    def submit(self, job: Job[T], deadline: float | None = None, bulk: bool = False) -> "asyncio.Future[T]":
        """Queue a job; the future can be cancelled at any time without harm to others.

        deadline: of time.monotonic(); bulk: computed after all that is not
        Raises Overloaded where the queue is full or the deadline could not be met. The future raises TooLate where
        the deadline can no longer be met, IntegrityError where the network gives no number, and what the job raises.
        """
        now = time.monotonic()
        self._admit(now, deadline, bulk)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        (self._bulk if bulk else self._urgent).append(_Waiting(job, bulk, deadline, now, future))
        self._arrange(now)
        return future

    def hold(self, is_held: bool) -> None:
        """Begin no batch until told to go on; what comes waits."""
        self._is_held = is_held
        if not is_held:
            self._go_on()

    @property
    def waiting(self) -> int:
        """Forecasts in the queue, wanted or not."""
        return len(self._urgent) + len(self._bulk)

    def _admit(self, now: float, deadline: float | None, bulk: bool) -> None:
        """Raises Overloaded; bulk never takes the place of what is not."""
        if self._ahead(bulk) >= self._limits.queue and now - self._swept_at > SWEEP_SECONDS:
            self._swept_at = now
            self._drop_unwanted(now)
        ahead = self._ahead(bulk)
        expected = self._expected_seconds(ahead)
        if ahead >= self._limits.queue:
            self._refuse("queue_full", f"{ahead} forecasts wait, which is all that may", expected)
        if deadline is not None and ahead and now + CAUTION * expected > deadline:
            self._refuse("deadline", "so many forecasts wait that the deadline would pass", expected)

    def _refuse(self, reason: str, why: str, expected: float) -> None:
        self.telemetry.rejected(reason).inc()
        retry_seconds = max(expected, 0.01)
        raise Overloaded(f"{why}; try again in {retry_seconds:.2f} s, or send less", retry_seconds)

    def _ahead(self, bulk: bool) -> int:
        return self.waiting if bulk else len(self._urgent)

    def _expected_seconds(self, ahead: int) -> float:
        """Until a forecast that comes now is answered, as far as can be told; ahead: those that wait before it."""
        size = self._limits.size
        before = ahead + self._running * size  # as if none of what runs were done yet
        own = min(ahead + 1, size)  # it is answered when its whole batch is
        return (before / self._limits.concurrent + own) * self._seconds_each

    def _drop_unwanted(self, now: float) -> None:
        for queue in (self._urgent, self._bulk):
            wanted = [item for item in queue if self._is_wanted(item, now, self._seconds_each)]
            queue.clear()
            queue.extend(wanted)

    def _arrange(self, now: float) -> None:
        """Start a batch where one is due, else see to it that one will be."""
        if self._is_held or self._running >= self._limits.concurrent or not self.waiting:
            return  # what waits is seen to when a batch ends
        first = min(queue[0].since for queue in (self._urgent, self._bulk) if queue)
        left = max(first, self._gathering_since) + self._limits.wait_seconds - now
        if self.waiting >= self._limits.size or left <= 0:
            self._start(now)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        self._go_on()

    def _start(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items = self._take(now)
        self.telemetry.queue_depth.set(self.waiting)
        if not items:
            return
        self._running += 1
        is_short = 0 < self._seconds_each * len(items) <= self._limits.inline_seconds
        if is_short and not items[-1].bulk:  # bulk comes last, and more of it follows
            self._ended(items, self._outcomes(items))
            self._gathering_since = time.monotonic()  # nothing could come in meanwhile
        else:
            computing = asyncio.get_running_loop().run_in_executor(self._executor, self._outcomes, items)
            computing.add_done_callback(lambda done: self._ended(items, done.result()))

    def _take(self, now: float) -> list[_Waiting]:
        """Up to a batch of what is still wanted, urgent first."""
        items: list[_Waiting] = []
        waited = 0.0
        batch_seconds = self._seconds_each * min(self.waiting, self._limits.size)
        for queue in (self._urgent, self._bulk):
            while queue and len(items) < self._limits.size:
                item = queue.popleft()
                if self._is_wanted(item, now, batch_seconds):
                    items.append(item)
                    waited += now - item.since
                    self.telemetry.queue_seconds.observe(now - item.since)
        self.statistics.waits.add(len(items), waited)
        return items

    def _is_wanted(self, item: _Waiting, now: float, batch_seconds: float) -> bool:
        if item.future.done():
            self.telemetry.cancelled.inc()
            return False
        if item.deadline is not None and now + batch_seconds > item.deadline:
            self.telemetry.expired.inc()
            _fail(item.future, TooLate(TOO_LATE))
            return False
        return True

    def _outcomes(self, items: list[_Waiting]) -> list[Any]:
        """An outcome for each, in order; where the batch itself fails, that for all. Never raises."""
        outcomes = _attempt(self._compute, items)
        return [outcomes] * len(items) if isinstance(outcomes, _Failed) else outcomes

    def _compute(self, items: list[_Waiting]) -> list[Any]:
        began = time.perf_counter()
        outcomes: list[Any] = [_attempt(item.job.prepare) for item in items]
        prepared = [k for k, outcome in enumerate(outcomes) if not isinstance(outcome, _Failed)]
        read = time.perf_counter()
        rows = self._rows_or_errors([outcomes[k] for k in prepared])
        forecast = time.perf_counter()
        for k, row in zip(prepared, rows, strict=True):
            outcomes[k] = row if isinstance(row, _Failed) else _attempt(items[k].job.finish, outcomes[k], row)
        written = time.perf_counter()
        self._learn(len(items), len(prepared), (read - began, forecast - read, written - forecast))
        return outcomes

    def _rows_or_errors(self, contexts: list[Context]) -> list[Row | _Failed]:
        try:
            return [*self._rows(contexts)] if contexts else []
        except IntegrityError:  # which of them it was is seen when each is alone
            return [_attempt(lambda context=context: self._rows([context])[0]) for context in contexts]

    def _rows(self, contexts: list[Context]) -> list[Row]:
        glucose = np.stack([context.glucose_mg_dl for context in contexts])
        minutes = np.array([context.minute_of_day for context in contexts], np.float32)
        history = np.stack([context.history for context in contexts])
        events = _events_of(contexts)
        forecasts = self._forecaster.predict(glucose, minutes, history, events, batch_size=len(contexts))
        if not forecasts.levels:
            none = np.empty(0)
            return [Row(outputs, none, none) for outputs in forecasts.outputs]
        below, above = forecasts.probability_below(LOW_MG_DL), forecasts.probability_above(HIGH_MG_DL)
        return [Row(*values) for values in zip(forecasts.outputs, below, above, strict=True)]

    def _ended(self, items: list[_Waiting], outcomes: list[Any]) -> None:
        self._running -= 1
        for item, outcome in zip(items, outcomes, strict=True):
            _settle(item.future, outcome)
        # later: what waits in the event loop, health for one, gets its turn between two batches
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._arrange(time.monotonic())

    def _learn(self, jobs: int, forecasts: int, seconds: tuple[float, float, float]) -> None:
        """seconds: of reading, of the network, of writing"""
        together = sum(seconds)
        each = together / jobs
        self._seconds_each += (LEARNING if self._seconds_each else 1.0) * (each - self._seconds_each)
        telemetry = self.telemetry
        telemetry.compute_seconds.observe(together)
        if forecasts:
            telemetry.batch_size.observe(forecasts)
            telemetry.inferences.inc(forecasts)
            telemetry.executions.inc()
            self.statistics.add_batch(forecasts, seconds)


def _events_of(contexts: list[Context]) -> np.ndarray | None:
    """(n, context_length, 3), NaN for whom nothing is recorded; None where that is everybody."""
    if all(context.events is None for context in contexts):
        return None
    unknown = np.full((len(contexts[0].glucose_mg_dl), len(EVENTS)), np.nan, np.float32)
    return np.stack([unknown if context.events is None else context.events for context in contexts])


def _attempt(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns, or how it failed: the outcome of one job, and no other's."""
    try:
        return function(*given)
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for this job
        return _Failed(error)


def _settle(future: "asyncio.Future[Any]", outcome: Any) -> None:
    """Hand an outcome over, unless its caller has gone."""
    if future.done():
        return
    if isinstance(outcome, _Failed):
        _fail(future, outcome.error)
    else:
        future.set_result(outcome)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # fetched here too: a caller who has gone is no fault, and the log must not quote what was sent
