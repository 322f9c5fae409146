"""The directory: from its file without the registry, nobody else's to read, and never in the way of an answer."""

import json
import stat
from pathlib import Path

import pytest

from forecasting.registry_reader import RegistryReader
from services.inference.directory import Directory
from tests.services.paper_registry import Paper


@pytest.fixture
def paper(tmp_path) -> Paper:
    made = Paper(tmp_path / "paper", tmp_path / "cache")
    made.put("virtual-population")
    return made


def test_a_directory_starts_from_its_file_and_asks_for_nothing_twice(paper):
    first = Directory(paper)
    first.refresh()
    known = first.resolve("virtual-population", "1")
    first.save()
    paper.is_down = True
    again = Directory(paper)
    assert again.number("virtual-population", "champion") == "1"
    assert again.resolve("virtual-population", "1") == known
    assert paper.asked["virtual-population/1"] == 1


def file_of(paper: Paper) -> Path:
    (found,) = paper.cache.folder.glob("directory-*")
    return found


def test_a_directory_is_nobody_elses_to_read_written_whole_and_only_when_it_changed(paper):
    directory = Directory(paper)
    directory.refresh()
    directory.save()
    file = file_of(paper)  # and no part of one beside it
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_mtime_ns, file.stat().st_ino
    directory.refresh()
    directory.save()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    paper.put("virtual-570")
    directory.refresh()
    directory.save()
    assert "virtual-570" in json.loads(file.read_text())["aliases"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", '"x"', "{}", '{"format": 2}', '{"format": 1, "aliases": null, "versions": []}'),
        '{"format": 1, "aliases": {"virtual-570": "1"}, "versions": []}',
        '{"format": 1, "aliases": {}, "versions": {"a": 1}}',
        '{"format": 1, "aliases": {}, "versions": [{"name": "virtual-570", "number": "1", "tags": {}, "source": ""}]}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_directory_is_left_aside_with_a_warning_and_written_anew(paper, content, caplog):
    directory = Directory(paper)
    directory.refresh()
    directory.save()
    file = file_of(paper)
    file.write_bytes(content.encode(errors="surrogateescape"))
    again = Directory(paper)
    assert not again.is_known
    assert "asked anew" in caplog.text
    assert "570" not in caplog.text
    again.refresh()
    again.save()
    assert Directory(paper).is_known


def test_two_registries_do_not_share_a_directory(paper, tmp_path):
    directory = Directory(paper)
    directory.refresh()
    directory.save()
    assert not Directory(Paper(tmp_path / "other", paper.cache.folder, uri="http://other")).is_known


def test_processes_that_share_a_cache_keep_what_the_other_resolved(paper):
    paper.put("virtual-570")
    one, two = Directory(paper), Directory(paper)
    for directory, name in ((one, "virtual-population"), (two, "virtual-570")):
        directory.refresh()
        directory.resolve(name, "1")
        directory.save()
    paper.is_down = True
    again = Directory(paper)
    assert again.resolve("virtual-population", "1")
    assert again.resolve("virtual-570", "1")


def test_a_full_disk_fails_no_look_and_no_question_and_is_written_once_there_is_room(paper, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    directory = Directory(paper)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        directory.refresh()
        assert directory.resolve("virtual-population", "1")
        directory.save()
    directory.refresh()
    directory.save()
    assert Directory(paper).is_known
    assert "570" not in caplog.text


def test_registries_of_two_folders_do_not_mix_under_one_relative_address(tmp_path, monkeypatch):
    identities = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        identities.add(RegistryReader("sqlite:///registry/mlflow.db", tmp_path / "cache").identity)
    assert len(identities) == 2
    absolute = RegistryReader(f"sqlite:///{tmp_path}/other/registry/mlflow.db", tmp_path / "cache")
    assert absolute.identity in identities
