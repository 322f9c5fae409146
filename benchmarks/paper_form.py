"""Time-LLM in the form of its paper (Jin et al., ICLR 2024, section 3), as a user would train and run it: the baseline.

Batched and vectorised, unlike tests/trainer/paper_reference.py, which it is held against. What makes it slow is the
paper's: text written and tokenised in every pass, the map over the vocabulary in every pass, instance norm, a prompt
of about 130 tokens, and attention weights that are returned, so that no fused attention can be used.
"""

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.backbones import LoadedBackbone

DESCRIPTION = (
    "the data set holds blood glucose of people with type 1 diabetes , read under the skin by a continuous glucose "
    "monitor every five minutes , in milligrams per decilitre . it rises after meals , falls after insulin and "
    "exercise , and follows the hour of the day ."
)


class PaperForm(nn.Module):
    """(batch, context_length) mg/dL → (batch, prediction_length) mg/dL. The backbone is frozen."""

    def __init__(
        self,
        backbone: LoadedBackbone,
        context_length: int,
        prediction_length: int,
        *,
        patch_len: int = 6,
        stride: int = 3,
        d_model: int = 32,
        d_ff: int = 32,
        num_heads: int = 8,
        num_prototypes: int = 1000,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        assert backbone.tokenizer is not None
        self.backbone, self.tokenizer = backbone.model.requires_grad_(False), backbone.tokenizer
        self.backbone.set_attn_implementation("eager")  # the one that can return its weights
        self.returns_attention = True
        self.words = backbone.word_embeddings
        self.patch_len, self.stride, self.num_heads, self.d_ff = patch_len, stride, num_heads, d_ff
        self.prediction_length, self.num_patches = prediction_length, (context_length - patch_len) // stride + 2
        self.mapping = nn.Linear(len(self.words), num_prototypes)
        self.conv = nn.Conv1d(patch_len, d_model, 3, padding=1, padding_mode="circular", bias=False)
        width = num_heads * d_ff
        self.query, self.key, self.value, self.out = (
            nn.Linear(d_model, width),
            nn.Linear(backbone.embed_dim, width),
            nn.Linear(backbone.embed_dim, width),
            nn.Linear(width, backbone.embed_dim),
        )
        self.head = nn.Linear(d_ff * self.num_patches, prediction_length)
        self.dropout = nn.Dropout(dropout)

    def forward(self, context: Tensor) -> Tensor:
        normalised, mean, deviation = instance_norm(context)
        normal = self.forecast(normalised, self.tokenise(self.write_prompts(normalised)))
        return self.dropout(normal) * deviation + mean

    def forecast(self, normalised: Tensor, prompt_ids: Tensor) -> Tensor:
        """(batch, context_length), (batch, prompt length) → (batch, prediction_length), unitless."""
        prompt = self.backbone.get_input_embeddings()(prompt_ids)
        prototypes = self.mapping(self.words.T).T
        patches = self.dropout(self.embed(normalised))
        inputs = torch.cat([prompt, self.reprogram(patches, prototypes)], dim=1)
        more = {"output_attentions": True, "output_hidden_states": True} if self.returns_attention else {}
        hidden = self.backbone(inputs_embeds=inputs, **more)
        kept = hidden.last_hidden_state[:, -self.num_patches :, : self.d_ff]
        return self.head(kept.transpose(1, 2).flatten(1))

    def embed(self, normalised: Tensor) -> Tensor:
        """(batch, context_length) → (batch, num_patches, d_model)"""
        padded = F.pad(normalised[:, None], (0, self.stride), mode="replicate")[:, 0]
        return self.conv(padded.unfold(-1, self.patch_len, self.stride).transpose(1, 2)).transpose(1, 2)

    def reprogram(self, patches: Tensor, prototypes: Tensor) -> Tensor:
        """(batch, num_patches, d_model), (prototypes, embed_dim) → (batch, num_patches, embed_dim)"""
        query = self.query(patches).unflatten(-1, (self.num_heads, -1))
        key = self.key(prototypes).unflatten(-1, (self.num_heads, -1))
        value = self.value(prototypes).unflatten(-1, (self.num_heads, -1))
        scores = torch.einsum("bnhk,mhk->bhnm", query, key) / query.shape[-1] ** 0.5
        mixed = torch.einsum("bhnm,mhk->bnhk", self.dropout(torch.softmax(scores, dim=-1)), value)
        return self.out(mixed.flatten(2))

    def write_prompts(self, normalised: Tensor) -> list[str]:
        """Description, task, and the statistics of each window after instance norm."""
        low, high = normalised.min(dim=1).values.tolist(), normalised.max(dim=1).values.tolist()
        middle = normalised.median(dim=1).values.tolist()
        rises = (normalised[:, -1] > normalised[:, 0]).tolist()
        spectrum = torch.fft.rfft(normalised, dim=1)
        correlation = torch.fft.irfft(spectrum * spectrum.conj(), n=normalised.shape[1], dim=1)
        lags = correlation.topk(min(5, normalised.shape[1]), dim=1).indices.tolist()
        return [
            f"data set description : {DESCRIPTION} task description : forecast the next {self.prediction_length} steps "
            f"given the previous {normalised.shape[1]} steps of information ; input statistics : min value {a} , max "
            f"value {b} , median value {c} , the trend of the input is {'upward' if up else 'downward'} , "
            f"the top 5 lags are : {own}"
            for a, b, c, up, own in zip(low, high, middle, rises, lags, strict=True)
        ]

    def tokenise(self, prompts: list[str]) -> Tensor:
        """(batch, longest prompt of the batch), padded with 0 and not masked, as in the paper's code."""
        encoded = [encoding.ids for encoding in tokens_of(self.tokenizer, prompts)]
        longest = max(map(len, encoded))
        return torch.tensor([ids + [0] * (longest - len(ids)) for ids in encoded])


def tokens_of(tokenizer: Tokenizer, prompts: list[str]) -> list:
    return tokenizer.encode_batch(prompts)


def instance_norm(context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised windows, and the mean and deviation of each, (batch, 1)."""
    mean = context.mean(dim=1, keepdim=True)
    deviation = torch.sqrt(context.var(dim=1, keepdim=True, unbiased=False) + 1e-5)
    return (context - mean) / deviation, mean, deviation
