"""TLS and tokens in the stack and on Kubernetes: off, and on by one setting, with files that may be replaced."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import yaml

from services.certificates import CertificateFiles, read_certificates
from services.client.command import ENVIRONMENT, connect
from services.client.credentials import Token
from services.client.refusals import ServiceError
from services.health import check
from services.inference.settings import PREFIX, Settings
from services.tokens import Scope, read_tokens
from tests.deploy.manifests import COMPONENTS, FOLDER, PODS, ROOT, documents, name_of, problems, variables

DEPLOY = ROOT / "deploy"
COMPOSE = str(Path(sys.executable).with_name("docker-compose"))
GUARDED = ("--env-file", "deploy/guarded.env")
FILE_SETTINGS = ("tls_certificate", "tls_key", "tls_client_ca", "token_file")
COMPONENT = "inference/guarded/kustomization.yaml"


def composed(service, *options, **variables):
    """A service as compose understands the file."""
    command = [COMPOSE, "-f", "deploy/compose.yaml", *options, "--profile", "tools", "config"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return yaml.safe_load(done.stdout)["services"][service]


def settings_of(environment, monkeypatch, guard=None):
    """The settings that a container would have, its files taken from a folder here."""
    for name, value in environment.items():
        if name.startswith(PREFIX) and name != "GLUCAST_ID_SECRET_FILE":
            monkeypatch.setenv(name, value.replace("/run/guard", str(guard)))
    return Settings()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What secrets.sh makes."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copy(DEPLOY / "secrets.sh", folder)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH")
    subprocess.run(["bash", folder / "secrets.sh"], check=True, timeout=60)
    return folder / "secrets"


# ---------------------------------------------------------------- what is made


def test_what_is_made_for_trying_can_be_used(secrets):
    guard, client = secrets / "guard", secrets / "client"
    found = read_certificates(CertificateFiles(guard / "certificate.pem", guard / "key.pem", guard / "client_ca.pem"))
    assert found.names == ("inference", "localhost", "127.0.0.1")
    tokens = read_tokens(guard / "tokens")
    ((_, authorization),) = Token(client / "token").metadata()
    assert tokens.holder(authorization).scope is Scope.FORECAST
    assert "admin " in (guard / "tokens").read_text()


def test_containers_see_files_that_they_need_and_no_key_of_the_ca(secrets):
    mounted = {volume["source"]: volume for name in ("inference", "client") for volume in composed(name)["volumes"]}
    folders = {Path(source) for source in mounted if source.startswith("/")}
    assert folders == {DEPLOY / "secrets" / "guard", DEPLOY / "secrets" / "client"}
    assert all(mounted[str(folder)]["read_only"] for folder in folders)
    assert (secrets / "ca" / "ca.key").stat().st_mode & 0o777 == 0o400
    assert (secrets / "ca").stat().st_mode & 0o777 == 0o700
    for name in ("guard", "client"):
        assert (secrets / name).stat().st_mode & 0o777 == 0o755
        assert not list((secrets / name).glob("ca.key"))


def test_a_certificate_that_is_taken_away_is_made_anew_and_nothing_else(secrets):
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    (secrets / "guard" / "certificate.pem").unlink()
    subprocess.run(["bash", secrets.parent / "secrets.sh"], check=True, timeout=60)
    after = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    changed = {path.relative_to(secrets).as_posix() for path in after if after[path] != before.get(path)}
    assert changed == {"guard/certificate.pem", "guard/key.pem"}


def test_without_openssl_the_rest_is_made_and_it_is_said(tmp_path):
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "mkdir", "head", "base64", "tr", "cat", "rm", "find", "chmod"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [shutil.which("bash"), tmp_path / "secrets.sh"],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "openssl is not installed" in done.stderr
    assert read_tokens(tmp_path / "secrets" / "guard" / "tokens")


# ---------------------------------------------------------------- compose


def test_the_stack_is_unguarded_and_on_the_loopback_address_unless_it_is_asked_for(monkeypatch):
    service = composed("inference")
    assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}
    settings = settings_of(service["environment"], monkeypatch)
    assert [getattr(settings, name) for name in FILE_SETTINGS] == [None] * 4
    assert settings.rate_per_second == settings.streams_per_caller == 0


def test_one_setting_guards_the_service_and_the_client_fits_it(secrets, monkeypatch):
    given = composed("inference", *GUARDED)["environment"]
    settings = settings_of(given, monkeypatch, secrets / "guard")
    assert settings.certificate_files is not None
    assert settings.token_file is not None
    assert settings.exposure == ""
    assert settings.tls_client_ca is None


def options_of_client(secrets):
    """What the client in the stack is given, its files taken from a folder here."""
    given = composed("client", *GUARDED)["environment"]
    options = {name.removeprefix(ENVIRONMENT).lower(): value for name, value in given.items()}
    assert options.pop("address") == "inference:50051"
    return {name: Path(value.replace("/run/guard", str(secrets / "client"))) for name, value in options.items()}


def test_the_client_of_the_stack_is_let_in_and_nobody_with_less(serve_guarded, secrets):
    address, _, _ = serve_guarded
    options = options_of_client(secrets)

    def refusal(**given):
        with connect(address, deadline=8, **given) as client, pytest.raises(ServiceError) as refused:
            client.list_models()
        return refused.value

    assert "the model registry does not answer" in refusal(**options).sentence  # so far it came
    assert refusal(**options | {"token_file": None}).status.name == "UNAUTHENTICATED"
    without = refusal(ca=options["ca"], token_file=options["token_file"])  # a certificate of its own
    assert without.status.name == "UNAVAILABLE"
    assert "registry" not in without.sentence


def test_callers_certificates_and_other_machines_are_a_variable_each(secrets, monkeypatch):
    more = {"GLUCAST_TLS_CLIENT_CA": "/run/guard/client_ca.pem", "GLUCAST_ADDRESS": "0.0.0.0"}
    service = composed("inference", *GUARDED, **more)
    assert {port["host_ip"] for port in service["ports"]} == {"0.0.0.0"}
    assert settings_of(service["environment"], monkeypatch, secrets / "guard").tls_client_ca is not None
    for name in more:
        assert re.search(rf"^#{name}={re.escape(more[name])}$", (DEPLOY / "guarded.env").read_text(), re.M)


def test_makefile_knows_the_setting():
    done = subprocess.run(
        ["make", "-n", "start", "GUARDED=1", "SCALE=1"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "--env-file deploy/scale.env --profile scale --env-file deploy/guarded.env" in done.stdout


def test_the_containers_health_needs_neither_certificate_nor_token_nor_good_files(serve_guarded):
    """Files that were damaged since the start leave the old ones in force: that must not make the container ill."""
    address, environment, guard = serve_guarded
    command = [sys.executable, "-m", "services.health"]
    for content in (None, b"", b"-----BEGIN nothing"):
        if content is not None:
            for name in ("certificate.pem", "tokens"):
                (guard / name).chmod(0o644)
                (guard / name).write_bytes(content)
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (0, "SERVING\n")
    with grpc.insecure_channel(address) as channel:
        assert check(channel) == "UNAVAILABLE"  # nothing but health is answered without TLS


@pytest.fixture
def serve_guarded(secrets, tmp_path):
    """The service as compose starts it with guarded.env: its address, the container's variables, its files."""
    guard = shutil.copytree(secrets / "guard", tmp_path / "guard")
    given = composed("inference", *GUARDED, GLUCAST_TLS_CLIENT_CA="/run/guard/client_ca.pem")["environment"]
    ports = {"GLUCAST_PORT": "0", "GLUCAST_METRICS_PORT": "0", "GLUCAST_HEALTH_PORT": str(free_port())}
    here = ports | {"GLUCAST_REGISTRY": f"sqlite:///{tmp_path}/none.db", "GLUCAST_CACHE": str(tmp_path / "cache")}
    files = {name: value.replace("/run/guard", str(guard)) for name, value in given.items() if "ID_SECRET" not in name}
    environment = files | here
    process = subprocess.Popen(
        [sys.executable, "-m", "services.inference"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process.stdout.readline().split("listens on ")[1].split(",")[0], environment, Path(guard)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# ---------------------------------------------------------------- Kubernetes


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What an overlay with the component makes, by name."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH; any version that has `kubectl kustomize` will do")
    folder = tmp_path_factory.mktemp("overlay")
    (folder / "glucast").symlink_to(ROOT)
    (folder / "mine").mkdir()
    document = (ROOT / "docs" / "kubernetes.md").read_text().partition("## Guard")[2]
    (folder / "mine" / "kustomization.yaml").write_text(document.partition("```yaml\n")[2].partition("```")[0])
    done = subprocess.run([kubectl, "kustomize", folder / "mine"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return {name_of(manifest): manifest for manifest in documents(done.stdout)}


def test_the_guarded_service_is_valid_and_still_locked_down(built):
    assert [problem for manifest in built.values() for problem in problems(manifest)] == []
    spec = built["Deployment/glucast-inference"]["spec"]["template"]["spec"]
    assert spec["securityContext"] == PODS["glucast-inference"].spec["securityContext"]
    assert spec["containers"][0]["securityContext"] == PODS["glucast-inference"].containers[0]["securityContext"]


def test_certificates_and_tokens_are_a_folder_of_secrets_so_that_replaced_ones_are_seen(built, monkeypatch, tmp_path):
    spec = built["Deployment/glucast-inference"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "guard"]
    assert "subPath" not in mount
    assert mount["readOnly"] is True
    (volume,) = [volume["projected"] for volume in spec["volumes"] if volume["name"] == "guard"]
    assert volume["defaultMode"] == 0o440
    secrets = [source["secret"] for source in volume["sources"]]
    assert [secret["name"] for secret in secrets if not secret.get("optional")] == [
        "glucast-inference-tls",
        "glucast-inference-tokens",
    ]
    files = {name: value for name, value in env_of(container).items() if value.startswith("/run/guard/")}
    assert files.keys() == {f"{PREFIX}{name.upper()}" for name in FILE_SETTINGS}
    assert {Path(file).parent for file in files.values()} == {Path(mount["mountPath"])}
    assert {name.removeprefix(PREFIX).lower() for name in env_of(container)} - {"home"} <= Settings.model_fields.keys()


def env_of(container):
    return {variable["name"]: variable["value"] for variable in container["env"]} | {"GLUCAST_TLS_CLIENT_CA": CLIENT_CA}


CLIENT_CA = "/run/guard/client_ca.pem"  # of the document's overlay, by the ConfigMap


def test_kubernetes_asks_the_port_of_health_alone(built):
    (container,) = built["Deployment/glucast-inference"]["spec"]["template"]["spec"]["containers"]
    plain = PODS["glucast-inference"].containers[0]
    port = int(env_of(container)["GLUCAST_HEALTH_PORT"])
    assert {"name": "health", "containerPort": port} in container["ports"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe] == plain[probe] | {"grpc": plain[probe]["grpc"] | {"port": port}}
    assert variables(plain).keys() <= env_of(container).keys() | {"GLUCAST_NAMESPACE"}


def test_the_component_is_named_where_it_lies():
    assert set(COMPONENTS) == {COMPONENT}
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"deploy/k8s/{Path(COMPONENT).parent}" in text
    comment = (FOLDER / COMPONENT).read_text()
    for secret in ("glucast-inference-tls", "glucast-inference-tokens", "glucast-inference-client-ca"):
        assert secret in text
        assert secret in comment
