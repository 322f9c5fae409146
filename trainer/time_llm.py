"""Time-LLM: patches of glucose, reprogrammed into a language model's embedding space (Jin et al., ICLR 2024)."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from forecasting.bundle import ModelSpec
from forecasting.errors import InvalidSetting
from forecasting.prompts import PromptSpec
from forecasting.windows import WindowShape
from trainer.backbones import LoadedBackbone
from trainer.catalogue import find_backbone
from trainer.layers import (
    DirectPrototypes,
    FoldedPrototypes,
    ForecastHead,
    PatchEmbedding,
    Reprogramming,
    VocabularyPrototypes,
    count_patches,
)
from trainer.settings import ModelSettings


class TimeLLM(nn.Module):
    """One class for every backbone; works on normalised values, see forecasting.encoding.

    forward: x (batch, context_length, channels) and, with a prompt, prompt_ids (batch, prompt length)
             → (batch, prediction_length, 1 + quantiles)
    """

    def __init__(
        self, settings: ModelSettings, shape: WindowShape, prompt: PromptSpec, backbone: LoadedBackbone, seed: int
    ) -> None:
        super().__init__()
        check_model_shape(settings, shape, backbone.hidden_dim)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        words = backbone.word_embeddings
        self.prompt = prompt
        self.num_patches = count_patches(shape.context_length, settings.patch_len, settings.stride)
        self.d_ff = settings.d_ff
        self.backbone: Any = backbone.model
        self.takes_positions = "position_ids" in inspect.signature(backbone.model.forward).parameters
        self.patching = PatchEmbedding(
            len(spec_of("", settings, shape, prompt).channels),
            settings.patch_len,
            settings.stride,
            settings.d_model,
            settings.dropout,
        )
        self.prototypes: VocabularyPrototypes | DirectPrototypes
        if settings.prototypes == "vocabulary":
            self.prototypes = VocabularyPrototypes(words, settings.num_prototypes)
        else:
            self.prototypes = DirectPrototypes(words, settings.num_prototypes, generator)
        self.reprogramming = Reprogramming(
            settings.d_model, settings.num_heads, settings.d_ff, backbone.embed_dim, settings.dropout
        )
        self.bypass = nn.Linear(settings.d_model, backbone.embed_dim) if settings.bypass else None
        self.head = ForecastHead(
            self.num_patches, settings.d_ff, shape.prediction_length, len(settings.quantiles), settings.dropout
        )
        self._freeze(settings)
        reads_prompt = prompt.kind != "none"
        # later tokens change nothing in a causal prompt, nor does training where the backbone is frozen
        self.prompt_is_constant = reads_prompt and settings.freeze == "backbone" and is_causal(backbone)
        self.trims_prompts = reads_prompt and hides_padding(backbone)

    def forward(self, x: Tensor, prompt_ids: Tensor | None = None) -> Tensor:
        return self.forecast(x, prompt_ids, self.fold())

    def fold(self) -> FoldedPrototypes:
        """What depends on weights alone: training computes it in every step, inference once."""
        return self.reprogramming.fold(self.prototypes())

    def forecast(self, x: Tensor, prompt_ids: Tensor | None, folded: FoldedPrototypes) -> Tensor:
        """The forward pass for folded prototypes."""
        patches = self.patching(x)
        embedded = self.reprogramming(patches, folded)
        if self.bypass is not None:
            embedded = embedded + self.bypass(patches)
        embedded = embedded.to(self.backbone.dtype)
        hidden = self._read(embedded) if prompt_ids is None else self._read_after_prompt(embedded, prompt_ids)
        return self.head(hidden[:, -self.num_patches :, : self.d_ff].float())

    def trim(self, prompt_ids: Tensor | None) -> Tensor | None:
        """Prompts without the columns that are padding in all of them, which cost time and change nothing."""
        if prompt_ids is None or not self.trims_prompts:
            return prompt_ids
        return prompt_ids[:, : int((prompt_ids != self.prompt.pad_id).sum(dim=1).max())]

    def _read(self, embedded: Tensor, **more: Any) -> Tensor:
        """(batch, tokens, embed_dim) → (batch, tokens, hidden_dim)"""
        return self.backbone(inputs_embeds=embedded, **more).last_hidden_state  # type: ignore[no-any-return]

    def _read_after_prompt(self, embedded: Tensor, prompt_ids: Tensor) -> Tensor:
        """(batch, num_patches, embed_dim) → hidden states, those of the patches last."""
        words = self.backbone.get_input_embeddings()(prompt_ids)
        real = prompt_ids != self.prompt.pad_id
        mask = torch.cat([real, real.new_ones(embedded.shape[:2])], dim=1).long()
        positions = self._positions(mask)
        if self.training and self.prompt_is_constant:
            past = self._read_prompt(words, mask, positions)
            own = {name: p[:, words.shape[1] :] for name, p in positions.items()}
            return self._read(embedded, attention_mask=mask, past_key_values=past, **own)
        return self._read(torch.cat([words, embedded], dim=1), attention_mask=mask, **positions)

    @torch.no_grad()
    def _read_prompt(self, words: Tensor, mask: Tensor, positions: dict[str, Tensor]) -> Any:
        """Keys and values of the prompt: where nothing in them is trained, no gradient goes through its tokens."""
        own = {name: p[:, : words.shape[1]] for name, p in positions.items()}
        mask = mask[:, : words.shape[1]]
        return self.backbone(inputs_embeds=words, attention_mask=mask, use_cache=True, **own).past_key_values

    def _positions(self, mask: Tensor) -> dict[str, Tensor]:
        """Positions that skip the padding, as if nothing were padded, for families that take them.

        The others take none (relative or learned by the mask: OPT counts it itself).
        """
        return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if self.takes_positions else {}

    def recompute_layers(self) -> None:
        """Gradient checkpointing: training keeps what goes into each layer of the backbone, not what happens inside.

        By hand: the backbone's own switch asks for train mode, which would turn its dropout on.
        Raises InvalidSetting where transformers marks no layer of this family (ALBERT).
        """
        self.prompt_is_constant = False  # a layer that is computed twice would append to the prompt's keys twice
        layers = [layer for layer in self.backbone.modules() if isinstance(layer, GradientCheckpointingLayer)]
        if not layers:
            raise InvalidSetting(
                f"gradient_checkpointing is not to be had with {type(self.backbone).__name__}; leave it out"
            )
        for layer in layers:
            layer.forward = partial(self._recomputed, layer.forward)

    def _recomputed(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    def train(self, mode: bool = True) -> "TimeLLM":
        """The backbone stays in eval: its own dropout would blur a frozen model."""
        super().train(mode)
        self.backbone.eval()
        return self

    def trained_tensors(self) -> dict[str, Tensor]:
        """What training can change, by name: all that has to be saved beside the backbone's origin."""
        return {name: p.detach().cpu().contiguous() for name, p in self.named_parameters() if p.requires_grad}

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Put saved tensors back; InvalidSetting names the first that is missing, left over or of another shape."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if differing := own.keys() ^ tensors.keys():
            raise InvalidSetting(f"the checkpoint and the model differ in tensor {sorted(differing)[0]}; retrain it")
        with torch.no_grad():
            for name, parameter in own.items():
                if parameter.shape != tensors[name].shape:
                    raise InvalidSetting(f"tensor {name} has another shape in the checkpoint; retrain it")
                parameter.copy_(tensors[name])

    def _freeze(self, settings: ModelSettings) -> None:
        for name, parameter in self.backbone.named_parameters():
            norm = "norm" in name.lower() or "ln_" in name  # GPT-2 says ln_1, ln_2, ln_f
            parameter.requires_grad = settings.freeze == "nothing" or (settings.freeze == "norms" and norm)
        if settings.prompt == "none" and settings.prototypes == "direct":
            self.backbone.get_input_embeddings().requires_grad_(False)  # nothing reads a word


