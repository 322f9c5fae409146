"""Models in trouble: registries that hang, disks that are full, networks that crash, callers who ask for nonsense."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forecasting.bundle import Bundle
from forecasting.errors import IntegrityError, NotFound
from forecasting.forecaster import Forecaster
from forecasting.references import Version
from services.inference import models as under_test
from services.inference.attempts import OnePerKey
from services.inference.batcher import Batcher, Limits
from services.inference.models import Bounds, Models
from services.inference.telemetry import Telemetry
from tests.services.paper_registry import Paper

POPULATION = ("virtual-population@champion",)
FAILURES = "glucose_model_load_failures_total"


@pytest.fixture
def paper(tmp_path) -> Paper:
    made = Paper(tmp_path / "paper", tmp_path / "cache")
    made.put("virtual-population")
    return made


@asynccontextmanager
async def models_of(
    paper: Paper, refresh_seconds: float = 0.05, memory: int = 1 << 30
) -> AsyncIterator[tuple[Models, Telemetry]]:
    telemetry = Telemetry()

    def batcher_for(version: Version, forecaster: Forecaster) -> Batcher:
        return Batcher(forecaster, None, Limits(), telemetry.for_model(version.name, version.version))

    models = Models(paper, Bounds("virtual", refresh_seconds, memory, 4), batcher_for, telemetry)
    models.start()
    try:
        yield models, telemetry
    finally:
        await models.stop()


async def until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.01)


def value(telemetry: Telemetry, series: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(series, labels) or 0.0


# what callers ask for


async def test_a_number_that_is_not_there_is_asked_of_the_registry_once(paper):
    async with models_of(paper, refresh_seconds=30) as (models, _):
        await until(lambda: models.is_ready)
        for _ in range(20):
            with pytest.raises(NotFound):
                await models.first(("virtual-population/99",))
    assert paper.asked["virtual-population/99"] == 1


async def test_a_number_that_comes_later_is_found_after_a_look(paper):
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        with pytest.raises(NotFound):
            await models.first(("virtual-population/2",))
        paper.put("virtual-population", 0.1, alias="challenger")
        await asyncio.sleep(0.2)
        assert (await models.first(("virtual-population/2",))).opened.version.version == "2"


async def test_zeros_before_a_number_open_nothing_twice(paper):
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        for number in ("1", "01", "000000001"):
            assert (await models.first((f"virtual-population/{number}",))).opened.version.version == "1"
        assert len(models.opened()) == 1


async def test_a_version_of_somebody_else_is_refused_and_asked_for_once(paper):
    paper.versions["virtual-570", "1"] = {}, paper.folder  # without our digest
    paper.models["virtual-570"] = {"champion": "1"}
    async with models_of(paper, refresh_seconds=30) as (models, telemetry):
        await until(lambda: models.is_ready)
        for _ in range(20):
            with pytest.raises(IntegrityError):
                await models.first(("virtual-570@champion",))
        assert paper.asked["virtual-570/1"] == 1
        assert value(telemetry, FAILURES, reason="IntegrityError") == 1


async def test_a_damaged_version_is_not_fetched_for_every_request_and_tried_again_later(paper, tmp_path):
    broken = paper.put("virtual-570", 0.1)
    whole = (Path(broken.source) / "model.onnx").read_bytes()
    paper.damage(broken)
    async with models_of(paper, refresh_seconds=0.3) as (models, _):
        await until(lambda: models.is_ready)
        for _ in range(50):
            with pytest.raises(IntegrityError):
                await models.first(("virtual-570@champion",))
        assert paper.asked["fetch virtual-570/1"] == 1
        (Path(broken.source) / "model.onnx").write_bytes(whole)
        await asyncio.sleep(0.4)
        assert (await models.first(("virtual-570@champion",))).opened.version.name == "virtual-570"


async def test_a_network_that_crashes_is_refused_counted_and_not_fetched_for_every_request(paper, monkeypatch):
    paper.put("virtual-570", 0.1)

    async with models_of(paper, refresh_seconds=30) as (models, telemetry):
        await until(lambda: models.is_ready)
        monkeypatch.setattr(under_test, "warm_up", crash)
        for _ in range(5):
            with pytest.raises(IntegrityError, match="virtual-570 version 1 is refused"):
                await models.first(("virtual-570@champion",))
        assert paper.asked["fetch virtual-570/1"] == 1
        assert value(telemetry, FAILURES, reason="IntegrityError") == 1


def crash(*_: object) -> None:
    raise RuntimeError("Non-zero status code returned while running Reshape node")


# readiness


async def test_health_is_told_when_the_champion_was_open_already_by_its_number(paper):
    async with models_of(paper, refresh_seconds=30) as (models, _):
        await until(lambda: models.is_ready)
    second = Models(paper, Bounds("virtual", 30, 1 << 30, 4), lambda *_: None, Telemetry())
    await second.first(("virtual-population/1",))  # known from the file: no look is needed
    assert not second.is_ready
    second.changed.clear()
    await second.first(POPULATION)
    assert second.is_ready
    assert second.changed.is_set(), "nobody would ever be told"


async def test_without_a_population_a_damaged_personal_champion_does_not_keep_others_from_being_ready(tmp_path):
    paper = Paper(tmp_path / "paper")
    paper.damage(paper.put("virtual-1"))
    paper.put("virtual-2", 0.1)
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)


async def test_a_registry_that_hangs_does_not_keep_a_service_with_a_cache_from_being_ready(paper):
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
    paper.seconds = 3.0
    began = time.monotonic()
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        assert time.monotonic() - began < 2.0


async def test_nothing_is_opened_or_looked_up_that_nobody_asked_for(paper):
    for k in range(1000):
        paper.models[f"virtual-{k}"] = {"champion": "1"}
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        await until(lambda: paper.asked["aliases"] > 2)
    assert {what for what in paper.asked if "/" in what} == {"virtual-population/1", "fetch virtual-population/1"}


# a look


async def test_trouble_that_lasts_is_warned_about_once_for_each_kind(paper, caplog):
    paper.put("virtual-570")
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        await models.first(("virtual-570@champion",))
        paper.damage(paper.put("virtual-population", 0.1))
        paper.damage(paper.put("virtual-570", 0.1))
        before = paper.asked["aliases"]
        await until(lambda: paper.asked["aliases"] > before + 12)
    warned = [r.getMessage() for r in caplog.records if r.name == "glucast.models" and r.levelno >= logging.WARNING]
    assert len(warned) == 2, warned  # the population's and a personal one
    assert "570" not in "".join(warned)


async def test_a_registry_that_is_down_is_warned_about_once(paper, caplog):
    async with models_of(paper) as (models, telemetry):
        await until(lambda: models.is_ready)
        paper.is_down = True
        before = value(telemetry, "glucose_registry_sync_failures_total")
        await until(lambda: value(telemetry, "glucose_registry_sync_failures_total") > before + 8)
        assert (await models.first(POPULATION)).opened.version.version == "1"
        warned = [r for r in caplog.records if r.name == "glucast.models" and r.levelno >= logging.WARNING]
        assert len(warned) == 1
        paper.is_down = False
        paper.put("virtual-population", 0.2)
        await until(lambda: models.ready(POPULATION).opened.version.version == "2")


async def test_what_is_open_is_not_asked_about_again_while_the_registry_is_down(paper, monkeypatch):
    """Each of those questions may hang for ten seconds: hundreds of them would hold up the next look for an hour."""
    monkeypatch.setattr(under_test, "LOOK_AGAIN_SECONDS", 0.0)
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        paper.is_down = True
        looks = paper.asked["aliases"]
        await until(lambda: paper.asked["aliases"] > looks + 2)
        questions, looks = paper.asked["virtual-population/1"], paper.asked["aliases"]
        await until(lambda: paper.asked["aliases"] > looks + 5)
        assert paper.asked["virtual-population/1"] == questions


async def test_a_personal_model_that_is_slow_to_come_does_not_hold_up_the_populations(paper):
    paper.put("virtual-570")
    slow = {"virtual-570/2"}
    plain = paper.fetch

    def fetch(version: Version) -> Bundle:
        if f"{version.name}/{version.version}" in slow:
            time.sleep(1.5)
        return plain(version)

    paper.fetch = fetch
    async with models_of(paper) as (models, _):
        await models.first(("virtual-570@champion",))
        await until(lambda: models.ready(POPULATION))
        began = time.monotonic()
        paper.put("virtual-570", 0.1)
        paper.put("virtual-population", 0.1)
        await until(lambda: models.ready(POPULATION).opened.version.version == "2")
        assert time.monotonic() - began < 1.0


async def test_a_request_that_holds_an_old_version_finishes_on_it(paper):
    async with models_of(paper, memory=1) as (models, _):
        await until(lambda: models.is_ready)
        held = await models.first(POPULATION)
        for rise in (0.1, 0.2):
            paper.put("virtual-population", rise)
            number = str(sum(name == "virtual-population" for name, _ in paper.versions))
            await until(lambda n=number: models.ready(POPULATION).opened.version.version == n)
        assert held.opened.version.version == "1"
        under_test.warm_up(held.opened.forecaster, 4)  # still forecasts


# memory


def size_of_one(paper: Paper) -> int:
    return (paper.folder / "virtual-population-1" / "model.onnx").stat().st_size


async def test_what_is_no_champion_goes_before_champions_and_the_populations_two_stay(paper):
    for name in ("virtual-1", "virtual-2"):
        paper.put(name, 0.1)
        paper.put(name, 0.2)
    async with models_of(paper, memory=int(4.5 * size_of_one(paper))) as (models, telemetry):
        await until(lambda: models.is_ready)
        paper.models["virtual-population"]["previous"] = "1"
        paper.put("virtual-population", 0.3)
        await until(lambda: models.ready(POPULATION).opened.version.version == "2")
        for reference in ("virtual-1@champion", "virtual-2/1", "virtual-2@champion"):
            await models.first((reference,))
        names = sorted((o.version.name, o.version.version) for o in models.opened())
        assert names == [
            ("virtual-1", "2"),
            ("virtual-2", "2"),
            ("virtual-population", "1"),
            ("virtual-population", "2"),
        ]
        assert value(telemetry, "glucose_model_evictions_total") == 1


async def test_a_model_that_is_evicted_before_it_answered_is_answered_with_all_the_same(paper):
    """Its load ended, others were used and another made room, before whoever waited for it went on."""
    paper.put("virtual-1", 0.1)
    async with models_of(paper, refresh_seconds=30, memory=1) as (models, _):
        await until(lambda: models.is_ready)
        opening = models._open

        async def slow_to_go_on(version: Version):
            opened = await opening(version)
            models.ready(POPULATION)
            models._make_room()
            return opened

        models._open = slow_to_go_on
        served = await models.first(("virtual-1@champion",))
        assert served.opened.version.name == "virtual-1"
        assert models.ready(("virtual-1@champion",)) in (served, None)  # and no KeyError


async def test_a_model_larger_than_all_memory_is_served_and_warned_about_once(paper, caplog):
    paper.put("virtual-1", 0.1)
    async with models_of(paper, memory=10) as (models, _):
        await until(lambda: models.is_ready)
        for _ in range(3):
            assert await models.first(("virtual-1@champion",))
            await models.first(("virtual-1/1",))
        paper.put("virtual-population", 0.2)
        await until(lambda: models.ready(POPULATION).opened.version.version == "2")
    warned = [r.getMessage() for r in caplog.records if "memory" in r.getMessage()]
    assert len(warned) == 1, warned


async def test_two_models_are_loaded_at_a_time_and_not_all(paper):
    for k in range(6):
        paper.put(f"virtual-{k}", 0.1 * k)
    async with models_of(paper) as (models, _):
        await until(lambda: models.is_ready)
        paper.fetch_seconds, paper.most_at_once = 0.05, 0
        await asyncio.gather(*[models.first((f"virtual-{k}@champion",)) for k in range(6)])
    assert paper.most_at_once == 2


async def test_an_alias_that_is_taken_away_leads_nowhere(paper):
    paper.put("virtual-570", 0.1, alias="challenger")
    async with models_of(paper) as (models, _):
        await models.first(("virtual-570@challenger",))
        del paper.models["virtual-570"]["challenger"]
        await until(lambda: models.ready(("virtual-570@challenger",)) is None)
        with pytest.raises(NotFound):
            await models.first(("virtual-570@challenger",))


async def test_one_piece_of_work_a_key_whoever_gives_up():
    ran, per_key = [], OnePerKey()

    async def work() -> str:
        ran.append(1)
        await asyncio.sleep(0.05)
        return "done"

    asked = [asyncio.create_task(per_key.run("k", work)) for _ in range(3)]
    await asyncio.sleep(0.01)
    asked[0].cancel()
    assert await asyncio.gather(*asked[1:]) == ["done", "done"]
    assert ran == [1]
