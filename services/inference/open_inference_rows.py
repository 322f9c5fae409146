"""What the tensors of our models mean.

What callers send and get are not the network's normalised numbers but readings and forecasts in mg/dL, so that neither
the unit nor the normalisation can be got wrong:

glucose_mg_dl   FP32 (rows, context_length)  every step of each context, newest last, without gaps
history_mg_dl   FP32 (rows, history_length)  the steps before each context, NaN where unknown, of models that know
                                             them; left out where none is known
carbs_g, bolus_units, basal_units_h  FP32 (rows, context_length)  what was eaten (g) and taken (U) within each step of
                                             the context, and the basal rate at it (U/h), NaN where not recorded, of
                                             models that know them; left out where none is
minute_of_day   FP32 (rows, 1) or (rows,)    of the patient's clock at the newest step; NaN or left out where unknown
forecast_mg_dl  FP32 (rows, prediction_length, 1 + quantiles)  the mean, then the quantiles
"""

from dataclasses import dataclass

import numpy as np

from forecasting.cgm import MG_DL_PER_MMOL_L, MMOL_L_MEDIAN_BELOW, censor, check_range
from forecasting.context import Context, Readings, sensor_mg_dl
from forecasting.errors import InvalidInput, InvalidReadings
from forecasting.events import EVENTS, Input, check_events, columns_of
from forecasting.windows import WindowShape, statistics_of
from protos.inference import open_inference_pb2 as pb
from services.inference.open_inference_tensors import Tensor, check_outputs, tensors_from, written

GLUCOSE, HISTORY, MINUTE, FORECAST = "glucose_mg_dl", "history_mg_dl", "minute_of_day", "forecast_mg_dl"
RANKS = {GLUCOSE: (2,), HISTORY: (2,), MINUTE: (2, 1)}
ROWS_AT_MOST = 1024
MINUTES_OF_DAY = 24 * 60
NO_TIMES = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Rows:
    """What one request asks forecasts for.

    glucose_mg_dl: (rows, context_length) float32; minute_of_day: (rows,) float32, NaN where unknown
    earlier: (rows, history_length) float32 mg/dL, NaN where unknown
    events: (rows, context_length, 3) float32 of forecasting.events.EVENTS, NaN where not recorded; None for none
    place: the path of the field that holds the glucose
    """

    shape: WindowShape
    glucose_mg_dl: np.ndarray
    earlier: np.ndarray
    minute_of_day: np.ndarray
    place: str
    events: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.glucose_mg_dl)

    def context(self, row: int) -> Context:
        """One of them, by the rules that hold for readings; raises InvalidReadings."""
        try:
            glucose, censored = _checked(self.glucose_mg_dl[row])
        except InvalidInput as error:
            raise InvalidReadings(f"row {row} of {GLUCOSE}: {error}", self.place) from error
        history = statistics_of(np.concatenate([self.earlier[row], glucose])[None], self.shape)[0]
        events = None if self.events is None else self.events[row]
        return Context(glucose.astype(np.float32), float(self.minute_of_day[row]), 0, (), 0, censored, history, events)


def rows_from(request: pb.ModelInferRequest, shape: WindowShape, inputs: tuple[Input, ...] = ()) -> Rows:
    """Raises InvalidInput, with the field, for whatever the protocol or the model does not allow."""
    check_outputs(request, (FORECAST,))
    tensors = tensors_from(request, RANKS | dict.fromkeys(columns_of(inputs), (2,)))
    if GLUCOSE not in tensors:
        raise InvalidInput(f"there is no input {GLUCOSE}; send the context of each row in mg/dL", "inputs")
    glucose, place = tensors[GLUCOSE].values, tensors[GLUCOSE].place
    length = shape.context_length
    if not 1 <= len(glucose) <= ROWS_AT_MOST or glucose.shape[1] != length:
        raise InvalidInput(
            f"{GLUCOSE} has shape {written(glucose.shape)}; send [rows,{length}], 1 to {ROWS_AT_MOST:,} rows",
            f"{place}.shape",
        )
    earlier = _earlier_from(tensors.get(HISTORY), len(glucose), shape.history_length)
    minutes = _minutes_from(tensors.get(MINUTE), len(glucose))
    return Rows(shape, glucose, earlier, minutes, place, _events_from(tensors, glucose.shape))


def _events_from(tensors: dict[str, Tensor], size: tuple[int, ...]) -> np.ndarray | None:
    """(rows, context_length, 3) float32, NaN where not recorded; None where no tensor came; raises InvalidInput."""
    came = {name: tensors[name] for name in EVENTS if name in tensors}
    if not came:
        return None
    events = np.full((*size, len(EVENTS)), np.nan, np.float32)
    for name, tensor in came.items():
        if tensor.values.shape != size:
            raise InvalidInput(
                f"{name} has shape {written(tensor.values.shape)}; send {written(size)}, NaN where it is not recorded",
                f"{tensor.place}.shape",
            )
        events[..., EVENTS.index(name)] = tensor.values
        try:
            check_events(events)
        except InvalidReadings as error:
            raise InvalidInput(str(error), tensor.place) from error
    return events


def _earlier_from(tensor: Tensor | None, rows: int, length: int) -> np.ndarray:
    """(rows, history_length) float32 within the sensor's range, NaN where unknown; raises InvalidInput."""
    if tensor is None:
        return np.full((rows, length), np.nan, np.float32)
    if not length or tensor.values.shape != (rows, length):
        wanted = f"send [{rows},{length}], NaN where it is unknown" if length else "this model knows none: leave it out"
        raise InvalidInput(f"{HISTORY} has shape {written(tensor.values.shape)}; {wanted}", f"{tensor.place}.shape")
    try:
        check_range(tensor.values.ravel())
    except InvalidReadings as error:
        raise InvalidInput(f"{HISTORY}: {error}", tensor.place) from error
    return censor(tensor.values)


def _checked(glucose: np.ndarray) -> tuple[np.ndarray, int]:
    """(context_length,) mg/dL within the sensor's range, and how many steps were brought to its edge."""
    if np.isnan(glucose).any():
        raise InvalidReadings("a step is not a number; send contexts without gaps, or ask the Forecaster service")
    if glucose.min() < MMOL_L_MEDIAN_BELOW and (median := float(np.median(glucose))) < MMOL_L_MEDIAN_BELOW:
        raise InvalidReadings(
            f"the median is {median:.1f}, as of mmol/L; send mg/dL, which are {MG_DL_PER_MMOL_L} times as many"
        )
    return sensor_mg_dl(Readings(NO_TIMES, glucose), "mg/dL", judge_unit=False)


def _minutes_from(tensor: Tensor | None, rows: int) -> np.ndarray:
    """(rows,) float32, NaN where unknown; raises InvalidInput."""
    if tensor is None:
        return np.full(rows, np.nan, np.float32)
    if tensor.values.shape not in ((rows, 1), (rows,)):
        raise InvalidInput(
            f"{MINUTE} has shape {written(tensor.values.shape)}; send [{rows},1], one for each row",
            f"{tensor.place}.shape",
        )
    minutes = tensor.values.ravel()
    if not (np.isnan(minutes) | ((minutes >= 0) & (minutes < MINUTES_OF_DAY))).all():
        raise InvalidInput(
            f"{MINUTE} holds what is no minute of a day; send 0 to below {MINUTES_OF_DAY}, or NaN where it is unknown",
            tensor.place,
        )
    return minutes
