"""The registry as a service reads it: names, aliases and bundles, without MLflow's client.

That client, with its SQLite store, costs 200 MB of memory and more than a second at start. What a service needs of it
are three look-ups, which MLflow answers over REST and keeps in four tables. Publishing stays with `registry.py`.
"""

import base64
import json
import os
import sqlite3
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forecasting.bundle import MANIFEST, SIZE_LIMITS, Bundle
from forecasting.bundle_cache import BundleCache
from forecasting.errors import IntegrityError, InvalidSetting, NotFound, RegistryUnavailable
from forecasting.references import (
    SQLITE,
    Version,
    files_gone,
    masked,
    no_answer,
    no_registry,
    registry_uri,
    version_from,
)

if TYPE_CHECKING:  # SQLAlchemy is imported where a database is read: 14 MB that a reader of a server does without
    from sqlalchemy import Connection, Engine

TIMEOUT_SECONDS = 10.0
PAGE = 1000  # registered models of one answer, the most that MLflow gives
MOST_PAGES = 1000
BLOCK = 1 << 20  # bytes
LONGEST_ANSWER = 64 << 20  # bytes of an answer that is no file: a page of models with all their versions takes a few
LIMITS = {MANIFEST: 1 << 20} | SIZE_LIMITS  # bytes; the files that a bundle may hold, and no others
PROXIED = "mlflow-artifacts"
DELETED = "Deleted_Internal"  # the stage of a version that MLflow keeps, emptied, so that its number is not used again

Aliases = dict[str, dict[str, str]]  # {model: {alias: version number}}
Known = tuple[str, dict[str, str], tuple[str, ...]]  # of a version: where its files are, tags, aliases


class Index(Protocol):
    """Where names are looked up. Raises RegistryUnavailable."""

    def aliases(self) -> Aliases:
        """Every registered model with its aliases."""

    def version(self, name: str, number: str) -> Known | None:
        """What is known of a version; None where there is none."""


class Shelf(Protocol):
    """Where the files of one version are. Raises RegistryUnavailable, and NotFound for what is not there."""

    def names(self) -> set[str]:
        """What lies there."""

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file, a block at a time."""


class RegistryReader:
    """A registry at a tracking URI, with a local cache of verified bundles. May be used from several threads.

    Nothing is touched before the first question. Every method raises RegistryUnavailable where nobody answers.
    """

    def __init__(self, uri: str | None = None, cache: Path | None = None) -> None:
        self.uri = registry_uri(uri)
        self.cache = BundleCache(cache)
        self._server = RestServer(self.uri) if self.uri.startswith(("http://", "https://")) else None
        self._index: Index = self._server or SqlIndex(self.uri)

    @property
    def identity(self) -> str:
        """What tells this registry from others that share a cache: of a file its whole path, which a relative address
        leaves open."""
        if not self.uri.startswith(SQLITE):
            return self.uri
        return SQLITE + str(Path(self.uri.removeprefix(SQLITE)).absolute())

    def aliases(self) -> Aliases:
        """Every registered model with its aliases: {name: {alias: version number}}."""
        return self._index.aliases()

    def version(self, name: str, number: str) -> Version | None:
        """A version by its number, None where there is none; raises IntegrityError for one not published by us."""
        found = self._index.version(name, number)
        if found is None:
            return None
        source, tags, aliases = found
        return version_from(name, number, tags, aliases, source)

    def fetch(self, version: Version) -> Bundle:
        """The verified bundle of a version, from the cache or downloaded into it.

        Raises IntegrityError where the content is not what was published, or gone; such content is never parsed.
        InvalidSetting where its files are kept in a place that is not read here.
        """
        return self.cache.get(version, lambda folder: self._download(version, folder / "bundle"))

    def _download(self, version: Version, folder: Path) -> Path:
        """The files that a bundle may hold, each up to its limit; what else lies there is not asked for."""
        shelf = self._shelf(version)
        present = shelf.names()
        if MANIFEST not in present:
            raise IntegrityError(files_gone(version))
        folder.mkdir()
        for name in sorted(LIMITS.keys() & present):
            try:
                _write(shelf.blocks(name), folder / name, version)
            except NotFound as error:
                raise IntegrityError(files_gone(version)) from error
        return folder

    def _shelf(self, version: Version) -> Shelf:
        place = urllib.parse.urlsplit(version.source)
        if place.scheme == "file":
            return LocalShelf(Path(urllib.request.url2pathname(place.path)), self.uri)
        if not place.scheme:
            return LocalShelf(Path(version.source), self.uri)
        if place.scheme == PROXIED and self._server is not None:
            return ProxiedShelf(self._server, _safe_path(version, place.path))
        raise InvalidSetting(
            f"the files of {version.name} version {version.version} are kept at {place.scheme}:, which is not read "
            "here; name an MLflow server as the registry, and let it pass files on (its --artifacts-destination)"
        )


class SqlIndex:
    """The tables that MLflow keeps its registry in, read and never written."""

    def __init__(self, uri: str) -> None:
        self._uri, self._engine = uri, _engine(uri)

    def aliases(self) -> Aliases:
        """Every registered model with its aliases."""
        found: Aliases = {}
        with self._connected() as connection:
            for name, alias, version in _rows(
                connection,
                "SELECT m.name, a.alias, a.version FROM registered_models m LEFT JOIN registered_model_aliases a "
                "ON a.name = m.name AND a.workspace = m.workspace WHERE m.workspace = 'default'",
            ):
                of_model = found.setdefault(name, {})
                if alias is not None:
                    of_model[alias] = str(version)
        return found

    def version(self, name: str, number: str) -> Known | None:
        """What is known of a version; None where there is none."""
        one = {"name": name, "version": int(number)}
        where = "t WHERE t.workspace = 'default' AND t.name = :name AND t.version = :version"  # t.key needs no quotes
        with self._connected() as connection:
            place = "SELECT COALESCE(t.storage_location, t.source) FROM model_versions"
            found = _rows(connection, f"{place} {where} AND t.current_stage <> '{DELETED}'", **one)
            if not found:
                return None
            tags = _rows(connection, f"SELECT t.key, t.value FROM model_version_tags {where}", **one)
            aliases = _rows(connection, f"SELECT t.alias FROM registered_model_aliases {where}", **one)
        return found[0][0], {key: value or "" for key, value in tags}, tuple(alias for (alias,) in aliases)

    @contextmanager
    def _connected(self) -> Iterator["Connection"]:
        from sqlalchemy.exc import SQLAlchemyError

        if self._uri.startswith(SQLITE) and not Path(self._uri.removeprefix(SQLITE)).is_file():
            raise RegistryUnavailable(no_registry(self._uri))
        try:
            with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise RegistryUnavailable(no_answer(self._uri, error)) from error


def _engine(uri: str) -> "Engine":
    """Connects when asked; a SQLite file is opened for reading only and never made. Raises InvalidSetting."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    if uri.startswith(SQLITE):
        file = Path(uri.removeprefix(SQLITE)).absolute().as_uri()
        opened = partial(sqlite3.connect, f"{file}?mode=ro", uri=True, timeout=TIMEOUT_SECONDS)
        return create_engine("sqlite://", creator=opened, poolclass=NullPool)
    try:
        return create_engine(uri, poolclass=NullPool, connect_args={"connect_timeout": int(TIMEOUT_SECONDS)})
    except ImportError as error:
        raise InvalidSetting(
            f"the registry at {masked(uri)} needs {error.name or 'a driver'}; install it, or use an MLflow server"
        ) from error
    except (SQLAlchemyError, ValueError):  # whose text may quote a password
        raise InvalidSetting(f"{masked(uri)!r} is no address of a database; write user:password@host/name") from None


def _rows(connection: "Connection", query: str, **values: Any) -> list[Any]:
    from sqlalchemy import text

    return list(connection.execute(text(query), values))


