"""Encrypted connections and tokens: whom the clients trust, what they send, and where they refuse to send it."""

import os
import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from forecasting.errors import InvalidSetting
from services import calls, followed_files
from services.client import ForecastClient, ServiceError, Tls, refusals
from services.client.command import app
from services.client.credentials import is_loopback
from tests.services.certificates import Authority
from tests.services.conftest import holds
from tests.services.faces import both_faces
from tests.services.scripted import scripted

SECRET = "s3cret"


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "ours")


@pytest.fixture
def token_file(tmp_path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    return path


@both_faces
def test_a_server_with_a_trusted_certificate_is_asked(face, ours):
    with scripted(pair=ours.sign("server")) as server:
        assert face(server.address, tls=Tls(ours.file)).ask("list_models") == []


@both_faces
def test_a_server_that_nobody_vouches_for_is_not(face, ours, tmp_path):
    with scripted(pair=Authority(tmp_path, "others").sign("server")) as server, pytest.raises(ServiceError) as refused:
        face(server.address, tls=Tls(ours.file)).ask("list_models")
    assert "is not trusted here" in refused.value.sentence
    assert not server.seen


@both_faces
def test_a_certificate_for_another_place_is_not_taken(face, ours):
    with scripted(pair=ours.sign("elsewhere", "192.0.2.1")) as server, pytest.raises(ServiceError) as refused:
        face(server.address, tls=Tls(ours.file)).ask("list_models")
    assert "is for another name" in refused.value.sentence


@both_faces
def test_true_means_whom_this_system_trusts(face, ours, monkeypatch):
    with scripted(pair=ours.sign("server")) as server:
        with pytest.raises(ServiceError, match="is not trusted here"):
            face(server.address, tls=True).ask("list_models")
        monkeypatch.setenv(ssl.get_default_verify_paths().openssl_cafile_env, str(ours.file))
        assert face(server.address, tls=True).ask("list_models") == []


@both_faces
def test_a_server_that_asks_who_we_are_is_told(face, ours):
    own = ours.sign("client")
    with scripted(pair=ours.sign("server"), clients=ours) as server:
        assert face(server.address, tls=Tls(ours.file, own.certificate, own.key)).ask("list_models") == []
        with pytest.raises(ServiceError, match="a certificate of ours"):
            face(server.address, tls=Tls(ours.file)).ask("list_models")


def test_plain_and_encrypted_do_not_meet_and_say_so(ours):
    with scripted() as plain, pytest.raises(ServiceError, match="does not speak TLS; ask without it"):
        _ask(plain.address, tls=Tls(ours.file))
    with scripted(pair=ours.sign("server")) as encrypted, pytest.raises(ServiceError, match="wants TLS"):
        _ask(encrypted.address)


def _ask(address: str, **given: object) -> None:
    with ForecastClient(address, **given) as client:
        client.list_models()


@both_faces
@pytest.mark.parametrize("is_encrypted", [True, False], ids=["encrypted", "loopback"])
def test_every_call_carries_the_token(face, ours, token_file, is_encrypted):
    with scripted(pair=ours.sign("server") if is_encrypted else None) as server:
        client = face(server.address, tls=Tls(ours.file) if is_encrypted else False, token_file=token_file)
        client.ask("list_models")
        client.watch([], "570", "mg/dL")
        client.ask("forecast_many", [])
    assert [one.metadata["authorization"] for one in server.seen] == [f"Bearer {SECRET}"] * 2


def test_a_replaced_token_is_sent_without_a_new_client(token_file, monkeypatch):
    monkeypatch.setattr(followed_files, "LOOK_SECONDS", 0.0)
    with scripted() as server, ForecastClient(server.address, token_file=token_file) as client:
        client.list_models()
        newer = token_file.with_name("newer")
        newer.write_text("n3w")
        newer.replace(token_file)
        client.list_models()
        token_file.write_text("")  # on its way to hold another
        client.list_models()
        token_file.write_text("n3wer")
        client.list_models()
    sent = [one.metadata["authorization"].removeprefix("Bearer ") for one in server.seen]
    assert sent == [SECRET, "n3w", "n3w", "n3wer"]


@both_faces
@pytest.mark.parametrize("address", ["192.0.2.1:50051", "glucast.example:50051", "dns:///127.0.0.1.example:1"])
def test_no_token_goes_to_another_machine_in_the_clear(face, token_file, address):
    with pytest.raises(InvalidSetting, match=f"a token would go to {address} in the clear; use TLS"):
        face(address, token_file=token_file).make()


def test_a_token_passes_no_proxy_in_the_clear(token_file, monkeypatch):
    """gRPC asks the proxy of the environment, even for an address of this machine."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with scripted() as server:
        _ask(server.address, token_file=token_file)
    assert server.seen


@pytest.mark.parametrize(
    ("address", "stays"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.9.1:1", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("unix:/run/glucast.sock", True),
        ("0.0.0.0:50051", False),
        ("10.0.0.1:50051", False),
        ("localhost.example:50051", False),
        ("127.0.0.1.example:50051", False),
    ],
)
def test_what_stays_on_this_machine_is_known(address, stays):
    assert is_loopback(address) is stays


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", "schlüssel".encode(), b"\xff\xfe"])
def test_a_file_without_a_token_is_refused_and_never_quoted(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(InvalidSetting, match="token file") as refused:
        ForecastClient("127.0.0.1:1", token_file=path)
    assert not content.strip() or content.decode(errors="replace").strip() not in str(refused.value)


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (Tls(ca=Path("nowhere.pem")), "the certificate authority nowhere.pem cannot be read"),
        (Tls(certificate=Path("one.pem")), "come together; give both or neither"),
    ],
)
def test_files_that_are_not_there_are_named(tls, words):
    with pytest.raises(InvalidSetting, match=words):
        ForecastClient("127.0.0.1:1", tls=tls)


@both_faces
def test_our_own_service_with_tls_and_tokens_is_asked_in_every_way(
    face, serve, shelf, readings, ours, tmp_path, token_file
):
    """What the service takes for a certificate and a token is what the client sends, streams and refusals too."""
    pair, token = ours.sign("service"), "t" * 40
    (tmp_path / "tokens").write_text(f"forecast {token}\n")
    secured = {"tls_certificate": pair.certificate, "tls_key": pair.key, "token_file": tmp_path / "tokens"}
    with serve(registry=shelf.registry.uri, cache=tmp_path / "cache", **secured) as where:
        stranger = face(where.address, tls=Tls(ours.file), token_file=token_file)
        with pytest.raises(ServiceError) as refused:
            stranger.ask("list_models")
        assert refused.value.status is grpc.StatusCode.UNAUTHENTICATED
        assert refused.value.request_id
        token_file.write_text(token)
        client = face(where.address, tls=Tls(ours.file), token_file=token_file)
        assert holds(lambda: client.ask("list_models"))
        assert client.ask("forecast", "570", readings, "mg/dL").points
        assert client.watch(readings[-1:], "570", "mg/dL", history=readings[:-1])[0].forecast.points


def test_client_and_service_name_their_metadata_alike():
    assert (refusals.DETAILS, refusals.REQUEST_ID) == (calls.DETAILS, calls.REQUEST_ID)


def test_the_command_line_takes_them_from_options_and_from_the_environment(ours, token_file, monkeypatch):
    with scripted(pair=ours.sign("server")) as server:
        given = ["models", "--address", server.address]
        by_option = CliRunner().invoke(app, [*given, "--ca", str(ours.file), "--token-file", str(token_file)])
        monkeypatch.setenv("GLUCAST_CLIENT_CA", str(ours.file))
        monkeypatch.setenv("GLUCAST_CLIENT_TOKEN_FILE", str(token_file))
        by_environment = CliRunner().invoke(app, given)
    assert (by_option.exit_code, by_environment.exit_code) == (0, 0), by_option.output + by_environment.output
    assert [one.metadata["authorization"] for one in server.seen] == [f"Bearer {SECRET}"] * 2


def test_an_error_of_the_connection_is_one_sentence_without_words_of_grpcs(ours):
    """The real process: gRPC's core writes to standard error by itself, past Python."""
    with scripted() as server:
        command = [sys.executable, "-m", "services.client", "models", "--address", server.address]
        done = subprocess.run(
            [*command, "--ca", str(ours.file)], capture_output=True, text=True, timeout=30, env=_quiet(), check=False
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {server.address} does not speak TLS; ask without it\n"


def _quiet() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
