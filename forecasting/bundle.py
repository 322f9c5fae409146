"""A bundle: the files of one model version, what they mean, and proof that they are whole.

model.json      what goes in and what comes out (ModelSpec)
model.onnx      the network that is served, one file
weights.safetensors, tokenizer.json   what training changed; the tokenizer of models that read a prompt
metrics.json    scores, each with its protocol
origin.json     data digest, teacher, backbone, settings
MANIFEST.json   size and sha256 of each of the others; its own sha256 is the bundle's digest
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from forecasting.encoding import Normalisation
from forecasting.errors import IntegrityError
from forecasting.events import Input, event_channels
from forecasting.history import STATISTICS
from forecasting.population import Population
from forecasting.prompts import PromptSpec
from forecasting.windows import WindowShape

MANIFEST = "MANIFEST.json"
POPULATION = "population"  # in the name of a model that is not one patient's
FORMAT_VERSION = 1
SIZE_LIMITS = {  # bytes; a file of another name is refused
    "model.json": 1 << 20,
    "metrics.json": 16 << 20,
    "origin.json": 1 << 20,
    "tokenizer.json": 64 << 20,
    "model.onnx": 2 << 30,
    "weights.safetensors": 8 << 30,
}
MOST_VALUES = 1 << 18  # of one JSON file: each costs fifty times its three bytes once it is read
QUANTILES = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


Shift = Annotated[float, Field(ge=-600, le=600)]


class ModelSpec(BaseModel):
    """Everything a bundle means; written as model.json, and the only source of shapes and units in serving.

    Inputs: x (batch, context_length, channels) float32, and prompt_ids (batch, prompt.length) int64 with a prompt.
    Output: y (batch, prediction_length, 1 + quantiles) float32: mean, then quantiles, normalised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    model: str = Field(description="registered name: {dataset}-{patient} or {dataset}-population")
    backbone: str = Field(max_length=512)
    unit: Literal["mg/dL"] = "mg/dL"
    shape: WindowShape = WindowShape()
    normalisation: Normalisation = Normalisation()
    inputs: tuple[Input, ...] = Field((), max_length=2, description="what it knows beside glucose and time")
    prompt: PromptSpec = PromptSpec()
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(QUANTILES, max_length=99)
    quantile_shifts: tuple[tuple[Shift, ...], ...] | None = Field(
        None, description="mg/dL that each step adds to each quantile (forecasting.conformal); none: not calibrated"
    )
    learned_from: Population | None = Field(
        None, description="ranges of the days it learned from; none: it judges nobody, as models of a context alone"
    )

    @model_validator(mode="after")
    def _shifts_fit(self) -> Self:
        shifts, expected = self.quantile_shifts, self.shape.prediction_length
        if shifts is not None and [len(row) for row in shifts] != expected * [len(self.quantiles)]:
            raise ValueError(f"quantile_shifts must be {expected} rows of {len(self.quantiles)}")
        return self

    @model_validator(mode="after")
    def _judges_what_it_is_given(self) -> Self:
        if self.learned_from is not None and not self.shape.history_length:
            raise ValueError("learned_from tells of days, of which a shape without history_length knows nothing")
        return self

    @model_validator(mode="after")
    def _quantiles_ascend(self) -> Self:
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles must ascend; risks are read between neighbours")
        return self

    @model_validator(mode="after")
    def _sees_its_inputs(self) -> Self:
        check_inputs(self.inputs, self.normalisation)
        return self

    @property
    def knows_history(self) -> bool:
        """Are the statistics of the history among its inputs?"""
        return knows_history(self.normalisation, self.shape)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of x, in order."""
        history = STATISTICS if self.knows_history else ()
        return self.normalisation.channels + history + event_channels(self.inputs)

    @property
    def outputs(self) -> int:
        """Values per forecast step: the mean and each quantile."""
        return 1 + len(self.quantiles)


def knows_history(normalisation: Normalisation, shape: WindowShape) -> bool:
    """Does a model see the statistics of the history? The paper's instance norm shows it the context alone."""
    return shape.history_length > 0 and normalisation.kind == "level"


