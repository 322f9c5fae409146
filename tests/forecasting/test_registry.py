"""The registry: a real MLflow over SQLite, a real artifact folder, real damage."""

import shutil
import socket
import time
from itertools import product
from pathlib import Path

import pytest
from mlflow import MlflowClient

from forecasting.errors import IntegrityError, InvalidInput, InvalidSetting, NotFound, RegistryUnavailable
from forecasting.references import DIGEST_TAG, Version, model_name, parse_reference
from forecasting.registry import Registry


def stored(version: Version, name: str = "model.onnx") -> Path:
    """A published file in the artifact store."""
    return Path(version.source.removeprefix("file://")) / name


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def publish(registry, make_bundle, tmp_path):
    def put(model: str, rise: float = 0.0) -> Version:
        return registry.publish(make_bundle(tmp_path / f"{model}-{rise}", model, rise), {"rise": str(rise)})[0]

    return put


def test_the_same_content_is_published_once_and_other_content_is_another_version(registry, make_bundle, tmp_path):
    first, new = registry.publish(make_bundle(tmp_path / "a", "once-1"), {"seed": "1"})
    again, new_again = registry.publish(make_bundle(tmp_path / "b", "once-1"), {"seed": "2"})
    other, new_other = registry.publish(make_bundle(tmp_path / "c", "once-1", rise=1.0), {})
    assert (new, new_again, new_other) == (True, False, True)
    assert (first.version, again.version, other.version) == ("1", "1", "2")
    assert again.tags["seed"] == "1"


def test_equal_content_under_another_name_is_a_model_of_its_own(registry, publish):
    one, two = publish("own-1"), publish("own-2")
    assert registry.fetch(one).spec.model == "own-1"
    assert registry.fetch(two).spec.model == "own-2"


def test_a_name_means_its_champion_and_aliases_and_numbers_their_versions(registry, publish):
    first, second = publish("ref-1"), publish("ref-1", 1.0)
    with pytest.raises(NotFound, match="ref-1 has no champion yet; promote a version, or name ref-1@challenger"):
        registry.resolve("ref-1")
    registry.promote(first, {"gate": "passed"})
    assert registry.resolve("ref-1").version == registry.resolve("ref-1@champion").version == "1"
    assert registry.resolve("ref-1@challenger").version == registry.resolve("ref-1/2").version == second.version == "2"
    assert registry.resolve("ref-1").tags["gate"] == "passed"
    assert registry.resolve("ref-1").aliases == ("champion",)
    assert "ref-1" in registry.names()


def test_the_old_champion_becomes_previous_and_comes_back_by_rolling_back(registry, publish):
    first, second, third = publish("back-1"), publish("back-1", 1.0), publish("back-1", 2.0)
    with pytest.raises(NotFound, match="back-1 has no previous champion to go back to"):
        registry.roll_back("back-1")
    for version in (first, second, third, third):
        registry.promote(version, {})
    assert (registry.resolve("back-1").version, registry.resolve("back-1@previous").version) == ("3", "2")
    now, before = registry.roll_back("back-1")
    assert (now.version, before.version) == ("2", "3")
    assert (registry.resolve("back-1").version, registry.resolve("back-1@previous").version) == ("2", "3")


@pytest.mark.parametrize(
    "reference", ["know-1/9", "know-1/0", "know-1@nobody", "know-1@v1", "know-1@CHAMPION", "know-2"]
)
def test_what_is_not_in_the_registry_is_not_found_in_a_sentence(registry, publish, reference):
    registry.promote(publish("know-1"), {})
    with pytest.raises(NotFound, match=r"there is no .*'know-"):
        registry.resolve(reference)
    assert registry.find(reference) is None


def test_an_unknown_model_is_not_answered_with_the_names_of_patients(registry, publish):
    publish("secret-570")
    publish("secret-population")
    with pytest.raises(NotFound, match=r"population models are .*secret-population") as refused:
        registry.resolve("secret-571")
    assert "secret-570" not in str(refused.value)


