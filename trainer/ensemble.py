"""Teachers that are several: their forecasts averaged. Boosting among them forecasts only windows it did not see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    """Several predictors as one: the mean of their forecasts, which is that of their means and of their quantiles."""

    members: tuple[Predictor, ...]

    def predict_windows(self, windows: Windows) -> Forecasts:
        forecasts = [member.predict_windows(windows) for member in self.members]
        return Forecasts(np.mean([f.outputs for f in forecasts], axis=0), forecasts[0].levels)


def averaged(members: Sequence[TeacherForecasts]) -> TeacherForecasts:
    """The mean of several teachers' stored forecasts; InvalidSetting where they are of different windows."""
    first = members[0]
    if any((member.window_ids != first.window_ids).any() for member in members[1:]):
        raise InvalidSetting("the teachers' stored forecasts are of different windows; compute them again")
    values = np.stack([member.values for member in members]).mean(axis=0, dtype=np.float32)
    return TeacherForecasts(first.window_ids, values, fingerprint(*(member.fingerprint for member in members)))


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
