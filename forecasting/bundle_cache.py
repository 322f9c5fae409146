"""The local cache of verified bundles: one folder for each digest, whole or not there."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from forecasting.bundle import Bundle, read_bundle
from forecasting.errors import IntegrityError
from forecasting.references import Version

log = logging.getLogger("glucast.registry")


class BundleCache:
    """Keeps what was fetched; what it gives was checked, every file of it, right before."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path.home() / ".cache" / "glucast" / "bundles"

    def has(self, digest: str) -> bool:
        """Is there a bundle of this digest? Whether it is whole is seen when it is read."""
        return (self.folder / digest).is_dir()

    def get(self, version: Version, download: Callable[[Path], Path]) -> Bundle:
        """The verified bundle of a version; `download` is called, with a folder, where it is not there or damaged.

        Raises IntegrityError where the content is not what was published; such content is never parsed. Whatever
        `download` raises comes through.
        """
        bundle = self._kept(version.digest)
        if bundle is None:
            bundle = self._filled(version, download)
        return _belonging(bundle, version)

    def _kept(self, digest: str) -> Bundle | None:
        """What is there, if it is whole; what is damaged is dropped."""
        kept = self.folder / digest
        if not kept.is_dir():
            return None
        try:
            return read_bundle(kept, digest)
        except (IntegrityError, FileNotFoundError):  # not found: another process is dropping it
            # without the error's text, which may name a patient
            log.warning("cached bundle %s is damaged: dropped, fetched again", digest[:12])
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="fetch-") as scratch, suppress(FileNotFoundError):
            kept.rename(Path(scratch) / "damaged")  # gone at once, so that no other process sees half of it
        return None

    def _filled(self, version: Version, download: Callable[[Path], Path]) -> Bundle:
        kept = self.folder / version.digest
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="fetch-") as scratch:
            folder = download(Path(scratch))
            try:
                read_bundle(folder, version.digest)
            except IntegrityError as error:
                raise IntegrityError(f"{version.name} version {version.version} is refused: {error}") from error
            for path in folder.iterdir():
                _write_through(path)
            try:
                folder.rename(kept)
            except OSError:  # another process was first
                if not kept.is_dir():
                    raise
        return read_bundle(kept, version.digest)


def _write_through(path: Path) -> None:
    """Onto the disk, so that a folder that is there after a power cut is whole."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _belonging(bundle: Bundle, version: Version) -> Bundle:
    if bundle.spec.model != version.name:
        raise IntegrityError(
            f"{version.name} version {version.version} is refused: it was made for {bundle.spec.model}, "
            f"not for {version.name}; publish it under its own name"
        )
    return bundle
