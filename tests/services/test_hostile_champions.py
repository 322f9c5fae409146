"""Whoever may publish may promote what means no good: the version before it goes on answering."""

import shutil
from pathlib import Path

import pytest

from forecasting.bundle import Bundle, read_bundle
from forecasting.prompts import PromptSpec
from forecasting.references import Version
from services.client import ForecastClient
from tests.hostile_bundles import SENTENCES, TOKENIZERS, sign, spoil_network
from tests.services.conftest import Shelf, becomes_ready, holds, samples, scrape, tiny_bundle

MODEL = "hostile-population"


def promoted(shelf: Shelf, folder: Path) -> Version:
    """A folder, signed as it is, published and made champion without anybody looking at it."""
    spec = read_bundle(shelf.folder / "hostile-sound").spec
    version, _ = shelf.registry.publish(Bundle(folder, sign(folder), spec, {}, {}), {})
    shelf.registry.promote(version, {})
    return version


@pytest.fixture(scope="module")
def first(shelf) -> Version:
    folder = shelf.folder / "hostile-sound"
    tiny_bundle(folder, MODEL)
    version, _ = shelf.registry.publish(read_bundle(folder), {})
    shelf.registry.promote(version, {})
    return version


def test_while_every_hostile_bundle_is_champion_in_turn_the_old_version_answers(
    shelf, first, serve, readings, tmp_path, caplog
):
    given = {"registry": shelf.registry.uri, "cache": tmp_path / "cache", "namespace": "hostile"}
    with serve(**given) as where, ForecastClient(where.address) as client:
        assert becomes_ready(where.address)

        def failures() -> float:
            return sum(samples(scrape(where.metrics_url), "glucose_model_load_failures_total"))

        for k, folder in enumerate(hostile_folders(shelf, tmp_path)):
            promoted(shelf, folder)
            assert holds(lambda k=k: failures() > k, 10), folder.name
            assert client.forecast("p", readings, "mg/dL").model.version == first.version
        assert becomes_ready(where.address)
        assert len(samples(scrape(where.metrics_url), "glucose_model_load_failures_total")) == 1
    assert "cannot forecast" not in caplog.text


def hostile_folders(shelf: Shelf, scratch: Path) -> list[Path]:
    """One of each kind that reaches the service in a way of its own."""
    sound, made = shelf.folder / "hostile-sound", []
    for k, what in enumerate(SENTENCES):
        made.append(scratch / f"network-{k}")
        shutil.copytree(sound, made[-1])
        spoil_network(made[-1], what)
    for k, (content, _) in enumerate(TOKENIZERS.values()):
        made.append(scratch / f"tokenizer-{k}")
        spec = read_bundle(sound).spec.model_copy(update={"prompt": PromptSpec(kind="statistics", length=64)})
        shutil.copytree(sound, made[-1])
        (made[-1] / "model.json").write_text(spec.model_dump_json())
        (made[-1] / "tokenizer.json").write_bytes(content)
    return made
