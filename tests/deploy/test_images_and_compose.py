"""The Dockerfile, the locks and the compose file: sound, locked down, and agreeing with what they are about."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.inference.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
TOOLS = Path(sys.executable).parent  # of this environment, which the dev extra fills
LOCKS = {
    "inference.txt": ("serve", "traces"),
    "trainer-cpu.txt": ("train", "serve", "demo"),
    "trainer-cuda.txt": ("train", "serve", "demo"),
}


def run(*command, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def requirements_of(*extras):
    """What the project and its extras ask for; extras that name extras of ours are followed."""
    for line in chain(PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)):
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            yield from requirements_of(*requirement.extras)
        else:
            yield requirement


def locked(name):
    """{package: version} of a lock."""
    text = (DEPLOY / "locks" / name).read_text()
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}


# ---------------------------------------------------------------- linters


def test_dockerfiles_pass_hadolint():
    hadolint = TOOLS / "hadolint"
    said = run(str(hadolint), "Dockerfile")
    assert (said.returncode, said.stdout) == (0, "")
    # versions of what stands in for an image in a test are Debian's affair
    said = run(str(hadolint), "--ignore=DL3008", "--ignore=DL3013", "tests/stack/standins/Dockerfile")
    assert (said.returncode, said.stdout) == (0, "")


def test_yaml_passes_yamllint():
    said = run(str(TOOLS / "yamllint"), "--strict", "deploy", ".yamllint.yaml")
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--profile", "train"),
        ("--profile", "train", "--profile", "gpu"),
        ("--env-file", "deploy/scale.env", "--profile", "scale"),
        ("--env-file", "deploy/guarded.env", "--profile", "tools"),
        ("--profile", "*"),
    ],
    ids=" ".join,
)
def test_compose_accepts_its_file(options):
    said = run(str(TOOLS / "docker-compose"), "-f", "deploy/compose.yaml", *options, "config", "--quiet")
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_readable_as_bash(script):
    assert run("bash", "-n", str(script)).stderr == ""


# ---------------------------------------------------------------- images


def test_builds_need_nothing_newer_than_plain_buildkit():
    assert "# syntax=" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
    assert not re.search(r"COPY .*--link", DOCKERFILE)


def test_every_image_ends_as_the_same_nobody():
    finals = re.split(r"^FROM base AS ", DOCKERFILE, flags=re.M)[1:]
    assert [final.split()[0] for final in finals] == ["registry", "trainer", "inference"]
    for final in finals:
        assert re.findall(r"^USER (.*)", final, re.M)[-1] == "10001:10001"
        assert not re.search(r"^(CMD|ENTRYPOINT) [^\[]", final, re.M)  # the exec form


def test_base_image_is_an_argument_in_every_stage():
    froms = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.M))
    assert {name for name in froms if name not in stages} == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_lock_holds_what_the_project_asks_for(lock, extras):
    have = locked(lock)
    for requirement in requirements_of(*extras):
        version = have.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock} lacks {requirement.name}; run make locks"
        assert requirement.specifier.contains(version.partition("+")[0]), f"{lock} has {requirement.name} {version}"


def test_registry_runs_the_mlflow_that_training_writes_with():
    asked = {requirement.name: requirement for requirement in requirements_of("train")}["mlflow"]
    assert f"mlflow{asked.specifier}" in (DEPLOY / "locks" / "registry.in").read_text().split()
    assert len({locked(name)["mlflow"] for name in ("registry.txt", "trainer-cpu.txt", "trainer-cuda.txt")}) == 1


def test_what_serves_cannot_train():
    assert (
        not {"torch", "transformers", "ray", "mlflow", "mlflow-skinny", "onnx", "pandas"}
        & locked("inference.txt").keys()
    )


@pytest.mark.parametrize("lock", sorted((DEPLOY / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_lock_pins_by_hash_and_names_no_index(lock):
    text = lock.read_text()
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry[:80]


def test_only_what_is_named_reaches_a_build():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert not [name for name in named if name.startswith((".", "deploy/secrets", "data/real", "registry", "runs"))]


# ---------------------------------------------------------------- compose


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_locked_down(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert not {"privileged", "network_mode", "pid", "ipc", "user", "devices"} & service.keys()
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} <= limits.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_address_alone(name):
    for port in SERVICES[name].get("ports", []):
        # the service alone may be opened to others, by a variable
        loopback = r"\$\{GLUCAST_ADDRESS:-127\.0\.0\.1\}" if name == "inference" else r"127\.0\.0\.1"
        assert re.fullmatch(loopback + r":\$\{\w+_PORT:-(\d+)\}:\1", port), port


def test_the_job_port_of_ray_is_not_published_and_asks_for_a_token():
    for name in ("ray-head", "ray-worker", "ray-gpu-worker"):
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert SERVICES[name]["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.get("restart") != "no"])
def test_what_stays_says_whether_it_is_well(name):
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_dependencies_are_waited_for(name):
    conditions = {wait["condition"] for wait in SERVICES[name].get("depends_on", {}).values()}
    assert conditions <= {"service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_named_by_version(name):
    image, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.search(r"\d+(\.\d+)*", tag), f"{image} has no version"
    if image.startswith("glucast/"):
        assert tag == PROJECT["version"]
        assert re.search(rf" AS {image.removeprefix('glucast/')}$", DOCKERFILE, re.M)


def test_settings_of_inference_exist():
    variables = {name for name in SERVICES["inference"]["environment"] if name.startswith(PREFIX)}
    variables |= set(re.findall(rf"\b({PREFIX}\w+)=", DOCKERFILE)) - {"GLUCAST_RUNS"}  # of the trainer
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= Settings.model_fields.keys()


def test_inference_is_given_the_time_that_its_drain_takes():
    service = SERVICES["inference"]
    assert int(service["stop_grace_period"].removesuffix("s")) > service["environment"]["GLUCAST_DRAIN_SECONDS"]


def test_every_secret_is_made_and_ignored_by_git():
    made = (DEPLOY / "secrets.sh").read_text()
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert name in made
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().split()
    assert not [text for text in map(str, walk(SERVICES)) if re.search(r"password=|token=|secret=", text, re.I)]


def walk(part):
    """Every value of a document."""
    if isinstance(part, dict):
        part = list(part.values())
    if isinstance(part, list):
        return chain.from_iterable(map(walk, part))
    return [part]


def test_secrets_are_made_once_and_kept(tmp_path):
    script = tmp_path / "secrets.sh"
    shutil.copy(DEPLOY / "secrets.sh", script)
    assert run("bash", str(script)).returncode == 0
    first = {path: path.read_bytes() for path in (tmp_path / "secrets").rglob("*") if path.is_file()}
    assert run("bash", str(script)).returncode == 0
    assert {path: path.read_bytes() for path in (tmp_path / "secrets").rglob("*") if path.is_file()} == first
    alone = {path.name: content for path, content in first.items() if path.parent.name == "secrets"}
    assert alone.keys() == COMPOSE["secrets"].keys()
    assert len(set(alone.values())) == len(alone)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------- the registry's image


def registry(*words, **variables):
    return run(sys.executable, str(DEPLOY / "images" / "registry.py"), *words, **variables)


def test_registry_refuses_what_it_cannot_do():
    said = registry("start")
    assert (said.returncode, said.stderr) == (1, "error: 'start' is none of serve, bucket, upgrade\n")


def test_registry_asks_for_the_file_of_a_password():
    said = registry("upgrade", REGISTRY_STORE="postgresql+pg8000://mlflow:{password}@postgres/mlflow")
    assert said.returncode == 1
    assert "REGISTRY_PASSWORD_FILE" in said.stderr


def test_profile_scale_alone_is_not_taken_for_a_folder():
    said = registry("bucket", REGISTRY_ARTIFACTS="")
    assert said.returncode == 1
    assert "deploy/scale.env" in said.stderr


def test_registry_puts_any_password_into_its_url(tmp_path):
    file = tmp_path / "password"
    file.write_text("a/b@c:d\n")
    url = "postgresql+pg8000://mlflow:{password}@postgres/mlflow"
    code = f"import sys; sys.path.insert(0, {str(DEPLOY / 'images')!r}); import registry; print(registry.store())"
    said = run(sys.executable, "-c", code, REGISTRY_STORE=url, REGISTRY_PASSWORD_FILE=str(file))
    assert said.stdout == "postgresql+pg8000://mlflow:a%2Fb%40c%3Ad@postgres/mlflow\n"
