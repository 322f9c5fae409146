"""The model registry: MLflow as an index of names, versions, aliases and tags over verified bundles."""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
from forecasting.bundle_cache import BundleCache
from forecasting.errors import IntegrityError, NotFound, RegistryUnavailable
from forecasting.references import (
    CHALLENGER,
    CHAMPION,
    DIGEST_TAG,
    PREVIOUS,
    SERVERS,
    Version,
    files_gone,
    no_answer,
    no_registry,
    parse_reference,
    registry_uri,
    version_from,
)

ROLLED_BACK_TAG = "rolled_back"
EXPERIMENT = "glucast"
PUBLISHED_FILES = "published"  # folder of a run's artifacts

log = logging.getLogger("glucast.registry")
# schema migrations and hints are no news to our users; urllib3 warns with the whole request, which may name a patient
for noisy, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
    logging.getLogger(noisy).setLevel(level)


class Registry:
    """A registry at a tracking URI (SQLite file or MLflow server), with a local cache of verified bundles.

    Every method raises RegistryUnavailable where the registry does not answer.
    """

    def __init__(self, uri: str | None = None, cache: Path | None = None, *, create: bool = False) -> None:
        """create: make a missing SQLite registry; readers leave it False and are told that there is none."""
        self.uri = registry_uri(uri)
        self.cache = BundleCache(cache)
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

    def attach(self, version: Version, file: Path) -> None:
        """Keep a file with the run that a version comes from, in place of one of its name."""
        with self.answering():
            run_id = str(self.client.get_model_version(version.name, version.version).run_id)
            self.client.log_artifact(run_id, str(file))

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
        return self.cache.get(version, lambda folder: self._download(version, str(folder)))

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
            raise IntegrityError(files_gone(version)) from error

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
            raise RegistryUnavailable(no_registry(self.uri))
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
            raise RegistryUnavailable(no_answer(self.uri, error)) from error
        except MlflowException as error:
            if error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "PERMISSION_DENIED"):
                raise RegistryUnavailable(no_answer(self.uri, error)) from error
            raise
        except OSError as error:  # requests' connection errors are OSErrors too
            raise RegistryUnavailable(no_answer(self.uri, error)) from error


def _run_name(bundle: Bundle, tags: dict[str, str]) -> str:
    return f"{bundle.spec.model}, {tags.get('model_comment', bundle.spec.backbone)}, {bundle.digest[:8]}"


def _version(found: ModelVersion) -> Version:
    return version_from(found.name, str(found.version), dict(found.tags), tuple(found.aliases), str(found.source))
