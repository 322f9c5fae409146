"""Several processes that answer on one port: `--workers N`.

The parent takes the port and never listens on it, starts the service N times, shows the sum of their series, and
starts anew what dies. It imports no gRPC: that belongs to the workers, each of which is a process of its own.

A worker is told by its environment: its settings, its number, where its series go. Its number names its series, so
that one started anew counts on where the dead one stopped.
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from pydantic import SecretStr

from forecasting.errors import InvalidSetting
from services.inference.settings import PREFIX, Settings
from services.inference.telemetry import SHARED_FOLDER, serve_metrics

LISTENS = "glucast inference listens on"  # how the line begins by which a service, and a worker, says that it does
NUMBER = PREFIX + "WORKER"
COMMAND = (sys.executable, "-m", "services.inference")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds before a dead worker is started anew; doubled from death to death
LONG_ENOUGH = 60.0  # seconds of life after which a death counts as the first one again
SLACK = 10.0  # seconds beyond its own drain after which a worker that was told to end is killed

_log = logging.getLogger("glucast.workers")


def supervise(settings: Settings, command: Sequence[str] = COMMAND) -> int:
    """Run `settings.workers` processes until SIGTERM or SIGINT; the exit code: 0 where all ended well.

    Prints where they listen once all do. Raises InvalidSetting where an address cannot be used. A worker that ends
    before it ever listened ends them all, with 1: starting it again would not help.
    """
    return asyncio.run(_supervise(settings, command))


def number() -> int | None:
    """Which worker this process is, from 0; None where it is none."""
    given = os.environ.get(NUMBER)
    return None if given is None else int(given)


def join(own_number: int, told: asyncio.Event) -> None:
    """Be a worker: call it in the event loop, before any series is made. Sets `told` when the parent is gone."""
    values.ValueClass = values.MultiProcessValue(lambda: own_number)  # type: ignore[no-untyped-call]
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def end() -> None:
        loop.remove_reader(stdin)
        told.set()

    loop.add_reader(stdin, end)  # a pipe on which nothing is ever written; readable when its other end closes


def listening_line(address: str, metrics_url: str) -> str:
    """What a service prints when it listens. metrics_url: empty for a worker, whose parent shows its series."""
    return f"{LISTENS} {address}" + (f", metrics on {metrics_url}" if metrics_url else "")


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keep a port for the workers: taken alone, so that nobody else has it, and only then shared.

    port: 0 takes a free one. Raises InvalidSetting where it cannot be taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind)
    except OSError as error:
        raise InvalidSetting(f"cannot listen on {host}:{port} ({error.strerror}); choose another host") from error
    with held:
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger do not matter
            held.bind(address)
        except OSError as error:
            raise InvalidSetting(f"cannot listen on {host}:{port}; is the port taken? Choose another") from error
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield held.getsockname()[1]


async def _supervise(settings: Settings, command: Sequence[str]) -> int:
    told = asyncio.Event()
    for number_of_signal in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number_of_signal, told.set)
    with (
        reserved(settings.host, settings.port) as port,
        tempfile.TemporaryDirectory(prefix="glucast-metrics-") as folder,
    ):
        series = Series(folder)
        environment = _environment(settings, port) | {SHARED_FOLDER: folder}
        workers = [Worker(k, command, environment, series) for k in range(settings.workers)]
        metrics = serve_metrics(series.registry, settings.metrics_at, settings.metrics_port)
        try:
            line = listening_line(
                f"{settings.host}:{port}", f"http://{settings.metrics_at}:{metrics.server_port}/metrics"
            )
            return await _run(workers, told, line, settings.pause_seconds + settings.drain_seconds + SLACK)
        finally:
            metrics.shutdown()
            metrics.server_close()


async def _run(workers: "Sequence[Worker]", told: asyncio.Event, line: str, patience: float) -> int:
    """Keep workers until told to stop, or until one cannot start; the exit code. patience: seconds for the end."""
    kept = [asyncio.create_task(worker.keep()) for worker in workers]
    telling = asyncio.create_task(_tell_when_all_listen(workers, line))
    end = asyncio.create_task(told.wait())
    await asyncio.wait([end, *kept], return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    end.cancel()
    for worker in workers:
        worker.stop()
    _, still_there = await asyncio.wait(kept, timeout=patience)
    if still_there:
        _log.error("%d workers did not end within %.0f s and are killed", len(still_there), patience)
        for worker in workers:
            worker.kill()
    return 0 if all(await asyncio.gather(*kept)) else 1


async def _tell_when_all_listen(workers: "Sequence[Worker]", line: str) -> None:
    for worker in workers:
        await worker.has_listened.wait()
    print(line, flush=True)


def _environment(settings: Settings, port: int) -> dict[str, str]:
    """What tells a worker its settings: those of the parent, one port, one secret for all, its part of the limits."""
    own = {"port": port, "workers": 1, "id_secret": _shared_secret(settings)} | settings.limits_of_a_worker()
    given = settings.model_copy(update=own)
    shown = {name: _text(value) for name, value in given if value is not None}
    return {**os.environ, **{PREFIX + name.upper(): text for name, text in shown.items()}}


def _shared_secret(settings: Settings) -> SecretStr | None:
    """One for all where none was given; None where each worker reads the file of secrets."""
    if settings.id_secret_file is not None:
        return None
    return settings.id_secret or SecretStr(secrets.token_hex(32))


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class Series:
    """What the parent shows: the sum of what workers write into a folder, read at every scrape, and how they live."""

    def __init__(self, folder: str) -> None:
        self.registry = registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
        self.workers = Gauge("glucose_workers", "Worker processes that listen", registry=registry)
        self.restarts = Counter(
            "glucose_worker_restarts_total", "Worker processes started anew after one died", registry=registry
        )


class Worker:
    """One of the processes, again and again."""

    def __init__(self, own_number: int, command: Sequence[str], environment: dict[str, str], series: Series) -> None:
        self._number, self._command, self._series = own_number, command, series
        self._environment = {**environment, NUMBER: str(own_number)}
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.has_listened = asyncio.Event()

    async def keep(self) -> bool:
        """Start the process, and again when it dies, until `stop`; whether it ended well."""
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            is_well = await self._live()
            if self._stopping.is_set() or not self.has_listened.is_set():
                return is_well
            if time.monotonic() - began > LONG_ENOUGH:
                pause = FIRST_PAUSE
            _log.warning("worker %d is started anew in %.0f s", self._number, pause)
            await self._wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self._series.restarts.inc()
        return True

    def stop(self) -> None:
        """Tell the process to end, and start it no more."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End a process that does not end by itself."""
        self._signal(signal.SIGKILL)

    async def _live(self) -> bool:
        """One life of the process; whether it ended well, which it only can when it was told to end."""
        pipe = asyncio.subprocess.PIPE  # standard input: closes with this process, and so ends a worker left alone
        # in a process group of its own: the parent passes on what a terminal sends
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, env=self._environment, process_group=0
        )
        if self._stopping.is_set():
            self._signal(signal.SIGTERM)
        is_listening = await self._read()
        code = await self._process.wait()
        self._series.workers.dec(is_listening)
        mark_process_dead(self._number, self._environment[SHARED_FOLDER])  # type: ignore[no-untyped-call]
        if not self._stopping.is_set():
            _log.error("worker %d ended by itself, with %d", self._number, code)
            return False
        return code == 0 or (code == -signal.SIGTERM and not is_listening)  # told before it could listen to that

    async def _read(self) -> bool:
        """Read what the process prints, until it ends; whether it said that it listens."""
        assert self._process is not None
        assert self._process.stdout is not None
        is_listening = False
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            if not text.startswith(LISTENS):
                print(text, flush=True)
            elif not is_listening:
                is_listening = True
                self._series.workers.inc()
                self.has_listened.set()
        return is_listening

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _signal(self, number_of_signal: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number_of_signal)
