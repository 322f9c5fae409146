"""Models under change: followed, kept when the new one fails, within memory, and there without the registry."""

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forecasting.bundle import Bundle
from forecasting.errors import IntegrityError, NotFound, RegistryUnavailable
from forecasting.references import Version
from forecasting.registry import Registry
from forecasting.registry_reader import RegistryReader
from services.inference.batcher import Batcher, Limits
from services.inference.models import Bounds, Models
from services.inference.telemetry import Telemetry
from tests.services.conftest import Shelf

POPULATION = ("virtual-population@champion",)


class Reader(RegistryReader):
    """The real one, which can be told not to answer or to be slow; counts what is fetched."""

    def __init__(self, uri: str, cache: Path) -> None:
        super().__init__(uri, cache)
        self.is_down, self.seconds, self.fetched = False, 0.0, 0

    def aliases(self) -> dict[str, dict[str, str]]:
        self._answer()
        return super().aliases()

    def version(self, name: str, number: str) -> Version | None:
        self._answer()
        return super().version(name, number)

    def fetch(self, version: Version) -> Bundle:
        self.fetched += 1
        time.sleep(self.seconds)
        return super().fetch(version)

    def _answer(self) -> None:
        time.sleep(self.seconds)
        if self.is_down:
            raise RegistryUnavailable("the registry does not answer")


@pytest.fixture
def own(tmp_path) -> Shelf:
    """A shelf of this test's own, with a champion of the population."""
    made = Shelf(Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "trainer-cache", create=True), tmp_path)
    made.put("virtual-population", rise=0.0)
    return made


@asynccontextmanager
async def models_of(
    shelf: Shelf, cache: Path, refresh_seconds: float = 0.05, memory: int = 1 << 30, **told: object
) -> AsyncIterator[tuple[Models, Reader, Telemetry]]:
    reader, telemetry = Reader(shelf.registry.uri, cache), Telemetry()
    for name, value in told.items():
        setattr(reader, name, value)

    def batcher_for(version: Version, forecaster: object) -> Batcher:
        return Batcher(forecaster, None, Limits(), telemetry.for_model(version.name, version.version))

    models = Models(reader, Bounds("virtual", refresh_seconds, memory, 8), batcher_for, telemetry)
    models.start()
    try:
        yield models, reader, telemetry
    finally:
        await models.stop()


def value(telemetry: Telemetry, series: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(series, labels) or 0.0


async def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.01)


def served(models: Models, references: tuple[str, ...] = POPULATION) -> str | None:
    ready = models.ready(references)
    return ready and ready.opened.version.version


async def test_the_populations_champion_is_opened_without_being_asked_for(own, tmp_path):
    async with models_of(own, tmp_path / "cache") as (models, _, _):
        assert not models.is_ready
        await until(lambda: models.is_ready)
        assert served(models) == "1"


async def test_a_namespace_of_personal_models_alone_is_ready_with_one_of_them(tmp_path):
    shelf = Shelf(Registry(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "t", create=True), tmp_path)
    shelf.put("virtual-570", rise=0.1)
    async with models_of(shelf, tmp_path / "cache") as (models, _, _):
        await until(lambda: models.is_ready)


async def test_a_champion_that_moves_is_followed_and_the_old_one_kept_for_going_back(own, tmp_path):
    async with models_of(own, tmp_path / "cache") as (models, reader, telemetry):
        await until(lambda: served(models) == "1")
        own.put("virtual-population", rise=0.2)
        await until(lambda: served(models) == "2")
        digests = {o.version.version: o.version.digest for o in models.opened()}
        info = {"name": "virtual-population", "version": "1", "alias": "champion", "digest": digests["1"]}
        await until(lambda: value(telemetry, "glucose_model_info", **info) == 0)
        assert value(telemetry, "glucose_model_info", **{**info, "alias": "previous"}) == 1
        fetched = reader.fetched
        own.registry.roll_back("virtual-population")
        await until(lambda: served(models) == "1")
        assert reader.fetched == fetched


