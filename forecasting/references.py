"""Names of the registry: models, versions, aliases, and where it is. Shared by who publishes and who serves."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from forecasting.bundle import POPULATION
from forecasting.errors import IntegrityError, InvalidInput, InvalidSetting

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DIGEST_TAG = "manifest_sha256"
DEFAULT_URI = "sqlite:///registry/mlflow.db"
SERVERS = ("http://", "https://", "postgresql://", "mysql://")
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Version:
    """One immutable version of a registered model."""

    name: str
    version: str
    digest: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    source: str


def version_from(name: str, number: str, tags: dict[str, str], aliases: tuple[str, ...], source: str) -> Version:
    """A version as the registry knows it; raises IntegrityError for one that glucast did not publish."""
    digest = tags.get(DIGEST_TAG, "")
    if not re.fullmatch(r"[0-9a-f]{64}", digest):  # it also names a folder of the cache
        raise IntegrityError(
            f"{name} version {number} has no {DIGEST_TAG} tag that is one; "
            "it was not published by glucast: publish the model again"
        )
    return Version(name, number, digest, tags, aliases, source)


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


def registry_uri(given: str | None) -> str:
    """What was given, else MLFLOW_TRACKING_URI, else the default; raises InvalidSetting for a place that is none."""
    return check_uri(given or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI)


def check_uri(uri: str) -> str:
    """The tracking URI as it is; InvalidSetting for any place that is no registry."""
    if not uri.startswith((*SERVERS, SQLITE)) or (uri.startswith("http") and not _is_address(uri)):
        raise InvalidSetting(f"{masked(uri)!r} is no registry; give {', '.join((*SERVERS, SQLITE))}…")
    return uri


def _is_address(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0  # what is no port raises
    except ValueError:
        return False


def masked(uri: str) -> str:
    """A URI without the password that it may hold, before an @ or in a query."""
    return uri if uri.startswith(SQLITE) else re.sub(r"//.*@", "//", uri).partition("?")[0]


def no_answer(uri: str, error: Exception) -> str:
    """The sentence for a registry that does not answer."""
    return (
        f"the registry at {masked(uri)} does not answer ({type(error).__name__}); start it or set MLFLOW_TRACKING_URI"
    )


def no_registry(uri: str) -> str:
    """The sentence for a SQLite file that is not there."""
    return f"there is no registry at {uri}; publish a model first, or set MLFLOW_TRACKING_URI"


def files_gone(version: Version) -> str:
    """The sentence for files that the artifact store has lost."""
    return (
        f"the files of {version.name} version {version.version} are gone from the registry's artifact store; "
        "restore them or publish the model again"
    )
