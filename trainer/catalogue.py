"""The supported backbones: names, repositories, roles, and the shape facts that random weights at true size need.

Declared once. What is loaded is checked against it, and the tables that people see are made from it.
Shape facts: the models' published configurations.
"""

import difflib
from dataclasses import dataclass
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
    """One row of the matrix.

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
    """The backbone of a short name or a full id, letter case ignored; NotFound with the nearest names."""
    found = _BY_NAME.get(name.strip().lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), _BY_NAME, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise NotFound(f"there is no backbone {name!r}; {hint}supported are {', '.join(BACKBONES)}")
    return found


def require_roles(backbone: Backbone, *roles: Role) -> None:
    """Raises RoleRefused, with the roles that are allowed, where the matrix does not allow one of these."""
    for role in roles:
        if role not in backbone.roles:
            allowed = ", ".join(r for r in ROLES if r in backbone.roles)
            able = ", ".join(b.name for b in BACKBONES.values() if set(roles) <= b.roles)
            raise RoleRefused(
                f"{backbone.label} is not supported for {role} ({ROLE_MEANS[role]}); it may be used for {allowed}; "
                f"for {role} take one of {able}"
            )


def require_pair(teacher: str, student: str) -> None:
    """Raises NotFound or RoleRefused where these two names cannot take part in a distillation."""
    require_roles(find_backbone(teacher), "teacher", "distillation")
    require_roles(find_backbone(student), "student", "distillation")