@pytest.mark.parametrize("alias", ["latest", "Latest", "LATEST"])
def test_mlflows_word_for_the_newest_version_never_reaches_an_unproven_one(registry, publish, alias):
    publish("newest-1")
    with pytest.raises(InvalidInput, match="write name, name@alias or name/version"):
        registry.resolve(f"newest-1@{alias}")


@pytest.mark.parametrize(
    "reference", ["", "a/b", "a@", "a/", " a", "a b", "../a", "a@b@c", "a/1/2", "a/-1", "a\n", "models:/a/1"]
)
def test_what_is_no_reference_is_refused(reference):
    with pytest.raises(InvalidInput, match="is no model reference; write name, name@alias or name/version"):
        parse_reference(reference)


def test_a_flipped_byte_in_the_store_is_refused_by_name_and_others_are_served(registry, publish):
    damaged, whole = publish("flip-1"), publish("flip-2")
    flip(stored(damaged))
    with pytest.raises(IntegrityError, match=r"flip-1 version 1 is refused: published/model.onnx is not the file"):
        registry.fetch(damaged)
    assert not (registry.cache.folder / damaged.digest).exists()
    assert registry.fetch(whole).digest == whole.digest
    assert not list(registry.cache.folder.glob("fetch-*"))


@pytest.mark.parametrize("lost", [True, False])
def test_publishing_again_restores_what_the_store_lost_or_damaged(registry, publish, make_bundle, tmp_path, lost):
    version = publish(f"heal-{lost}")
    if lost:
        shutil.rmtree(stored(version).parent)
    else:
        flip(stored(version))
    with pytest.raises(IntegrityError, match="publish the model again"):
        registry.fetch(version)
    again, new = registry.publish(make_bundle(tmp_path / "again", f"heal-{lost}"), {})
    assert (again.version, new) == ("1", False)
    assert registry.fetch(again).digest == version.digest


def test_files_gone_from_the_store_are_said_to_be_gone(registry, publish):
    version = publish("gone-1")
    shutil.rmtree(stored(version).parent)
    with pytest.raises(IntegrityError, match="files of gone-1 version 1 are gone from the registry's artifact store"):
        registry.fetch(version)


def test_a_damaged_cached_copy_is_fetched_again(registry, publish):
    version = publish("cache-1")
    kept = registry.fetch(version).folder
    flip(kept / "model.onnx")
    assert registry.fetch(version).read("model.onnx") == stored(version).read_bytes()
    shutil.rmtree(stored(version).parent)
    assert registry.fetch(version).folder == kept  # whole again, and served without the store


def test_a_bundle_made_for_another_model_is_refused(registry, publish):
    one, two = publish("belong-1"), publish("belong-2", 1.0)
    shutil.rmtree(stored(one).parent)
    shutil.copytree(stored(two).parent, stored(one).parent)
    MlflowClient(registry.uri, registry.uri).set_model_version_tag("belong-1", "1", DIGEST_TAG, two.digest)
    with pytest.raises(IntegrityError, match="it was made for belong-2, not for belong-1"):
        registry.fetch(registry.resolve("belong-1/1"))


@pytest.mark.parametrize("digest", ["", ".", "../victim", "f" * 63, "F" * 64])
def test_a_digest_that_is_none_never_names_a_folder_to_delete(registry, publish, digest):
    version = publish("tag-1")
    victim = registry.cache.folder.parent / "victim"
    victim.mkdir(exist_ok=True)
    client = MlflowClient(registry.uri, registry.uri)
    client.set_model_version_tag("tag-1", version.version, DIGEST_TAG, digest)
    try:
        with pytest.raises(IntegrityError, match="tag-1 version 1 has no manifest_sha256 tag that is one"):
            registry.fetch(registry.resolve("tag-1/1"))
    finally:
        client.set_model_version_tag("tag-1", version.version, DIGEST_TAG, version.digest)
    assert victim.is_dir()


