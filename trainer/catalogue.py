"""The supported backbones: names, repositories, roles, and the shape facts that random weights at true size need.

Declared once. What is loaded is checked against it, and the tables that people see are made from it.
Shape facts: the models' published configurations.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forecasting.errors import NotFound, RoleRefused

Role = Literal["time_llm", "teacher", "student", "distillation"]
ROLES: tuple[Role, ...] = ("time_llm", "teacher", "student", "distillation")
ROLE_MEANS = {
    "time_llm": "stand-alone training and forecasting",
    "teacher": "training as a teacher",
    "student": "being a student",
    "distillation": "taking part in a distillation",
}


@dataclass(frozen=True)
class Backbone:
    """One row of the matrix, or a custom backbone, which has no model_type and no config of its own here.

    config: arguments of the Hugging Face configuration of `model_type` that give the model its true size
    """

    name: str
    label: str
    repository: str
    model_type: str
    roles: frozenset[Role]
    config: dict[str, Any]
    more_names: tuple[str, ...] = ()

    @property
    def aliases(self) -> tuple[str, ...]:
        """Every name that means this backbone, besides its own."""
        names = (self.label.lower(), self.repository, self.repository.split("/")[-1], *self.more_names)
        return tuple(dict.fromkeys(n for n in names if n.lower() != self.name))

    @property
    def is_custom(self) -> bool:
        """Is this a folder or id from outside the matrix?"""
        return not self.model_type

    @property
    def num_layers(self) -> int | None:
        """Layers at true size; None for a custom backbone, whose folder knows."""
        return self._first("num_hidden_layers", "n_layer", "n_layers")

    @property
    def hidden_dim(self) -> int | None:
        """Width given out."""
        return self._first("hidden_size", "n_embd", "dim")

    @property
    def embed_dim(self) -> int | None:
        """Width taken in; smaller than hidden_dim for ALBERT and MobileBERT."""
        return self._first("embedding_size", "hidden_size", "n_embd", "dim")

    @property
    def comment(self) -> str:
        """One line that tells runs apart: `BERT-tiny 2 layers 128 wide`. Where the weights came from is another."""
        if self.is_custom:
            return f"custom {self.name}"
        widths = dict.fromkeys((self.embed_dim, self.hidden_dim))
        return f"{self.label} {self.num_layers} layers {' to '.join(map(str, widths))} wide"

    def _first(self, *keys: str) -> int | None:
        return next((self.config[key] for key in keys if key in self.config), None)


def _bert(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 30_522,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 1200 if hidden == 312 else 4 * hidden,  # TinyBERT's is not four times its width
        "max_position_embeddings": 512,
    }


EVERY_ROLE: frozenset[Role] = frozenset(ROLES)
NOT_ALONE: frozenset[Role] = frozenset(("teacher", "student", "distillation"))

_ROWS = (
    Backbone(
        "llama",
        "LLAMA",
        "huggyllama/llama-7b",
        "llama",
        frozenset(("time_llm", "teacher")),
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11_008,
            "max_position_embeddings": 2048,
        },
    ),
    Backbone(
        "gpt2",
        "GPT2",
        "openai-community/gpt2",
        "gpt2",
        frozenset(("time_llm", "teacher", "distillation")),
        {"vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024},
    ),
    Backbone(
        "bert",
        "BERT",
        "google-bert/bert-base-uncased",
        "bert",
        EVERY_ROLE,
        _bert(768, 12, 12),
    ),
    Backbone(
        "bert-large",
        "BERT-Large",
        "bert-large-uncased",
        "bert",
        frozenset(("teacher",)),
        _bert(1024, 24, 16),
        ("google-bert/bert-large-uncased",),
    ),
    Backbone(
        "distilbert",
        "DistilBERT",
        "distilbert/distilbert-base-uncased",
        "distilbert",
        EVERY_ROLE,
        {
            "vocab_size": 30_522,
            "dim": 768,
            "n_layers": 6,
            "n_heads": 12,
            "hidden_dim": 3072,
            "max_position_embeddings": 512,
        },
    ),
    Backbone("tinybert", "TinyBERT", "huawei-noah/TinyBERT_General_4L_312D", "bert", EVERY_ROLE, _bert(312, 4, 12)),
    Backbone("bert-tiny", "BERT-tiny", "prajjwal1/bert-tiny", "bert", EVERY_ROLE, _bert(128, 2, 2)),
    Backbone("bert-mini", "BERT-mini", "prajjwal1/bert-mini", "bert", NOT_ALONE, _bert(256, 4, 4)),
    Backbone("bert-small", "BERT-small", "prajjwal1/bert-small", "bert", NOT_ALONE, _bert(512, 4, 8)),
    Backbone("bert-medium", "BERT-medium", "prajjwal1/bert-medium", "bert", NOT_ALONE, _bert(512, 8, 8)),
    Backbone(
        "minilm",
        "MiniLM",
        "nreimers/MiniLMv2-L6-H384-distilled-from-BERT-Large",
        "bert",
        EVERY_ROLE,
        _bert(384, 6, 12),
    ),
    Backbone(
        "mobilebert",
        "MobileBERT",
        "google/mobilebert-uncased",
        "mobilebert",
        EVERY_ROLE,
        {
            "vocab_size": 30_522,
            "embedding_size": 128,
            "hidden_size": 512,
            "num_hidden_layers": 24,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
    ),
    Backbone(
        "albert",
        "ALBERT",
        "albert/albert-base-v2",
        "albert",
        EVERY_ROLE,
        {
            "vocab_size": 30_000,
            "embedding_size": 128,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    Backbone(
        "opt-125m",
        "OPT-125M",
        "facebook/opt-125m",
        "opt",
        EVERY_ROLE,
        {
            "vocab_size": 50_272,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "ffn_dim": 3072,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 768,
        },
    ),
)
BACKBONES: dict[str, Backbone] = {row.name: row for row in _ROWS}
_BY_NAME = {name.lower(): row for row in _ROWS for name in (row.name, *row.aliases)}


def find_backbone(name: str) -> Backbone:
    """The backbone of a short name or a full id, letter case ignored.

    A folder in Hugging Face layout, or the id of any other repository (owner/name), is a custom backbone.
    Raises NotFound, with the nearest names, for anything else.
    """
    found = _BY_NAME.get(name.strip().lower())
    if found is None and (Path(name).expanduser() / "config.json").is_file():
        return Backbone(safe_name(Path(name).expanduser().resolve().name), "custom", name, "", EVERY_ROLE, {})
    if found is None and re.fullmatch(r"[\w.\-]+/[\w.\-]+", name):
        return Backbone(safe_name(name), "custom", name, "", EVERY_ROLE, {})
    if found is None:
        near = nearest_names(name)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise NotFound(f"there is no backbone {name!r}; {hint}supported are {', '.join(BACKBONES)}")
    return found


def safe_name(name: str) -> str:
    """A model id as a file name: a slash becomes `--`."""
    return name.replace("/", "--")


def nearest_names(name: str) -> list[str]:
    """Names of the matrix that this one may have been meant to be."""
    return difflib.get_close_matches(name.lower(), _BY_NAME, n=3, cutoff=0.5)


def why_unsupported(backbone: Backbone, *roles: Role) -> str | None:
    """A sentence with the roles that are allowed where the matrix leaves one of these out, else None."""
    for role in roles:
        if role not in backbone.roles:
            allowed = ", ".join(r for r in ROLES if r in backbone.roles)
            able = ", ".join(b.name for b in BACKBONES.values() if set(roles) <= b.roles)
            return (
                f"{backbone.label} is not supported for {role} ({ROLE_MEANS[role]}); it may be used for {allowed}; "
                f"for {role} take one of {able}"
            )
    return None


def require_roles(backbone: Backbone, *roles: Role, allow_unsupported: bool = False) -> list[str]:
    """Raises RoleRefused where the matrix leaves one of these roles out.

    allow_unsupported: go past the matrix; the warning to print is returned instead
    """
    sentence = why_unsupported(backbone, *roles)
    if sentence is None:
        return []
    if not allow_unsupported:
        raise RoleRefused(f"{sentence}, or go past the matrix with --allow-unsupported")
    return [f"warning: {sentence}; going on because of --allow-unsupported"]


def require_pair(teacher: str, student: str, allow_unsupported: bool = False) -> list[str]:
    """Raises NotFound or RoleRefused where these two names cannot take part in a distillation.

    Returns the warnings to print where `allow_unsupported` goes past the matrix.
    """
    return [
        *require_roles(find_backbone(teacher), "teacher", "distillation", allow_unsupported=allow_unsupported),
        *require_roles(find_backbone(student), "student", "distillation", allow_unsupported=allow_unsupported),
    ]
