"""Many at a time, answered in order: what a stream of requests needs so that they can share batches."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from services.statuses import Stopping

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[R]], at_once: int, stopping: asyncio.Event
) -> AsyncGenerator[R, None]:
    """What `work` makes of each item, in their order; up to `at_once` of them are under way or not yet taken.

    Whatever `work` raises ends it. When `stopping` is set what was begun is answered, and then it raises Stopping.
    """
    begun: asyncio.Queue[asyncio.Future[R] | None] = asyncio.Queue()
    places = asyncio.Semaphore(at_once)
    reader = asyncio.create_task(_begin(items, work, begun, places))
    stopped = asyncio.create_task(stopping.wait())
    stopped.add_done_callback(lambda _: reader.cancel())
    try:
        while (answer := await begun.get()) is not None:
            yield await answer
            places.release()
        if stopping.is_set():
            raise Stopping("the service is stopping; open another stream and send what was not answered")
        await reader  # raises what reading raised
    finally:
        _give_up([stopped, reader])
        _give_up(begun.get_nowait() for _ in range(begun.qsize()))


async def _begin(
    items: AsyncIterator[T],
    work: Callable[[T], Awaitable[R]],
    begun: "asyncio.Queue[asyncio.Future[R] | None]",
    places: asyncio.Semaphore,
) -> None:
    """Begin the work on each item as it comes; None says that no more will."""
    try:
        async for item in items:
            await places.acquire()
            begun.put_nowait(asyncio.ensure_future(work(item)))
    finally:
        begun.put_nowait(None)


def _give_up(futures: Iterable["asyncio.Future[Any] | None"]) -> None:
    for future in futures:
        if future is not None:
            future.cancel()
            future.add_done_callback(_pass_over)


def _pass_over(future: "asyncio.Future[Any]") -> None:
    """Nobody asks how it ended: else the log would say it, and quote with the trace what was sent."""
    if not future.cancelled():
        future.exception()
