"""The README's commands do what it says; its folder table and its picture exist."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forecasting.bundle import write_bundle
from forecasting.registry import Registry
from forecasting.windows import WindowShape
from trainer.export import export_onnx
from trainer.settings import ModelSettings
from trainer.teacher import build_model

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.search(r"```bash\n(.*?)```", README, re.S)[1].splitlines()


def command(part: str) -> list[str]:
    """The README's own line that holds `part`, run with this interpreter."""
    (line,) = [line for line in COMMANDS if part in line]
    return [sys.executable if word == "python" else word for word in line.split()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """A registry whose champion is a small model with random weights, named as the README names it."""
    folder = tmp_path_factory.mktemp("readme")
    settings = ModelSettings(backbone="bert-tiny", weights="random", num_layers=1, num_prototypes=8, d_ff=8)
    built = build_model("virtual-population", settings, WindowShape(), 1)
    (folder / "bundle").mkdir()
    export_onnx(built.model, built.spec, folder / "bundle" / "model.onnx")
    uri = f"sqlite:///{folder}/registry/mlflow.db"
    registry = Registry(uri, folder / "cache", create=True)
    version, _ = registry.publish(write_bundle(folder / "bundle", built.spec, {}, {}), {})
    registry.promote(version, {})
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
        "PYTHON": sys.executable,
        "GLUCAST_CACHE": str(folder / "cache"),
        "GLUCAST_METRICS_PORT": "0",
        "HOME": str(folder),
    }


def run(arguments: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_dry_run_prints_its_plan(environment):
    assert "Plan (dry run" in run(command("distill_pipeline.sh"), environment)


def test_the_models_are_listed(environment):
    assert "bert-medium" in run(command("trainer models"), environment)


def test_a_published_model_is_scored_beside_the_baselines(environment):
    quickly = [*command("trainer evaluate"), "--no-boosting", "--no-alarms"]
    report = json.loads(run(quickly, environment))
    assert report["protocol"]["windows"] <= 500
    assert {"persistence", "ridge_pooled", "virtual-population"} <= report["arms"].keys()


def test_the_service_answers_the_client(environment, tmp_path):
    service = subprocess.Popen(
        command("services.inference"),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**environment, "GLUCAST_PORT": "0"},
    )
    try:
        address = re.search(r"listens on (\S+),", service.stdout.readline())[1]
        said = run([*command("services.client"), "--address", address, "--json"], environment)
        assert len(json.loads(said)["points"]) == 12
        assert json.loads(said)["clinical_use"] is False
        (drawn,) = re.findall(r"^python (-m services.client .*) --plot out.png$", README, re.M)
        picture = tmp_path / "out.png"
        run([sys.executable, *drawn.split(), "--plot", str(picture), "--address", address], environment)
        assert picture.read_bytes().startswith(b"\x89PNG")
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0


def test_every_command_of_the_list_is_tested_here():
    tested = ("distill_pipeline.sh", "trainer models", "trainer evaluate", "services.inference", "services.client")
    assert len(COMMANDS) == len(tested)
    for part in tested:
        command(part)


def test_the_table_of_backbones_is_the_catalogues():
    made = subprocess.run(
        [sys.executable, "-m", "trainer", "models", "--markdown"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    written = re.search(r"<!-- models -->\n(.*)\n<!-- /models -->", README, re.S)[1]
    assert written == made, "run `python -m trainer models --markdown` and put its table into the README"


def test_the_make_targets_it_names_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z][a-z-]*)", README):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_folders_and_pictures_it_names_are_there():
    for folder in re.findall(r"^\| `(\w+)/` \|", README, re.M):
        assert (ROOT / folder).is_dir(), folder
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture
