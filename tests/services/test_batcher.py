"""Batches: mates that cannot hurt each other, and no work that nobody wants."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.context import Context
from forecasting.errors import IntegrityError, Overloaded, TooLate
from forecasting.forecaster import Forecaster, Forecasts
from services.inference.batcher import Batcher, Limits, Plain, Row
from services.inference.telemetry import Telemetry
from tests.services.conftest import tiny_bundle

LEVELS = (0.05, 0.5, 0.95)


class Network:
    """Forecasts the last reading, as slowly as it is told to; remembers how large its batches were.

    A context that ends in 13 is one that it cannot forecast.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches = seconds, []
        self.began = threading.Event()

    def predict(
        self, context: np.ndarray, minute_of_day: np.ndarray, history: object, events: object, *, batch_size: int
    ) -> Forecasts:
        self.batches.append([float(v) for v in context[:, -1]])
        self.began.set()
        time.sleep(self.seconds)
        if (context[:, -1] == 13).any():
            raise IntegrityError("no number")
        mean = np.repeat(context[:, -1:], 2, axis=1)
        return Forecasts.of(mean, mean[..., None] + np.array([-10.0, 0, 10]), LEVELS)


@pytest.fixture
def make():
    with ThreadPoolExecutor(2) as executor:
        yield lambda network, **limits: Batcher(
            network, executor, Limits(**limits), Telemetry().for_model("virtual-population", "1")
        )


def ask(batcher: Batcher, last: float, **more: object) -> asyncio.Task:
    async def row() -> Row:
        return await batcher.submit(context_of(np.full(4, last)), **more)

    return asyncio.create_task(row())


def context_of(glucose: np.ndarray, minute: float = 60.0) -> Plain:
    return Plain(Context(glucose, minute, 0, (), 0, 0, np.empty(0)))


async def began(network: Network) -> None:
    """Until the network computes its first batch."""
    assert await asyncio.to_thread(network.began.wait, 5)


async def test_what_waits_together_is_computed_together_and_in_order(make):
    network = Network()
    batcher = make(network, size=4, wait_seconds=0.02)
    rows = await asyncio.gather(*[ask(batcher, 100.0 + k) for k in range(6)])
    assert [row.mean[0] for row in rows] == [100.0 + k for k in range(6)]
    assert [len(batch) for batch in network.batches] == [4, 2]


async def test_a_forecast_alone_waits_no_longer_than_it_is_told_to(make):
    network = Network()
    began_at = time.monotonic()
    await ask(make(network, wait_seconds=0.05), 100)
    assert 0.04 < time.monotonic() - began_at < 0.5


@pytest.mark.parametrize("moment", ["before dispatch", "during compute", "after compute"])
async def test_a_cancelled_mate_hurts_nobody(make, moment):
    """The bug of MLServer 1.7.1: one deadline of five took the other four with it."""
    network = Network(seconds=0.1)
    batcher = make(network, size=8, wait_seconds=0.05)
    mates = [ask(batcher, 100.0 + k) for k in range(5)]
    if moment == "before dispatch":
        await asyncio.sleep(0.01)
        mates[2].cancel()
    elif moment == "during compute":
        await began(network)
        mates[2].cancel()
    else:
        await mates[2]
        mates[2].cancel()
    began_at = time.monotonic()
    rows = await asyncio.gather(*mates, return_exceptions=True)
    others = [row for k, row in enumerate(rows) if k != 2]
    assert [row.mean[0] for row in others] == [100.0, 101.0, 103.0, 104.0]
    assert time.monotonic() - began_at < 0.5
    assert network.batches == [[100.0, 101.0, *([] if moment == "before dispatch" else [102.0]), 103.0, 104.0]]
    assert (await ask(batcher, 110.0)).mean[0] == 110.0  # and the batcher goes on


async def test_an_expired_mate_is_not_computed_and_the_others_are(make):
    network = Network()
    batcher = make(network, wait_seconds=0.05)
    hasty = ask(batcher, 100.0, deadline=time.monotonic() + 0.01)
    mates = [ask(batcher, 101.0), ask(batcher, 102.0, deadline=time.monotonic() + 5)]
    rows = await asyncio.gather(*mates)
    assert [row.mean[0] for row in rows] == [101.0, 102.0]
    with pytest.raises(TooLate, match="was not computed"):
        await hasty
    assert network.batches == [[101.0, 102.0]]


async def test_one_that_cannot_be_forecast_fails_alone(make):
    batcher = make(Network(), wait_seconds=0.02)
    rows = await asyncio.gather(*[ask(batcher, v) for v in (100.0, 13.0, 102.0)], return_exceptions=True)
    assert [rows[0].mean[0], rows[2].mean[0]] == [100.0, 102.0]
    assert isinstance(rows[1], IntegrityError)


