"""A registry without a registry: what tells tests of its readers how it is asked, and does badly what it is told to."""

import time
from collections import Counter
from pathlib import Path

from forecasting.bundle import Bundle
from forecasting.bundle_cache import BundleCache
from forecasting.errors import RegistryUnavailable
from forecasting.references import DIGEST_TAG, Version, version_from
from tests.services.conftest import tiny_bundle


class Paper:
    """A registry on paper: what a reader reads, at once, or as badly as it is told to. Counts what it is asked."""

    def __init__(self, folder: Path, cache: Path | None = None, uri: str = "http://registry") -> None:
        self.identity, self.folder, self.cache = uri, folder, BundleCache(cache or folder / "cache")
        self.models: dict[str, dict[str, str]] = {}
        self.versions: dict[tuple[str, str], tuple[dict[str, str], Path]] = {}
        self.asked: Counter[str] = Counter()
        self.is_down, self.seconds, self.fetch_seconds = False, 0.0, 0.0
        self.fetching = self.most_at_once = 0

    def put(self, name: str, rise: float = 0.0, alias: str = "champion") -> Version:
        """Publish a tiny model under the next number and let an alias lead to it."""
        number = str(1 + sum(known == name for known, _ in self.versions))
        bundle = tiny_bundle(self.folder / f"{name}-{number}", name, rise)
        self.versions[name, number] = {DIGEST_TAG: bundle.digest}, bundle.folder
        self.models[name] = {**self.models.get(name, {}), alias: number}
        return version_from(name, number, {DIGEST_TAG: bundle.digest}, (), str(bundle.folder))

    def size_of(self, version: Version) -> int:
        return (Path(version.source) / "model.onnx").stat().st_size

    def damage(self, version: Version) -> None:
        network = Path(version.source) / "model.onnx"
        network.write_bytes(network.read_bytes()[:-1] + b"?")

    def aliases(self) -> dict[str, dict[str, str]]:
        self._answer("aliases")
        return {name: dict(of) for name, of in self.models.items()}

    def version(self, name: str, number: str) -> Version | None:
        self._answer(f"{name}/{number}")
        found = self.versions.get((name, str(int(number))))
        return None if found is None else version_from(name, number, found[0], (), str(found[1]))

    def fetch(self, version: Version) -> Bundle:
        self.asked[f"fetch {version.name}/{version.version}"] += 1
        self.fetching += 1
        self.most_at_once = max(self.most_at_once, self.fetching)
        time.sleep(self.fetch_seconds)
        self.fetching -= 1
        return self.cache.get(version, lambda folder: self._copied(version, folder / "bundle"))

    def _copied(self, version: Version, folder: Path) -> Path:
        if self.is_down:
            raise RegistryUnavailable("nobody answers")
        folder.mkdir()
        for path in Path(version.source).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def _answer(self, what: str) -> None:
        self.asked[what] += 1
        time.sleep(self.seconds)
        if self.is_down:
            raise RegistryUnavailable("nobody answers")
