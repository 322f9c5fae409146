"""The model registry: MLflow as an index of names, versions, aliases and tags over verified bundles."""

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# MLflow retries for minutes by default; a caller of ours waits for an answer. Read by MLflow at import.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from forecasting.bundle import POPULATION, Bundle, read_bundle
from forecasting.errors import IntegrityError, InvalidInput, InvalidSetting, NotFound, RegistryUnavailable

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DEFAULT_URI = "sqlite:///registry/mlflow.db"
SERVERS = ("http://", "https://", "postgresql://", "mysql://")
DIGEST_TAG = "manifest_sha256"
ROLLED_BACK_TAG = "rolled_back"
EXPERIMENT = "glucast"
PUBLISHED_FILES = "published"  # folder of a run's artifacts

log = logging.getLogger("glucast.registry")
# schema migrations and hints are no news to our users; urllib3 warns with the whole request, which may name a patient
for noisy, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
    logging.getLogger(noisy).setLevel(level)


@dataclass(frozen=True)
class Version:
    """One immutable version of a registered model."""

    name: str
    version: str
    digest: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    source: str


def model_name(dataset: str, patient: str | None = None) -> str:
    """`{dataset}-{patient}`, or `{dataset}-population`: safe for files and for MLflow, never ambiguous.

    A slash becomes `--`. Raises InvalidSetting for a patient id that would collide or cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9_]+", dataset):
        raise InvalidSetting(f"data set name {dataset!r} may hold a-z, 0-9 and _ only; rename the file")
    if patient is None:
        return f"{dataset}-{POPULATION}"
    safe = patient.replace("/", "--")
    ambiguous = re.search("--|-/|/-", patient)
    if patient.lower() == POPULATION or not re.fullmatch(r"[A-Za-z0-9._\-]{1,64}", safe) or ambiguous:
        raise InvalidSetting(
            f"patient id {patient!r} cannot name a model: use up to 64 letters, digits, '.', '_' or '-' "
            f"(not '--', no '-' beside a slash, and not {POPULATION!r})"
        )
    return f"{dataset}-{safe}"


def parse_reference(reference: str) -> tuple[str, str | None, str | None]:
    """`name`, `name@alias` or `name/version` → (name, alias, version); a bare name means its champion."""
    matched = re.fullmatch(r"([\w.\-]+)(?:@([\w\-]+)|/(\d{1,9}))?", reference)
    if matched is None or (matched[2] or "").lower() == "latest":  # MLflow's word for the newest, tried or not
        raise InvalidInput(f"{reference!r} is no model reference; write name, name@alias or name/version", "model")
    name, alias, version = matched.groups()
    return name, alias or (None if version else CHAMPION), version


def check_uri(uri: str) -> str:
    """The tracking URI as it is; InvalidSetting for any place that is no registry."""
    if not uri.startswith((*SERVERS, "sqlite:///")):
        raise InvalidSetting(f"{_masked(uri)!r} is no registry; give {', '.join((*SERVERS, 'sqlite:///'))}…")
    return uri


def _masked(uri: str) -> str:
    return re.sub(r"//[^/]*@", "//", uri)  # a URI may hold a password


class Registry:
    """A registry at a tracking URI (SQLite file or MLflow server), with a local cache of verified bundles.

    Every method raises RegistryUnavailable where the registry does not answer.
    """

    def __init__(self, uri: str | None = None, cache: Path | None = None, *, create: bool = False) -> None:
        """create: make a missing SQLite registry; readers leave it False and are told that there is none."""
        self.uri = check_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)
        self.cache = cache or Path.home() / ".cache" / "glucast" / "bundles"
        self._folder = self._sqlite_folder(create)
        with self.answering():
            self.client = MlflowClient(self.uri, registry_uri=self.uri)

    def publish(self, bundle: Bundle, tags: dict[str, str], run_id: str | None = None) -> tuple[Version, bool]:
        """Publish a bundle as the challenger of its model; (version, is it new).

        Equal content is not written twice: its version becomes the challenger again, unless it is champion, and
        files that the artifact store has lost or damaged are restored.
        run_id: a run to keep the files in; one is made by default
        """
        name = bundle.spec.model
        with self.answering():
            if (known := self._with_digest(name, bundle.digest)) is not None:
                self._restore(known, bundle)
                if CHAMPION not in known.aliases:
                    self.client.set_registered_model_alias(name, CHALLENGER, known.version)
                return self.resolve(f"{name}/{known.version}"), False
            self._ensure_model(name)
            run = self._run_with_files(bundle, tags, run_id)
            made = self.client.create_model_version(
                name,
                source=f"{run.info.artifact_uri}/{PUBLISHED_FILES}",
                run_id=run.info.run_id,
                tags={**tags, DIGEST_TAG: bundle.digest},
            )
            self.client.set_registered_model_alias(name, CHALLENGER, made.version)
        return self.resolve(f"{name}/{made.version}"), True

    def resolve(self, reference: str) -> Version:
        """The version that `name`, `name@alias` or `name/version` means now.

        Raises NotFound where there is none, with what there is; InvalidInput for what is no reference.
        """
        found = self.find(reference)
        if found is None:
            raise NotFound(self._unknown(reference, parse_reference(reference)[0]))
        return found

    def find(self, reference: str) -> Version | None:
        """Like resolve, None where there is no such version."""
        name, alias, number = parse_reference(reference)
        with self.answering():
            try:
                if alias is not None:
                    number = self.client.get_model_version_by_alias(name, alias).version
                # look-ups by alias leave the aliases of the version out
                return _version(self.client.get_model_version(name, str(number)))
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def fetch(self, version: Version) -> Bundle:
        """The verified bundle of a version, from the local cache or downloaded into it.

        Raises IntegrityError where the content is not what was published; such content is never parsed.
        """
        kept = self.cache / version.digest
        if kept.is_dir():
            try:
                return _belonging(read_bundle(kept, version.digest), version)
            except IntegrityError:
                # without the error's text, which may name a patient
                log.warning("cached bundle %s is damaged: dropped, fetched again", version.digest[:12])
                shutil.rmtree(kept)
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache, prefix="fetch-") as scratch:
            folder = self._download(version, scratch)
            try:
                _belonging(read_bundle(folder, version.digest), version)
            except IntegrityError as error:
                raise IntegrityError(f"{version.name} version {version.version} is refused: {error}") from error
            try:
                folder.rename(kept)
            except OSError:  # another process was first
                if not kept.is_dir():
                    raise
        return read_bundle(kept, version.digest)

    def require_champion(self, name: str, expected: Version | None) -> None:
        """Raises IntegrityError where the champion is no longer the one that a gate compared with.

        MLflow cannot move an alias on a condition: asked right before a promotion, this leaves a moment only.
        """
        now = self.find(f"{name}@{CHAMPION}")
        if (now and now.version) != (expected and expected.version):
            raise IntegrityError(f"the champion of {name} changed meanwhile; promote again to compare with it")

    def promote(self, version: Version, tags: dict[str, str]) -> None:
        """Make a version champion; the old champion becomes `previous`. The gate is the caller's."""
        old = self.find(f"{version.name}@{CHAMPION}")
        with self.answering():
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, version.version, key, value)
            if old is not None and old.version != version.version:
                self.client.set_registered_model_alias(version.name, PREVIOUS, old.version)
            self.client.set_registered_model_alias(version.name, CHAMPION, version.version)
            if CHALLENGER in self.resolve(f"{version.name}/{version.version}").aliases:
                self.client.delete_registered_model_alias(version.name, CHALLENGER)

    def roll_back(self, name: str) -> tuple[Version, Version]:
        """Make the previous version champion again; (now champion, no longer champion).

        The version that goes is tagged, so that an automatic promotion does not bring it back.
        """
        champion, previous = self.find(f"{name}@{CHAMPION}"), self.find(f"{name}@{PREVIOUS}")
        if champion is None or previous is None:
            raise NotFound(f"{name} has no previous champion to go back to; promote another version instead")
        with self.answering():
            self.client.set_registered_model_alias(name, CHAMPION, previous.version)
            self.client.set_registered_model_alias(name, PREVIOUS, champion.version)
            self.client.set_model_version_tag(name, champion.version, ROLLED_BACK_TAG, "true")
        return previous, champion

    def names(self) -> list[str]:
        """Names of all registered models."""
        found: list[str] = []
        token: str | None = ""
        with self.answering():
            while token is not None:
                page = self.client.search_registered_models(max_results=1000, page_token=token or None)
                found += [model.name for model in page]
                token = page.token or None
        return sorted(found)

    def _download(self, version: Version, folder: str) -> Path:
        try:
            with self.answering():
                return Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=version.source, dst_path=folder, tracking_uri=self.uri
                    )
                )
        except MlflowException as error:
            raise IntegrityError(
                f"the files of {version.name} version {version.version} are gone from the registry's artifact store; "
                "restore them or publish the model again"
            ) from error

    def _restore(self, version: Version, bundle: Bundle) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                read_bundle(self._download(version, scratch), version.digest)
            except IntegrityError:
                log.warning("%s version %s was damaged in the artifact store: restored", version.name, version.version)
                run_id = str(self.client.get_model_version(version.name, version.version).run_id)
                self.client.log_artifacts(run_id, str(bundle.folder), version.source.rpartition("/")[2])

    def _run_with_files(self, bundle: Bundle, tags: dict[str, str], run_id: str | None) -> Run:
        client = self.client
        if run_id is not None:
            client.log_artifacts(run_id, str(bundle.folder), PUBLISHED_FILES)
            return client.get_run(run_id)
        run = client.create_run(self.experiment_id(), tags={"mlflow.runName": _run_name(bundle, tags)})
        status = "FAILED"
        try:
            client.log_artifacts(run.info.run_id, str(bundle.folder), PUBLISHED_FILES)
            status = "FINISHED"
        finally:
            client.set_terminated(run.info.run_id, status)
        return run

    def _with_digest(self, name: str, digest: str) -> Version | None:
        found = self.client.search_model_versions(f"name='{name}' and tag.{DIGEST_TAG}='{digest}'", max_results=1)
        return self.resolve(f"{name}/{found[0].version}") if found else None

    def _ensure_model(self, name: str) -> None:
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def experiment_id(self) -> str:
        """The MLflow experiment that all runs of ours belong to."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return experiment.experiment_id
        place = None if self._folder is None else (self._folder / "artifacts").resolve().as_uri()
        return self.client.create_experiment(EXPERIMENT, artifact_location=place)

    def _sqlite_folder(self, create: bool) -> Path | None:
        """The folder of a SQLite registry; None for a server."""
        if self.uri.startswith(SERVERS):
            return None
        file = Path(self.uri.removeprefix("sqlite:///"))
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.is_file():
            raise RegistryUnavailable(
                f"there is no registry at {self.uri}; publish a model first, or set MLFLOW_TRACKING_URI"
            )
        return file.parent

    def _unknown(self, reference: str, name: str) -> str:
        known = self.names()
        if name in known and reference in (name, f"{name}@{CHAMPION}"):
            return f"{name} has no champion yet; promote a version, or name {name}@{CHALLENGER}"
        if name in known:
            return f"there is no {reference!r} in the registry; {name} has no such version or alias"
        listed = (
            ", ".join(n for n in known if n.endswith(f"-{POPULATION}")) or "none yet"
        )  # personal ones name a patient
        return f"there is no model {name!r} in the registry; population models are {listed}"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """RegistryUnavailable, with no password in it, for whatever says that the registry does not answer."""
        try:
            yield
        except SQLAlchemyError as error:
            raise RegistryUnavailable(self._silent(error)) from error
        except MlflowException as error:
            if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "PERMISSION_DENIED"):
                raise RegistryUnavailable(self._silent(error)) from error
            raise
        except OSError as error:  # requests' connection errors are OSErrors too
            raise RegistryUnavailable(self._silent(error)) from error

    def _silent(self, error: Exception) -> str:
        place = _masked(self.uri)
        return f"the registry at {place} does not answer ({type(error).__name__}); start it or set MLFLOW_TRACKING_URI"


def _run_name(bundle: Bundle, tags: dict[str, str]) -> str:
    return f"{bundle.spec.model}, {tags.get('model_comment', bundle.spec.backbone)}, {bundle.digest[:8]}"


def _version(found: ModelVersion) -> Version:
    tags: dict[str, Any] = dict(found.tags)
    if not re.fullmatch(r"[0-9a-f]{64}", tags.get(DIGEST_TAG, "")):  # it also names a folder of the cache
        raise IntegrityError(
            f"{found.name} version {found.version} has no {DIGEST_TAG} tag that is one; "
            "it was not published by glucast: publish the model again"
        )
    return Version(found.name, str(found.version), tags[DIGEST_TAG], tags, tuple(found.aliases), str(found.source))


def _belonging(bundle: Bundle, version: Version) -> Bundle:
    if bundle.spec.model != version.name:
        raise IntegrityError(
            f"it was made for {bundle.spec.model}, not for {version.name}; publish it under its own name"
        )
    return bundle
