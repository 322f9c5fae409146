"""Stored teacher forecasts: matched by id, refused when they belong elsewhere."""

import numpy as np
import pytest

from forecasting.errors import IntegrityError
from forecasting.windows import WindowShape, cut_all, thin
from trainer.settings import ModelSettings
from trainer.teacher import build_model
from trainer.teacher_forecasts import (
    compute_teacher_forecasts,
    forecasts_key,
    read_teacher_forecasts,
    write_teacher_forecasts,
)

SHAPE = WindowShape()
SETTINGS = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=8, d_ff=8)


@pytest.fixture
def windows(cohort):
    return thin(cut_all(cohort.everyone, SHAPE, "train"), 150)


@pytest.fixture
def forecaster():
    return build_model("small-population", SETTINGS, SHAPE, 1).forecaster()


def test_stored_forecasts_are_what_the_teacher_says_live(windows, forecaster, tmp_path):
    computed = compute_teacher_forecasts(forecaster, windows, "key", lambda _: None)
    write_teacher_forecasts(computed, tmp_path / "f.npz")
    stored = read_teacher_forecasts(tmp_path / "f.npz", "key").of(windows)
    live = forecaster.predict(windows.context, windows.minute_of_day)
    assert np.abs(stored[..., 0] - live.mean).max() < 1e-3
    assert np.abs(stored[..., 1:] - live.quantiles).max() < 1e-3


def test_they_follow_their_windows_whatever_the_order(windows, forecaster):
    computed = compute_teacher_forecasts(forecaster, windows, "key", lambda _: None)
    backwards = windows[np.arange(len(windows))[::-1]]
    assert np.array_equal(computed.of(backwards), computed.values[::-1])


def test_a_window_without_a_forecast_is_refused(windows, forecaster):
    computed = compute_teacher_forecasts(forecaster, windows[:-1], "key", lambda _: None)
    with pytest.raises(IntegrityError, match="none for window"):
        computed.of(windows)


def test_another_key_is_refused(windows, forecaster, tmp_path):
    write_teacher_forecasts(compute_teacher_forecasts(forecaster, windows, "key", lambda _: None), tmp_path / "f.npz")
    with pytest.raises(IntegrityError, match="another teacher or other windows"):
        read_teacher_forecasts(tmp_path / "f.npz", "other")


def test_the_key_changes_with_everything_that_can_change_a_forecast(windows, monkeypatch):
    key = forecasts_key("teacher", windows)
    assert key == forecasts_key("teacher", windows)
    others = {forecasts_key("another", windows), forecasts_key("teacher", windows[1:])}
    others.add(forecasts_key("teacher", windows, "bfloat16"))
    monkeypatch.setattr("trainer.teacher_forecasts.FORMAT_VERSION", 2)
    others.add(forecasts_key("teacher", windows))
    monkeypatch.setattr("trainer.teacher_forecasts.FORMAT_VERSION", 1)
    monkeypatch.setattr("trainer.kept.code_digest", lambda: "changed")
    others.add(forecasts_key("teacher", windows))
    assert key not in others
    assert len(others) == 5