class RestServer:
    """An MLflow server: its index, and the artifacts that it passes on."""

    def __init__(self, uri: str) -> None:
        parts = urllib.parse.urlsplit(uri)
        userinfo, _, host = parts.netloc.rpartition("@")
        self._uri, self._userinfo = uri, userinfo
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}/api/2.0"

    def aliases(self) -> Aliases:
        """Every registered model with its aliases, asked a page at a time."""
        found: Aliases = {}
        query = {"max_results": str(PAGE)}
        with self._understood():
            for _ in range(MOST_PAGES):
                page = self._json("mlflow/registered-models/search", **query)
                for model in page.get("registered_models", []):
                    found[model["name"]] = {one["alias"]: str(one["version"]) for one in model.get("aliases", [])}
                if not page.get("next_page_token"):
                    return found
                query["page_token"] = page["next_page_token"]
            raise ValueError("pages without an end")

    def version(self, name: str, number: str) -> Known | None:
        """What is known of a version; None where there is none."""
        with self._understood():
            try:
                found = self._json("mlflow/model-versions/get", name=name, version=number)["model_version"]
                where = self._json("mlflow/model-versions/get-download-uri", name=name, version=number)
            except NotFound:
                return None
            tags = {tag["key"]: tag.get("value", "") for tag in found.get("tags", [])}
            return where["artifact_uri"], tags, tuple(found.get("aliases", []))

    def listed(self, path: str) -> set[str]:
        """Names of the files in a folder of the artifact store; none where there is no such folder."""
        with self._understood():
            try:
                found = self._json("mlflow-artifacts/artifacts", path=path)
            except NotFound:
                return set()
            return {one["path"] for one in found.get("files", []) if not one.get("is_dir")}

    def blocks(self, method: str, **query: str) -> Iterator[bytes]:
        """The answer to a GET; raises NotFound where the server knows that there is no such thing."""
        try:
            with self._opened(f"{self._base}/{method}?{urllib.parse.urlencode(query)}") as answer:
                while block := answer.read(BLOCK):
                    yield block
                if answer.length:  # bytes that were promised and did not come
                    raise IncompleteRead(b"", answer.length)
        except (OSError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and _says_absent(error):
                raise NotFound(f"there is no such thing at {masked(self._uri)}") from error
            raise RegistryUnavailable(no_answer(self._uri, error)) from error

    def _opened(self, url: str) -> Any:
        request = urllib.request.Request(url)
        if credentials := _credentials(self._userinfo):
            request.add_unredirected_header("Authorization", credentials)  # they are for this server alone
        tls = None
        if url.startswith("https:"):
            tls = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=tls)

    def _json(self, method: str, **query: str) -> Any:
        content = bytearray()
        for block in self.blocks(method, **query):
            content += block
            if len(content) > LONGEST_ANSWER:
                raise ValueError("an answer without an end")
        return json.loads(content)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Whatever listens there and answers otherwise is no MLflow server."""
        try:
            yield
        except (NotFound, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryUnavailable(no_answer(self._uri, error)) from error


def _says_absent(error: urllib.error.HTTPError) -> bool:
    """Does an MLflow server say that it has no such thing, rather than some proxy that there is no such page?"""
    try:
        return bool(json.loads(error.read(BLOCK))["error_code"] == "RESOURCE_DOES_NOT_EXIST")
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return False


def _credentials(userinfo: str) -> str:
    """Those of the address, else those that MLflow's own client reads from the environment; "" where there are none."""
    user, _, password = map(urllib.parse.unquote, userinfo.partition(":"))
    if not userinfo:
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD"))
    if user and password:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return f"Bearer {token}" if token else ""


class ProxiedShelf:
    """A folder of the artifact store behind an MLflow server."""

    def __init__(self, server: RestServer, path: str) -> None:
        self._server, self._path = server, path

    def names(self) -> set[str]:
        """What lies there; nothing where there is no such folder."""
        return self._server.listed(self._path)

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file."""
        return self._server.blocks(f"mlflow-artifacts/artifacts/{urllib.parse.quote(self._path)}/{name}")


def _safe_path(version: Version, path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if not parts or not {".", ".."}.isdisjoint(parts):
        raise IntegrityError(
            f"{version.name} version {version.version} is refused: its files are said to be at {path!r}, "
            "which leads elsewhere; publish the model again"
        )
    return "/".join(parts)


class LocalShelf:
    """A folder of this machine."""

    def __init__(self, place: Path, uri: str) -> None:
        self._place, self._uri = place, uri

    def names(self) -> set[str]:
        """The regular files that lie there; nothing where there is no such folder."""
        try:
            return {path.name for path in self._place.iterdir() if path.is_file() and not path.is_symlink()}
        except (FileNotFoundError, NotADirectoryError):
            return set()
        except OSError as error:
            raise RegistryUnavailable(no_answer(self._uri, error)) from error

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of a file."""
        try:
            with (self._place / name).open("rb") as file:
                while block := file.read(BLOCK):
                    yield block
        except FileNotFoundError as error:
            raise NotFound(f"{name} is gone") from error
        except OSError as error:
            raise RegistryUnavailable(no_answer(self._uri, error)) from error


def _write(blocks: Iterable[bytes], target: Path, version: Version) -> None:
    """Raises IntegrityError for a file larger than one of its name may be, before it fills the disk."""
    limit = LIMITS[target.name]
    with target.open("wb") as file:
        for block in blocks:
            if file.tell() + len(block) > limit:
                raise IntegrityError(
                    f"{version.name} version {version.version} is refused: {target.name} is larger than {limit} bytes; "
                    "publish the model again"
                )
            file.write(block)
