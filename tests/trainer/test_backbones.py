"""Where weights come from, and what is refused."""

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, BertConfig

from forecasting.errors import InvalidSetting, NotFound, WeightsUnavailable
from forecasting.windows import WindowShape
from trainer.backbones import (
    _download,
    build_tokenizer,
    check_backbone_settings,
    digest_of_weights,
    load_backbone,
    prompt_of,
)
from trainer.catalogue import find_backbone
from trainer.settings import ModelSettings

TINY = find_backbone("bert-tiny")


@pytest.fixture
def folder(tmp_path):
    """A real bert-tiny folder in Hugging Face layout, with random weights."""
    torch.manual_seed(0)
    model = AutoModel.from_config(BertConfig(**TINY.config))
    path = tmp_path / "bert-tiny"
    model.save_pretrained(path)
    tokenizer: Tokenizer = build_tokenizer()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return path


def at(folder, **more) -> ModelSettings:
    return ModelSettings(backbone="bert-tiny", weights=str(folder), **more)


def test_a_folder_is_loaded_with_its_own_weights_and_tokenizer(folder):
    loaded = load_backbone(TINY, at(folder, prompt="statistics"), seed=1)
    again = AutoModel.from_pretrained(folder)
    assert torch.equal(loaded.word_embeddings, again.get_input_embeddings().weight)
    assert (loaded.embed_dim, loaded.hidden_dim) == (128, 128)
    assert prompt_of(at(folder, prompt="statistics"), loaded, WindowShape()).length > 10
    assert len(loaded.origin["sha256"]) == 64


def test_the_origin_names_no_folder_of_this_machine(folder):
    assert str(folder.parent) not in json.dumps(load_backbone(TINY, at(folder), seed=1).origin)


def test_layers_can_be_left_out(folder):
    loaded = load_backbone(TINY, at(folder, num_layers=1), seed=1)
    assert loaded.model.config.num_hidden_layers == 1


def test_another_model_under_a_name_is_refused(folder):
    with pytest.raises(InvalidSetting, match="hidden_size 128, MiniLM has 384"):
        load_backbone(find_backbone("minilm"), at(folder), seed=1)


def test_a_folder_that_lacks_a_tensor_is_refused(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidSetting, match=r"lacks tensor encoder\.layer\.1\.output\.dense\.weight"):
        load_backbone(TINY, at(folder), seed=1)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="is no model folder"):
        load_backbone(TINY, at(tmp_path), seed=1)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotFound, match="there is no folder"):
        load_backbone(TINY, at(tmp_path / "none"), seed=1)


def test_a_package_that_is_not_installed_is_refused():
    with pytest.raises(NotFound, match="no_such_package is not installed"):
        load_backbone(TINY, at("package:no_such_package/model"), seed=1)


def test_a_hub_that_cannot_be_reached_names_both_ways_out(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("trainer.backbones.snapshot_download", unreachable)
    with pytest.raises(WeightsUnavailable, match=r"prajjwal1/bert-tiny.*folder in Hugging Face layout.*'random'"):
        load_backbone(TINY, at("hub"), seed=1)


def test_random_weights_have_the_true_size():
    loaded = load_backbone(TINY, at("random"), seed=1)
    pooler = 128 * 128 + 128
    assert sum(p.numel() for p in loaded.model.parameters()) + pooler == 4_385_920
    assert loaded.origin["weights"] == "random, seed 1"


def test_a_custom_folder_brings_its_own_weights(folder):
    settings = ModelSettings(backbone=str(folder), prompt="statistics")
    loaded = load_backbone(find_backbone(str(folder)), settings, seed=1)
    assert torch.equal(loaded.word_embeddings, AutoModel.from_pretrained(folder).get_input_embeddings().weight)


def test_a_tokenizer_that_knows_more_than_the_model_embeds_is_refused(folder):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"word{k}" for k in range(31_000)])
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded = load_backbone(TINY, at(folder, prompt="statistics"), seed=1)
    with pytest.raises(InvalidSetting, match=r"the tokenizer knows .* embeds 30522"):
        prompt_of(at(folder, prompt="statistics"), loaded, WindowShape())


@pytest.fixture
def old_repository(tmp_path):
    """A repository as prajjwal1/bert-tiny is: vocab.txt, a .bin, and a config.json that does not say its kind."""
    path = tmp_path / "snapshot"
    path.mkdir()
    torch.manual_seed(0)
    torch.save(AutoModel.from_config(BertConfig(**TINY.config)).state_dict(), path / "pytorch_model.bin")
    facts = {key: value for key, value in BertConfig(**TINY.config).to_dict().items() if key in TINY.config}
    (path / "config.json").write_text(json.dumps(facts))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "glucose", "next", "last", *map(str, range(10))]
    (path / "vocab.txt").write_text("\n".join(words + [f"##{d}" for d in range(10)]) + "\n")
    return path


def test_an_old_repository_of_the_hub_is_loaded_whole(old_repository, monkeypatch):
    asked = []

    def download(repository, allow_patterns, etag_timeout):
        asked.append((repository, allow_patterns))
        return str(old_repository)

    monkeypatch.setattr("trainer.backbones.snapshot_download", download)
    _download.cache_clear()
    settings = at("hub", prompt="statistics")
    check_backbone_settings(TINY, settings)
    loaded = load_backbone(TINY, settings, seed=1)
    _download.cache_clear()
    stored = torch.load(old_repository / "pytorch_model.bin", weights_only=True)
    assert torch.equal(loaded.word_embeddings, stored["embeddings.word_embeddings.weight"])
    assert loaded.tokenizer.encode("glucose last 12").tokens == ["[CLS]", "glucose", "last", "1", "##2", "[SEP]"]
    assert [repository for repository, _ in asked] == ["prajjwal1/bert-tiny"] * 2  # once more for the .bin, then kept
    assert "pytorch_model.bin" not in asked[0][1]


def test_a_pickle_that_runs_code_is_never_opened(old_repository, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('ran')",))

    torch.save({"embeddings.word_embeddings.weight": Evil()}, old_repository / "pytorch_model.bin")
    with pytest.raises(InvalidSetting, match="cannot be loaded"):
        load_backbone(TINY, at(old_repository), seed=1)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_damaged_file_is_one_sentence(folder, name):
    (folder / name).write_bytes(b"{ this is no such file")
    with pytest.raises(InvalidSetting, match=r"cannot be loaded|no usable tokenizer"):
        load_backbone(TINY, at(folder, prompt="statistics"), seed=1)


def test_another_tokenizer_is_another_digest(folder):
    before = digest_of_weights(folder)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["insulin"])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert digest_of_weights(folder) != before
