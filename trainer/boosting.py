"""Gradient boosting on the same inputs as a student: the bar that a student must meet to be worth serving."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

# torch first: it brings the libgomp.so.1 that LightGBM's wheel expects of the system, and slim images lack
# isort: off
import torch  # noqa: F401
import lightgbm
import numpy as np

# isort: on

from forecasting.baselines import residual_quantiles, with_quantiles
from forecasting.bundle import QUANTILES
from forecasting.encoding import RADIANS_PER_MINUTE
from forecasting.errors import InsufficientData
from forecasting.events import EVENTS, Input, columns_of
from forecasting.forecaster import Forecasts
from forecasting.windows import Windows
from trainer.progress import Progress, Report, unheard

SUMS_STEPS = (3, 6, 12, 24, 36)  # back from the origin, over which events are added up: 15 minutes to 3 hours
ROUNDS, PATIENCE = 300, 20  # trees at most, and trees without a better validation error
PARAMETERS: dict[str, Any] = {
    "objective": "l2",
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "seed": 1,
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbose": -1,
}


@dataclass(frozen=True)
class Boosting:
    """LightGBM (Ke et al., NeurIPS 2017), one for each step, trained on the change from the last reading.

    Features: the context anchored on its last reading, the level, the time of day, the statistics of the history, and
    sums of the events where inputs are asked for. The number of trees is the one with the least squared error on the
    validation part; quantiles are those of the errors there, as a split-conformal forecast has them.

    trees: one booster for each step; residual_quantiles: (prediction_length, levels) mg/dL
    """

    trees: tuple[lightgbm.Booster, ...]
    residual_quantiles: np.ndarray
    levels: tuple[float, ...] = QUANTILES
    inputs: tuple[Input, ...] = ()

    @classmethod
    def fit(
        cls,
        train: Windows,
        validation: Windows,
        threads: int = 1,
        report: Report = unheard,
        inputs: tuple[Input, ...] = (),
    ) -> "Boosting":
        """Raises InsufficientData where either part has no windows.

        threads: steps that are grown side by side, each by one thread: LightGBM's own threads wait for each other
        thousands of times, which took 30 times as long where another process had one of two cores.
        """
        if not len(train) or not len(validation):
            raise InsufficientData("boosting needs windows in the train and validation parts; give more data")
        features, checked = _features(train, inputs), _features(validation, inputs)
        steps, trees = range(train.target.shape[1]), []
        with ThreadPoolExecutor(threads) as pool:
            for grown in pool.map(lambda k: _grow(features, _change(train, k), checked, _change(validation, k)), steps):
                trees.append(grown)
                report(Progress(len(trees), len(steps)))
        mean = _mean(trees, checked, validation)
        return cls(tuple(trees), residual_quantiles(mean, validation.target), inputs=inputs)

    def predict_windows(self, windows: Windows) -> Forecasts:
        """Forecast windows of anybody."""
        return with_quantiles(
            _mean(self.trees, _features(windows, self.inputs), windows), self.residual_quantiles, self.levels
        )


def _features(windows: Windows, inputs: tuple[Input, ...] = ()) -> np.ndarray:
    """(n, features) float32; NaN is missing to the trees."""
    last = windows.context[:, -1:]
    day = RADIANS_PER_MINUTE * windows.minute_of_day[:, None]
    known = [windows.context[:, :-1] - last, last, np.sin(day), np.cos(day), windows.history]
    return np.hstack([*known, *_event_sums(windows, inputs)]).astype(np.float32)


def _event_sums(windows: Windows, inputs: tuple[Input, ...]) -> list[np.ndarray]:
    """(n, 1) each: what came within the last SUMS_STEPS, in g and U, or U/h added up step by step.

    NaN where nothing of it is recorded.
    """
    if not inputs or windows.timeline.events is None:
        return [np.full((len(windows), len(columns_of(inputs)) * len(SUMS_STEPS)), np.nan, np.float32)]
    sums = []
    for column in (EVENTS.index(name) for name in columns_of(inputs)):
        for steps in SUMS_STEPS:
            recent = windows.events[:, -steps:, column]
            known = ~np.isnan(recent)
            sums.append(np.where(known.any(axis=1), np.nansum(recent, axis=1), np.nan)[:, None])
    return sums


def _change(windows: Windows, step: int) -> np.ndarray:
    return windows.target[:, step] - windows.context[:, -1]  # type: ignore[no-any-return]


def _grow(
    features: np.ndarray, change: np.ndarray, checked: np.ndarray, checked_change: np.ndarray
) -> lightgbm.Booster:
    """The trees of one step, from the rows whose target is real."""
    real, checkable = ~np.isnan(change), ~np.isnan(checked_change)
    train = lightgbm.Dataset(features[real], change[real])
    validation = lightgbm.Dataset(checked[checkable], checked_change[checkable], reference=train)
    stopping = lightgbm.early_stopping(PATIENCE, verbose=False)
    return lightgbm.train(PARAMETERS, train, ROUNDS, valid_sets=[validation], callbacks=[stopping])


def _mean(trees: Sequence[lightgbm.Booster], features: np.ndarray, windows: Windows) -> np.ndarray:
    """(n, prediction_length) mg/dL"""
    changes = [np.asarray(booster.predict(features, num_threads=1)) for booster in trees]
    return np.stack(changes, axis=1) + windows.context[:, -1:]
