"""The text before the patches: a window's statistics in raw mg/dL, and its tokens."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from forecasting.errors import InvalidSetting

TEMPLATE_VERSION = 1


class PromptSpec(BaseModel):
    """Which prompt a model reads. `length` tokens always: shorter ones are padded and masked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "statistics"] = "none"
    template_version: int = TEMPLATE_VERSION
    length: int = Field(0, ge=0, le=512)
    pad_id: int = Field(0, ge=0)


def write_prompts(context: np.ndarray, prediction_length: int) -> list[str]:
    """One sentence for each window, whole mg/dL.

    context: (n, context_length) mg/dL. Template 1: horizon, last, mean, min, max, and the change over the last
    three steps, the level that instance norm hides.
    """
    last, mean = context[:, -1], context.mean(axis=1)
    low, high = context.min(axis=1), context.max(axis=1)
    change = last - context[:, -min(4, context.shape[1])]
    rows = np.rint(np.stack([last, mean, low, high, change], axis=1)).astype(int)
    return [
        f"glucose next {prediction_length} : last {a} mean {b} min {c} max {d} {'up' if e > 0 else 'down'} {abs(e)}"
        for a, b, c, d, e in rows.tolist()
    ]


def tokenise(tokenizer: Tokenizer, prompts: list[str], spec: PromptSpec) -> np.ndarray:
    """(n, spec.length) int64 token ids, padded with `pad_id`.

    Raises InvalidSetting where a prompt is longer than the model was built for: nothing is cut off silently.
    """
    ids = np.full((len(prompts), spec.length), spec.pad_id, np.int64)
    for row, encoding in enumerate(tokenizer.encode_batch(prompts)):
        if len(encoding.ids) > spec.length:
            raise InvalidSetting(
                f"the prompt has {len(encoding.ids)} tokens, the model reads {spec.length}; raise the prompt length"
            )
        ids[row, : len(encoding.ids)] = encoding.ids
    return ids


def longest_prompt(tokenizer: Tokenizer, prediction_length: int) -> int:
    """Tokens of the longest prompt this template can write: every number at its widest."""
    widest = np.array([[400.0] * 3 + [300.0], [40.0, 399.0, 41.0, 388.0], [388.0, 41.0, 399.0, 377.0]])
    return max(len(e.ids) for e in tokenizer.encode_batch(write_prompts(widest, prediction_length))) + 2


def unpadded(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without padding or truncation of its own (files ship with both)."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
