"""mg/dL → what a network sees, and back."""

import numpy as np
import pytest

from forecasting.encoding import Normalisation, encode

LEVEL, REVIN = Normalisation(), Normalisation(kind="revin")


@pytest.fixture
def contexts(wave) -> np.ndarray:
    return wave(8 * 36).reshape(8, 36)


@pytest.mark.parametrize("normalisation", [LEVEL, REVIN])
def test_what_is_normalised_comes_back_in_mg_dl(contexts, normalisation):
    encoded = encode(contexts, np.full(8, 600.0), 5, normalisation)
    target = contexts[:, :12] + 7
    np.testing.assert_allclose(encoded.to_mg_dl(encoded.normalise(target)), target, rtol=1e-5)
    outputs = np.repeat(encoded.normalise(target)[..., None], 10, axis=2)
    np.testing.assert_allclose(encoded.to_mg_dl(outputs)[..., 9], target, rtol=1e-5)


def test_level_shows_the_level_and_revin_hides_it(contexts):
    high, low = (encode(contexts + shift, np.full(8, np.nan), 5, LEVEL).x for shift in (100, 0))
    np.testing.assert_allclose(high[..., 0], low[..., 0], atol=1e-6)
    np.testing.assert_allclose(high[..., 1] - low[..., 1], 2.0, atol=1e-6)
    scaled, plain = (encode(c, np.full(8, np.nan), 5, REVIN).x for c in (1.5 * contexts + 30, contexts))
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


def test_a_level_of_zero_change_means_the_last_reading(contexts):
    encoded = encode(contexts, np.full(8, np.nan), 5, LEVEL)
    assert (encoded.x[:, -1, 0] == 0).all()
    np.testing.assert_array_equal(encoded.to_mg_dl(np.zeros((8, 12))), np.repeat(contexts[:, -1:], 12, axis=1))


def test_every_step_has_its_own_time_of_day_and_midnight_is_no_edge(contexts):
    x = encode(contexts[:2], np.array([10.0, 1450.0]), 5, LEVEL).x
    minutes = 10 - 5 * np.arange(35, -1, -1)
    np.testing.assert_allclose(
        x[0, :, 2] + 1j * x[0, :, 3], np.exp(1j * (np.pi / 2 - 2 * np.pi * minutes / 1440)), atol=1e-6
    )
    np.testing.assert_allclose(x[0, :, 2:], x[1, :, 2:], atol=1e-6)


def test_inputs_are_those_of_the_plain_formula_in_windows_of_any_number_and_length(wave):
    """Float64, a sine of its own for every step; 2,100 windows are more than are written at a time."""
    minutes = np.where(np.arange(2100) % 7 == 0, np.nan, np.arange(2100) % 1440).astype(np.float32)
    for n, length, sampling_minutes in ((1, 36, 5), (2100, 36, 5), (3, 288, 5), (4, 12, 15)):
        context = wave(n * length).reshape(n, length).clip(40, 400).astype(np.float32)
        x = encode(context, minutes[-n:], sampling_minutes, LEVEL).x
        known = ~np.isnan(minutes[-n:])[:, None] * np.ones(length)
        back = sampling_minutes * np.arange(length - 1, -1, -1)
        angle = 2 * np.pi * (np.nan_to_num(minutes[-n:].astype(float))[:, None] - back) / 1440
        change, level = context.astype(float) - context[:, -1:], context[:, -1:] - np.zeros(length)
        channels = [change / 50, (level - 140) / 50, known * np.sin(angle), known * np.cos(angle), known]
        np.testing.assert_allclose(x, np.stack(channels, axis=-1), rtol=0, atol=1e-6)
        assert x.dtype == np.float32


def test_an_unknown_time_of_day_is_masked_for_that_window_alone(contexts):
    x = encode(contexts, np.array([np.nan] + [600.0] * 7), 5, LEVEL).x
    assert (x[0, :, 2:] == 0).all()
    assert (x[1:, :, 4] == 1).all()
    np.testing.assert_allclose(x[1:, :, 2] ** 2 + x[1:, :, 3] ** 2, 1, atol=1e-6)


def test_a_flat_context_stays_finite_and_outputs_stay_within_what_a_reading_can_be():
    flat = np.full((1, 36), 40.0)
    for normalisation in (LEVEL, REVIN):
        encoded = encode(flat, np.array([np.nan]), 5, normalisation)
        assert np.isfinite(encoded.x).all()
        assert encoded.x.shape == (1, 36, len(normalisation.channels))
        np.testing.assert_array_equal(encoded.to_mg_dl(np.array([[1e9, -1e9]])), [[600, 10]])
