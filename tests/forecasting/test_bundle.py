"""A bundle is whole or it is refused, and the file at fault is named."""

import hashlib
import json
from pathlib import Path

import pytest

from forecasting.bundle import Bundle, ModelSpec, read_bundle, write_bundle
from forecasting.errors import IntegrityError

FILES = (
    "MANIFEST.json",
    "model.json",
    "model.onnx",
    "weights.safetensors",
    "tokenizer.json",
    "metrics.json",
    "origin.json",
)


@pytest.fixture
def bundle(tmp_path, make_bundle) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def sign(folder: Path, **manifest: object) -> None:
    """Write a manifest that is true of whatever the folder holds: what a hostile publisher would do."""
    files = {
        p.name: {"size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in folder.iterdir()
        if p.name != "MANIFEST.json"
    }
    (folder / "MANIFEST.json").write_text(json.dumps({"format_version": 1, "files": files} | manifest))


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_refused_and_the_file_named(bundle, name):
    content = (bundle.folder / name).read_bytes()
    for place in {0, len(content) // 3, len(content) // 2, len(content) - 1}:
        flipped = bytearray(content)
        flipped[place] ^= 1
        (bundle.folder / name).write_bytes(flipped)
        with pytest.raises(IntegrityError, match=f"bundle/{name}"):
            read_bundle(bundle.folder, bundle.digest)
    (bundle.folder / name).write_bytes(content)
    assert read_bundle(bundle.folder, bundle.digest).spec == bundle.spec


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_and_named(bundle, name):
    (bundle.folder / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused_and_named(bundle, name, tmp_path):
    (bundle.folder / name).rename(tmp_path / "elsewhere")
    (bundle.folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match=name):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("name", ["model.pkl", "run.py", ".hidden", "model.json.part"])
def test_an_extra_file_is_refused_and_named_even_when_signed(bundle, name):
    (bundle.folder / name).write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"bundle holds {name}, which no bundle has; remove it"):
            read_bundle(bundle.folder)
        sign(bundle.folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/model.onnx", "", "MANIFEST.json", ".."])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(bundle, name):
    manifest = json.loads((bundle.folder / "MANIFEST.json").read_text())
    manifest["files"][name] = manifest["files"]["model.onnx"]
    (bundle.folder / "MANIFEST.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="which no bundle has"):
        read_bundle(bundle.folder)


def test_a_bundle_that_is_whole_but_not_the_published_one_is_refused(bundle, tmp_path, make_bundle):
    other = make_bundle(tmp_path / "other", rise=1.0)
    with pytest.raises(IntegrityError, match=f"digest {other.digest[:12]}…, {bundle.digest[:12]}… was published"):
        read_bundle(other.folder, bundle.digest)


def test_a_manifest_of_another_digest_is_refused_before_it_is_parsed(bundle):
    (bundle.folder / "MANIFEST.json").write_text("[" * 100_000)
    with pytest.raises(IntegrityError, match="was published"):
        read_bundle(bundle.folder, bundle.digest)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": "red"}, "model.json is not understood: colour: Extra inputs are not permitted"),
        ({"format_version": 2}, "model.json is not understood: format_version"),
        ({"unit": "mmol/L"}, "model.json is not understood: unit"),
        ({"shape": {"context_length": 36, "gap": 9}}, "model.json is not understood: shape.gap"),
        ({"backbone": None}, "model.json is not understood: backbone"),
    ],
)
def test_a_model_json_that_this_version_does_not_understand_is_refused(bundle, change, sentence):
    spec = json.loads((bundle.folder / "model.json").read_text()) | change
    (bundle.folder / "model.json").write_text(json.dumps(spec))
    sign(bundle.folder)
    with pytest.raises(IntegrityError, match=sentence):
        read_bundle(bundle.folder)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "\udcff"])
@pytest.mark.parametrize("name", ["model.json", "metrics.json", "MANIFEST.json"])
def test_signed_nonsense_is_refused_by_name(bundle, name, content):
    (bundle.folder / name).write_bytes(content.encode(errors="surrogateescape"))
    if name != "MANIFEST.json":
        sign(bundle.folder)
    with pytest.raises(IntegrityError, match=f"bundle/{name} is not JSON"):
        read_bundle(bundle.folder)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"format_version": 2}, "MANIFEST.json has format 2, 1 is understood; update glucast"),
        ({"files": {"model.json": {"size": 1e999, "sha256": ""}}}, "MANIFEST.json is damaged"),
        ({"files": {"model.json": {"size": 1}}}, "MANIFEST.json is damaged"),
        ({"files": ["model.json"]}, "MANIFEST.json is damaged"),
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle, manifest, sentence):
    sign(bundle.folder, **manifest)
    with pytest.raises(IntegrityError, match=sentence):
        read_bundle(bundle.folder)


def test_equal_content_has_an_equal_digest_and_any_change_another(tmp_path):
    def digest(where: str, metrics: dict, **spec: object) -> str:
        (tmp_path / where).mkdir()
        return write_bundle(tmp_path / where, ModelSpec(model="v-1", backbone="t", **spec), metrics, {}).digest

    first = digest("a", {"x": 1, "y": 2})
    assert digest("b", {"y": 2, "x": 1}) == first
    assert digest("c", {"x": 1, "y": 3}) != first
    assert digest("d", {"x": 1, "y": 2}, quantiles=(0.5,)) != first


def test_what_is_written_is_what_is_read(bundle):
    again = read_bundle(bundle.folder, bundle.digest)
    assert (again.spec, again.metrics, again.origin) == (bundle.spec, {"rmse": {"30": 20.5}}, {"by": 1})
    assert again.read("weights.safetensors") == b"weights of a tiny network"
