"""Several processes on one port: they answer, are counted together, replaced when they die, and end together.

The workers here are stand-ins: a real gRPC server that says who it is, in place of the service.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from forecasting.errors import InvalidSetting
from services.inference import workers
from services.inference.settings import Settings

STAND_IN = """
import asyncio, json, os, signal, sys
import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge
from services.inference import workers

async def who(request, context):
    keys = ("GLUCAST_ID_SECRET", "GLUCAST_WORKERS", "GLUCAST_NAMESPACE", "GLUCAST_REFLECTION")
    return json.dumps({"pid": os.getpid(), **{key: os.environ[key] for key in keys}}).encode()

async def main():
    told = asyncio.Event()
    workers.join(workers.number(), told)
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    registry = CollectorRegistry()
    Counter("stand_in_lives_total", "Lives", registry=registry).inc()
    Gauge("stand_in_alive", "Those alive", registry=registry, multiprocess_mode="livesum").set(1)
    if "broken" in sys.argv:
        sys.exit("error: something is wrong")
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    handler = grpc.method_handlers_generic_handler("test", {"Who": grpc.unary_unary_rpc_method_handler(who)})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{os.environ['GLUCAST_PORT']}")
    await server.start()
    print("something else", flush=True)
    print(workers.listening_line("here", ""), flush=True)
    await told.wait()
    await server.stop(0)

