"""Persistence and ridge, against NumPy and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge

from forecasting.baselines import RIDGE_PENALTIES, PerPatient, Persistence, Ridge
from forecasting.bundle import QUANTILES
from forecasting.errors import InsufficientData
from forecasting.windows import Windows, WindowShape, cut_windows

SHAPE = WindowShape(context_length=12, prediction_length=6)


@pytest.fixture(scope="module")
def parts(virtual) -> tuple[Windows, Windows, Windows]:
    train, validation, test = (cut_windows(virtual.everyone[3], SHAPE, p) for p in ("train", "validation", "test"))
    return train, validation, test


def test_persistence_repeats_the_last_reading_with_the_spread_of_its_own_errors(parts):
    _, validation, test = parts
    forecasts = Persistence.fit(validation).predict_windows(test)
    np.testing.assert_array_equal(forecasts.mean, np.repeat(test.context[:, -1:], 6, axis=1))
    errors = (validation.target - validation.context[:, -1:])[:, 5]
    spread = np.quantile(errors[~np.isnan(errors)], QUANTILES)
    np.testing.assert_allclose(forecasts.quantiles[:, 5], np.clip(test.context[:, -1:] + spread, 10, 600), atol=1e-4)


@pytest.mark.parametrize("step", [0, 5])
def test_ridge_is_scikit_learns_ridge_with_the_penalty_that_validates_best(parts, step):
    train, validation, test = parts

    def features(windows: Windows) -> np.ndarray:
        context = windows.context.astype(float)
        return np.hstack([context[:, :-1] - context[:, -1:], context[:, -1:] - 140]) / 50

    def change(windows: Windows) -> np.ndarray:
        return (windows.target[:, step] - windows.context[:, -1]).astype(float)

    real, checked = ~np.isnan(change(train)), ~np.isnan(change(validation))
    fits = {p: SklearnRidge(alpha=p).fit(features(train)[real], change(train)[real]) for p in RIDGE_PENALTIES}
    losses = {
        p: np.mean((fit.predict(features(validation)[checked]) - change(validation)[checked]) ** 2)
        for p, fit in fits.items()
    }
    ours = Ridge.fit(train, validation)
    assert ours.penalties[step] == min(losses, key=losses.__getitem__)
    expected = test.context[:, -1] + fits[ours.penalties[step]].predict(features(test))
    got = ours.predict_windows(test).mean[:, step]
    np.testing.assert_allclose(got, np.clip(expected, 10, 600), atol=1e-4)


def test_ridge_beats_persistence_where_glucose_is_a_wave(parts):
    train, validation, test = parts
    errors = [
        np.nanmean((predictor.predict_windows(test).mean - test.target) ** 2)
        for predictor in (Ridge.fit(train, validation), Persistence.fit(validation))
    ]
    assert errors[0] < 0.9 * errors[1]


def test_quantiles_of_baselines_never_cross(parts):
    train, validation, test = parts
    for predictor in (Ridge.fit(train, validation), Persistence.fit(validation)):
        assert (np.diff(predictor.predict_windows(test).quantiles, axis=-1) >= 0).all()


@pytest.mark.parametrize("empty", [0, 1])
def test_ridge_without_windows_of_a_part_is_insufficient_data(parts, empty):
    given = [part[:0] if k == empty else part for k, part in enumerate(parts[:2])]
    with pytest.raises(InsufficientData, match="needs windows in the train and validation parts; give more data"):
        Ridge.fit(*given)


def test_everyone_is_forecast_by_a_predictor_of_their_own(parts):
    _, validation, test = parts
    ids = np.where(np.arange(len(test)) % 3, "a", "b")
    mixed = replace(test, patient_ids=ids)
    own = {"a": Persistence(np.zeros((6, 9))), "b": Persistence.fit(validation)}
    forecasts = PerPatient(own).predict_windows(mixed)
    for patient, predictor in own.items():
        expected = predictor.predict_windows(test[ids == patient])
        np.testing.assert_array_equal(forecasts.quantiles[ids == patient], expected.quantiles)
        np.testing.assert_array_equal(forecasts.mean[ids == patient], expected.mean)