def check_inputs(inputs: tuple[Input, ...], normalisation: Normalisation) -> None:
    """Raises ValueError for an input named twice, and for inputs that the paper's instance norm does not show."""
    if len(set(inputs)) < len(inputs):
        raise ValueError(f"inputs {','.join(inputs)} names one twice; name each once")
    if inputs and normalisation.kind == "revin":
        raise ValueError(f"inputs {','.join(inputs)} need normalisation level; revin shows the context alone")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against its manifest."""

    folder: Path
    digest: str
    spec: ModelSpec
    metrics: dict[str, Any]
    origin: dict[str, Any]

    def read(self, name: str) -> bytes:
        """The bytes of one file, checked again as they are read."""
        return _read_checked(self.folder, name, _manifest(self.folder, self.digest)[1][name])

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()


def write_bundle(folder: Path, spec: ModelSpec, metrics: dict[str, Any], origin: dict[str, Any]) -> Bundle:
    """Write the JSON files beside whatever network files `folder` already holds, then the manifest.

    The bytes depend on the contents alone, so equal content has an equal digest.
    """
    _write_json(folder / "model.json", spec.model_dump(mode="json"))
    _write_json(folder / "metrics.json", metrics)
    _write_json(folder / "origin.json", origin)
    entries = {
        name: {"size": (folder / name).stat().st_size, "sha256": _sha256_of_file(folder / name)}
        for name in sorted(SIZE_LIMITS)
        if (folder / name).is_file()
    }
    _write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": entries})
    return read_bundle(folder)


def read_bundle(folder: Path, expected_digest: str | None = None) -> Bundle:
    """Verify every file, then parse the JSON ones.

    Raises IntegrityError, naming the file, for a digest or size that differs, a file that is missing, unknown,
    too large or a link, and for a model.json that this version does not understand.
    """
    digest, entries = _manifest(folder, expected_digest)
    _check_names(folder, entries)
    parsed = {}
    for name, entry in entries.items():
        if name.endswith(".json") and name != "tokenizer.json":
            parsed[name] = _parse(folder, name, _read_checked(folder, name, entry))
        else:
            _check_file(folder, name, entry)
    try:
        spec = ModelSpec.model_validate(parsed["model.json"])
    except ValidationError as error:
        first = error.errors()[0]
        raise IntegrityError(
            f"{folder.name}/model.json is not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    return Bundle(folder, digest, spec, parsed["metrics.json"], parsed["origin.json"])


def _manifest(folder: Path, expected_digest: str | None = None) -> tuple[str, dict[str, dict[str, Any]]]:
    """(digest, entries); the digest is compared before anything is parsed."""
    path = folder / MANIFEST
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 1 << 20:
        raise IntegrityError(f"{folder.name} has no usable {MANIFEST}; it is not a glucast bundle")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if expected_digest is not None and digest != expected_digest:
        raise IntegrityError(
            f"{folder.name}/{MANIFEST} has digest {digest[:12]}…, {expected_digest[:12]}… was published; "
            "publish the model again or restore its files"
        )
    manifest = _parse(folder, MANIFEST, content)
    try:
        version, entries = manifest["format_version"], manifest["files"]
        checked = {str(n): {"size": int(e["size"]), "sha256": str(e["sha256"])} for n, e in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise IntegrityError(f"{folder.name}/{MANIFEST} is damaged; it is not a glucast bundle") from error
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"{folder.name}/{MANIFEST} has format {version}, {FORMAT_VERSION} is understood; update glucast"
        )
    return digest, checked


def _parse(folder: Path, name: str, content: bytes) -> Any:
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise IntegrityError(f"{folder.name}/{name} holds more than {MOST_VALUES:,} values; publish the model again")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{folder.name}/{name} is not JSON; publish the model again") from error


def _check_names(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    present = {p.name for p in folder.iterdir()} - {MANIFEST}
    allowed = set(SIZE_LIMITS)
    if unknown := (present | set(entries)) - allowed:
        raise IntegrityError(f"{folder.name} holds {sorted(unknown)[0]}, which no bundle has; remove it")
    if differing := present ^ set(entries):
        raise IntegrityError(f"{folder.name}/{sorted(differing)[0]} is missing or not in the manifest")
    if lacking := {"model.json", "metrics.json", "origin.json"} - set(entries):
        raise IntegrityError(f"{folder.name} lacks {sorted(lacking)[0]}; it is not a whole bundle")


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    path = folder / name
    _check_size(path, name, entry)
    if _sha256_of_file(path) != entry["sha256"]:
        raise IntegrityError(_damaged(folder, name))


def _read_checked(folder: Path, name: str, entry: dict[str, Any]) -> bytes:
    path = folder / name
    _check_size(path, name, entry)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise IntegrityError(_damaged(folder, name))
    return content


def _check_size(path: Path, name: str, entry: dict[str, Any]) -> None:
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path.parent.name}/{name} is not a regular file; restore the bundle")
    size = path.stat().st_size
    if size != entry["size"] or size > SIZE_LIMITS[name]:
        raise IntegrityError(_damaged(path.parent, name))


def _damaged(folder: Path, name: str) -> str:
    return f"{folder.name}/{name} is not the file its manifest describes; fetch or publish the model again"


def _sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text + "\n")
    os.replace(temporary, path)
