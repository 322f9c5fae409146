"""Statistics of a model version: what its batches did and how long that took, from whichever thread."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from forecasting.errors import InvalidReadings
from services.inference.batcher import Batcher, Limits
from services.inference.statistics import Parts, Statistics
from services.inference.telemetry import Telemetry
from tests.services.test_batcher import Network, context_of


class Slow:
    """A job whose reading and writing take as long as it is told to, or that cannot be read."""

    def __init__(self, reading: float, writing: float, fails: bool = False) -> None:
        self._reading, self._writing, self._fails = reading, writing, fails

    def prepare(self) -> object:
        time.sleep(self._reading)
        if self._fails:
            raise InvalidReadings("no")
        return context_of(np.full(4, 100.0)).context

    def finish(self, context: object, row: object) -> object:
        time.sleep(self._writing)
        return row


async def test_each_part_of_a_batch_is_timed_apart():
    with ThreadPoolExecutor(1) as executor:
        telemetry = Telemetry().for_model("virtual-population", "1")
        batcher = Batcher(Network(seconds=0.06), executor, Limits(size=2, wait_seconds=0.03), telemetry)
        asked = [batcher.submit(Slow(0.01, 0.02)), batcher.submit(Slow(0.01, 0.02))]
        await asyncio.gather(*asked)
        with pytest.raises(InvalidReadings):
            await batcher.submit(Slow(0.0, 0.0, fails=True))
    statistics = batcher.statistics
    assert statistics.waits.count == 3
    assert 0.03 <= statistics.waits.seconds < 0.3
    ((size, parts),) = statistics.by_size().items()  # a batch of which nothing was forecast is none
    assert (size, parts.batches) == (2, 1)
    assert [parts.reading, parts.network, parts.writing] == pytest.approx([0.02, 0.06, 0.04], abs=0.02)
    assert abs(statistics.last_at - time.time()) < 10


def test_batches_from_several_threads_all_count():
    statistics = Statistics()
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda k: statistics.add_batch(1 + k % 3, (0.5, 0.25, 0.125)), range(3000)))
    assert statistics.by_size() == dict.fromkeys((1, 2, 3), Parts(1000, 500.0, 250.0, 125.0))


@pytest.mark.parametrize(("error", "counts"), [(InvalidReadings("no"), (0, 1)), (asyncio.CancelledError(), (0, 0))])
def test_a_request_that_fails_counts_as_that_and_one_given_up_does_not(error, counts):
    statistics = Statistics()
    with pytest.raises(type(error)), statistics.request(time.perf_counter() - 2):
        raise error
    assert (statistics.successes.count, statistics.failures.count) == counts
    assert statistics.failures.seconds == pytest.approx(2 * counts[1], abs=0.5)


def test_a_request_that_is_answered_counts_with_its_time():
    statistics = Statistics()
    with statistics.request(time.perf_counter() - 2):
        pass
    assert (statistics.successes.count, statistics.failures.count) == (1, 0)
    assert statistics.successes.seconds == pytest.approx(2, abs=0.5)
