"""The stack of deploy/compose.yaml, started for real: one story, told in the order of this file."""

import json
import os
import re
import signal
import subprocess
import tarfile
import time
from itertools import pairwise

import psutil
import pytest

from tests.stack.conftest import PORTS, ROOT, wait_until
from tests.stack.engine import BASE

pytestmark = pytest.mark.stack

OURS = ("inference", "registry", "trainer")
PATIENT = "marked-patient-7f3a"  # what must appear nowhere
ALERT = "GlucastDown"


def size_mb(stack, image):
    return int(stack.engine.run(stack.engine.docker, "image", "inspect", "-f", "{{.Size}}", image).stdout) / 1e6


def load(stack, seconds, deadline=1.0):
    """Forecasts asked for in the background."""
    address = f"127.0.0.1:{PORTS['GLUCAST_PORT']}"
    words = stack.command("-m", "tests.stack.load", address, str(seconds), str(deadline), PATIENT)
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answers_of(process):
    return [(at, code) for at, code in json.loads(process.communicate(timeout=120)[0])]


def codes_in(answers):
    return {code for _, code in answers}


def main_process(stack, service):
    """The process of a container that does the work: what its init started."""
    init = psutil.Process(int(stack.inspect(service, "{{.State.Pid}}")))
    return init.children()[0]


def firing(stack):
    return {alert["labels"]["alertname"] for alert in stack.get("ALERTMANAGER_PORT", "/api/v2/alerts?active=true")}


def value_of(stack, expression):
    found = stack.get("PROMETHEUS_PORT", f"/api/v1/query?query={expression}")["data"]["result"]
    return float(found[0]["value"][1]) if found else None


def test_everything_is_healthy_and_locked(stack):
    assert set(stack.compose("ps", "--services").split()) == stack.services
    for service in stack.services:
        assert stack.inspect(service, "{{.State.Health.Status}}") == "healthy", service
        locked = stack.inspect(service, "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}")
        assert locked == "true [ALL]", service
        assert psutil.Process(int(stack.inspect(service, "{{.State.Pid}}"))).uids().real != 0, service


def test_inference_image_is_small_and_cannot_train(stack):
    added = size_mb(stack, "glucast/inference:0.1.0") - size_mb(stack, BASE)
    print(f"inference image: {added:.0f} MB over its base")
    assert added < 400
    for library in ("torch", "transformers", "ray", "mlflow", "pandas"):
        assert "ModuleNotFoundError" in stack.execute("inference", "python", "-c", f"import {library}", check=False)
    assert "Read-only file system" in stack.execute("inference", "touch", "/app/file", check=False)
    assert stack.execute("inference", "id", "-u").strip() == "10001"


def test_ray_refuses_who_has_no_token(stack):
    script = "import urllib.request as u; u.urlopen('http://ray-head:8265/api/jobs/', timeout=5)"
    assert "401" in stack.execute("ray-worker", "python", "-c", script, check=False)


def test_a_sweep_is_submitted_its_student_served_asked_and_counted(stack):
    assert stack.health("ready") == "NOT_SERVING"
    told = stack.demo()
    print(told[-3000:])
    assert re.search(r"Job '\w+' succeeded", told)
    assert "virtual-population version 1 (" in told
    assert re.search(r"model +virtual-population version 1", told)
    assert re.search(r"forecasts: .*=> [1-9]", told)


def test_inference_starts_fast_and_is_light(stack):
    stack.compose("stop", "inference")
    began = time.monotonic()
    stack.compose("start", "inference")
    wait_until(lambda: stack.health("ready") == "SERVING", 20, "inference is not ready")
    seconds, resident = time.monotonic() - began, main_process(stack, "inference").memory_info().rss / 1e6
    print(f"inference: ready {seconds:.1f} s after the command to start, {resident:.0f} MB resident")
    assert seconds < 5
    assert resident < 250


