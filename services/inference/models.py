"""Models under change: what references mean now, opened, warm, followed, and within a bound of memory."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from forecasting.errors import GlucastError, IntegrityError, NotFound, RegistryUnavailable
from forecasting.forecaster import Forecaster
from forecasting.onnx_checks import RunBounds
from forecasting.references import CHALLENGER, CHAMPION, PREVIOUS, Version, model_name, parse_reference
from forecasting.registry_reader import RegistryReader
from services.inference.attempts import Absent, Failures, Key, OnePerKey
from services.inference.batcher import Batcher
from services.inference.directory import Directory
from services.inference.opened import Opened, Served
from services.inference.telemetry import Telemetry, public_name
from services.inference.warm_up import warm_up

JITTER = 0.2  # of the time between two looks, so that replicas do not all ask at once
LOADS_AT_ONCE = 2
LOOK_AGAIN_SECONDS = 60.0  # a registry made anew counts from 1 again: a version is looked at again after this
MOST_VALUES = 1 << 21  # that a network keeps at once for each forecast of a batch: 8 MB, three times what BERT does
MOST_STEPS = 1 << 34  # multiplications of one forecast: half a second of a core
START_SECONDS = 0.5  # that a registry has to answer before what is known from an earlier start is opened
UNKNOWN = "the registry has not answered since this service began, and nothing is known from before"

_log = logging.getLogger("glucast.models")


@dataclass(frozen=True)
class Bounds:
    """namespace: whose population champion is always open; refresh_seconds: between two looks at the registry
    memory_bytes: networks that are kept open; batch_size: the largest batch, which warms up too
    """

    namespace: str
    refresh_seconds: float = 5.0
    memory_bytes: int = 512 << 20
    batch_size: int = 64


class Models:
    """The models of a registry. Used from one event loop; files and the registry are touched in threads.

    A model is opened when it is first asked for, and from then on follows its alias: the new version is fetched,
    verified, opened and warmed up beside the old one, which answers until then, and goes on where that fails. What
    was least recently used goes first when memory is short, champions after others, the population's champion and
    the one before it never.
    """

    def __init__(
        self,
        reader: RegistryReader,
        bounds: Bounds,
        batcher_for: Callable[[Version, Forecaster], Batcher],
        telemetry: Telemetry,
    ) -> None:
        self._reader, self._bounds, self._batcher_for = reader, bounds, batcher_for
        self._telemetry = telemetry
        self.changed = asyncio.Event()  # set at every change of what is open
        self._directory = Directory(reader)
        self._serving: dict[str, Served] = {}
        self._opened: OrderedDict[Key, Opened] = OrderedDict()  # least recently used first
        self._looked_at: dict[str, float] = {}
        self._failures = Failures(bounds.refresh_seconds)
        self._absent = Absent(bounds.refresh_seconds)
        self._announced: dict[Key, tuple[str, ...]] = {}
        self._told: tuple[bool, set[str]] = (False, set())
        self._look_ups, self._loads = OnePerKey(), OnePerKey()
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)
        self._watcher: asyncio.Task[None] | None = None
        self._unloaded: set[str] = set()  # names, until they are asked for
        self._said: set[str] = set()  # of trouble, by the look under way
        self._said_before: set[str] = set()  # by the one before it
        self._is_short = False  # of memory, which was said
        self._has_looked = asyncio.Event()  # into the registry, once at least
        self.is_ready = False  # a champion of the namespace is open and has forecast

    def start(self) -> None:
        """Begin to watch the registry, and to open the champion that every patient may need."""
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the watching, and write down what is known; what is open stays so."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await asyncio.to_thread(self._directory.save)

    def ready(self, references: tuple[str, ...]) -> Served | None:
        """The first of these that exists, where it is open; None where that must be waited for, or fails."""
        for reference in references:
            served = self._serving.get(reference)
            if served is not None:
                self._opened.move_to_end(_key(served.opened.version))
                return served
            if self._exists(reference):
                return None
        return None

    async def first(self, references: tuple[str, ...]) -> Served:
        """The first of these that exists.

        Raises NotFound where none does, IntegrityError for damaged content, RegistryUnavailable, and InvalidInput
        for what is no reference.
        """
        served = self.ready(references)
        if served is not None:
            return served
        if not self._directory.is_known:
            await self._has_looked.wait()
        for reference in references:
            if self._exists(reference):
                return await self._serve_once(reference)
        self._check_known()
        raise NotFound(_missing(references))

    async def find(self, reference: str) -> Served | None:
        """Like first, None where there is no such thing."""
        try:
            return await self.first((reference,))
        except NotFound:
            return None

    async def load(self, reference: str) -> None:
        """Ask the registry what a reference means and open that now, also where it failed a moment ago.

        Raises what `first` raises.
        """
        await self._ask()
        self._check_known()
        self._failures.forget_model(_parsed(reference)[0])
        await self._serve_once(reference)

    def unload(self, name: str) -> None:
        """Close every version of a model until it is loaded or asked for; raises NotFound where there is none."""
        self._check_known()
        if not self._directory.has(name):
            raise NotFound(_missing((name,)))
        for key in [key for key in self._opened if key[0] == name]:
            self._close(key)
        self._unloaded.add(name)
        self._announce()

    def is_unloaded(self, name: str) -> bool:
        """Was it closed on purpose, and not asked for since?"""
        return name in self._unloaded

    def versions_of(self, name: str) -> dict[str, bool]:
        """{number: is it open} of the versions that are open or that an alias leads to; opens nothing."""
        meant = filter(None, (self._directory.number(name, alias) for alias in (CHAMPION, CHALLENGER, PREVIOUS)))
        is_open = {number for one, number, _ in self._opened if one == name}
        return {number: number in is_open for number in sorted({*is_open, *meant}, key=int)}

    def opened(self) -> list[Opened]:
        """Every version that is open now."""
        return list(self._opened.values())

    def aliases_of(self, opened: Opened) -> tuple[str, ...]:
        """The aliases that lead to a version now."""
        return self._directory.aliases_of(opened.version.name, opened.version.version)

    def open_names(self) -> set[str]:
        """The models whose champion answers."""
        champions = (_parsed(reference) for reference in self._serving)
        return {name for name, alias, _ in champions if alias == CHAMPION}

    def _check_known(self) -> None:
        if not self._directory.is_known:
            raise RegistryUnavailable(UNKNOWN)

    def _exists(self, reference: str) -> bool:
        """As far as is known; a version by number is looked up."""
        name, alias, _ = _parsed(reference)
        if alias is None:
            return self._directory.has(name) and reference not in self._absent
        return self._directory.number(name, alias) is not None

    async def _serve_once(self, reference: str) -> Served:
        """One at a time for a reference; a caller who gives up does not end it for others."""
        return await self._look_ups.run(reference, partial(self._serve, reference))

    async def _serve(self, reference: str) -> Served:
        """Open what a reference means now and let it lead there."""
        name, alias, number = _parsed(reference)
        number = number or self._directory.number(name, alias or "")
        version = None if number is None else await self._resolve(name, number)
        if version is None:
            self._absent.add(reference)
            raise NotFound(_missing((reference,)))
        loaded = await self._open(version)
        opened = self._opened.setdefault(_key(version), loaded)  # others may have closed it before this went on
        self._opened.move_to_end(_key(version))
        served = self._serving[reference] = Served(opened, alias or "")
        self._looked_at[reference] = time.monotonic()
        self._unloaded.discard(name)
        self.is_ready |= alias == CHAMPION and name.startswith(f"{self._bounds.namespace}-")
        self._make_room()
        self._announce()
        return served

    async def _resolve(self, name: str, number: str, again: bool = False) -> Version | None:
        key = name, number, ""  # a version that glucast did not publish has no digest
        self._failures.check(key)
        try:
            return await asyncio.to_thread(self._directory.resolve, name, number, again)
        except RegistryUnavailable:
            self._telemetry.sync_failures.inc()
            raise
        except IntegrityError as error:
            self._failed(key, error)
            raise

    async def _open(self, version: Version) -> Opened:
        key = _key(version)
        if key in self._opened:
            return self._opened[key]
        self._failures.check(key)  # remembered, not fetched again for every request
        return await self._loads.run(key, lambda: self._load(key, version))

    async def _load(self, key: Key, version: Version) -> Opened:
        try:
            async with self._loading:
                with self._telemetry.load.time():
                    forecaster, size, metrics = await asyncio.to_thread(self._fetch_and_warm, version)
        except Exception as error:
            self._failed(key, error)
            raise
        self._failures.forget(key)
        opened = self._opened[key] = Opened(version, forecaster, self._batcher_for(version, forecaster), size, metrics)
        _log.info("opened %s version %s (digest %s)", public_name(version.name), version.version, version.digest[:12])
        return opened

    def _failed(self, key: Key, error: Exception) -> None:
        self._telemetry.load_failures.labels(type(error).__name__).inc()
        if isinstance(error, IntegrityError):
            self._failures.remember(key, error)
            _log.info("%s version %s is refused: not what was published, or no network", public_name(key[0]), key[1])

    def _fetch_and_warm(self, version: Version) -> tuple[Forecaster, int, dict[str, Any]]:
        bundle = self._reader.fetch(version)
        try:
            forecaster = Forecaster.open(bundle, bounds=RunBounds(self._bounds.batch_size, MOST_VALUES, MOST_STEPS))
            warm_up(forecaster, self._bounds.batch_size)
        except (OSError, MemoryError):
            raise  # this machine's fault, and not the network's
        except Exception as error:
            why = error if isinstance(error, GlucastError) else f"it cannot forecast ({type(error).__name__})"
            raise IntegrityError(f"{version.name} version {version.version} is refused: {why}") from error
        return forecaster, (bundle.folder / "model.onnx").stat().st_size, bundle.metrics

    async def _watch(self) -> None:
        while True:
            await self._look()
            pause = self._bounds.refresh_seconds if self._directory.is_known else min(1.0, self._bounds.refresh_seconds)
            await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))

    async def _look(self) -> None:
        """One look: what do names mean now, and is that open?"""
        self._said_before, self._said = self._said, set()
        asking = asyncio.create_task(self._ask())
        try:
            if self._directory.is_known and not self.is_ready:  # from an earlier start: a registry may hang for long
                await asyncio.wait({asking}, timeout=START_SECONDS)
                await self._follow()
            has_answered = await asking
        finally:
            asking.cancel()
        await self._follow()
        if has_answered:
            await self._look_again()
        self._announce()
        await asyncio.to_thread(self._directory.save)

    async def _ask(self) -> bool:
        """Refresh the directory; did the registry answer?"""
        try:
            await asyncio.to_thread(self._directory.refresh)
            self._telemetry.registry_last_sync.set_to_current_time()
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, what is known is served on, and it is tried again
            self._telemetry.sync_failures.inc()
            self._say(error)
            return False
        finally:
            self._has_looked.set()

    def _say(self, error: Exception, reference: str = "") -> None:
        """Warn, once for each kind of trouble that lasts; without an error's text, which may name a patient."""
        said = f"{type(error).__name__}{' with ' + public_name(_parsed(reference)[0]) if reference else ''}"
        if said not in self._said | self._said_before:
            known = error if not isinstance(error, GlucastError) else None
            _log.warning("%s at a look into the registry: what is open is served on", said, exc_info=known)
        self._said.add(said)

    def _needed(self) -> list[str]:
        """What is opened without being asked for: the population's champion, else any champion, to be ready with."""
        population = f"{model_name(self._bounds.namespace)}@{CHAMPION}"
        if self._exists(population):
            return [population]
        names = (name for name in self._directory.names() if name.startswith(f"{self._bounds.namespace}-"))
        champions = [(name, number) for name in names if (number := self._directory.number(name, CHAMPION))]
        if self.is_ready or not champions:
            return []
        failed = {key[:2] for key in self._failures}
        likeliest = min(champions, key=lambda one: (one in failed, not self._directory.is_kept(*one)))
        return [f"{likeliest[0]}@{CHAMPION}"]

    async def _follow(self) -> None:
        """Let every reference in use lead to what it means now, once that is open and warm."""
        self._serving = {ref: served for ref, served in self._serving.items() if self._exists(ref)}
        needed = (reference for reference in self._needed() if not self.is_unloaded(_parsed(reference)[0]))
        behind = [reference for reference in {*self._serving, *needed} if self._is_behind(reference)]
        await asyncio.gather(*[self._tried(reference, self._serve_once(reference)) for reference in behind])

    def _is_behind(self, reference: str) -> bool:
        served, (name, alias, _) = self._serving.get(reference), _parsed(reference)
        if served is None:
            return True
        return alias is not None and served.opened.version.version != self._directory.number(name, alias)

    async def _look_again(self) -> None:
        """Ask now and then whether versions that are open are still what they were."""
        now = time.monotonic()
        for reference, served in list(self._serving.items()):
            if now - self._looked_at[reference] > LOOK_AGAIN_SECONDS:
                self._looked_at[reference] = now
                await self._tried(reference, self._renew(reference, served.opened.version))

    async def _renew(self, reference: str, version: Version) -> None:
        now = await self._resolve(version.name, version.version, again=True)
        if now is not None and now.digest != version.digest:
            await self._serve_once(reference)

    async def _tried(self, reference: str, work: Awaitable[object]) -> None:
        """Do something for one reference; where that fails the others go on, and it is tried again."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - said, and at the next look tried again
            self._say(error, reference)

    def _make_room(self) -> None:
        """Close what was least recently used until the rest fits: others first, then champions, never the pinned."""
        size = sum(opened.size_bytes for opened in self._opened.values())
        for champions in (False, True):
            for key, opened in list(self._opened.items())[:-1]:  # the last is in use right now
                if size <= self._bounds.memory_bytes:
                    return
                if self._is_pinned(opened.version) or self._is_champion(opened.version) != champions:
                    continue
                self._close(key)
                self._telemetry.evictions.inc()
                size -= opened.size_bytes
        if size > self._bounds.memory_bytes and not self._is_short:
            self._is_short = True
            _log.warning("what must stay open takes more than the memory that is allowed: raise --memory-mb")

    def _close(self, key: tuple[str, str, str]) -> None:
        """Forget a version; requests under way keep it until they end."""
        opened = self._opened.pop(key)
        self._serving = {ref: served for ref, served in self._serving.items() if served.opened is not opened}

    def _is_champion(self, version: Version) -> bool:
        return self._directory.number(version.name, CHAMPION) == version.version

    def _is_pinned(self, version: Version) -> bool:
        if version.name != model_name(self._bounds.namespace):
            return False
        return version.version in (self._directory.number(version.name, alias) for alias in (CHAMPION, PREVIOUS))

    def _announce(self) -> None:
        """Tell the telemetry, and whoever listens, what is open under which aliases."""
        now = {key: self._directory.aliases_of(key[0], key[1]) for key in self._opened}
        told = self.is_ready, self.open_names()
        if (now, told) == (self._announced, self._told):
            return
        for key, aliases in self._announced.items():
            if now.get(key) != aliases:
                self._telemetry.closed(key, aliases)
        for key, aliases in now.items():
            if self._announced.get(key) != aliases:
                self._telemetry.opened(key, aliases)
        self._telemetry.sizes({key: opened.size_bytes for key, opened in self._opened.items()})
        self._announced, self._told = now, told
        self.changed.set()


@lru_cache(maxsize=4096)
def _parsed(reference: str) -> tuple[str, str | None, str | None]:
    name, alias, number = parse_reference(reference)
    return name, alias, number and str(int(number))  # 01 is 1


def _key(version: Version) -> Key:
    return version.name, version.version, version.digest


def _missing(references: tuple[str, ...]) -> str:
    if len(references) == 1:
        return (
            f"there is no {references[0]} in the registry; publish and promote it, or name another model "
            "(what was published just now is seen after some seconds)"
        )
    names = " nor ".join(dict.fromkeys(_parsed(reference)[0] for reference in references))
    return f"neither {names} has a champion; promote a version, or name a model"
