"""In order: many under way, answered as they came, and none left behind when it ends early."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

from services.inference.in_order import in_order
from services.statuses import Stopping


class Work:
    """Answers each number with itself, the later ones sooner; remembers what was begun and given up."""

    def __init__(self, seconds: float = 0.02, fails_at: int = -1) -> None:
        self.seconds, self.fails_at = seconds, fails_at
        self.begun = self.given_up = 0

    async def __call__(self, number: int) -> int:
        self.begun += 1
        if number == self.fails_at:
            await asyncio.sleep(0.01)
            raise ValueError("it fails")
        try:
            await asyncio.sleep(self.seconds * (1 if number % 2 else 2))
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return number


async def numbers(count: int, then_wait: bool = False) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    if then_wait:
        await asyncio.Event().wait()


async def keep(answers: list[int], items: AsyncIterator[int], work: Work, stopping: asyncio.Event) -> None:
    """Append what is answered, eight at a time, until it ends."""
    async for answer in in_order(items, work, 8, stopping):
        answers.append(answer)


async def test_answers_come_in_order_and_so_many_are_under_way():
    work, answers, began = Work(), [], asyncio.get_running_loop().time()
    async for answer in in_order(numbers(40), work, 8, asyncio.Event()):
        answers.append(answer)
        assert work.begun <= len(answers) + 8
    assert answers == list(range(40))
    assert asyncio.get_running_loop().time() - began < 0.8, "one after another they take 1.2 s"


async def test_what_fails_ends_it_and_the_rest_is_given_up():
    work, answers = Work(seconds=10, fails_at=0), []
    with pytest.raises(ValueError, match="it fails"):
        await keep(answers, numbers(100), work, asyncio.Event())
    await asyncio.sleep(0.01)
    assert (answers, work.begun, work.given_up) == ([], 8, 7)


async def test_what_reading_raises_comes_after_what_was_read():
    async def broken() -> AsyncIterator[int]:
        yield 0
        raise OSError("the line is cut")

    answers = []
    with pytest.raises(OSError, match="the line is cut"):
        await keep(answers, broken(), Work(), asyncio.Event())
    assert answers == [0]


async def test_when_it_is_to_stop_what_was_begun_is_answered():
    stopping, answers = asyncio.Event(), []
    asyncio.get_running_loop().call_later(0.01, stopping.set)
    with pytest.raises(Stopping):
        await keep(answers, numbers(5, then_wait=True), Work(), stopping)
    assert answers == list(range(5))


async def test_what_fails_as_it_is_given_up_is_not_logged(caplog):
    async def fail(number: int) -> int:
        try:
            await asyncio.sleep(10 * number)
        except asyncio.CancelledError:
            raise ValueError("what was sent") from None
        return number

    answers = in_order(numbers(5), fail, 8, asyncio.Event())
    assert await anext(answers) == 0
    await answers.aclose()
    await asyncio.sleep(0.05)
    gc.collect()
    assert "what was sent" not in caplog.text


async def test_who_leaves_early_leaves_nothing_under_way():
    work = Work()
    answers = in_order(numbers(100), work, 8, asyncio.Event())
    assert await anext(answers) == 0
    await answers.aclose()
    await asyncio.sleep(0.1)
    assert work.begun <= 9
    assert len(asyncio.all_tasks()) == 1
