"""The canary: what may not answer anybody, whatever its checksums say."""

import numpy as np
import pytest

from forecasting.errors import IntegrityError
from forecasting.forecaster import Forecaster, Forecasts
from services.inference.warm_up import warm_up
from tests.services.conftest import tiny_bundle


class Odd:
    """A sound model whose forecasts are changed by `spoil`; remembers how large its batches were."""

    def __init__(self, sound: Forecaster, spoil) -> None:
        self.spec, self._sound, self._spoil, self.batches = sound.spec, sound, spoil, []

    def predict(self, context: np.ndarray, minute_of_day: np.ndarray, **more) -> Forecasts:
        self.batches.append(len(context))
        forecasts = self._sound.predict(context, minute_of_day, **more)
        self._spoil(forecasts)
        return forecasts


@pytest.fixture
def sound(tmp_path) -> Forecaster:
    return Forecaster.open(tiny_bundle(tmp_path / "sound", "virtual-1"))


@pytest.mark.parametrize("size", [1, 32])
def test_a_sound_model_forecasts_alone_and_in_the_largest_batch(sound, size):
    model = Odd(sound, lambda forecasts: None)
    warm_up(model, size)
    assert max(model.batches) >= size
    assert min(model.batches) == 1


@pytest.mark.parametrize("rise", [20.0, -20.0])  # 1000 mg/dL more or less
def test_a_network_that_leaves_what_a_person_can_have_is_refused(tmp_path, rise):
    """Forecasts come clipped to what a reading can be: 1000 mg/dL looks like 600."""
    with pytest.raises(IntegrityError, match="plausible readings"):
        warm_up(Forecaster.open(tiny_bundle(tmp_path / "odd", "virtual-1", rise)), 4)


def test_quantiles_out_of_order_are_refused_and_rounding_is_not(sound):
    def crossed(by: float):
        def spoil(forecasts: Forecasts) -> None:
            forecasts.quantiles[..., 1] = forecasts.quantiles[..., 2] + by

        return spoil

    warm_up(Odd(sound, crossed(1e-4)), 4)
    with pytest.raises(IntegrityError, match="out of order"):
        warm_up(Odd(sound, crossed(1.0)), 4)


def test_forecasts_that_depend_on_the_batch_are_refused(sound):
    def spoil(forecasts: Forecasts) -> None:
        forecasts.mean[:] += 0.01 * (len(forecasts.mean) > 1)

    with pytest.raises(IntegrityError, match="alone and another in a batch"):
        warm_up(Odd(sound, spoil), 4)
