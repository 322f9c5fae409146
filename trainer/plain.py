"""A small plain network on the same inputs as a student: what is there to gain without a language model."""

from typing import Any

import torch
from torch import Tensor, nn

from forecasting.bundle import ModelSpec
from forecasting.forecaster import Forecaster
from forecasting.windows import Windows
from trainer.fit import Training, build_examples, fit
from trainer.layers import ForecastHead
from trainer.progress import Report
from trainer.settings import TrainingSettings
from trainer.teacher import torch_network

WIDTH, BLOCKS, DROPOUT = 128, 3, 0.1


class Block(nn.Module):
    """(n, WIDTH) → (n, WIDTH): what it is given, and a small change of it."""

    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(2 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)  # type: ignore[no-any-return]


class PlainNetwork(nn.Module):
    """A residual perceptron with the output of a Time-LLM, and the face that its training loop knows.

    forward: x (batch, context_length, channels) → (batch, prediction_length, 1 + quantiles)
    """

    def __init__(self, spec: ModelSpec, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        shape = spec.shape
        inputs = shape.context_length * len(spec.channels)
        self.body = nn.Sequential(nn.Linear(inputs, WIDTH), *(Block() for _ in range(BLOCKS)), nn.LayerNorm(WIDTH))
        self.head = ForecastHead(1, WIDTH, shape.prediction_length, len(spec.quantiles), 0.0)

    def forward(self, x: Tensor, prompt_ids: Tensor | None = None) -> Tensor:
        return self.head(self.body(x.flatten(1))[:, None])  # type: ignore[no-any-return]

    def fold(self) -> None:
        """It has no prototypes."""

    def forecast(self, x: Tensor, prompt_ids: Tensor | None, folded: Any) -> Tensor:
        return self(x)  # type: ignore[no-any-return]

    def trim(self, prompt_ids: Tensor | None) -> Tensor | None:
        """It reads no prompt."""
        return prompt_ids

    def trained_tensors(self) -> dict[str, Tensor]:
        return {name: p.detach().contiguous() for name, p in self.named_parameters()}

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(tensors[name])


def fit_plain(
    spec: ModelSpec, train: Windows, validation: Windows, settings: TrainingSettings, report: Report
) -> Forecaster:
    """Train one by the loop, the loss and the stopping of the students. spec: of a model without a prompt"""
    model: Any = PlainNetwork(spec, settings.seed)
    learned, checked = build_examples(train, spec, None), build_examples(validation, spec, None)
    fit(Training(model, learned, checked, spec.quantiles, settings, report))
    return Forecaster(spec, torch_network(model))