def test_a_registry_that_is_down_is_unavailable_at_once(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    started = time.monotonic()
    down = Registry(f"http://ada:pass@word@127.0.0.1:{port}", tmp_path)
    for ask in (down.names, lambda: down.resolve("virtual-570")):
        with pytest.raises(
            RegistryUnavailable, match=r"does not answer .*start it or set MLFLOW_TRACKING_URI"
        ) as refused:
            ask()
        assert "word" not in str(refused.value)
    assert time.monotonic() - started < 8


def test_a_sqlite_file_that_is_missing_or_none_is_unavailable_and_not_made(tmp_path):
    with pytest.raises(RegistryUnavailable, match=r"there is no registry at sqlite:.*publish a model first"):
        Registry(f"sqlite:///{tmp_path}/none.db", tmp_path)
    (tmp_path / "junk.db").write_bytes(b"no data base " * 400)
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        Registry(f"sqlite:///{tmp_path}/junk.db", tmp_path).resolve("virtual-570")
    assert [p.name for p in tmp_path.iterdir()] == ["junk.db"]


@pytest.mark.parametrize("uri", ["file:/tmp/x", "/tmp/mlruns", "databricks", "sqlite:x.db"])
def test_a_registry_that_we_do_not_speak_to_is_refused_with_those_we_do(uri):
    with pytest.raises(InvalidSetting, match=r"is no registry; give http://.*sqlite:///"):
        Registry(uri)


def test_models_are_named_for_their_data_set_and_patient():
    assert model_name("t1d_uom", "570") == "t1d_uom-570"
    assert model_name("virtual") == "virtual-population"
    assert model_name("virtual", "clinic/7") == "virtual-clinic--7"


@pytest.mark.parametrize(
    "patient",
    ["", "population", "Population", "a--b", "a/-b", "a-/b", "a b", "a:b", "é", "a\n", "x" * 65, "a\\b", "%2e"],
)
def test_a_patient_id_that_cannot_name_a_model_is_refused(patient):
    with pytest.raises(InvalidSetting, match="cannot name a model: use up to 64 letters, digits"):
        model_name("virtual", patient)


@pytest.mark.parametrize("dataset", ["", "a-b", "A", "a/b", "ü", "a.b", "a\n"])
def test_a_data_set_that_cannot_name_a_model_is_refused(dataset):
    with pytest.raises(InvalidSetting, match="may hold a-z, 0-9 and _ only; rename the file"):
        model_name(dataset, "570")


def test_no_two_patients_share_a_name_and_every_name_is_safe():
    named: dict[str, tuple[str, str]] = {}
    for dataset, length in product(["a", "a_b"], range(1, 6)):
        for patient in map("".join, product("a-/.", repeat=length)):
            try:
                name = model_name(dataset, patient)
            except InvalidSetting:
                continue
            assert named.setdefault(name, (dataset, patient)) == (dataset, patient)
            assert "/" not in name
            assert parse_reference(name)[0] == name
    assert len(named) > 500


def test_a_password_in_the_uri_is_never_said():
    with pytest.raises(InvalidSetting) as refused:
        Registry("postgresql+psycopg2://user:secret@db/mlflow")
    assert "secret" not in str(refused.value)


def test_a_champion_that_moved_while_a_gate_was_scoring_is_noticed(registry, publish):
    first = publish("moved-1")
    registry.require_champion("moved-1", None)
    registry.promote(first, {})
    with pytest.raises(IntegrityError, match="changed meanwhile"):
        registry.require_champion("moved-1", None)
    registry.require_champion("moved-1", first)


def test_a_promoted_version_is_no_longer_the_challenger(registry, publish):
    version = publish("alias-1")
    assert version.aliases == ("challenger",)
    registry.promote(version, {})
    assert registry.resolve("alias-1").aliases == ("champion",)
