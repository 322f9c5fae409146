"""The reader of the registry against MLflow's own client: over SQLite, and over a real MLflow server."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from forecasting import registry_reader
from forecasting.bundle import MANIFEST, SIZE_LIMITS, read_bundle
from forecasting.bundle_cache import BundleCache
from forecasting.errors import IntegrityError, InvalidSetting, RegistryUnavailable
from forecasting.references import Version
from forecasting.registry import Registry
from forecasting.registry_reader import RegistryReader

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@dataclass(frozen=True)
class Place:
    """A registry that MLflow writes, and where its files really are."""

    registry: Registry
    artifacts: Path | None  # root of what the server passes on; None where versions name their folder themselves

    def files(self, version: Version) -> Path:
        path = urlsplit(version.source).path
        return Path(path) if self.artifacts is None else self.artifacts / path.strip("/")


def wait_until_it_answers(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Place]:
    """A real MLflow server over SQLite that passes artifacts on."""
    folder = tmp_path_factory.mktemp("server")
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/files"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_it_answers(process, address, log)
        yield Place(Registry(address, folder / "cache"), folder / "files")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it starts processes of its own
        process.wait(10)


@pytest.fixture(params=["sqlite", "server"])
def place(request, registry) -> Place:
    return Place(registry, None) if request.param == "sqlite" else request.getfixturevalue("server")


@pytest.fixture
def reader(place, tmp_path) -> RegistryReader:
    return RegistryReader(place.registry.uri, tmp_path / "cache")


@pytest.fixture
def publish(place, make_bundle, tmp_path) -> Callable[..., Version]:
    def put(model: str, rise: float = 0.0) -> Version:
        bundle = make_bundle(tmp_path / f"{model}-{rise}", model, rise)
        return place.registry.publish(bundle, {"rise": str(rise), "words": "a = 'b' & ü"})[0]

    return put


def aliases_by_mlflow(registry: Registry) -> dict[str, dict[str, str]]:
    models = registry.client.search_registered_models(max_results=1000)
    return {m.name: {alias: str(number) for alias, number in m.aliases.items()} for m in models}


def same(one: Version | None, other: Version | None) -> bool:
    """Equal, in whatever order the aliases are told."""
    return one is not None and other is not None and sorted_aliases(one) == sorted_aliases(other)


def sorted_aliases(version: Version) -> Version:
    return replace(version, aliases=tuple(sorted(version.aliases)))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# what names mean


def test_aliases_are_those_of_mlflow_while_they_move(place, reader, publish):
    registry = place.registry
    first, second = publish("read-alias"), publish("read-alias", 1.0)
    assert reader.aliases()["read-alias"] == {"challenger": "2"}
    steps: list[Callable[[], object]] = [
        lambda: registry.promote(first, {}),
        lambda: registry.promote(second, {}),
        lambda: registry.roll_back("read-alias"),
        lambda: registry.client.set_registered_model_alias("read-alias", "by-hand", "2"),
        lambda: registry.client.delete_registered_model_alias("read-alias", "by-hand"),
    ]
    for number, step in enumerate(steps):
        step()
        assert reader.aliases() == aliases_by_mlflow(registry), number
    assert reader.aliases()["read-alias"] == {"champion": "1", "previous": "2"}


def test_a_model_without_aliases_or_versions_is_there_too(place, reader):
    place.registry.client.create_registered_model("read-empty")
    assert reader.aliases()["read-empty"] == {}
    assert reader.version("read-empty", "1") is None


def test_a_version_is_what_mlflow_says_it_is(place, reader, publish):
    first, second = publish("read-version"), publish("read-version", 1.0)
    place.registry.promote(first, {"gate": "passed", "reason": ""})
    place.registry.client.set_registered_model_alias("read-version", "stable", "1")
    for number in ("1", "2"):
        assert same(reader.version("read-version", number), place.registry.find(f"read-version/{number}"))
    now = reader.version("read-version", "1")
    assert now.tags["gate"] == "passed"
    assert sorted(now.aliases) == ["champion", "stable"]
    assert (now.digest, reader.version("read-version", "2").digest) == (first.digest, second.digest)


@pytest.mark.parametrize(("name", "number"), [("read-known", "2"), ("read-known", "0"), ("read-nobody", "1")])
def test_what_is_not_there_is_none(reader, publish, name, number):
    publish("read-known")
    assert reader.version(name, number) is None


def test_a_deleted_version_and_a_deleted_model_are_gone_as_for_mlflow(place, reader, publish):
    client = place.registry.client
    publish("read-deleted"), publish("read-deleted", 1.0)
    client.delete_model_version("read-deleted", "2")
    assert reader.version("read-deleted", "2") is None
    assert reader.version("read-deleted", "1") is not None
    assert reader.aliases() == aliases_by_mlflow(place.registry)
    assert reader.aliases()["read-deleted"] == {}
    client.delete_registered_model("read-deleted")
    assert "read-deleted" not in reader.aliases()
    assert reader.version("read-deleted", "1") is None


def test_a_version_that_others_published_is_refused(place, reader, publish):
    version = publish("read-foreign")
    place.registry.client.delete_model_version_tag("read-foreign", "1", "manifest_sha256")
    with pytest.raises(IntegrityError, match="read-foreign version 1 has no manifest_sha256 tag that is one"):
        reader.version("read-foreign", "1")
    place.registry.client.set_model_version_tag("read-foreign", "1", "manifest_sha256", version.digest)
    assert same(reader.version("read-foreign", "1"), version)


def test_every_model_is_seen_when_there_are_more_than_a_page_holds(server, monkeypatch, tmp_path):
    for number in range(5):
        server.registry.client.create_registered_model(f"read-page-{number}")
    whole = aliases_by_mlflow(server.registry)
    monkeypatch.setattr(registry_reader, "PAGE", 2)
    assert RegistryReader(server.registry.uri, tmp_path).aliases() == whole
    assert len(whole) >= 5


def test_a_version_made_from_another_is_found_where_its_files_are(place, reader, publish):
    version = publish("read-original")
    place.registry.client.create_registered_model("read-copy")
    place.registry.client.create_model_version(
        "read-copy", source="models:/read-original/1", tags={"manifest_sha256": version.digest}
    )
    assert reader.version("read-copy", "1").source == version.source


# files


def test_what_is_fetched_is_what_was_published_and_is_kept(place, reader, publish, tmp_path):
    version = publish("read-fetch")
    bundle = reader.fetch(version)
    made = tmp_path / "read-fetch-0.0"
    assert bundle.spec.model == "read-fetch"
    assert {p.name: p.read_bytes() for p in bundle.folder.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}
    assert bundle.folder == reader.cache.folder / version.digest
    assert reader.cache.has(version.digest)
    shutil.rmtree(place.files(version))
    assert reader.fetch(version).digest == version.digest
    assert [p.name for p in reader.cache.folder.iterdir()] == [version.digest]


@pytest.mark.parametrize("name", ["model.onnx", "model.json", MANIFEST])
def test_a_flipped_byte_in_the_store_is_refused_and_kept_nowhere(place, reader, publish, name):
    version = publish(f"read-flip-{name}")
    flip(place.files(version) / name)
    with pytest.raises(IntegrityError, match=rf"read-flip-{name} version 1 is refused: .*{name}"):
        reader.fetch(version)
    assert not list(reader.cache.folder.iterdir())


@pytest.mark.parametrize("lost", ["all", MANIFEST])
def test_files_gone_from_the_store_are_said_to_be_gone(place, reader, publish, lost):
    version = publish(f"read-gone-{lost}")
    if lost == "all":
        shutil.rmtree(place.files(version))
    else:
        (place.files(version) / lost).unlink()
    with pytest.raises(IntegrityError, match=rf"files of read-gone-{lost} version 1 are gone from the registry's"):
        reader.fetch(version)


def test_a_file_larger_than_it_may_be_is_refused_before_it_is_whole(place, reader, publish, monkeypatch):
    version = publish("read-large")
    (place.files(version) / "model.onnx").write_bytes(b"x" * 5000)
    monkeypatch.setitem(registry_reader.LIMITS, "model.onnx", 4000)
    monkeypatch.setattr(registry_reader, "BLOCK", 1000)
    with pytest.raises(IntegrityError, match=r"read-large version 1 is refused: model.onnx is larger than 4000 bytes"):
        reader.fetch(version)
    assert not list(reader.cache.folder.iterdir())


def test_what_no_bundle_holds_is_not_fetched(place, reader, publish):
    version = publish("read-more")
    (place.files(version) / "evil.pkl").write_bytes(b"pickled")
    (place.files(version) / "folder").mkdir()
    assert {p.name for p in reader.fetch(version).folder.iterdir()} == {MANIFEST, *SIZE_LIMITS}


def test_a_link_in_the_store_is_not_followed(registry, make_bundle, tmp_path):
    version, _ = registry.publish(make_bundle(tmp_path / "made", "read-link"), {})
    file = Place(registry, None).files(version) / "model.onnx"
    shutil.move(file, tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=r"model.onnx is missing"):
        RegistryReader(registry.uri, tmp_path / "cache").fetch(version)


@pytest.mark.parametrize("source", ["s3://bucket/1/published", "runs:/abc/published", "mlflow-artifacts:/1/published"])
def test_a_store_that_is_not_read_is_refused_with_what_to_do(registry, tmp_path, source):
    version = Version("read-far", "1", "f" * 64, {}, (), source)
    with pytest.raises(InvalidSetting, match=r"are kept at .*, which is not read here; name an MLflow server"):
        RegistryReader(registry.uri, tmp_path).fetch(version)


@pytest.mark.parametrize("path", ["/../secret", "/1/../../mlflow/users/get", "/1/./x", "/", ""])
def test_a_source_that_leads_elsewhere_is_never_asked_for(tmp_path, path):
    version = Version("read-away", "1", "f" * 64, {}, (), f"mlflow-artifacts:{path}")
    with pytest.raises(IntegrityError, match="which leads elsewhere"):
        RegistryReader(f"http://127.0.0.1:{free_port()}", tmp_path).fetch(version)


def test_threads_that_ask_at_once_are_all_answered(reader, publish):
    version = publish("read-threads")

    def ask(_: int) -> str:
        assert reader.aliases()["read-threads"] == {"challenger": "1"}
        assert same(reader.version("read-threads", "1"), version)
        return reader.fetch(version).digest

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {version.digest}
    assert [p.name for p in reader.cache.folder.iterdir()] == [version.digest]


# SQLite


def test_a_reader_touches_nothing_and_a_missing_file_is_unavailable_and_not_made(tmp_path):
    reader = RegistryReader(f"sqlite:///{tmp_path}/none.db", tmp_path / "cache")
    for ask in (reader.aliases, partial(reader.version, "virtual-570", "1")):
        with pytest.raises(RegistryUnavailable, match=r"there is no registry at sqlite:.*publish a model first"):
            ask()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_made_later_is_read_then(registry, tmp_path):
    reader = RegistryReader(f"sqlite:///{tmp_path}/later.db", tmp_path / "cache")
    with pytest.raises(RegistryUnavailable):
        reader.aliases()
    shutil.copy(registry.uri.removeprefix("sqlite:///"), tmp_path / "later.db")
    assert reader.aliases() == aliases_by_mlflow(registry)


@pytest.mark.parametrize("content", [b"no data base " * 400, b""])
def test_a_file_that_is_no_registry_is_unavailable(tmp_path, content):
    (tmp_path / "junk.db").write_bytes(content)
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        RegistryReader(f"sqlite:///{tmp_path}/junk.db", tmp_path / "cache").aliases()
    assert (tmp_path / "junk.db").read_bytes() == content


def test_the_data_base_cannot_be_written_through_the_reader(registry, tmp_path):
    engine = registry_reader.SqlIndex(registry.uri)._engine
    with engine.connect() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("DELETE FROM registered_models"))


def test_a_folder_of_any_name_holds_a_registry(registry, tmp_path):
    folder = tmp_path / "a b#c%20d?e&mode=rwc ü"
    folder.mkdir()
    shutil.copy(registry.uri.removeprefix("sqlite:///"), folder / "m.db")
    assert RegistryReader(f"sqlite:///{folder}/m.db", tmp_path / "cache").aliases() == aliases_by_mlflow(registry)
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize(("scheme", "driver"), [("postgresql", "psycopg"), ("mysql", "MySQLdb")])
def test_a_data_base_without_its_driver_is_refused_by_the_drivers_name(monkeypatch, scheme, driver):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(InvalidSetting, match=f"needs {driver}; install it, or use an MLflow server") as refused:
        RegistryReader(f"{scheme}://ada:secret@db/mlflow")
    assert "secret" not in str(refused.value)


# servers that are down, or none


@pytest.mark.parametrize("secret", ["pass@word", "pa%2Fssword"])
def test_a_server_that_is_down_is_unavailable_at_once_and_its_password_never_said(tmp_path, secret):
    started = time.monotonic()
    reader = RegistryReader(f"http://ada:{secret}@127.0.0.1:{free_port()}", tmp_path)
    version = Version("read-down", "1", "f" * 64, {}, (), "mlflow-artifacts:/1/x")
    for ask in (reader.aliases, partial(reader.version, "virtual-570", "1"), partial(reader.fetch, version)):
        with pytest.raises(RegistryUnavailable, match=r"at http://127.* does not answer .*start it or set") as refused:
            ask()
        assert "word" not in str(refused.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("uri", ["http://ada:pa/ssword@db:5000", "http://", "https://db:port", "http://[::1"])
def test_an_address_that_is_none_is_refused_at_once_without_its_password(uri):
    with pytest.raises(InvalidSetting, match="is no registry; give http://") as refused:
        RegistryReader(uri)
    assert "ssword" not in str(refused.value)


def test_a_server_that_accepts_and_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(registry_reader, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reader = RegistryReader(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            reader.aliases()


@dataclass
class Answer:
    """What a server that we play says, and the headers that it was asked with."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()
    missing_bytes: int = 0