async def test_a_fault_of_the_network_reaches_everybody_who_waits(make, monkeypatch):
    network = Network()
    monkeypatch.setattr(network, "predict", lambda *_, **__: 1 / 0)
    batcher = make(network, wait_seconds=0.01)
    rows = await asyncio.gather(*[ask(batcher, 100.0) for _ in range(3)], return_exceptions=True)
    assert [type(row) for row in rows] == [ZeroDivisionError] * 3


async def test_a_full_queue_refuses_with_the_time_to_try_again(make):
    network = Network(seconds=0.2)
    batcher = make(network, size=2, queue=3, wait_seconds=0.0)
    first = [ask(batcher, 100.0), ask(batcher, 101.0)]
    await began(network)
    waiting = [ask(batcher, 110.0 + k) for k in range(3 - batcher.waiting)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded, match=r"3 forecasts wait.*try again in \d") as refused:
        await ask(batcher, 120.0)
    assert refused.value.retry_seconds > 0
    rows = await asyncio.gather(*first, *waiting)
    assert all(row.mean[0] >= 100 for row in rows)


async def test_those_who_gave_up_make_room_in_a_full_queue(make):
    network = Network(seconds=0.2)
    batcher = make(network, size=1, queue=2, wait_seconds=0.0)
    ask(batcher, 100.0)
    await began(network)
    given_up = [ask(batcher, 101.0), ask(batcher, 102.0)]
    await asyncio.sleep(0.01)
    for task in given_up:
        task.cancel()
    await asyncio.sleep(0.01)
    assert (await ask(batcher, 103.0)).mean[0] == 103.0


async def test_a_deadline_that_the_queue_cannot_meet_is_refused_at_once(make):
    network = Network(seconds=0.1)
    batcher = make(network, size=1, wait_seconds=0.0)
    await ask(batcher, 100.0)  # it learns how long a forecast takes
    waiting = [ask(batcher, 100.0 + k) for k in range(6)]
    await asyncio.sleep(0.01)
    began_at = time.monotonic()
    with pytest.raises(Overloaded, match="the deadline would pass"):
        await ask(batcher, 120.0, deadline=time.monotonic() + 0.2)
    assert time.monotonic() - began_at < 0.05
    await asyncio.gather(*waiting)


async def test_bulk_is_computed_after_all_that_is_not(make):
    network = Network(seconds=0.05)
    batcher = make(network, size=2, wait_seconds=0.0)
    first = ask(batcher, 90.0)
    await began(network)
    bulk = [ask(batcher, 100.0 + k, bulk=True) for k in range(3)]
    urgent = [ask(batcher, 200.0 + k) for k in range(3)]
    await asyncio.gather(first, *bulk, *urgent)
    assert network.batches[1:] == [[200.0, 201.0], [202.0, 100.0], [101.0, 102.0]]


async def test_bulk_never_takes_the_place_of_what_is_not(make):
    network = Network(seconds=0.1)
    batcher = make(network, size=1, queue=3, wait_seconds=0.0)
    first = ask(batcher, 90.0)
    await began(network)
    bulk = [ask(batcher, 100.0 + k, bulk=True) for k in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await ask(batcher, 110.0, bulk=True)
    urgent = ask(batcher, 200.0)
    await asyncio.gather(first, urgent, *bulk)
    assert network.batches[1] == [200.0]


async def test_no_more_batches_are_computed_at_once_than_allowed(make):
    network = Network(seconds=0.02)
    at_once, most = 0, 0
    lock, plain = threading.Lock(), network.predict

    def predict(*given: object, **more: object) -> Forecasts:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return plain(*given, **more)
        finally:
            with lock:
                at_once -= 1

    network.predict = predict
    batcher = make(network, size=2, wait_seconds=0.0, concurrent=1)
    await asyncio.gather(*[ask(batcher, 100.0 + k) for k in range(10)])
    assert most == 1


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory) -> Forecaster:
    return Forecaster.open(tiny_bundle(tmp_path_factory.mktemp("bundle") / "b", "virtual-population"))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(1, 40), size=st.integers(1, 16))
def test_a_forecast_does_not_depend_on_who_else_is_in_the_batch(forecaster, data, count, size):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    contexts = rng.uniform(40, 400, (count, 36))
    minutes = rng.uniform(0, 1440, count)
    alone = [forecaster.predict(contexts[k : k + 1], minutes[k : k + 1]) for k in range(count)]

    async def together() -> list:
        with ThreadPoolExecutor(1) as executor:
            telemetry = Telemetry().for_model("virtual-population", "1")
            batcher = Batcher(forecaster, executor, Limits(size=size, wait_seconds=0.001), telemetry)
            order = rng.permutation(count)
            futures = {k: batcher.submit(context_of(contexts[k], float(minutes[k]))) for k in order}
            return [await futures[k] for k in range(count)]

    for row, one in zip(asyncio.run(together()), alone, strict=True):
        np.testing.assert_allclose(row.mean, one.mean[0], atol=1e-6)
        np.testing.assert_allclose(row.quantiles, one.quantiles[0], atol=1e-6)
        np.testing.assert_allclose(row.below_low, one.probability_below(70)[0], atol=1e-6)
