"""Triton's own client, in an environment of its own, against our declaration and a real service.

GLUCAST_TRITON_PYTHON names the python of such an environment; else one is made, of some hundred megabytes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.conftest import becomes_ready

pytestmark = pytest.mark.triton

FOLDER = Path(__file__).with_name("triton_client")
DESCRIBED = Path(__file__).parents[1] / "protos" / "open_inference.json"
TOKEN = "triton-0123456789-0123456789-0123456789"


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """The python of an environment with tritonclient."""
    if given := os.environ.get("GLUCAST_TRITON_PYTHON"):
        return given
    folder = tmp_path_factory.mktemp("triton")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = str(folder / "bin" / "python")
    install = ["-m", "pip", "install", "--quiet", "--requirement", FOLDER / "requirements.txt"]
    subprocess.run([made, "-I", *install], check=True)
    return made


def test_its_descriptors_are_those_that_ours_is_compared_with(python):
    told = subprocess.run([python, "-E", FOLDER / "descriptors.py"], check=True, capture_output=True, text=True).stdout
    assert json.loads(told) == json.loads(DESCRIBED.read_text())


def test_it_finds_everything_as_it_should_be(python, shelf, serve, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"admin {TOKEN}")
    with serve(registry=shelf.registry.uri, cache=tmp_path / "cache", token_file=tokens) as where:
        assert becomes_ready(where.address)
        command = [python, "-E", FOLDER / "checks.py", where.address, "virtual-population", f"Bearer {TOKEN}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed, 0 failed" in done.stdout
