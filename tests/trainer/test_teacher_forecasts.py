"""Stored teacher forecasts: matched by id, refused when they belong elsewhere."""

import numpy as np
import pytest

from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster
from forecasting.windows import WindowShape, cut_all, distinct, thin
from trainer.progress import unheard
from trainer.settings import ModelSettings
from trainer.teacher import build_model, torch_network
from trainer.teacher_forecasts import (
    compute_teacher_forecasts,
    forecasts_key,
    read_shards,
    read_teacher_forecasts,
    shards_of,
    store_forecasts,
    write_teacher_forecasts,
)

SHAPE = WindowShape()
SETTINGS = ModelSettings(backbone="bert-tiny", weights="random", num_prototypes=8, d_ff=8)


@pytest.fixture
def windows(cohort):
    return thin(cut_all(cohort.everyone, SHAPE, "train"), 150)


@pytest.fixture
def built():
    return build_model("small-population", SETTINGS, SHAPE, 1)


@pytest.fixture
def forecaster(built):
    return built.forecaster()


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


def test_a_teacher_passes_over_each_window_once_whoever_learns_from_it(cohort, built, tmp_path):
    """A population's windows hold those of its people: together they are computed once, and later ones added."""
    passed = []

    def counted(x, prompt_ids):
        passed.append(len(x))
        return network(x, prompt_ids)

    network = torch_network(built.model)
    counting = Forecaster(built.spec, counted)
    everybody = thin(cut_all(cohort.everyone, SHAPE, "train"), 300)
    one = thin(cut_all(cohort.everyone[:1], SHAPE, "train"), 100)
    together = distinct([everybody, one, everybody])
    assert len(together) < 400
    for expected in (len(together), 0):
        shards = shards_of(together, "digest", tmp_path)
        store_forecasts(counting, shards, unheard)
        assert sum(passed) == expected
        passed.clear()
    stored = read_shards(shards)
    assert len(set(stored.window_ids.tolist())) == len(stored.window_ids) == len(together)
    live = built.forecaster().predict(one.context, one.minute_of_day)
    assert np.abs(stored.of(one)[..., 0] - live.mean).max() < 1e-3


def test_shards_are_small_and_of_one_patient(cohort, monkeypatch, tmp_path):
    monkeypatch.setattr("trainer.teacher_forecasts.SHARD", 64)
    windows = thin(cut_all(cohort.everyone, SHAPE, "train"), 300)
    shards = [shard for _, shard in shards_of(windows, "digest", tmp_path)]
    assert max(len(shard) for shard in shards) == 64
    assert all(len(shard.patients) == 1 for shard in shards)
    assert sum(len(shard) for shard in shards) == len(windows)
