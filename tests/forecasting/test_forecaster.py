"""The one way anything is predicted: checks, the ONNX network, mg/dL and probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.bundle import QUANTILES, ModelSpec, write_bundle
from forecasting.errors import IntegrityError, InvalidReadings
from forecasting.forecaster import Forecaster, Forecasts
from forecasting.windows import WindowShape

CONTEXT = np.linspace(100, 170, 36)[None]
UNKNOWN = np.array([np.nan])

ascending = st.lists(st.floats(10, 600), min_size=9, max_size=9, unique=True).map(sorted)


def forecasts_of(quantiles: list[float]) -> Forecasts:
    return Forecasts.of(np.full((1, 1), quantiles[4]), np.array([[quantiles]]), QUANTILES)


@given(ascending, st.floats(0, 700))
def test_probability_below_is_numpys_linear_interpolation_and_never_certain(quantiles, threshold):
    expected = np.interp(threshold, quantiles, QUANTILES, left=0, right=1)
    got = forecasts_of(quantiles).probability_below(threshold)
    np.testing.assert_allclose(got, np.clip(expected, 0.01, 0.99), atol=1e-6)


@given(ascending)
def test_at_a_predicted_quantile_the_probability_is_its_level(quantiles):
    for level, quantile in zip(QUANTILES, quantiles, strict=True):
        assert forecasts_of(quantiles).probability_below(quantile) == pytest.approx(level)


def test_where_quantiles_coincide_only_what_lies_below_them_counts():
    heap = forecasts_of([60.0, 65, 70, 70, 70, 80, 90, 95, 99])
    assert heap.probability_below(70.0) == pytest.approx(0.1)
    assert heap.probability_below(70.001) == pytest.approx(0.5, abs=1e-3)


@given(st.lists(st.sampled_from([10.0, 69.0, 70.0, 70.5, 180.0, 600.0]), min_size=9, max_size=9).map(sorted))
def test_probability_below_never_falls_as_the_threshold_rises_even_where_quantiles_coincide(quantiles):
    forecasts = forecasts_of(quantiles)
    rising = [float(forecasts.probability_below(t)[0, 0]) for t in np.arange(0, 700, 3.5)]
    assert (np.diff(rising) >= 0).all()
    assert min(rising) == 0.01
    assert max(rising) == 0.99
    assert forecasts.probability_above(180.0) == 1 - forecasts.probability_below(180.0)


def test_a_bundle_forecasts_what_its_network_says_in_mg_dl(tmp_path, make_bundle):
    forecasts = Forecaster.open(make_bundle(tmp_path / "b", rise=0.5)).predict(CONTEXT, UNKNOWN)
    np.testing.assert_allclose(forecasts.mean, np.full((1, 12), 170 + 0.5 * 50), rtol=1e-6)
    np.testing.assert_allclose(forecasts.quantiles[0, -1], 195 + np.linspace(-50, 50, 9), rtol=1e-6)
    assert forecasts.levels == QUANTILES


def test_a_forecast_does_not_depend_on_its_batch_mates(tmp_path, make_bundle, wave):
    forecaster = Forecaster.open(make_bundle(tmp_path / "b"))
    contexts, minutes = wave(11 * 36).reshape(11, 36), np.full(11, 600.0)
    together, in_twos = forecaster.predict(contexts, minutes), forecaster.predict(contexts, minutes, batch_size=2)
    alone = forecaster.predict(contexts[4:5], minutes[4:5])
    np.testing.assert_array_equal(together.quantiles, in_twos.quantiles)
    np.testing.assert_array_equal(together.mean[4:5], alone.mean)
    assert forecaster.predict(contexts[:0], minutes[:0]).mean.shape == (0, 12)


@pytest.mark.parametrize(
    ("context", "minutes", "sentence"),
    [
        (CONTEXT[:, 1:], UNKNOWN, r"shape \(1, 35\), virtual-570 needs \(n, 36\)"),
        (CONTEXT[0], UNKNOWN, r"shape \(36,\), virtual-570 needs"),
        (CONTEXT, np.array([1.0, 2.0]), "one minute of day for each"),
        (np.where(CONTEXT > 160, np.nan, CONTEXT), UNKNOWN, "needs contexts without gaps; fill or drop them"),
        (CONTEXT / 18.0156, UNKNOWN, "36 of 36 readings are outside 10 to 600 mg/dL"),
    ],
)
def test_contexts_that_cannot_be_used_are_refused_in_a_sentence(tmp_path, make_bundle, context, minutes, sentence):
    with pytest.raises(InvalidReadings, match=sentence):
        Forecaster.open(make_bundle(tmp_path / "b")).predict(context, minutes)


@pytest.mark.parametrize("nonsense", [np.nan, np.inf])
def test_a_network_that_gives_no_numbers_is_refused_by_name_instead_of_served(nonsense):
    spec = ModelSpec(model="virtual-570", backbone="tiny")
    broken = Forecaster(spec, lambda x, _: np.full((len(x), 12, 10), nonsense, np.float32))
    with pytest.raises(IntegrityError, match="virtual-570 gave a forecast that is no number"):
        broken.predict(CONTEXT, UNKNOWN)


def test_a_network_of_another_shape_than_its_model_json_is_refused(tmp_path, make_bundle):
    bundle = make_bundle(tmp_path / "b")
    (bundle.folder / "MANIFEST.json").unlink()
    spec = ModelSpec(model="virtual-570", backbone="tiny", shape=WindowShape(context_length=48))
    with pytest.raises(IntegrityError, match=r"model.onnx takes .*36.* model.json says otherwise"):
        Forecaster.open(write_bundle(bundle.folder, spec, {}, {}))


def test_a_bundle_without_a_network_or_with_a_broken_one_is_refused(tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b").folder
    spec = ModelSpec(model="virtual-570", backbone="tiny")
    (folder / "model.onnx").write_bytes(b"no network")
    with pytest.raises(IntegrityError, match=r"b/model.onnx is refused: it is cut off, or no ONNX file"):
        Forecaster.open(write_bundle(folder, spec, {}, {}))
    (folder / "model.onnx").unlink()
    with pytest.raises(IntegrityError, match=r"b has no model.onnx; export the model first"):
        Forecaster.open(write_bundle(folder, spec, {}, {}))


def test_a_network_swapped_after_the_bundle_was_verified_is_not_opened(tmp_path, make_bundle):
    verified = make_bundle(tmp_path / "good")
    other = make_bundle(tmp_path / "other", rise=3.0)
    for name in ("model.onnx", "MANIFEST.json"):
        (verified.folder / name).write_bytes((other.folder / name).read_bytes())
    with pytest.raises(IntegrityError, match=r"good/MANIFEST.json has digest"):
        Forecaster.open(verified)