async def test_a_damaged_champion_is_not_followed_and_counted(own, tmp_path, caplog):
    async with models_of(own, tmp_path / "cache") as (models, _, telemetry):
        await until(lambda: served(models) == "1")
        own.damage(own.put("virtual-population", rise=0.3))
        failures = {"series": "glucose_model_load_failures_total", "reason": "IntegrityError"}
        await until(lambda: value(telemetry, **failures) >= 1)
        assert served(models) == "1"
        await asyncio.sleep(0.5)
        assert value(telemetry, **failures) < 6  # ten looks, at growing pauses
        own.put("virtual-population", rise=0.4)
        await until(lambda: served(models) == "3")
    assert "is served on" in caplog.text


async def test_while_aliases_move_every_answer_is_a_champion_of_then(own, tmp_path):
    """Twenty moves; who asks all the while gets no error, and never a version that had gone before the last look."""
    second = own.put("virtual-population", rise=0.2)
    reigns: list[tuple[float, str]] = [(0.0, second.version)]
    async with models_of(own, tmp_path / "cache") as (models, _, _):
        await until(lambda: served(models) == "2")
        over = threading.Event()

        def move() -> None:
            for k in range(20):
                number = str(1 + k % 2)
                own.registry.client.set_registered_model_alias("virtual-population", "champion", number)
                reigns.append((time.monotonic(), number))
                time.sleep(0.1)
            over.set()

        moving, answers = threading.Thread(target=move), []
        moving.start()
        while not over.is_set():
            asked = time.monotonic()
            answers.append((asked, (await models.first(POPULATION)).opened.version.version))
            await asyncio.sleep(0.002)
        moving.join()
    ends = [until for until, _ in reigns[1:]] + [float("inf")]
    for asked, version in answers:
        late = min(max(0.0, asked - end) for (_, one), end in zip(reigns, ends, strict=True) if one == version)
        assert late < 1.0, "an old champion answered for longer than a look takes"
    assert {version for _, version in answers} == {"1", "2"}


async def test_a_slow_registry_holds_nobody_up(own, tmp_path):
    async with models_of(own, tmp_path / "cache") as (models, reader, _):
        await until(lambda: served(models) == "1")
        reader.seconds = 0.5
        longest = 0.0
        for _ in range(100):
            began = time.perf_counter()
            await models.first(POPULATION)
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - began)
        assert longest < 0.2


async def test_many_who_ask_at_once_share_one_load_and_giving_up_does_not_end_it(own, tmp_path):
    own.put("virtual-570", rise=0.6)
    async with models_of(own, tmp_path / "cache") as (models, reader, _):
        await until(lambda: models.is_ready)
        reader.seconds, before = 0.1, reader.fetched
        asked = [asyncio.create_task(models.first(("virtual-570@champion",))) for _ in range(8)]
        await asyncio.sleep(0.05)
        asked[0].cancel()
        got = await asyncio.gather(*asked[1:])
        assert reader.fetched == before + 1
        assert len({id(one.opened) for one in got}) == 1


async def test_what_is_not_there_is_not_found_and_what_is_no_reference_refused(own, tmp_path):
    async with models_of(own, tmp_path / "cache") as (models, _, _):
        await until(lambda: models.is_ready)
        for missing in ("virtual-nobody", "virtual-population@challenger", "virtual-population/9", "x/1"):
            with pytest.raises(NotFound, match="there is no"):
                await models.first((missing,))
        with pytest.raises(NotFound, match="neither virtual-a nor other-population has a champion"):
            await models.first(("virtual-a@champion", "other-population@champion"))


