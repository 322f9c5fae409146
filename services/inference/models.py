"""From a model reference to an opened model: looked up, fetched, kept, and refreshed."""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from forecasting.errors import GlucastError, IntegrityError, NotFound, RegistryUnavailable
from forecasting.forecaster import Forecaster
from forecasting.registry import Registry, Version
from services.inference.telemetry import Telemetry, public_name

REMEMBERED = 4096  # references; callers choose them, so memory of them must end somewhere

_log = logging.getLogger("glucast.models")


@dataclass(frozen=True)
class Served:
    """An opened model and the version it is."""

    version: Version
    forecaster: Forecaster


Outcome = Served | NotFound | IntegrityError  # what a reference leads to: an opened model or a lasting error


@dataclass(frozen=True)
class Finding:
    """What a reference led to, and until when that is believed (monotonic seconds)."""

    outcome: Outcome
    until: float


class OnePerKey:
    """Runs one piece of work for a key at a time; whoever asks meanwhile waits for the same result."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Task] = {}

    async def run(self, key: Any, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `work`, which goes on even when the caller who began it is cancelled."""
        return await asyncio.shield(self.start(key, work))

    def start(self, key: Any, work: Callable[[], Awaitable[Any]]) -> asyncio.Task:
        """Begin `work`, unless it is under way."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(work())  # type: ignore[arg-type]
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: Any, done: asyncio.Task) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # fetched here too: every caller may be gone, which is no fault


class Models:
    """The models of a registry, opened when they are first asked for.

    What a reference means is looked up again after `refresh_seconds`. Where that fails, because the registry does
    not answer or the new version is damaged, the version already being served goes on and a warning is logged.
    """

    def __init__(self, uri: str | None, cache: Path | None, refresh_seconds: float, telemetry: Telemetry) -> None:
        self._uri, self._cache, self._refresh = uri, cache, refresh_seconds
        self._telemetry = telemetry
        self._registry: Registry | None = None
        self._connecting = threading.Lock()
        self._found: OrderedDict[str, Finding] = OrderedDict()
        self._opened: WeakValueDictionary[tuple[str, str, str], Forecaster] = WeakValueDictionary()
        self._look_ups, self._loads = OnePerKey(), OnePerKey()

    async def first(self, references: tuple[str, ...]) -> Served:
        """The first of these that exists.

        Raises NotFound where none does, IntegrityError for damaged content, RegistryUnavailable.
        """
        missing: list[NotFound] = []
        for reference in references:
            outcome = await self._find(reference)
            if isinstance(outcome, Served):
                return outcome
            if isinstance(outcome, IntegrityError):
                raise outcome.with_traceback(None)  # remembered and raised again: its traceback must not grow
            missing.append(outcome)
        if len(missing) == 1:
            raise missing[0].with_traceback(None)
        raise NotFound(f"neither {' nor '.join(references)} has a champion; promote a version, or name a model")

    def versions(self) -> list[Version]:
        """The versions being served now, each once. May be called from any thread."""
        outcomes = [finding.outcome for finding in list(self._found.values())]
        served = [outcome.version for outcome in outcomes if isinstance(outcome, Served)]
        return list({(version.name, version.version): version for version in served}.values())

    async def _find(self, reference: str) -> Outcome:
        known = self._found.get(reference)
        if known is not None and time.monotonic() < known.until:
            self._found.move_to_end(reference)
            return known.outcome
        if known is not None and isinstance(known.outcome, Served):
            self._look_ups.start(reference, lambda: self._look_up(reference))  # a slow registry holds nobody up
            return known.outcome
        return await self._look_ups.run(reference, lambda: self._look_up(reference))

    async def _look_up(self, reference: str) -> Outcome:
        known = self._found.get(reference)
        outcome: Outcome
        try:
            outcome = await self._open(await self._resolve(reference))
        except NotFound as error:
            outcome = NotFound(str(error))
        except (IntegrityError, RegistryUnavailable) as error:
            outcome = _kept_instead(known.outcome if known else None, error)
        self._remember(reference, outcome)
        return outcome

    def _remember(self, reference: str, outcome: Outcome) -> None:
        self._found[reference] = Finding(outcome, time.monotonic() + self._refresh)
        self._found.move_to_end(reference)
        if len(self._found) > REMEMBERED:
            self._found.popitem(last=False)

    async def _resolve(self, reference: str) -> Version:
        try:
            found = await asyncio.to_thread(lambda: self._connected().find(reference))
        except RegistryUnavailable:
            self._telemetry.sync_failures.inc()
            raise
        if found is None:
            raise NotFound(f"there is no {reference} in the registry; publish and promote it, or name another model")
        return found

    async def _open(self, version: Version) -> Served:
        key = version.name, version.version, version.digest  # a registry made anew counts from 1 again
        forecaster = self._opened.get(key)
        if forecaster is None:
            forecaster = await self._loads.run(key, lambda: self._load(version))
        return Served(version, forecaster)

    async def _load(self, version: Version) -> Forecaster:
        try:
            with self._telemetry.load.time():
                forecaster = await asyncio.to_thread(self._fetch_and_open, version)
        except GlucastError as error:
            self._telemetry.load_failures.labels(type(error).__name__).inc()
            raise
        self._opened[version.name, version.version, version.digest] = forecaster
        _log.info("opened %s version %s (digest %s)", public_name(version.name), version.version, version.digest[:12])
        return forecaster

    def _fetch_and_open(self, version: Version) -> Forecaster:
        bundle = self._connected().fetch(version)
        try:
            return Forecaster.open(bundle)
        except IntegrityError as error:
            raise IntegrityError(f"{version.name} version {version.version} is refused: {error}") from error

    def _connected(self) -> Registry:
        """The registry; opened at the first question that it answers. Called from threads."""
        with self._connecting:
            if self._registry is None:
                self._registry = Registry(self._uri, self._cache)
            return self._registry


def _kept_instead(known: Outcome | None, error: IntegrityError | RegistryUnavailable) -> Outcome:
    """What stands after a failed look-up: what was served before, with a warning, else the error.

    Raises a RegistryUnavailable that meets no earlier answer. The log leaves the error's text out, which may name
    a patient.
    """
    if isinstance(known, Served):
        version, name = known.version, public_name(known.version.name)
        _log.warning(
            "%s at refresh: %s version %s (digest %s) is served on",
            *(type(error).__name__, name, version.version, version.digest[:12]),
        )
        return known
    if isinstance(error, IntegrityError):
        return IntegrityError(str(error))
    if known is None:
        raise error
    return known
