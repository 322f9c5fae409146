"""Where a stage keeps its result, and when a kept result may be used again."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[1]


def fingerprint(*parts: Any) -> str:
    """16 hex digits that change with any part, the code of trainer and forecasting, or the libraries that compute.

    parts: anything JSON can say; a kept result is used again only under an equal fingerprint.
    """
    content = json.dumps([*parts, code_digest(), *library_versions()], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def library_versions() -> list[str]:
    """The libraries that decide about weights, tokens and exported files."""
    return [version(name) for name in ("torch", "transformers", "tokenizers", "onnx", "onnxscript", "numpy")]


@cache
def code_digest() -> str:
    """sha256 of the source of everything a result depends on."""
    sha = hashlib.sha256()
    for package in ("forecasting", "trainer"):
        for path in sorted((CODE / package).rglob("*.py")):
            sha.update(path.relative_to(CODE).as_posix().encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()


def results_folder() -> Path:
    """Where relative paths of results begin: here; under `ray job submit` in ~/glucast, since Ray removes the copy of
    the working folder that a job runs in.
    """
    return Path.home() / "glucast" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path()


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes its name only when the block ends well: no half result is ever found."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        yield whole
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A scratch file that takes its name only when the block ends well; else it goes, so that it fills no full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".part-{path.name}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that is found whole or not at all."""
    with whole_file(path) as scratch:
        scratch.write_text(text)


def state_of(folder: Path) -> Path:
    """Where a training that will end in this folder keeps its state after each epoch."""
    return folder.parent / "unfinished" / folder.name / "state.pt"


def drop_state(folder: Path) -> None:
    """Forget the state of a training whose result is there, or is no longer wanted."""
    kept = state_of(folder).parent
    shutil.rmtree(kept, ignore_errors=True)
    with suppress(OSError):  # others are unfinished still
        kept.parent.rmdir()