def test_prometheus_sees_its_targets(stack):
    def up():
        targets = stack.get("PROMETHEUS_PORT", "/api/v1/targets?state=active")["data"]["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    wait_until(lambda: {"inference", "ray", "prometheus", "alertmanager"} <= up(), 60, f"only {up()} are up")
    assert value_of(stack, "sum(ray_glucast_trial_epochs_total)") >= 2


def test_inference_killed_under_load_comes_back(stack):
    asking = load(stack, 20)
    time.sleep(5)
    killed = time.time()
    os.kill(main_process(stack, "inference").pid, signal.SIGKILL)
    answers = answers_of(asking)
    fine = [at for at, code in answers if code == "OK"]
    longest = max(after - before for before, after in pairwise(fine))
    print(f"killed: {len(fine)} of {len(answers)} answered, none for {longest:.1f} s, {codes_in(answers)}")
    assert min(fine) < killed < max(fine)
    assert longest < 10
    assert {code for at, code in answers if at > killed + 10} == {"OK"}
    assert int(stack.inspect("inference", "{{.RestartCount}}")) == 1


def test_a_stopped_inference_loses_nothing_that_it_took(stack):
    asking = load(stack, 8)
    time.sleep(3)
    stack.compose("stop", "inference")
    assert codes_in(answers_of(asking)) <= {
        "OK",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
    }  # the last: nobody listens, and the caller gives up
    assert stack.inspect("inference", "{{.State.ExitCode}}") == "0"
    stack.compose("start", "inference")
    wait_until(lambda: stack.health("ready") == "SERVING", 20, "inference is not ready")


def test_an_upgrade_loses_no_request(stack):
    """Another container, from the image as it is now; whoever asks by our client only waits a little longer once."""
    before, asking = stack.inspect("inference", "{{.Id}}"), load(stack, 15, deadline=10)
    time.sleep(3)
    stack.compose("up", "-d", "--no-deps", "--no-build", "--force-recreate", "inference")
    answers = answers_of(asking)
    longest = max(after - before for (before, _), (after, _) in pairwise(answers))
    print(f"replaced: {len(answers)} answered, the longest pause {longest:.1f} s")
    assert codes_in(answers) == {"OK"}
    assert stack.inspect("inference", "{{.Id}}") != before


def test_without_the_registry_inference_goes_on_and_even_starts(stack):
    stack.compose("stop", "registry")
    try:
        assert codes_in(answers_of(load(stack, 12))) == {"OK"}
        stack.engine.run(stack.engine.docker, "restart", stack.compose("ps", "-q", "inference").strip())
        wait_until(lambda: stack.health("ready") == "SERVING", 20, "inference does not start from its cache")
        assert codes_in(answers_of(load(stack, 3))) == {"OK"}
    finally:
        stack.compose("start", "registry")


def test_an_alert_fires_when_inference_is_stopped_and_resolves(stack):
    assert ALERT not in firing(stack)
    stack.compose("stop", "inference")
    took = wait_until(lambda: ALERT in firing(stack), 240, f"{ALERT} does not fire")
    stack.compose("start", "inference")
    over = wait_until(lambda: ALERT not in firing(stack), 420, f"{ALERT} does not resolve")
    print(f"{ALERT} fired after {took:.0f} s, was resolved after {over:.0f} s")


def test_guarded_it_answers_who_may_and_takes_up_other_tokens_without_a_restart(stack, monkeypatch):
    tokens = ROOT / "deploy" / "secrets" / "guard" / "tokens"
    before, content = stack.inspect("inference", "{{.Id}}"), tokens.read_text()
    stack.make("start", "PROFILE=train", "GUARDED=1")
    monkeypatch.setenv("COMPOSE_ENV_FILES", "deploy/guarded.env")

    def said():
        return stack.compose("run", "--rm", "-T", "client", "models", "--json", profile="tools", check=False)

    try:
        guarded = stack.inspect("inference", "{{.Id}} {{.State.Health.Status}}")
        assert guarded.split()[0] != before
        assert guarded.split()[1] == "healthy"
        assert stack.health() == "UNAVAILABLE", "it answers without TLS"
        wait_until(lambda: "virtual-population" in said(), 30, f"its client gets no answer: {said()}")
        replace(tokens, f"forecast {'n' * 40}\n")
        wait_until(lambda: "token is not known" in said(), 30, "the old token still counts")
        replace(tokens, content)
        wait_until(lambda: "virtual-population" in said(), 30, "the token does not count again")
        assert stack.inspect("inference", "{{.Id}} {{.State.Health.Status}}") == guarded
    finally:
        replace(tokens, content)
        monkeypatch.delenv("COMPOSE_ENV_FILES")
        stack.make("start", "PROFILE=train")


def replace(file, text):
    """As docs/operations.md does: another file in its place."""
    new = file.with_name("next")
    new.write_text(text)
    new.chmod(0o444)
    new.replace(file)


def test_registry_on_postgresql_and_s3(stack):
    """What was trained is kept, so that the same sweep only publishes, now to another registry."""
    assert "deploy/scale.env" in stack.compose("run", "--rm", "-T", "bucket", profile="scale", check=False)
    stack.make("start", "PROFILE=train", "SCALE=1")
    try:
        sweep = "python -m trainer sweep trainer/runs/stack.toml".split()
        said = stack.execute("ray-head", *"ray job submit --address http://127.0.0.1:8265 --".split(), *sweep)
        assert "virtual-population version 1: published" in said
        count = ("psql", "-U", "mlflow", "-tAc", "select count(*) from model_versions")
        assert stack.compose("exec", "-T", "postgres", *count, profile="scale").strip() == "1"
        wait_until(lambda: stack.health("ready") == "SERVING", 20, "inference is not ready")
    finally:
        stack.make("start", "PROFILE=train")


def test_no_secret_and_no_patient_is_anywhere(stack, tmp_path):
    secrets = {
        path.name: path.read_text().strip() for path in (ROOT / "deploy" / "secrets").iterdir() if path.is_file()
    }
    secrets["tokens"] = (ROOT / "deploy" / "secrets" / "guard" / "tokens").read_text()
    keys = [word for text in secrets.values() for word in re.findall(r"[\w-]{32}", text)]
    assert len(keys) >= len(secrets)
    logs = stack.compose("logs", "--no-color", profile="*")
    series = stack.execute("inference", "python", "-c", GET_METRICS)
    assert "glucose_infer_inferences_total" in series
    for word in (*keys, PATIENT):
        assert word not in logs
        assert word not in series
    for image in OURS:
        assert found_in_layers(stack, f"glucast/{image}:0.1.0", [*keys, PATIENT], tmp_path / image) == []
    tracked = subprocess.run(["git", "grep", "-lF", *(f"-e{key}" for key in keys)], cwd=ROOT, capture_output=True)
    assert tracked.stdout == b""


GET_METRICS = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"


def found_in_layers(stack, image, words, archive):
    """Words that a file, or the history, of an image holds."""
    stack.engine.run(stack.engine.docker, "save", "-o", str(archive), image)
    found = []
    with tarfile.open(archive) as outer:
        for member in outer:
            content = outer.extractfile(member)
            if content is not None:
                data = content.read()
                found += [(member.name, word) for word in words if word.encode() in data]
    archive.unlink()
    return found