class Folded(nn.Module):
    """A TimeLLM whose prototypes were folded to constants; exact, for inference alone."""

    def __init__(self, model: TimeLLM) -> None:
        super().__init__()
        self.model = model.eval()
        with torch.no_grad():
            self.folded = model.fold()

    def forward(self, x: Tensor, prompt_ids: Tensor | None = None) -> Tensor:
        return self.model.forecast(x, prompt_ids, self.folded)


def is_causal(backbone: LoadedBackbone) -> bool:
    """Does a token see only those before it? Asked of the model itself, by another last token."""
    return _ignores_last_token(backbone, real=True)


def hides_padding(backbone: LoadedBackbone) -> bool:
    """Is a masked token truly unseen? MobileBERT's embedding mixes each token with its neighbours, masked or not."""
    return _ignores_last_token(backbone, real=False)


@torch.no_grad()
def _ignores_last_token(backbone: LoadedBackbone, real: bool) -> bool:
    """Do the tokens before the last one stay as they are when it changes?"""
    tokens = backbone.word_embeddings[None, :3]
    changed = tokens.clone()
    changed[:, -1] = backbone.word_embeddings[3]
    mask = torch.tensor([[1, 1, int(real)]], device=tokens.device)
    seen = [
        backbone.model(inputs_embeds=each, attention_mask=mask).last_hidden_state[:, :2] for each in (tokens, changed)
    ]
    return torch.equal(*seen)


def spec_of(name: str, settings: ModelSettings, shape: WindowShape, prompt: PromptSpec = PromptSpec()) -> ModelSpec:
    """What a bundle of this model says about itself."""
    return ModelSpec(
        model=name,
        backbone=find_backbone(settings.backbone).name,
        shape=shape,
        normalisation=settings.normalisation,
        inputs=settings.inputs,
        prompt=prompt,
        quantiles=settings.quantiles,
    )


def check_model_shape(settings: ModelSettings, shape: WindowShape, hidden_dim: int) -> None:
    """Raises InvalidSetting for a context shorter than a patch, or a head wider than the hidden state."""
    if shape.context_length < settings.patch_len:
        raise InvalidSetting(
            f"the context has {shape.context_length} steps, a patch {settings.patch_len}; "
            "lengthen the context or shorten the patch"
        )
    if settings.d_ff > hidden_dim:
        raise InvalidSetting(f"d_ff is {settings.d_ff}, {settings.backbone} gives {hidden_dim}; lower d_ff")
