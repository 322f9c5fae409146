"""What every name of the registry means now, as far as it was told; kept in a file, to start from without it."""

import hashlib
import json
import logging
import os
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from forecasting.errors import GlucastError
from forecasting.references import Version, version_from
from forecasting.registry_reader import Aliases, RegistryReader

FORMAT = 1
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, GlucastError)

Versions = dict[tuple[str, str], Version]

_log = logging.getLogger("glucast.models")


class Directory:
    """Names, aliases, and the versions that were asked for.

    `refresh`, `resolve` and `save` block: call them from threads. Processes that share a cache share the file, and
    leave in it what others resolved.
    """

    def __init__(self, reader: RegistryReader) -> None:
        """Read what an earlier start wrote down; a file that is damaged is left aside with a warning."""
        self._reader = reader
        self._versions: Versions = {}
        self._aliases: Aliases | None = None
        self._is_changed = self._has_warned = False
        self._writing = threading.Lock()
        which = hashlib.sha256(reader.identity.encode()).hexdigest()[:16]  # registries that share a cache do not mix
        self._file = reader.cache.folder / f"directory-{which}.json"
        if self._file.is_file():
            self._read()

    @property
    def is_known(self) -> bool:
        """Has the registry, or the file of an earlier start, said anything yet?"""
        return self._aliases is not None

    def has(self, name: str) -> bool:
        """Is there a model of this name?"""
        return name in (self._aliases or {})

    def number(self, name: str, alias: str) -> str | None:
        """The version that an alias means."""
        return (self._aliases or {}).get(name, {}).get(alias)

    def aliases_of(self, name: str, number: str) -> tuple[str, ...]:
        """The aliases of a version."""
        return tuple(alias for alias, version in (self._aliases or {}).get(name, {}).items() if version == number)

    def names(self) -> list[str]:
        """Every registered model."""
        return list(self._aliases or ())

    def is_kept(self, name: str, number: str) -> bool:
        """Can this version be had without the registry?"""
        known = self._versions.get((name, number))
        return known is not None and self._reader.cache.has(known.digest)

    def refresh(self) -> None:
        """Ask the registry for all names and aliases; raises RegistryUnavailable."""
        aliases = self._reader.aliases()
        if aliases != self._aliases:
            self._aliases = aliases
            self._is_changed = True

    def resolve(self, name: str, number: str, again: bool = False) -> Version | None:
        """A version by its number, asked once unless `again`; None where there is none.

        Raises RegistryUnavailable, IntegrityError.
        """
        known = self._versions.get((name, number))
        if known is not None and not again:
            return known
        found = self._reader.version(name, number)
        if found is not None and found != known:
            self._versions[name, number] = found
            self._is_changed = True
        return found

    def save(self) -> None:
        """Write down what changed since the last time; where that fails, a warning, and the next call tries again."""
        with self._writing:
            if not self._is_changed:
                return
            self._is_changed = False  # before it is read: what changes meanwhile is written next time
            try:
                self._write()
                self._has_warned = False
            except OSError as error:  # a full disk fails no answer
                self._is_changed = True
                if not self._has_warned:
                    _log.warning("what is known of the registry cannot be written down: %s", type(error).__name__)
                self._has_warned = True

    def _read(self) -> None:
        try:
            self._aliases, self._versions = _parsed(self._file)
        except UNREADABLE as error:
            _log.warning("what was known of the registry cannot be read (%s): asked anew", type(error).__name__)

    def _write(self) -> None:
        """Whole or not at all; names hold patient ids, so it is nobody else's to read."""
        aliases, versions = self._aliases or {}, self._versions.copy()
        with suppress(*UNREADABLE):
            versions = {**_parsed(self._file)[1], **versions}
        entries = [
            {"name": v.name, "number": v.version, "tags": v.tags, "source": v.source}
            for v in versions.values()
            if v.name in aliases
        ]
        content = json.dumps({"format": FORMAT, "aliases": aliases, "versions": entries})
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=self._file.parent, prefix="directory-", suffix=".part")  # mode 0600
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._file)
        except BaseException:
            os.unlink(part)
            raise


def _parsed(file: Path) -> tuple[Aliases, Versions]:
    """What a file says; raises one of UNREADABLE."""
    kept = json.loads(file.read_bytes())
    if kept["format"] != FORMAT:
        raise ValueError("another format")
    versions = [
        version_from(str(v["name"]), str(v["number"]), dict(v["tags"]), (), str(v["source"])) for v in kept["versions"]
    ]
    aliases = {str(name): {str(a): str(n) for a, n in of.items()} for name, of in kept["aliases"].items()}
    return aliases, {(v.name, v.version): v for v in versions}
