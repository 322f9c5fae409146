"""The parts of Time-LLM around its backbone (Jin et al., ICLR 2024, section 3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """Overlapping patches of all channels, mixed with their neighbours by a circular convolution.

    (batch, context_length, channels) → (batch, num_patches, d_model),
    num_patches = floor((context_length - patch_len) / stride) + 2
    """

    def __init__(self, channels: int, patch_len: int, stride: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.patch_len, self.stride = patch_len, stride
        self.conv = nn.Conv1d(channels * patch_len, d_model, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="leaky_relu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.conv(to_patches(x, self.patch_len, self.stride).transpose(1, 2)).transpose(1, 2))


def to_patches(x: Tensor, patch_len: int, stride: int) -> Tensor:
    """Pad the end by `stride` copies of the last step, then cut.

    x: (batch, context_length, channels); returns (batch, num_patches, channels * patch_len)
    """
    padded = F.pad(x.transpose(1, 2), (0, stride), mode="replicate")
    patches = padded.unfold(-1, patch_len, stride)  # (batch, channels, num_patches, patch_len)
    return patches.transpose(1, 2).flatten(2)


def count_patches(context_length: int, patch_len: int, stride: int) -> int:
    """How many patches `to_patches` cuts."""
    return (context_length - patch_len) // stride + 2


class VocabularyPrototypes(nn.Module):
    """Text prototypes as linear mixtures of all word embeddings: the paper's map. () → (num_prototypes, embed_dim)"""

    def __init__(self, word_embeddings: Tensor, num_prototypes: int) -> None:
        super().__init__()
        self.mix = nn.Linear(word_embeddings.shape[0], num_prototypes)
        self._words = [word_embeddings]  # in a list: the backbone owns this tensor, and saves it

    def forward(self) -> Tensor:
        return self.mix.weight @ self._words[0].to(self.mix.weight) + self.mix.bias[:, None]


class DirectPrototypes(nn.Module):
    """Prototypes learned as they are: as expressive once folded, without the vocabulary. Starts at word embeddings."""

    def __init__(self, word_embeddings: Tensor, num_prototypes: int, generator: torch.Generator) -> None:
        super().__init__()
        rows = torch.randint(len(word_embeddings), (num_prototypes,), generator=generator, device="cpu")
        self.table = nn.Parameter(word_embeddings[rows].detach().clone().float())

    def forward(self) -> Tensor:
        return self.table


@dataclass(frozen=True)
class FoldedPrototypes:
    """What patches meet of the prototypes: products of weights alone, so that inference computes them once.

    scores:  (num_heads · num_prototypes, d_model), query times key, scaled; bias: (num_heads · num_prototypes,)
    mixture: (embed_dim, num_heads · num_prototypes), value times output; None where both apart are less work
    values:  (num_heads, num_prototypes, key_dim), in that case
    """

    scores: Tensor
    bias: Tensor
    mixture: Tensor | None
    values: Tensor | None


class Reprogramming(nn.Module):
    """Cross-attention from patches to prototypes. (batch, num_patches, d_model) → (batch, num_patches, embed_dim)

    All windows share the prototypes, so softmax(q kᵀ / √key_dim) v with q = patches W_q is computed as
    softmax(patches (W_q kᵀ / √key_dim)) v: the same numbers from fewer and larger products.
    """

    def __init__(self, d_model: int, num_heads: int, key_dim: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.key_dim, self.embed_dim = num_heads, key_dim, embed_dim
        self.query = nn.Linear(d_model, num_heads * key_dim)
        self.key = nn.Linear(embed_dim, num_heads * key_dim)
        self.value = nn.Linear(embed_dim, num_heads * key_dim)
        self.out = nn.Linear(num_heads * key_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def fold(self, prototypes: Tensor) -> FoldedPrototypes:
        """prototypes: (num_prototypes, embed_dim)"""
        keys, values = self._heads(self.key(prototypes)), self._heads(self.value(prototypes))
        query = self.query.weight.unflatten(0, (self.num_heads, self.key_dim))  # (num_heads, key_dim, d_model)
        scale = self.key_dim**-0.5
        scores = (keys @ query).flatten(0, 1) * scale
        bias = (keys @ self.query.bias.unflatten(0, (self.num_heads, self.key_dim, 1))).flatten() * scale
        if not folds_values(len(prototypes), self.key_dim, self.embed_dim):
            return FoldedPrototypes(scores, bias, None, values)
        out = self.out.weight.unflatten(1, (self.num_heads, self.key_dim)).permute(1, 2, 0)
        return FoldedPrototypes(scores, bias, (values @ out).flatten(0, 1).T, None)

    def forward(self, patches: Tensor, folded: FoldedPrototypes) -> Tensor:
        scores = F.linear(patches, folded.scores, folded.bias).unflatten(-1, (self.num_heads, -1))
        weights = self.dropout(scores.softmax(dim=-1))  # (batch, num_patches, num_heads, num_prototypes)
        if folded.mixture is not None:
            return F.linear(weights.flatten(2), folded.mixture, self.out.bias)
        assert folded.values is not None
        mixed = weights.flatten(0, 1).transpose(0, 1) @ folded.values  # (num_heads, batch · num_patches, key_dim)
        return self.out(mixed.transpose(0, 1).flatten(1).unflatten(0, patches.shape[:2]))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.key_dim)).transpose(0, 1)


def folds_values(num_prototypes: int, key_dim: int, embed_dim: int) -> bool:
    """Is one product with (values · output) no more work than one with the values and one with the output?"""
    return num_prototypes * embed_dim <= key_dim * (num_prototypes + embed_dim)


class ForecastHead(nn.Module):
    """Hidden states of the patches → mean and quantiles of every step; quantiles never cross.

    (batch, num_patches, d_ff) → (batch, prediction_length, 1 + num_quantiles).
    The middle quantile is free; the others are reached from it by positive steps.
    """

    def __init__(self, num_patches: int, d_ff: int, prediction_length: int, num_quantiles: int, dropout: float) -> None:
        super().__init__()
        self.steps, self.num_quantiles = prediction_length, num_quantiles
        self.project = nn.Linear(d_ff * num_patches, prediction_length * (1 + num_quantiles))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.transpose(1, 2).flatten(1)  # features first, as in the paper's code
        raw = self.dropout(self.project(flat)).unflatten(1, (self.steps, 1 + self.num_quantiles))
        if not self.num_quantiles:
            return raw
        mean, quantiles = raw[..., :1], raw[..., 1:]
        middle = self.num_quantiles // 2
        centre = quantiles[..., middle : middle + 1]
        rises = F.softplus(quantiles - 2.0)  # start near 0.13 of a unit apart
        below = centre - rises[..., :middle].flip(-1).cumsum(-1).flip(-1)
        above = centre + rises[..., middle + 1 :].cumsum(-1)
        return torch.cat([mean, below, centre, above], dim=-1)