class Played:
    """A server on loopback that answers what it is told to."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.otherwise = Answer()
        self.asked: list[tuple[str, str | None]] = []  # (path, Authorization)
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                played.asked.append((self.path, self.headers["Authorization"]))
                answer = played.answers.get(urlsplit(self.path).path, played.otherwise)
                self.send_response(answer.status)
                for header in answer.headers:
                    self.send_header(*header)
                self.send_header("Content-Length", str(len(answer.body) + answer.missing_bytes))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def played() -> Iterator[Played]:
    server = Played()
    yield server
    server.close()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(503, b"overloaded"),
        Answer(403, b"Invalid Host header"),
        Answer(401),
        Answer(404, b"<html>no such page</html>"),
        Answer(404, b'{"error_code": "ENDPOINT_NOT_FOUND"}'),
        Answer(404, b"[]"),
        Answer(200, b"<html>log in</html>"),
        Answer(200, b"[1, 2]"),
        Answer(200, b'{"registered_models": [{"nom": "x"}], "model_version": 7, "files": "x"}'),
        Answer(200, b'{"registered_models": [', missing_bytes=100),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body[:30].decode()}",
)
def test_what_is_no_answer_of_an_mlflow_server_is_unavailable_and_not_absence(played, tmp_path, answer):
    played.otherwise = answer
    reader = RegistryReader(f"http://127.0.0.1:{played.port}", tmp_path)
    version = Version("read-odd", "1", "f" * 64, {}, (), "mlflow-artifacts:/1/x")
    for ask in (reader.aliases, partial(reader.version, "virtual-570", "1"), partial(reader.fetch, version)):
        with pytest.raises(RegistryUnavailable, match="does not answer"):
            ask()
    assert not list(tmp_path.iterdir())


def test_a_server_that_answers_without_an_end_is_given_up(played, tmp_path, monkeypatch):
    """In time, and with little memory: a page that leads to the next for ever, and one that is larger than any."""
    played.otherwise = Answer(200, b'{"registered_models": [], "next_page_token": "again"}')
    reader = RegistryReader(f"http://127.0.0.1:{played.port}", tmp_path)
    monkeypatch.setattr(registry_reader, "MOST_PAGES", 5)
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        reader.aliases()
    assert len(played.asked) == 5
    monkeypatch.setattr(registry_reader, "LONGEST_ANSWER", 1000)
    played.otherwise = Answer(200, b'{"registered_models": [' + b" " * 1000 + b"]}")
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        reader.aliases()


def test_a_download_that_breaks_off_is_no_damaged_model(played, tmp_path, make_bundle):
    bundle = make_bundle(tmp_path / "made", "read-broken")
    artifacts = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
    names = [p.name for p in bundle.folder.iterdir()]
    listing = {"files": [{"path": name, "is_dir": False, "file_size": "1"} for name in names]}
    played.answers[artifacts] = Answer(body=json.dumps(listing).encode())
    for name in names:
        played.answers[f"{artifacts}/1/a%20b/{name}"] = Answer(body=(bundle.folder / name).read_bytes())
    whole = played.answers[f"{artifacts}/1/a%20b/model.onnx"]
    played.answers[f"{artifacts}/1/a%20b/model.onnx"] = replace(whole, body=whole.body[:-9], missing_bytes=9)
    reader = RegistryReader(f"http://127.0.0.1:{played.port}/mlflow/", tmp_path / "cache")
    version = Version("read-broken", "1", bundle.digest, {}, (), "mlflow-artifacts:/1/a b")
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        reader.fetch(version)
    played.answers[f"{artifacts}/1/a%20b/model.onnx"] = whole
    assert reader.fetch(version).digest == bundle.digest


def basic(words: str) -> str:
    return "Basic " + base64.b64encode(words.encode()).decode()


@pytest.mark.parametrize(
    ("userinfo", "environment", "sent"),
    [
        ("", {}, None),
        ("", {"TOKEN": "t0"}, "Bearer t0"),
        ("", {"USERNAME": "ada", "PASSWORD": "pw:ü"}, basic("ada:pw:ü")),
        ("", {"USERNAME": "ada", "PASSWORD": "pw", "TOKEN": "t0"}, basic("ada:pw")),
        ("", {"USERNAME": "ada"}, None),
        ("eve:p%40w@", {"USERNAME": "ada", "PASSWORD": "pw"}, basic("eve:p@w")),
    ],
)
def test_credentials_are_those_that_mlflow_sends(played, tmp_path, monkeypatch, userinfo, environment, sent):
    for what in ("TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{what}", raising=False)
    for what, value in environment.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{what}", value)
    assert RegistryReader(f"http://{userinfo}127.0.0.1:{played.port}", tmp_path).aliases() == {}
    assert [authorization for _, authorization in played.asked] == [sent]


def test_credentials_do_not_follow_to_where_a_server_sends_us(played, tmp_path):
    other = Played()
    try:
        played.otherwise = Answer(302, b"", (("Location", f"http://127.0.0.1:{other.port}/login"),))
        RegistryReader(f"http://ada:secret@127.0.0.1:{played.port}", tmp_path).aliases()
        assert other.asked == [("/login", None)]
    finally:
        other.close()


# the cache


def test_whoever_was_first_into_the_cache_is_taken(tmp_path, make_bundle):
    made = make_bundle(tmp_path / "made", "cache-first")
    cache, version = BundleCache(tmp_path / "cache"), Version("cache-first", "1", made.digest, {}, (), "")

    def slow(folder: Path) -> Path:
        shutil.copytree(made.folder, cache.folder / made.digest)  # meanwhile
        return Path(shutil.copytree(made.folder, folder / "bundle"))

    assert cache.get(version, slow).folder == cache.folder / made.digest
    assert [p.name for p in cache.folder.iterdir()] == [made.digest]


def test_a_damaged_copy_that_several_find_at_once_is_replaced_for_all(tmp_path, make_bundle):
    made = make_bundle(tmp_path / "made", "cache-many")
    cache, version = BundleCache(tmp_path / "cache"), Version("cache-many", "1", made.digest, {}, (), "")
    for _ in range(5):
        shutil.copytree(made.folder, cache.folder / made.digest, dirs_exist_ok=True)
        flip(cache.folder / made.digest / "model.onnx")
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(cache.get, version, lambda f: shutil.copytree(made.folder, f / "b")) for _ in range(4)]
        assert {one.result().digest for one in asked} == {made.digest}
        assert read_bundle(cache.folder / made.digest, made.digest)
        assert [p.name for p in cache.folder.iterdir()] == [made.digest]


def test_a_version_that_points_at_another_models_bundle_does_not_cost_that_one_its_copy(tmp_path, make_bundle):
    made = make_bundle(tmp_path / "made", "cache-own")
    cache, own = BundleCache(tmp_path / "cache"), Version("cache-own", "1", made.digest, {}, (), "")
    cache.get(own, lambda folder: shutil.copytree(made.folder, folder / "bundle"))
    with pytest.raises(IntegrityError, match="cache-thief version 1 is refused: it was made for cache-own"):
        cache.get(replace(own, name="cache-thief"), lambda _: pytest.fail("it is there already"))
    assert cache.has(made.digest)


# what it costs


def test_reading_needs_neither_mlflow_nor_pandas_and_a_server_no_sqlalchemy():
    code = """
import sys
from forecasting.registry_reader import RegistryReader
RegistryReader("http://127.0.0.1:1")
assert "sqlalchemy" not in sys.modules
RegistryReader("sqlite:////nowhere/none.db")
heavy = {"mlflow", "pandas", "pyarrow", "alembic", "requests", "onnxruntime", "torch"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=60)
