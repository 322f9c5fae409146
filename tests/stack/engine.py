"""A container engine for the stack's tests: the one of this machine, or one of our own where it cannot pull images.

Our own is dockerd on a socket and a data folder of its own. It builds in the machine's network, and then runs in a
network namespace that has no way out, so that containers have networks and ports and reach nothing else. Images that
are not ours are stand-ins then (standins/), and the base image is made of Debian's packages.
"""

import functools
import http.server
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = "python:3.11-slim-bookworm"
FOLDER = ROOT / ".containers"  # kept from run to run: the base, images, layers
NAMESPACE = "glucast-stack"
WHEELS_PORT = 50956  # always the same one: it is part of what a build is cached by
NEEDED = {"dockerd": "docker.io", "runc": "runc", "iptables": "iptables", "ip": "iproute2", "mmdebstrap": "mmdebstrap"}


class NoEngine(Exception):
    """No engine is here and none can be started; the text says why."""


@dataclass(frozen=True)
class Engine:
    """How to talk to an engine, and to what its containers publish.

    environment: of every docker and compose command; inside: what goes before a command that is to reach published
    ports; options: further ones of `docker build`; stands_in: are the images of others our stand-ins?
    """

    docker: str
    environment: Mapping[str, str]
    inside: tuple[str, ...] = ()
    options: str = ""
    stands_in: bool = False

    def run(self, *command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a command with the engine's environment; its output as text. Raises with the output where it fails."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done


@contextmanager
def building() -> Iterator[Engine]:
    """An engine that builds; raises NoEngine."""
    if _pulls():
        yield Engine("docker", {})
        return
    _require_tools()
    with _dockerd(()) as engine, _wheels() as options:
        if not engine.run(engine.docker, "image", "ls", "-q", BASE).stdout.strip():
            _import_base(engine)
        yield Engine(engine.docker, engine.environment, options=f"--network host {options}", stands_in=True)


@contextmanager
def running() -> Iterator[Engine]:
    """An engine that runs what `building` built."""
    if _pulls():
        yield Engine("docker", {})
        return
    enter = ("nsenter", f"--net=/run/netns/{NAMESPACE}")
    _run("ip", "netns", "delete", NAMESPACE, check=False)
    _run("ip", "netns", "add", NAMESPACE)
    try:
        _run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        with _dockerd(enter) as engine:
            yield Engine(engine.docker, engine.environment, enter, stands_in=True)
    finally:
        _run("ip", "netns", "delete", NAMESPACE, check=False)


@functools.cache
def _pulls() -> bool:
    """Is there an engine that fetches images?"""
    if shutil.which("docker") is None or _run("docker", "info", check=False).returncode:
        return False
    try:
        return _run("docker", "pull", "--quiet", BASE, check=False, timeout=300).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _require_tools() -> None:
    missing = [package for tool, package in NEEDED.items() if shutil.which(tool) is None]
    if missing:
        raise NoEngine(f"no engine here pulls images, and one of our own needs Debian's {', '.join(missing)}")
    if os.geteuid():
        raise NoEngine("no engine here pulls images, and only root can start one of our own")


@contextmanager
def _dockerd(enter: Sequence[str]) -> Iterator[Engine]:
    """dockerd on a socket of its own. enter: what goes before it, to start it in a network namespace."""
    FOLDER.mkdir(exist_ok=True)
    network = () if enter else ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false")
    with (
        tempfile.TemporaryDirectory(prefix="glucast-", ignore_cleanup_errors=True) as short,  # paths of sockets are
        (FOLDER / "dockerd.log").open("wb") as log,
    ):
        socket = f"unix://{short}/docker.sock"
        command = (
            *("dockerd", "--host", socket, "--exec-root", f"{short}/exec", "--pidfile", f"{short}/dockerd.pid"),
            *("--data-root", f"{FOLDER}/data", "--storage-driver", "overlay2"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
        )
        engine = Engine(_client(), {"DOCKER_HOST": socket, "DOCKER_CONFIG": f"{short}/config"})
        process = subprocess.Popen([*enter, *command, *network], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait_for(engine, process)
            yield engine
        finally:
            process.terminate()
            process.wait(60)


def _wait_for(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    for _ in range(150):
        if engine.run(engine.docker, "version", check=False).returncode == 0:
            return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    said = (FOLDER / "dockerd.log").read_text(errors="replace").strip().splitlines()
    raise NoEngine(f"dockerd does not start here: {said[-1] if said else 'it says nothing'}")


def _client() -> str:
    """Debian's client builds with the engine's own BuildKit; newer ones want a plugin for it, which may be missing."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


def _import_base(engine: Engine) -> None:
    """Make the base image of Debian's packages: like the official one, a Python 3.11 with pip at /usr/local/bin."""
    archive = FOLDER / "base.tar"
    if not archive.exists():
        _make_base(archive)
    changes = ("ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV LANG=C.UTF-8")
    options = [word for change in changes for word in ("--change", change)]
    engine.run(engine.docker, "import", *options, str(archive), BASE)


def _make_base(archive: Path) -> None:
    """It trusts what this machine's apt, pip and TLS trust, and looks where they look: never publish it."""
    sources = next(
        p for p in map(Path, ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")) if p.exists()
    )
    hooks = [
        'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        'for name in python python3 python3.11; do ln -sf /usr/bin/python3 "$1/usr/local/bin/$name"; done',
        'ln -sf /usr/bin/pip3 "$1/usr/local/bin/pip"',
        'cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"',
        'for file in /etc/pip.conf /etc/xdg/pip/*; do if [ -f "$file" ]; then install -D "$file" "$1$file"; fi; done',
    ]
    unfinished = archive.with_suffix(".part")
    _run(
        *("mmdebstrap", "--variant=minbase", "--format=tar"),
        "--include=ca-certificates,netbase,python3,python3-pip,python3-venv,tzdata",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        *(f"--aptopt={line}" for line in _run("apt-config", "dump").stdout.splitlines() if "Acquire::Check-" in line),
        *(f"--customize-hook={hook}" for hook in hooks),
        *("bookworm", str(unfinished), str(sources)),
    )
    unfinished.rename(archive)


@contextmanager
def _wheels() -> Iterator[str]:
    """Options of a build that let its pip find the wheels of a local folder that this machine's pip is set up with."""
    folders = [Path(word) for word in os.environ.get("PIP_FIND_LINKS", "").split() if Path(word).is_dir()]
    if not folders:
        yield ""
        return
    handler = functools.partial(_Quiet, directory=str(folders[0]))
    with http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        arguments = {"PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/", "PIP_TRUSTED_HOST": "127.0.0.1"}
        yield " ".join(f"--build-arg {name}={value}" for name, value in arguments.items())
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is fetched is in the log of the build."""


def _run(*command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, timeout=timeout, capture_output=True, text=True)
