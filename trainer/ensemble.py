"""Teachers that are several: a weighted mean of them. Boosting among them forecasts only windows it did not see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from forecasting.baselines import Predictor
from forecasting.errors import InsufficientData, InvalidSetting
from forecasting.events import Input
from forecasting.forecaster import Forecasts
from forecasting.windows import Windows
from trainer.boosting import Boosting
from trainer.kept import fingerprint
from trainer.teacher_forecasts import TeacherForecasts

FOLDS = 3
BLOCK_DAYS = 7  # neighbours in time share their readings, so folds are made of whole weeks


@dataclass(frozen=True)
class Mixture:
    """Several predictors as one: the weighted mean of their forecasts, mean by mean and quantile by quantile.

    weights: (members,) that sum to 1
    """

    members: tuple[Predictor, ...]
    weights: np.ndarray

    @classmethod
    def fit(cls, members: tuple[Predictor, ...], validation: Windows) -> "Mixture":
        """With the weights that have the least squared error on the validation part."""
        forecasts = [member.predict_windows(validation).mean for member in members]
        return cls(members, mixture_weights(forecasts, validation.target))

    def predict_windows(self, windows: Windows) -> Forecasts:
        forecasts = [member.predict_windows(windows) for member in self.members]
        return Forecasts(_weighted([f.outputs for f in forecasts], self.weights), forecasts[0].levels)


def mixture_weights(forecasts: Sequence[np.ndarray], target: np.ndarray) -> np.ndarray:
    """(members,) weights, none negative, that sum to 1, of the mixture with the least squared error.

    forecasts: (n, steps) mg/dL of each member; target: (n, steps) mg/dL, NaN where nothing was read. Non-negative
    least squares (Lawson & Hanson 1974): of errors that are mixed, one more equation keeps the sum from 0.
    """
    real = ~np.isnan(target)
    errors = np.stack([f[real] - target[real] for f in forecasts], axis=1).astype(np.float64)
    gram = np.linalg.cholesky(errors.T @ errors / len(errors) + 1e-9 * np.eye(len(forecasts))).T
    weights, _ = nnls(np.vstack([gram, np.ones(len(forecasts))]), np.append(np.zeros(len(forecasts)), 1.0))
    return weights / weights.sum()  # type: ignore[no-any-return]


def _weighted(values: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return sum(weight * each for weight, each in zip(weights, values, strict=True))  # type: ignore[return-value]


def mean_taught(members: Sequence[TeacherForecasts], weights: np.ndarray) -> TeacherForecasts:
    """What the mixture teaches: its mean alone, (n, prediction_length, 1).

    Its quantiles are not worth copying: trees have equally wide ones everywhere, and a student that copied them had a
    worse CRPS than one that learned them from the truth (docs/accuracy.md).
    Raises InvalidSetting where the members' stored forecasts are of different windows.
    """
    first = members[0]
    if any((member.window_ids != first.window_ids).any() for member in members[1:]):
        raise InvalidSetting("the teachers' stored forecasts are of different windows; compute them again")
    values = _weighted([member.values[..., :1] for member in members], weights).astype(np.float32)
    key = fingerprint("mean", *(member.fingerprint for member in members), [float(weight) for weight in weights])
    return TeacherForecasts(first.window_ids, values, key)


def boosting_forecasts(train: Windows, validation: Windows, inputs: tuple[Input, ...] = ()) -> TeacherForecasts:
    """Boosting's forecasts of its own training windows, each by trees that were grown without that week.

    Trees know the windows that they were grown on too well: a student would learn errors that are too small.
    Raises InsufficientData where there are fewer weeks than folds.
    """
    fold = folds_of(train)
    values = np.empty((*train.target.shape, 1 + len(Boosting.levels)), np.float32)
    for k in range(FOLDS):
        held_out = fold == k
        trees = Boosting.fit(train[~held_out], validation, inputs=inputs)
        values[held_out] = trees.predict_windows(train[held_out]).outputs
    return TeacherForecasts(
        train.ids, values, fingerprint("boosting", train.digest, validation.digest, FOLDS, list(inputs))
    )


def folds_of(windows: Windows) -> np.ndarray:
    """(n,) the fold of each window, 0 to FOLDS - 1: weeks in turn. Raises InsufficientData where one is empty."""
    weeks = windows.origins.astype("datetime64[D]").astype(np.int64) // BLOCK_DAYS
    fold = weeks % FOLDS
    if len(np.unique(fold)) < FOLDS:
        raise InsufficientData(f"boosting as a teacher needs {FOLDS} weeks of windows to learn from; give more data")
    return fold