asyncio.run(main())
"""
PARENT = """
import json, sys
from services.inference import workers
from services.inference.settings import Settings
workers.SLACK, workers.FIRST_PAUSE = 0.5, 0.3
given = json.loads(sys.argv[1])
code = workers.supervise(Settings(port=0, metrics_port=0, drain_seconds=0, **given), [sys.executable, *sys.argv[2:]])
print("grpc in the parent:", "grpc" in sys.modules, flush=True)
sys.exit(code)
"""


class Parent:
    """A parent process, and what it printed until its workers listen."""

    def __init__(self, stand_in: Path, folder: Path, *how: str, **given: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, json.dumps(given), str(stand_in), *how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.getcwd()},
        )
        self.folder = folder
        self.address, self.metrics_url, self.printed = "", "", list[str]()

    def listens(self) -> "Parent":
        while line := self.process.stdout.readline():
            self.printed.append(line.strip())
            if found := re.match(rf"{workers.LISTENS} (\S+), metrics on (\S+)", line):
                self.address, self.metrics_url = found.groups()
                return self
        raise AssertionError(f"it ended before it listened: {self.process.stderr.read()}")

    def ends(self, seconds: float = 15) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def who(self) -> dict:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own, so that the kernel chooses anew
        with grpc.insecure_channel(self.address, options) as channel:
            return json.loads(channel.unary_unary("/test/Who")(b"", timeout=5, wait_for_ready=True))

    def everyone(self, count: int) -> dict[int, dict]:
        found: dict[int, dict] = {}
        until(lambda: found.setdefault((said := self.who())["pid"], said) and len(found) == count)
        return found

    def sample(self, name: str) -> float | None:
        text = urllib.request.urlopen(self.metrics_url, timeout=5).read().decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return found and float(found[1])


def until(is_so: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Parent]]:
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN)
    made: list[Parent] = []

    def begin(*how: str, **given: object) -> Parent:
        made.append(Parent(stand_in, tmp_path, *how, **given))
        return made[-1]

    yield begin
    for parent in made:
        if parent.process.poll() is None:
            parent.process.kill()  # its workers see their standard input close
            parent.process.communicate()


def test_workers_answer_on_one_port_are_counted_together_and_end_together(start):
    parent = start(workers=2, namespace="here", reflection=True).listens()
    said = parent.everyone(2)
    assert {one["GLUCAST_WORKERS"] for one in said.values()} == {"1"}, "a worker would start workers"
    assert {one["GLUCAST_NAMESPACE"] for one in said.values()} == {"here"}
    assert len({one["GLUCAST_ID_SECRET"] for one in said.values()}) == 1, "one would not know the other's ids"
    assert parent.sample("stand_in_lives_total") == parent.sample("stand_in_alive") == parent.sample("glucose_workers")
    assert parent.sample("glucose_workers") == 2
    parent.process.send_signal(signal.SIGTERM)
    code, out, err = parent.ends()
    assert (code, err) == (0, "")
    assert "grpc in the parent: False" in out
    assert not any(is_alive(pid) for pid in said)
    assert not list(parent.folder.glob("glucast-metrics-*")), "series were left behind"


def test_a_worker_that_dies_is_replaced_and_its_counts_stay(start):
    parent = start(workers=2).listens()
    before = parent.everyone(2)
    os.kill(victim := min(before), signal.SIGKILL)
    until(lambda: parent.sample("glucose_workers") == 1)
    assert parent.sample("stand_in_alive") == 1, "the dead counts among the living"
    assert parent.sample("stand_in_lives_total") == 2
    until(lambda: parent.sample("glucose_workers") == 2)
    after = parent.everyone(2)
    assert len(before.keys() & after.keys()) == 1
    assert victim not in after
    assert parent.sample("stand_in_lives_total") == 3, "a counter went back"
    assert parent.sample("glucose_worker_restarts_total") == 1
    files = len(list(parent.folder.glob("glucast-metrics-*/*")))
    assert files == 4, "every restart leaves files behind"
    parent.process.send_signal(signal.SIGINT)
    code, _, err = parent.ends()
    assert code == 0
    assert "ended by itself, with -9" in err


def test_workers_that_cannot_start_end_them_all_with_their_sentence(start):
    parent = start("broken", workers=2)
    code, out, err = parent.ends()
    assert code == 1
    assert "error: something is wrong" in err
    assert workers.LISTENS not in out


def test_a_worker_that_does_not_end_is_killed_and_the_exit_code_says_so(start):
    parent = start("deaf", workers=1).listens()
    (pid,) = parent.everyone(1)
    parent.process.send_signal(signal.SIGTERM)
    code, _, err = parent.ends()
    assert code == 1
    assert "1 workers did not end within" in err
    assert not is_alive(pid)


def test_workers_end_when_their_parent_is_killed(start):
    parent = start(workers=2).listens()
    pids = list(parent.everyone(2))
    parent.process.kill()
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_signal_before_anyone_listens_ends_it_well(start):
    parent = start(workers=2)
    until(lambda: list(parent.folder.glob("glucast-metrics-*")))
    parent.process.send_signal(signal.SIGTERM)
    code, out, _ = parent.ends()
    assert code == 0
    assert workers.LISTENS not in out


def test_what_else_a_worker_prints_is_passed_on_and_its_own_line_is_not(start):
    parent = start(workers=2).listens()
    assert parent.printed == ["something else", "something else", parent.printed[-1]]


def test_the_service_itself_runs_as_workers(tmp_path):
    options = ["--workers", "2", "--port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
    process = subprocess.Popen(
        [*workers.COMMAND, *options, "--registry", f"sqlite:///{tmp_path}/none.db", "--cache", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = re.fullmatch(rf"{workers.LISTENS} (\S+), metrics on (\S+)\n", process.stdout.readline())
    assert found, process.communicate()
    series = urllib.request.urlopen(found[2], timeout=5).read().decode()
    with grpc.insecure_channel(found[1]) as channel:
        grpc.channel_ready_future(channel).result(5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=15)
    assert process.returncode == 0, err
    assert "\nglucose_workers 2.0\n" in series
    assert 'grpc_server_started_total{grpc_method="Forecast"' in series


def test_a_reserved_port_is_shared_only_by_those_who_ask_to_share_it():
    with workers.reserved("127.0.0.1", 0) as port:
        assert port
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
            with pytest.raises(InvalidSetting, match=rf"cannot listen on 127.0.0.1:{port}; is the port taken"):
                workers.reserved("127.0.0.1", port).__enter__()
            for _ in range(20):  # the parent's socket gets none of them
                socket.create_connection(("127.0.0.1", port), 1).close()


def test_a_host_that_is_none_is_told_in_a_sentence():
    with pytest.raises(InvalidSetting, match="cannot listen on no such host:1"):
        workers.reserved("no such host", 1).__enter__()


def test_a_worker_reads_from_its_environment_what_the_parent_was_told(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GLUCAST_")]:
        monkeypatch.delenv(name)
    told = Settings(port=0, workers=3, reflection=True, cache="/c", canary_share=0.25, id_secret="key")
    for name, value in workers._environment(told, 4321).items():
        monkeypatch.setenv(name, value)
    assert Settings() == told.model_copy(update={"port": 4321, "workers": 1} | told.limits_of_a_worker())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_allow_a_caller_together_what_the_parent_was_told(monkeypatch, count):
    told = Settings(workers=count, rate_per_second=10.0, rate_burst=100, streams_per_caller=4)
    for name, value in workers._environment(told, 4321).items():
        monkeypatch.setenv(name, value)
    one = Settings()
    assert one.rate_per_second * count == pytest.approx(10.0)
    assert 100 <= one.rate_burst * count < 100 + count
    assert 4 <= one.streams_per_caller * count < 4 + count


def test_no_limit_stays_no_limit_among_workers(monkeypatch):
    for name, value in workers._environment(Settings(workers=4), 4321).items():
        monkeypatch.setenv(name, value)
    assert Settings().rate_per_second == Settings().streams_per_caller == 0


def test_every_worker_reads_the_file_of_secrets_that_the_parent_was_told(monkeypatch, tmp_path):
    file = tmp_path / "secrets"
    file.write_text("new\nold\n")
    for name in [name for name in os.environ if name.startswith("GLUCAST_")]:
        monkeypatch.delenv(name)
    told = Settings(workers=3, id_secret_file=file)
    for name, value in workers._environment(told, 4321).items():
        monkeypatch.setenv(name, value)
    assert Settings().id_secrets() == (b"new", b"old")
    assert "GLUCAST_ID_SECRET" not in os.environ, "a secret of the parent's own would be refused beside the file"
