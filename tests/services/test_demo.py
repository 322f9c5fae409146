"""The demo, as `make run` runs it."""

import os
import re

from typer.testing import CliRunner

from services.demo import app


def run(*words: object):
    return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "120"})


def test_the_demo_shows_a_forecast_beside_the_truth_and_leaves_nothing_running(shelf, tmp_path):
    picture = tmp_path / "runs" / "demo.png"
    result = run("--patient", "adult_003", "--registry", shelf.registry.uri, "--out", picture)
    assert result.exit_code == 0, result.output
    assert "truth" in result.output
    assert "virtual-population version 1" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    process = re.search(r"process (\d+) answers", result.output)[1]
    assert not is_running(int(process))


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_demo_without_a_registry_says_what_to_do(tmp_path):
    result = run("--registry", f"sqlite:///{tmp_path}/none.db")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is no registry at")
    assert "publish a model first" in result.stderr
