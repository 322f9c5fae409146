"""What every model is scored beside: persistence and ridge regression, with the face of a Forecaster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forecasting.bundle import QUANTILES
from forecasting.cgm import ACCEPTED_MG_DL
from forecasting.errors import InsufficientData
from forecasting.forecaster import Forecasts
from forecasting.windows import Windows

RIDGE_PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


class Predictor(Protocol):
    """Anything that forecasts windows: a Forecaster or a baseline."""

    def predict_windows(self, windows: Windows) -> Forecasts: ...


@dataclass(frozen=True)
class Persistence:
    """The last reading, for ever. Its quantiles are those of its own errors on the validation part.

    residual_quantiles: (prediction_length, levels) mg/dL
    """

    residual_quantiles: np.ndarray
    levels: tuple[float, ...] = QUANTILES

    @classmethod
    def fit(cls, validation: Windows) -> "Persistence":
        mean = np.repeat(validation.context[:, -1:], validation.target.shape[1], axis=1)
        return cls(residual_quantiles(mean, validation.target))

    def predict_windows(self, windows: Windows) -> Forecasts:
        mean = np.repeat(windows.context[:, -1:].astype(np.float64), len(self.residual_quantiles), axis=1)
        return with_quantiles(mean, self.residual_quantiles, self.levels)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on the context, one for each step, trained on the change from the last reading.

    Features: the context anchored on its last reading, the level, and a constant that is not penalised. The
    penalty of each step is the one with the least squared error on the validation part.

    weights: (features, prediction_length); residual_quantiles: (prediction_length, levels) mg/dL
    """

    weights: np.ndarray
    residual_quantiles: np.ndarray
    penalties: tuple[float, ...]
    levels: tuple[float, ...] = QUANTILES

    @classmethod
    def fit(cls, train: Windows, validation: Windows) -> "Ridge":
        """Raises InsufficientData where either part has no windows."""
        if not len(train) or not len(validation):
            raise InsufficientData("ridge regression needs windows in the train and validation parts; give more data")
        features, checked = _features(train.context), _features(validation.context)
        steps = train.target.shape[1]
        weights = np.zeros((features.shape[1], steps))
        chosen = []
        for step in range(steps):
            candidates = _solve(features, train.target[:, step] - train.context[:, -1])
            real = ~np.isnan(validation.target[:, step])
            truth = (validation.target[:, step] - validation.context[:, -1])[real].astype(np.float64)
            errors = [float(np.mean((checked[real] @ w - truth) ** 2)) for w in candidates]
            best = int(np.argmin(errors))
            weights[:, step] = candidates[best]
            chosen.append(RIDGE_PENALTIES[best])
        mean = checked @ weights + validation.context[:, -1:]
        return cls(weights, residual_quantiles(mean, validation.target), tuple(chosen))

    def predict_windows(self, windows: Windows) -> Forecasts:
        mean = _features(windows.context) @ self.weights + windows.context[:, -1:]
        return with_quantiles(mean, self.residual_quantiles, self.levels)


@dataclass(frozen=True)
class PerPatient:
    """One predictor for each patient, chosen by `patient_ids` of the windows at hand."""

    of: Mapping[str, Predictor]

    def predict_windows(self, windows: Windows) -> Forecasts:
        """Forecast windows of known patients, each with its own predictor."""
        parts = {p: self.of[p].predict_windows(windows.of_patient(p)) for p in windows.patients}
        first = next(iter(parts.values()))
        mean = np.empty((len(windows), first.mean.shape[1]))
        quantiles = np.empty((len(windows), *first.quantiles.shape[1:]))
        for patient, forecasts in parts.items():
            rows = windows.patient_ids == patient
            mean[rows], quantiles[rows] = forecasts.mean, forecasts.quantiles
        return Forecasts.of(mean, quantiles, first.levels)


def _features(context: np.ndarray) -> np.ndarray:
    """(n, context_length) mg/dL → (n, context_length + 1), in units of about one."""
    context = context.astype(np.float64)
    last = context[:, -1:]
    return np.hstack([(context[:, :-1] - last) / 50.0, (last - 140.0) / 50.0, np.ones_like(last)])


def _solve(features: np.ndarray, change: np.ndarray) -> list[np.ndarray]:
    """Ridge weights for every penalty, from the rows whose target is real."""
    real = ~np.isnan(change)
    rows, truth = features[real], change[real].astype(np.float64)
    gram, moment = rows.T @ rows, rows.T @ truth
    free = np.ones(len(gram))
    free[-1] = 0.0  # the constant
    return [
        np.linalg.solve(gram + penalty * np.diag(free) + 1e-9 * np.eye(len(gram)), moment)
        for penalty in RIDGE_PENALTIES
    ]


def residual_quantiles(mean: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, steps) mg/dL, twice → (steps, levels): quantiles of truth minus forecast, where there is a truth."""
    return np.nanquantile(target - mean, QUANTILES, axis=0).T


def with_quantiles(mean: np.ndarray, residuals: np.ndarray, levels: tuple[float, ...]) -> Forecasts:
    """Forecasts with the same errors around each mean: (n, steps) and (steps, levels) mg/dL."""
    clipped = np.clip(mean, *ACCEPTED_MG_DL)
    return Forecasts.of(clipped, np.clip(mean[..., None] + residuals, *ACCEPTED_MG_DL), levels)
