"""Who may ask: TLS, certificates of callers, tokens, scopes, rates; and what is told to those who may not."""

import datetime as dt
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import ValidationError

from forecasting.errors import InvalidSetting
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from protos.inference import open_inference_pb2, open_inference_pb2_grpc
from services import followed_files
from services.certificates import CertificateFiles, read_certificates
from services.inference.open_inference import ADMIN_METHODS
from services.inference.settings import Settings
from services.rates import Rates, host_of
from services.tokens import PermissionDenied, Scope, Unauthenticated, read_tokens
from tests.services.certificates import DAY, Authority, Pair
from tests.services.conftest import holds, samples, scrape

FORECAST_TOKEN, ADMIN_TOKEN = "f" * 40, "a" * 40
OPEN = "grpc.health.v1.Health"
CODES = grpc.StatusCode


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "theirs")


@pytest.fixture
def own(authority) -> Pair:
    return authority.sign("service")


@pytest.fixture
def looking_often(monkeypatch):
    monkeypatch.setattr(followed_files, "LOOK_SECONDS", 0.05)


@pytest.fixture
def token_file(tmp_path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# the phones\nforecast {FORECAST_TOKEN}\n\n  admin   {ADMIN_TOKEN}\n")
    return file


@pytest.fixture
def run(serve, shelf, tmp_path):
    """A service with the two models of the shelf, and settings."""

    def start(**given: object):
        return serve(registry=shelf.registry.uri, cache=tmp_path / "cache", **given)

    return start


def code_of(channel: grpc.Channel, token: str = "") -> str:
    """How a cheap call ends."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    try:
        forecaster_pb2_grpc.ForecasterStub(channel).ListModels(pb.ListModelsRequest(), timeout=5, metadata=metadata)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


def secure(address: str, ca: Path, client: Pair | None = None) -> grpc.Channel:
    pair = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    # each with connections of its own, so that each shakes hands
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(ca.read_bytes(), *pair),
        [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100)],
    )


def reached(address: str, ca: Path, client: Pair | None = None) -> str:
    with secure(address, ca, client) as channel:
        return code_of(channel)


# ---- TLS


def test_with_tls_a_caller_who_trusts_the_ca_is_answered_and_nobody_in_plain_text(run, authority, stranger, own):
    with run(tls_certificate=own.certificate, tls_key=own.key) as where:
        assert reached(where.address, authority.file) == "OK"
        assert reached(where.address, stranger.file) == "UNAVAILABLE"
        with grpc.insecure_channel(where.address) as channel:
            assert code_of(channel) == "UNAVAILABLE"


def test_with_a_client_ca_only_those_with_a_certificate_of_it_are_answered(run, authority, stranger, own, tmp_path):
    theirs = stranger.sign("caller")
    with run(tls_certificate=own.certificate, tls_key=own.key, tls_client_ca=authority.file) as where:
        assert reached(where.address, authority.file, authority.sign("caller")) == "OK"
        assert reached(where.address, authority.file) == "UNAVAILABLE"
        assert reached(where.address, authority.file, theirs) == "UNAVAILABLE"
        expired = authority.sign("late", left=-DAY)
        assert reached(where.address, authority.file, expired) == "UNAVAILABLE"


def test_a_replaced_certificate_is_taken_up_without_a_restart(run, authority, stranger, own, looking_often):
    with run(tls_certificate=own.certificate, tls_key=own.key) as where:
        assert reached(where.address, authority.file) == "OK"
        with secure(where.address, authority.file) as before:
            assert code_of(before) == "OK"
            put(stranger.sign("next"), own)
            assert holds(lambda: reached(where.address, stranger.file) == "OK", 5)
            assert reached(where.address, authority.file) == "UNAVAILABLE"
            assert code_of(before) == "OK"  # who is connected stays so


def test_a_replaced_certificate_that_cannot_be_used_leaves_the_old_one_and_is_counted(
    run, authority, own, looking_often
):
    with run(tls_certificate=own.certificate, tls_key=own.key) as where:
        kept = own.key.read_bytes(), own.certificate.read_bytes()
        for broken in (b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"):
            own.certificate.write_bytes(broken)
            time.sleep(0.1)
            assert reached(where.address, authority.file) == "OK"
        put(authority.sign("late", left=-DAY), own)
        time.sleep(0.1)
        assert reached(where.address, authority.file) == "OK"
        assert samples(scrape(where.metrics_url), "glucose_reload_failures_total", files="certificates") == [3.0]
        own.key.write_bytes(kept[0])
        own.certificate.write_bytes(kept[1])
        assert holds(lambda: reached(where.address, authority.file) == "OK", 5)


def test_the_end_of_the_certificate_is_exported_and_follows_the_file_though_nobody_calls(
    run, authority, own, looking_often
):
    name = "glucose_certificate_expiry_timestamp_seconds"
    with run() as where:
        assert samples(scrape(where.metrics_url), name) == [0.0]  # without TLS
    with run(tls_certificate=own.certificate, tls_key=own.key) as where:
        (ends,) = samples(scrape(where.metrics_url), name)
        assert abs(ends - (time.time() + DAY.total_seconds())) < 60
        put(authority.sign("next", left=30 * DAY), own)
        assert holds(lambda: samples(scrape(where.metrics_url), name)[0] > ends + 28 * DAY.total_seconds(), 5)


def test_a_certificate_that_begins_later_is_taken_up_when_it_has_begun(authority, own, monkeypatch):
    """Whoever signs has a clock that is ahead of ours, perhaps: the file is good, and nobody touches it again."""
    monkeypatch.setattr(followed_files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(followed_files, "AGAIN_SECONDS", 0.2)
    files, failures = CertificateFiles(own.certificate, own.key), []
    followed = followed_files.FollowedFiles(files.all, lambda: read_certificates(files), lambda: failures.append(1))
    before = followed.now()
    put(authority.sign("early", begins=dt.timedelta(seconds=2)), own)
    assert followed.now() is before
    assert holds(lambda: followed.now() is not before, 5)
    assert len(failures) == 1


def test_only_one_thread_at_a_time_looks_at_files_so_that_none_puts_old_content_back(tmp_path, monkeypatch):
    monkeypatch.setattr(followed_files, "LOOK_SECONDS", 0.0)
    file, reading, go_on = tmp_path / "file", threading.Event(), threading.Event()
    file.write_text("old")
    slow = []

    def read() -> str:
        content = file.read_text()
        if slow:
            reading.set()
            go_on.wait(5)
        return content

    followed = followed_files.FollowedFiles((file,), read, lambda: None)
    slow.append(True)
    replace(file, "second")
    thread = threading.Thread(target=followed.now)
    thread.start()
    assert reading.wait(5)
    replace(file, "third")
    assert followed.now() == "old"  # and does not read beside the other
    slow.clear()
    go_on.set()
    thread.join()
    assert followed.now() == "third"


def put(new: Pair, place: Pair) -> None:
    """Replace a pair as tools do: each file at once, one after the other."""
    os.replace(new.certificate, place.certificate)
    os.replace(new.key, place.key)


def test_certificates_that_cannot_be_used_stop_the_start_in_a_sentence(authority, own, tmp_path):
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    other, expired = authority.sign("other"), authority.sign("late", left=-DAY)
    locked = authority.sign("locked", password=b"secret")
    for certificate, key, ca, sentence in (
        (expired.certificate, expired.key, None, "late.pem is refused: certificate has expired; renew"),
        (own.certificate, other.key, None, "other.key is not its key, for .*service.pem"),
        (nonsense, own.key, None, "or the certificate cannot be read"),
        (own.certificate, nonsense, None, "or the certificate cannot be read"),
        (locked.certificate, locked.key, None, "its unencrypted key"),
        (tmp_path / "absent.pem", own.key, None, "absent.pem cannot be read .No such file"),
        (own.certificate, own.key, nonsense, "nonsense.pem holds no certificate that can be read"),
        (own.certificate, own.key, own.key, "service.key holds no certificate that can be read"),
    ):
        with pytest.raises(InvalidSetting, match=sentence):
            read_certificates(CertificateFiles(certificate, key, ca))
        with pytest.raises(ValidationError, match=sentence):
            Settings(tls_certificate=certificate, tls_key=key, tls_client_ca=ca)


def test_half_of_tls_stops_the_start(own):
    for given in ({"tls_certificate": own.certificate}, {"tls_key": own.key}):
        with pytest.raises(ValidationError, match="belong together; give both"):
            Settings(**given)
    with pytest.raises(ValidationError, match="give them too"):
        Settings(tls_client_ca=own.certificate)


def test_what_a_certificate_is_for_and_until_when_is_read(authority):
    issued = authority.sign("named", host="inference")
    found = read_certificates(CertificateFiles(issued.certificate, issued.key))
    assert found.names == ("inference",)
    assert abs(found.expires - (dt.datetime.now(dt.UTC) + DAY).timestamp()) < 5


def asked(address: str | None, *options: str, **environment: str) -> tuple[int, str]:
    """The health command as a container runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "services.health", *(["--address", address] if address else []), *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("is_mutual", [False, True])
def test_the_health_command_needs_no_option_beside_a_service_with_tls(run, authority, tmp_path, is_mutual):
    own = authority.sign("service", host="inference")  # it is asked at 127.0.0.1 all the same
    names = {"GLUCAST_TLS_CERTIFICATE": own.certificate, "GLUCAST_TLS_KEY": own.key}
    names |= {"GLUCAST_TLS_CLIENT_CA": authority.file} if is_mutual else {}
    files = {name.removeprefix("GLUCAST_").lower(): file for name, file in names.items()}
    tokens = tmp_path / "tokens"
    tokens.write_text(f"forecast {FORECAST_TOKEN}\n")
    with run(**files, token_file=tokens) as where:
        environment = {name: str(file) for name, file in names.items()}
        assert asked(where.address, **environment) == (0, "SERVING")
        assert asked(where.address) == (1, "UNAVAILABLE")
        by_ca = ("--ca", str(authority.file))
        assert asked(where.address, *by_ca, **environment) == (0, "SERVING")
        assert asked(where.address, *by_ca) == (1, "UNAVAILABLE")  # which is not named 127.0.0.1


def test_the_health_command_believes_no_other_certificate(run, authority, stranger, own):
    theirs = stranger.sign("service")
    with run(tls_certificate=theirs.certificate, tls_key=theirs.key) as where:
        for options in (
            ("--tls-certificate", str(own.certificate), "--tls-key", str(own.key)),
            ("--ca", str(authority.file)),
        ):
            assert asked(where.address, *options) == (1, "UNAVAILABLE")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_of_its_own_answers_health_without_tls_and_nothing_else(shelf, authority, own, tmp_path, workers):
    """For probes without certificates; also while files that were replaced cannot be used."""
    port = free_port()
    options = ["--port", "0", "--metrics-port", "0", "--health-port", str(port), "--workers", str(workers)]
    options += ["--tls-certificate", str(own.certificate), "--tls-key", str(own.key), "--tls-client-ca"]
    options += [str(authority.file), "--registry", shelf.registry.uri, "--cache", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "services.inference", "--reflection", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        process.stdout.readline()
        address = f"127.0.0.1:{port}"
        assert holds(lambda: asked(address, "--service", "ready") == (0, "SERVING"), 20)
        own.certificate.write_bytes(b"")
        environment = {"GLUCAST_TLS_CERTIFICATE": str(own.certificate), "GLUCAST_TLS_KEY": str(own.key)}
        assert asked(None, GLUCAST_HEALTH_PORT=str(port), **environment) == (0, "SERVING")
        with grpc.insecure_channel(address) as channel:
            assert code_of(channel) == "UNIMPLEMENTED"
            reflected = Rpc("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", True, True)
            assert reflected.code(channel) == ("UNIMPLEMENTED", "Method not found!")
    finally:
        process.terminate()
        assert process.wait(20) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_port_of_health_that_is_taken_stops_the_start_in_a_sentence(shelf):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [sys.executable, "-m", "services.inference", "--port", "0", "--metrics-port", "0"]
        done = subprocess.run([*command, "--health-port", str(port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}; is the port taken? Choose another" in done.stderr


# ---- tokens


def test_a_token_is_asked_for_by_everything_but_health(run, token_file):
    with run(token_file=token_file) as where, grpc.insecure_channel(where.address) as channel:
        assert code_of(channel) == "UNAUTHENTICATED"
        assert code_of(channel, "f" * 39) == code_of(channel, "f" * 41) == code_of(channel, "x") == "UNAUTHENTICATED"
        assert code_of(channel, FORECAST_TOKEN) == code_of(channel, ADMIN_TOKEN) == "OK"
        assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        assert samples(scrape(where.metrics_url), "grpc_server_handled_total", grpc_code="UNAUTHENTICATED") == [4.0]


def test_a_replaced_token_counts_without_a_restart_and_the_old_one_no_longer(run, token_file, looking_often):
    with run(token_file=token_file) as where, grpc.insecure_channel(where.address) as channel:
        assert code_of(channel, FORECAST_TOKEN) == "OK"
        replace(token_file, f"forecast {'n' * 40}\n")
        assert holds(lambda: code_of(channel, "n" * 40) == "OK", 5)
        assert code_of(channel, FORECAST_TOKEN) == code_of(channel, ADMIN_TOKEN) == "UNAUTHENTICATED"


def replace(file: Path, text: str) -> None:
    new = file.with_name("new")
    new.write_text(text)
    os.replace(new, file)


@pytest.mark.parametrize("text", ["", "# none\n", "forecast short\n", "anybody " + "t" * 40, None])
def test_a_file_of_tokens_that_becomes_unusable_leaves_the_old_ones_in_force(run, token_file, looking_often, text):
    """It neither opens the service nor shuts out who has a token."""
    with run(token_file=token_file) as where, grpc.insecure_channel(where.address) as channel:
        assert code_of(channel, FORECAST_TOKEN) == "OK"
        token_file.unlink() if text is None else replace(token_file, text)
        time.sleep(0.1)
        assert code_of(channel) == code_of(channel, "t" * 40) == "UNAUTHENTICATED"
        assert code_of(channel, FORECAST_TOKEN) == "OK"
        assert samples(scrape(where.metrics_url), "glucose_reload_failures_total", files="tokens") == [1.0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds 0 tokens, 1 to 256 are allowed"),
        ("forecast " + "s" * 31, "has a token of 31 characters in line 1, 32 are the least"),
        ("# one\nforecast", "has no scope and token in line 2"),
        ("root " + "s" * 40, "has no scope and token in line 1"),
        (f"forecast {'s' * 40} more", "has no scope and token in line 1"),
        ("forecast " + "s" * 40 + "§", "is not plain text"),
        ("forecast " + "s" * 40 + "!", "has a token in line 1 that cannot be sent"),
        (f"forecast {'s' * 40}\nadmin {'s' * 40}", "holds one token twice"),
        ("\n".join(f"forecast {k:040}" for k in range(257)), "holds 257 tokens"),
        ("forecast " + "s" * (1 << 18), "is larger than 262,144 bytes"),
    ],
)
def test_a_file_of_tokens_that_is_none_stops_the_start_and_is_not_quoted(tmp_path, text, sentence):
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(ValidationError, match=sentence) as refused:
        Settings(token_file=file)
    assert "ssssss" not in str(refused.value)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    """Files are read where calls are answered: waiting would stop the service."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidSetting, match="holds 0 tokens"):
        read_tokens(pipe)
    with pytest.raises(InvalidSetting, match="is no PEM file"):
        read_certificates(CertificateFiles(pipe, pipe))


def test_every_token_has_its_scope_and_odd_headers_have_none(token_file):
    tokens = read_tokens(token_file)
    assert tokens.holder(f"Bearer {FORECAST_TOKEN}").scope is Scope.FORECAST
    assert tokens.holder(f"bearer  {ADMIN_TOKEN}").scope is Scope.ADMIN
    for odd in (None, b"x", "", FORECAST_TOKEN, f"Basic {FORECAST_TOKEN}", f"Bearer {FORECAST_TOKEN} ", "Bearer é"):
        with pytest.raises(Unauthenticated):
            tokens.holder(odd)
    assert issubclass(PermissionDenied, Exception)


def test_a_stream_is_refused_as_it_opens(run, token_file):
    with run(token_file=token_file) as where, grpc.insecure_channel(where.address) as channel:
        call = forecaster_pb2_grpc.ForecasterStub(channel).Monitor(iter(()), timeout=5)
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        assert refused.value.code() is CODES.UNAUTHENTICATED


@pytest.mark.parametrize("kind", ["Monitor", "ModelStreamInfer", "ServerReflectionInfo"])
def test_a_stream_whose_token_is_taken_away_ends_at_its_next_message(run, token_file, looking_often, kind, caplog):
    """It may last for days: who was to be shut out would stay in."""
    asked = {
        "Monitor": (forecaster_pb2_grpc.ForecasterStub, monitored(3)),
        "ModelStreamInfer": (
            open_inference_pb2_grpc.GRPCInferenceServiceStub,
            [open_inference_pb2.ModelInferRequest()] * 4,
        ),
        "ServerReflectionInfo": (
            reflection_pb2_grpc.ServerReflectionStub,
            [reflection_pb2.ServerReflectionRequest(list_services="")] * 4,
        ),
    }
    stub, messages = asked[kind]
    sent: queue.Queue = queue.Queue()
    for message in messages[:2]:
        sent.put(message)
    with run(token_file=token_file, reflection=True) as where, grpc.insecure_channel(where.address) as channel:
        metadata = [("authorization", f"Bearer {FORECAST_TOKEN}")]
        call = getattr(stub(channel), kind)(iter(sent.get, None), metadata=metadata, timeout=20)
        next(call)
        replace(token_file, f"forecast {'n' * 40}\n")
        assert holds(lambda: code_of(channel, "n" * 40) == "OK", 5)
        for message in messages[2:]:
            sent.put(message)
        with pytest.raises(grpc.RpcError) as refused:
            list(call)
        sent.put(None)
    assert refused.value.code() is CODES.UNAUTHENTICATED
    assert not [record for record in caplog.records if record.exc_info]


def test_workers_take_up_replaced_tokens_and_certificates_each_by_itself(shelf, authority, own, token_file, tmp_path):
    """The real processes, told all of it by options."""
    options = ["--workers", "2", "--port", "0", "--metrics-port", "0", "--metrics-host", "127.0.0.1"]
    options += ["--tls-certificate", str(own.certificate), "--tls-key", str(own.key), "--token-file", str(token_file)]
    options += ["--registry", shelf.registry.uri, "--cache", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "services.inference", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = process.stdout.readline().split("listens on ")[1].split(",")[0]

        def codes(token: str) -> set[str]:
            """Of some connections, which the workers share among them."""
            return {once(address, authority.file, token) for _ in range(12)}

        assert codes(FORECAST_TOKEN) == {"OK"}
        replace(token_file, f"forecast {'n' * 40}\n")
        put(authority.sign("next"), own)
        assert holds(lambda: codes("n" * 40) == {"OK"}, 10)
        assert codes(FORECAST_TOKEN) == {"UNAUTHENTICATED"}
    finally:
        process.terminate()
        assert process.wait(20) == 0


def once(address: str, ca: Path, token: str) -> str:
    with secure(address, ca) as channel:
        return code_of(channel, token)


# ---- every method there is


@dataclass(frozen=True)
class Rpc:
    """A method as reflection tells of it."""

    service: str
    name: str
    many_in: bool
    many_out: bool

    def code(self, channel: grpc.Channel, token: str = "", content: bytes = b"") -> tuple[str, str]:
        """How a call with these bytes ends: status and sentence."""
        path, metadata = f"/{self.service}/{self.name}", [("authorization", f"Bearer {token}")] if token else []
        kind = f"{'stream' if self.many_in else 'unary'}_{'stream' if self.many_out else 'unary'}"
        method = getattr(channel, kind)(path, bytes, bytes)
        try:
            answer = method(iter([content]) if self.many_in else content, timeout=2, metadata=metadata)
            if self.many_out:
                next(answer, None)
                answer.cancel()
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""


def all_methods(channel: grpc.Channel, token: str) -> list[Rpc]:
    """Every method of every service that reflection lists."""
    stub, metadata = reflection_pb2_grpc.ServerReflectionStub(channel), [("authorization", f"Bearer {token}")]

    def told(**asked: str) -> reflection_pb2.ServerReflectionResponse:
        request = reflection_pb2.ServerReflectionRequest(**asked)
        # to its end: a stream left half-read is cancelled under the server, which gRPC logs as an error
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5, metadata=metadata)
        return answer

    found = []
    for service in told(list_services="").list_services_response.service:
        for file in told(file_containing_symbol=service.name).file_descriptor_response.file_descriptor_proto:
            parsed = FileDescriptorProto.FromString(file)
            for one in parsed.service:
                if f"{parsed.package}.{one.name}" == service.name:
                    found += [Rpc(service.name, m.name, m.client_streaming, m.server_streaming) for m in one.method]
    return found


@pytest.fixture
def guarded(run, token_file) -> Iterator[grpc.Channel]:
    with run(token_file=token_file, reflection=True) as where, grpc.insecure_channel(where.address) as channel:
        yield channel


def test_no_method_but_those_of_health_answers_without_a_token_or_with_the_wrong_scope(guarded):
    methods = all_methods(guarded, FORECAST_TOKEN)
    assert {rpc.service for rpc in methods} == {
        "glucast.v1.Forecaster",
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for rpc in methods:
        for content in (b"", b"\xff\xff"):
            if rpc.service == OPEN:
                assert rpc.code(guarded, content=content)[0] in ("OK", "INVALID_ARGUMENT", "UNIMPLEMENTED"), rpc
                continue
            assert rpc.code(guarded, content=content)[0] == "UNAUTHENTICATED", rpc
            assert rpc.code(guarded, "w" * 40, content)[0] == "UNAUTHENTICATED", rpc
            code = rpc.code(guarded, FORECAST_TOKEN, content)[0]
            assert (code == "PERMISSION_DENIED") == (rpc.name in ADMIN_METHODS), (rpc, code)
            assert rpc.code(guarded, ADMIN_TOKEN, content)[0] not in ("UNAUTHENTICATED", "PERMISSION_DENIED"), rpc
    assert {rpc.name for rpc in methods} >= ADMIN_METHODS


def test_bytes_that_are_no_message_are_refused_alike_by_every_method(guarded, caplog):
    for rpc in all_methods(guarded, ADMIN_TOKEN):
        code, sentence = rpc.code(guarded, ADMIN_TOKEN, b"\x0a\xff\xff570")
        assert code == "INVALID_ARGUMENT", rpc
        assert sentence.startswith("the message is no "), sentence
    assert not [record for record in caplog.records if record.exc_info or "DecodeError" in record.getMessage()]


def test_a_method_that_is_none_is_unimplemented_and_says_no_more(guarded):
    code, sentence = Rpc("glucast.v1.Forecaster", "Erase", False, False).code(guarded)
    assert (code, sentence) == ("UNIMPLEMENTED", "Method not found!")


def test_without_tokens_all_is_open_but_what_changes_others_answers(run):
    with run(reflection=True) as where, grpc.insecure_channel(where.address) as channel:
        for rpc in all_methods(channel, ""):
            code, sentence = rpc.code(channel)
            assert (code == "PERMISSION_DENIED") == (rpc.name in ADMIN_METHODS), rpc
            assert code != "PERMISSION_DENIED" or "start it with --token-file" in sentence


# ---- limits


def test_a_caller_who_calls_too_often_is_told_when_to_come_again_and_others_are_not_held_up(run, token_file):
    with (
        run(token_file=token_file, rate_per_second=0.5, rate_burst=3) as where,
        grpc.insecure_channel(where.address) as channel,
    ):
        assert [code_of(channel, FORECAST_TOKEN) for _ in range(4)] == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"]
        with pytest.raises(grpc.RpcError) as refused:
            forecaster_pb2_grpc.ForecasterStub(channel).ListModels(
                pb.ListModelsRequest(), metadata=[("authorization", f"Bearer {FORECAST_TOKEN}")]
            )
        assert 0 < retry_seconds(refused.value) <= 2.0
        assert code_of(channel, ADMIN_TOKEN) == "OK"
        health = health_pb2_grpc.HealthStub(channel)
        assert all(health.Check(health_pb2.HealthCheckRequest()).status == 1 for _ in range(10))


def test_workers_let_a_caller_through_no_more_often_than_one_process_does(shelf, tmp_path):
    options = ["--workers", "2", "--port", "0", "--metrics-port", "0", "--registry", shelf.registry.uri]
    options += ["--cache", str(tmp_path / "cache"), "--rate-per-second", "0.001", "--rate-burst", "10"]
    command = [sys.executable, "-m", "services.inference", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        address = process.stdout.readline().split("listens on ")[1].split(",")[0]
        codes = []
        for _ in range(40):  # connections, which the workers share among them
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                codes.append(code_of(channel))
        assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
        assert codes.count("OK") == 10
    finally:
        process.terminate()
        assert process.wait(20) == 0


def retry_seconds(error: grpc.RpcError) -> float:
    details = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.retry_delay.ToTimedelta().total_seconds()


def test_a_batch_counts_as_many_calls_as_it_asks_for(run):
    with run(rate_per_second=1.0, rate_burst=20) as where, grpc.insecure_channel(where.address) as channel:
        stub = forecaster_pb2_grpc.ForecasterStub(channel)
        stub.ForecastBatch(pb.ForecastBatchRequest(requests=[pb.ForecastRequest()] * 100), timeout=5)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListModels(pb.ListModelsRequest(), timeout=5)
        assert 75 < retry_seconds(refused.value) <= 81


def test_a_stream_that_sends_too_fast_is_slowed_and_not_refused(run):
    with run(rate_per_second=10.0, rate_burst=2) as where, grpc.insecure_channel(where.address) as channel:
        began = time.monotonic()
        answers = list(forecaster_pb2_grpc.ForecasterStub(channel).Monitor(iter(monitored(5)), timeout=10))
        assert len(answers) == 5
        assert time.monotonic() - began > 0.35


def test_one_caller_has_no_more_than_so_many_streams(run):
    with run(streams_per_caller=2) as where, grpc.insecure_channel(where.address) as channel:
        with opened(channel), opened(channel):
            with pytest.raises(grpc.RpcError) as refused, opened(channel):
                pytest.fail("a third stream was opened")
            assert refused.value.code() is CODES.RESOURCE_EXHAUSTED

        def opens() -> bool:
            try:
                with opened(channel):
                    return True
            except grpc.RpcError:
                return False

        assert holds(opens, 5)


def monitored(count: int) -> list[pb.MonitorRequest]:
    """The start of a stream, and readings."""
    start = pb.MonitorRequest(start=pb.MonitorStart(patient_id="p", unit=pb.MG_DL, utc_offset_minutes=0))
    reading = pb.MonitorRequest(reading=pb.Reading(value=120.0))
    reading.reading.time.FromDatetime(dt.datetime(2025, 3, 1, 12, 0))
    return [start] + [reading] * count


@contextmanager
def opened(channel: grpc.Channel) -> Iterator[None]:
    """A Monitor stream that stays open and has answered once."""
    sent: queue.Queue[pb.MonitorRequest | None] = queue.Queue()
    for step in monitored(1):
        sent.put(step)
    call = forecaster_pb2_grpc.ForecasterStub(channel).Monitor(iter(sent.get, None), timeout=20)
    try:
        next(call)
        yield
    finally:
        call.cancel()
        sent.put(None)


def test_a_bucket_fills_steadily_may_be_overdrawn_and_is_forgotten_with_its_caller(monkeypatch):
    now = [0.0]
    rates = Rates(2.0, 4, lambda: now[0])
    assert [rates.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.take("b") == 0
    now[0] = 0.5
    assert rates.take("a") == 0
    rates.charge("a", 10)
    assert rates.take("a") == pytest.approx(5.5)
    now[0] = 100.0
    assert [rates.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]  # no more than full
    monkeypatch.setattr("services.rates.MOST_CALLERS", 10)
    for caller in range(1000):
        rates.take(caller)
    assert len(rates._left) == 10


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:80", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:80", "192.0.2.7"),
        ("unix:/run/glucast.sock", "unix:/run/glucast.sock"),
    ],
)
def test_a_caller_is_an_address_whatever_its_port(peer, host):
    assert host_of(peer) == host


# ---- what the operator is told


def test_a_port_that_others_reach_is_warned_of_unless_it_is_guarded(own, token_file):
    assert Settings(host="127.0.0.1").exposure == Settings(host="::1").exposure == ""
    assert "without tokens (--token-file) and without TLS" in Settings(host="0.0.0.0").exposure
    tls = {"tls_certificate": own.certificate, "tls_key": own.key}
    assert "without tokens (--token-file): let" in Settings(host="0.0.0.0", **tls).exposure
    assert "without TLS" in Settings(host="10.1.2.3", token_file=token_file).exposure
    assert Settings(host="0.0.0.0", token_file=token_file, **tls).exposure == ""
