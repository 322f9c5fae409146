"""Time-LLM: patches of glucose, reprogrammed into a language model's embedding space (Jin et al., ICLR 2024)."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from forecasting.bundle import ModelSpec
from forecasting.errors import InvalidSetting
from forecasting.prompts import PromptSpec
from forecasting.windows import WindowShape
from trainer.backbones import LoadedBackbone
from trainer.catalogue import find_backbone
from trainer.layers import (
    DirectPrototypes,
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
            len(settings.normalisation.channels),
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
        self.head = ForecastHead(
            self.num_patches, settings.d_ff, shape.prediction_length, len(settings.quantiles), settings.dropout
        )
        self._freeze(settings)

    def forward(self, x: Tensor, prompt_ids: Tensor | None = None) -> Tensor:
        return self.forecast(x, prompt_ids, *self.keys_and_values())

    def keys_and_values(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the prototypes: they depend on weights alone, so inference computes them once."""
        return self.reprogramming.keys_and_values(self.prototypes())

    def forecast(self, x: Tensor, prompt_ids: Tensor | None, keys: Tensor, values: Tensor) -> Tensor:
        """The forward pass for given keys and values."""
        embedded = self.reprogramming(self.patching(x), keys, values)  # (batch, num_patches, embed_dim)
        mask = None
        if prompt_ids is not None:
            words = self.backbone.get_input_embeddings()(prompt_ids).to(embedded.dtype)
            embedded = torch.cat([words, embedded], dim=1)
            mask = torch.cat(
                [prompt_ids != self.prompt.pad_id, torch.ones_like(x[:, : self.num_patches, 0]) > 0], dim=1
            )
            mask = mask.long()
        embedded = embedded.to(self.backbone.dtype)
        hidden = self.backbone(inputs_embeds=embedded, attention_mask=mask, **self._positions(mask)).last_hidden_state
        return self.head(hidden[:, -self.num_patches :, : self.d_ff].float())

    def _positions(self, mask: Tensor | None) -> dict[str, Tensor]:
        """Positions that skip the padding, as if nothing were padded, for families that take them.

        The others take none (relative or learned by the mask: OPT counts it itself).
        """
        if mask is None or not self.takes_positions:
            return {}
        return {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}

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

    keys: Tensor
    values: Tensor

    def __init__(self, model: TimeLLM) -> None:
        super().__init__()
        self.model = model.eval()
        with torch.no_grad():
            keys, values = model.keys_and_values()
        self.register_buffer("keys", keys.detach().clone())
        self.register_buffer("values", values.detach().clone())

    def forward(self, x: Tensor, prompt_ids: Tensor | None = None) -> Tensor:
        return self.model.forecast(x, prompt_ids, self.keys, self.values)


def spec_of(name: str, settings: ModelSettings, shape: WindowShape, prompt: PromptSpec) -> ModelSpec:
    """What a bundle of this model says about itself."""
    return ModelSpec(
        model=name,
        backbone=find_backbone(settings.backbone).name,
        shape=shape,
        normalisation=settings.normalisation,
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
