"""Tiny stand-ins of all fourteen backbones: real configurations, tokenizer files and weights, on disk."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel

from trainer.backbones import build_tokenizer
from trainer.catalogue import BACKBONES, Backbone

# What makes each family small; its other facts stay as the catalogue has them.
SMALL = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
    },
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "albert": {
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "mobilebert": {
        "embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16,
    },
}
VOCABULARY = 120
NAMES = tuple(BACKBONES)


def tiny(name: str) -> Backbone:
    """The catalogue's row with a small configuration."""
    row = BACKBONES[name]
    return replace(row, config={**row.config, **SMALL[row.model_type], "vocab_size": VOCABULARY})


def write_tiny(name: str, folder: Path) -> Path:
    """A folder in Hugging Face layout that holds the small model and a tokenizer."""
    row = tiny(name)
    torch.manual_seed(0)
    config = AutoConfig.for_model(row.model_type, **row.config)
    if row.model_type in ("llama", "opt", "gpt2"):
        config.pad_token_id = 0
    AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder
