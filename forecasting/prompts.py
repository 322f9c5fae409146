"""The text before the patches: a window's statistics in raw mg/dL, and its tokens."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from forecasting.cgm import SENSOR_MG_DL
from forecasting.errors import InvalidSetting
from forecasting.windows import WindowShape

TOP_LAGS = 5
SPARE_TOKENS = 4  # beyond the longest prompt that was tried


class PromptSpec(BaseModel):
    """Which prompt a model reads. `length` tokens always: shorter ones are padded and masked.

    statistics: whole mg/dL, so that the level, which instance norm hides, can be read
    paper:      what Jin et al. (ICLR 2024) say of a window, taken after instance norm as in their code
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "statistics", "paper"] = "none"
    template_version: Literal[1] = 1
    length: int = Field(default=0, ge=0, le=512)
    pad_id: int = Field(default=0, ge=0)


def write_prompts(context: np.ndarray, prediction_length: int, kind: str = "statistics") -> list[str]:
    """One sentence for each window.

    context: (n, context_length) mg/dL
    """
    if kind == "paper":
        return _paper_prompts(context, prediction_length)
    last, mean = context[:, -1], context.mean(axis=1)
    low, high = context.min(axis=1), context.max(axis=1)
    change = last - context[:, -min(4, context.shape[1])]  # over the last three steps
    rows = np.rint(np.stack([last, mean, low, high, change], axis=1)).astype(int)
    return [
        f"glucose next {prediction_length} : last {a} mean {b} min {c} max {d} {'up' if e > 0 else 'down'} {abs(e)}"
        for a, b, c, d, e in rows.tolist()
    ]


def _paper_prompts(context: np.ndarray, prediction_length: int) -> list[str]:
    """Task, minimum, maximum, median, trend (flat counts as down) and the five strongest lags."""
    context = context.astype(np.float64)
    deviation = np.sqrt(context.var(axis=1, keepdims=True) + 1e-5)
    z = (context - context.mean(axis=1, keepdims=True)) / deviation
    figures = np.stack([z.min(axis=1), z.max(axis=1), np.median(z, axis=1)], axis=1)
    return [
        f"data : continuous glucose readings . task : forecast the next {prediction_length} steps from the last "
        f"{context.shape[1]} . input : min {low:.2f} max {high:.2f} median {middle:.2f} trend "
        f"{'up' if z[row, -1] > z[row, 0] else 'down'} lags {' '.join(map(str, lags))}"
        for row, ((low, high, middle), lags) in enumerate(zip(figures.tolist(), top_lags(z).tolist(), strict=True))
    ]


def top_lags(z: np.ndarray, count: int = TOP_LAGS) -> np.ndarray:
    """(n, context_length) → (n, count): lags of the largest circular autocorrelation, strongest first."""
    spectrum = np.fft.rfft(z, axis=1)
    correlation = np.fft.irfft(spectrum * spectrum.conj(), n=z.shape[1], axis=1)
    # lag j ties with length − j: rounding keeps the order from hanging on the last bit
    return np.argsort(-np.round(correlation, 6), axis=1, kind="stable")[:, :count]


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


def longest_prompt(tokenizer: Tokenizer, shape: WindowShape, kind: str) -> int:
    """Tokens to keep for a prompt: the longest that a few hundred very different windows give, and some to spare."""
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 180, (512, 1))
    tried = np.clip(220 + spread * rng.normal(size=(512, shape.context_length)), *SENSOR_MG_DL)
    prompts = write_prompts(tried, shape.prediction_length, kind)
    return max(len(encoding.ids) for encoding in tokenizer.encode_batch(prompts)) + SPARE_TOKENS


def unpadded(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without padding or truncation of its own (files ship with both)."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
