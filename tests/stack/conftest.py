"""The images built and the stack started, once for all tests of this folder."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stack.engine import ROOT, Engine, NoEngine, building, running

COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
SERVICES = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
STANDINS = {"prometheus", "alertmanager", "postgres", "s3"}  # targets of standins/Dockerfile; Grafana has none
PROJECT = "glucast-test"  # beside a stack that someone runs
PORTS = {"GLUCAST_PORT": 50951, "REGISTRY_PORT": 50952, "PROMETHEUS_PORT": 50953, "ALERTMANAGER_PORT": 50954}
PORTS_OF_GRAFANA = {"GRAFANA_PORT": 50955}
COMPOSE = str(Path(sys.executable).with_name("docker-compose"))


@dataclass(frozen=True)
class Stack:
    """The running stack, and how tests speak to it."""

    engine: Engine

    def make(self, *words: str, timeout: float = 900) -> str:
        """Run a target of the Makefile against it; what it printed."""
        told = [f"DOCKER={self.engine.docker}", f"COMPOSE={COMPOSE}", f"BUILD={self.engine.options}", "TORCH=cpu"]
        told += [f"SERVICES={' '.join(sorted(self.services))}"] if "start" in words else []
        done = self.engine.run("make", *words, *told, timeout=timeout)
        return done.stdout + done.stderr

    def demo(self) -> str:
        """What `make demo-stack` does once everything is up."""
        how = f"COMPOSE={COMPOSE} -f {COMPOSE_FILE}"
        return self.engine.run("env", how, "bash", "deploy/demo-stack.sh", timeout=1800).stdout

    @property
    def services(self) -> set[str]:
        """What can run here of the profiles that are always on, and of training."""
        chosen = {name for name, service in SERVICES.items() if service.get("profiles", ["train"]) == ["train"]}
        return chosen - {"grafana"} if self.engine.stands_in else chosen

    def compose(self, *words: str, profile: str = "train", check: bool = True, timeout: float = 300) -> str:
        """Run docker compose on it."""
        command = (COMPOSE, "-f", str(COMPOSE_FILE), "--profile", profile)
        done = self.engine.run(*command, *words, check=check, timeout=timeout)
        return done.stdout + done.stderr

    def execute(self, service: str, *command: str, check: bool = True) -> str:
        """Run a command in a service's container."""
        return self.compose("exec", "-T", service, *command, check=check)

    def inspect(self, service: str, form: str) -> str:
        """What the engine knows of a service's container."""
        container = self.compose("ps", "-q", "-a", service).strip()
        return self.engine.run(self.engine.docker, "inspect", "--format", form, container).stdout.strip()

    def command(self, *words: str) -> list[str]:
        """A command of this environment's Python, where it reaches the published ports."""
        return [*self.engine.inside, sys.executable, *words]

    def get(self, port: str, path: str) -> Any:
        """GET a JSON document from a published port."""
        script = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        url = f"http://127.0.0.1:{PORTS[port]}{path}"
        return json.loads(self.engine.run(*self.command("-c", script, url)).stdout)

    def health(self, service: str = "") -> str:
        """What the inference service says of itself on its published port."""
        address = f"127.0.0.1:{PORTS['GLUCAST_PORT']}"
        words = ("-m", "services.health", "--address", address, "--service", service)
        return self.engine.run(*self.command(*words), check=False).stdout.strip()


def wait_until(holds: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until something holds; how long it took. Fails with `what` after so many seconds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"after {seconds:g} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


@pytest.fixture(scope="session")
def stack(request) -> Iterator[Stack]:
    try:
        with building() as engine:
            _build(Stack(engine))
        with running() as engine, pytest.MonkeyPatch.context() as patch:
            patch.setenv("COMPOSE_PROJECT_NAME", PROJECT)
            for name, port in (PORTS | PORTS_OF_GRAFANA).items():
                patch.setenv(name, str(port))
            stack = Stack(engine)
            try:
                stack.make("start", "PROFILE=train")
                yield stack
            finally:
                if request.session.testsfailed:
                    print(stack.compose("ps", "-a"), stack.compose("logs", "--tail", "60"), sep="\n")
                stack.compose("down", "-v", "--timeout", "20", profile="*", check=False)
    except NoEngine as error:
        pytest.skip(str(error))


def _build(stack: Stack) -> None:
    stack.make("images", timeout=3600)
    if stack.engine.stands_in:
        for name in STANDINS:
            folder = str(ROOT / "tests" / "stack" / "standins")
            build = ("build", *stack.engine.options.split(), "--target", name, "-t", SERVICES[name]["image"], folder)
            stack.engine.run("env", "DOCKER_BUILDKIT=1", stack.engine.docker, *build)