async def test_the_least_recently_used_is_closed_first_and_the_populations_champion_never(own, tmp_path):
    size = (tmp_path / "virtual-population-0.0" / "model.onnx").stat().st_size
    for k in range(4):
        own.put(f"virtual-{k}", rise=0.1 * (k + 1))
    async with models_of(own, tmp_path / "cache", memory=int(3.5 * size)) as (models, _, telemetry):
        await until(lambda: models.is_ready)
        for name in ("virtual-0", "virtual-1", "virtual-0", "virtual-2", "virtual-3"):
            await models.first((f"{name}@champion",))
        names = {opened.version.name for opened in models.opened()}
        assert names == {"virtual-population", "virtual-2", "virtual-3"}
        assert value(telemetry, "glucose_model_evictions_total") == 2
        assert value(telemetry, "glucose_model_memory_bytes", name="personal") == pytest.approx(2 * size, rel=0.2)
        assert (await models.first(("virtual-0@champion",))).opened.version.name == "virtual-0"  # opened again


async def test_without_the_registry_it_starts_from_what_was_known_and_kept(own, tmp_path):
    cache = tmp_path / "cache"
    async with models_of(own, cache) as (models, _, _):
        await until(lambda: models.is_ready)
    async with models_of(own, cache, is_down=True) as (models, _, telemetry):
        await until(lambda: models.is_ready)
        assert served(models) == "1"
        assert value(telemetry, "glucose_registry_sync_failures_total") >= 1
    (directory,) = cache.glob("directory-*.json")
    assert directory.stat().st_mode & 0o077 == 0  # names hold patient ids
    directory.write_text("{")
    async with models_of(own, cache, is_down=True) as (models, reader, _):
        with pytest.raises(RegistryUnavailable):
            await models.first(POPULATION)
        reader.is_down = False
        await until(lambda: models.is_ready)


async def test_registries_that_share_a_cache_do_not_mix(own, tmp_path):
    cache, other = tmp_path / "cache", tmp_path / "other"
    async with models_of(own, cache) as (models, _, _):
        await until(lambda: models.is_ready)
    shelf = Shelf(Registry(f"sqlite:///{other}/mlflow.db", other / "t", create=True), other)
    async with models_of(shelf, cache) as (models, _, _):
        with pytest.raises(NotFound):
            await models.first(POPULATION)


async def test_a_damaged_file_in_the_cache_is_fetched_again_and_never_used(own, tmp_path):
    cache = tmp_path / "cache"
    async with models_of(own, cache) as (models, _, _):
        await until(lambda: models.is_ready)
        digest = models.opened()[0].version.digest
    (cache / digest / "model.onnx").write_bytes(b"else")
    async with models_of(own, cache) as (models, _, _):
        await until(lambda: models.is_ready)
    assert (cache / digest / "model.onnx").stat().st_size > 100


async def test_a_registry_made_anew_is_not_answered_with_old_weights(own, tmp_path, monkeypatch):
    """Version 1 again, with another digest."""
    monkeypatch.setattr("services.inference.models.LOOK_AGAIN_SECONDS", 0.1)
    async with models_of(own, tmp_path / "cache") as (models, _, _):
        await until(lambda: models.is_ready)
        before = models.ready(POPULATION).opened.version.digest
        again = tmp_path / "again"
        shelf = Shelf(Registry(f"sqlite:///{again}/mlflow.db", again / "t", create=True), again)
        anew = shelf.put("virtual-population", rise=0.7)
        shutil.copy(again / "mlflow.db", tmp_path / "mlflow.db")
        await until(lambda: models.ready(POPULATION).opened.version.digest != before)
        assert models.ready(POPULATION).opened.version.digest == anew.digest


async def test_a_model_that_forecasts_nonsense_never_answers(own, tmp_path):
    own.put("virtual-570", rise=20.0)  # 1000 mg/dL
    async with models_of(own, tmp_path / "cache") as (models, _, _):
        await until(lambda: models.is_ready)
        with pytest.raises(IntegrityError, match="plausible readings"):
            await models.first(("virtual-570@champion",))
