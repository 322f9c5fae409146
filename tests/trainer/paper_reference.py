"""The forward pass of Time-LLM as the paper describes it (Jin et al., ICLR 2024, section 3), plain and slow.

One window at a time, one head at a time, no masks, nothing folded: written from the description alone, so that the
real model can be held against it.
"""

import math

import numpy as np
import torch
from torch import Tensor


def paper_forecast(
    window: np.ndarray,
    prompt_ids: list[int],
    weights: dict[str, Tensor],
    backbone: torch.nn.Module,
    *,
    patch_len: int,
    stride: int,
    num_heads: int,
    d_ff: int,
    prediction_length: int,
) -> np.ndarray:
    """Forecast one window.

    window: (context_length,) mg/dL; prompt_ids: tokens of its prompt, unpadded
    returns: (prediction_length,) mg/dL
    """
    mean, deviation = window.mean(), math.sqrt(window.var() + 1e-5)
    normalised = torch.tensor((window - mean) / deviation, dtype=torch.float32)
    words = backbone.get_input_embeddings().weight  # (V, E)
    prompt = torch.stack([words[token] for token in prompt_ids])  # (T, E)
    # (E, V) → (E, M) with a bias for each prototype → (M, E)
    prototypes = (words.T @ weights["prototypes.mix.weight"].T + weights["prototypes.mix.bias"]).T
    patches = embed_patches(normalised, weights["patching.conv.weight"], patch_len, stride)
    reprogrammed = reprogram(patches, prototypes, weights, num_heads)
    hidden = backbone(inputs_embeds=torch.cat([prompt, reprogrammed])[None]).last_hidden_state[0]  # (T + n, D)
    kept = hidden[-len(patches) :, :d_ff]  # (n, d_ff)
    flat = torch.cat([kept[:, feature] for feature in range(d_ff)])  # feature after feature, over all patches
    normal = weights["head.project.weight"] @ flat + weights["head.project.bias"]
    assert len(normal) == prediction_length
    return normal.numpy().astype(np.float64) * deviation + mean


def embed_patches(window: Tensor, kernel: Tensor, patch_len: int, stride: int) -> Tensor:
    """(L,) → (n, d_model): replicate-pad the end, cut, then a circular convolution of width three over patches."""
    padded = torch.cat([window, window[-1].repeat(stride)])
    starts = range(0, len(padded) - patch_len + 1, stride)
    patches = [padded[start : start + patch_len] for start in starts]
    count = len(patches)
    assert count == (len(window) - patch_len) // stride + 2
    return torch.stack(
        [sum(kernel[:, :, k] @ patches[(place + k - 1) % count] for k in range(3)) for place in range(count)]
    )


def reprogram(patches: Tensor, prototypes: Tensor, weights: dict[str, Tensor], num_heads: int) -> Tensor:
    """(n, d_model), (M, E) → (n, E): attention of each patch to all prototypes, head by head."""

    def project(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"reprogramming.{name}.weight"].T + weights[f"reprogramming.{name}.bias"]

    query, key, value = project("query", patches), project("key", prototypes), project("value", prototypes)
    width = query.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        own = slice(head * width, (head + 1) * width)
        scores = query[:, own] @ key[:, own].T / math.sqrt(width)
        heads.append(torch.softmax(scores, dim=1) @ value[:, own])
    return project("out", torch.cat(heads, dim=1))
