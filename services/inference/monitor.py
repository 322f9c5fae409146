"""One person's stream: each reading is put into its place, answered with a forecast, and compared with earlier ones."""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forecasting.cgm import Unit
from forecasting.context import AHEAD_AT_MOST, Readings, sensor_mg_dl
from forecasting.errors import GlucastError, InsufficientData, InvalidInput, InvalidReadings
from services.inference.alarms import Alarm, Alarms
from services.inference.engine import Engine, Forecast, Query, Question
from services.inference.patient_stream import PatientStream, Use
from services.inference.truth import LiveAccuracy, Pending

FORECAST_IDS_AT_MOST = 64


@dataclass(frozen=True)
class Person:
    """Whose stream it is. clock: seconds since 1970 → their UTC offset, None where it is not known."""

    patient_id: str
    unit: Unit
    clock: Callable[[int], dt.timedelta | None]
    model: str = ""


@dataclass(frozen=True)
class Update:
    """The answer to one reading: what became of it (None: refused), and a forecast or the error instead of one."""

    use: Use | None
    outcome: Forecast | GlucastError | None
    alarms: Sequence[Alarm] = ()


class Watch:
    """The state of one stream: bounded, and gone with it."""

    def __init__(self, engine: Engine, accuracy: LiveAccuracy, person: Person, alarms: Alarms) -> None:
        self._engine, self._person, self._alarms = engine, person, alarms
        self._readings = PatientStream()
        self._pending = Pending(accuracy)

    def resume(self, history: Readings, forecast_ids: Sequence[str]) -> None:
        """Take over what came before this stream.

        Raises InvalidInput for readings that are none, and for ids that this service did not make.
        """
        glucose = sensor_mg_dl(history, self._person.unit)[0] if len(history.seconds) else np.empty(0)
        limits = np.zeros(len(history.seconds), np.int8) if history.limits is None else history.limits
        for k, (seconds, value, limit) in enumerate(zip(history.seconds, history.values, limits, strict=True)):
            _check_not_ahead(int(seconds), f"start.history[{k}].time")
            self._readings.add(int(seconds), float(value), int(limit))
        if len(forecast_ids) > FORECAST_IDS_AT_MOST:
            raise InvalidInput(
                f"{len(forecast_ids)} forecast ids came, at most {FORECAST_IDS_AT_MOST} are allowed: send the newest",
                "start.forecast_ids",
            )
        for forecast_id in forecast_ids:
            self._pending.add(self._engine.record_of(forecast_id))
        self._pending.due(history.seconds, glucose)

    async def add(self, seconds: int, value: float, limit: int) -> Update:
        """Answer one reading. value: in the stream's unit; limit: -1 Low, 1 High, 0 a value."""
        try:
            _check_not_ahead(seconds, "reading.time")
            glucose = self._glucose(seconds, value, limit)
        except InvalidInput as error:
            return Update(None, error)
        use = self._readings.add(seconds, value, limit)
        if use in (Use.DUPLICATE, Use.TOO_OLD):
            return Update(use, None)
        self._pending.due(np.array([seconds]), np.array([glucose]))
        return await self._forecast(use)

    async def _forecast(self, use: Use) -> Update:
        readings = self._readings.readings()
        newest = int(readings.seconds[-1])
        try:
            query = Query(readings, self._person.unit, utc_offset=self._person.clock(newest))
            question = Question(self._person.patient_id, lambda: query, self._person.model)
            forecast = await self._engine.forecast(question, lambda forecast: forecast)
        except InsufficientData as error:
            return Update(use, error, self._alarms.quiet(newest, self._newest_mg_dl(readings)))
        except GlucastError as error:
            return Update(use, error)
        if forecast.record is not None:
            self._pending.add(forecast.record)
        row, ahead = forecast.row, forecast.served.opened.forecaster.spec.shape.minutes_ahead
        alarms = self._alarms.update(newest, self._newest_mg_dl(readings), ahead, row.below_low, row.above_high)
        return Update(use, forecast, alarms)

    def _newest_mg_dl(self, readings: Readings) -> float:
        limits = readings.limits
        return self._glucose(
            int(readings.seconds[-1]), float(readings.values[-1]), 0 if limits is None else int(limits[-1])
        )

    def _glucose(self, seconds: int, value: float, limit: int) -> float:
        """One reading in mg/dL within the sensor's range; raises InvalidReadings. Its unit is judged with others."""
        one = Readings(np.array([seconds]), np.array([value]), np.array([limit], np.int8) if limit else None)
        return float(sensor_mg_dl(one, self._person.unit, judge_unit=False)[0][0])


def _check_not_ahead(seconds: int, field: str) -> None:
    """A reading of the future would push out all that is kept."""
    ahead = seconds - time.time()
    if ahead > AHEAD_AT_MOST:
        raise InvalidReadings(
            f"the reading is {ahead / 60:.0f} minutes ahead of the clock of this service; at most 2 are allowed: "
            "correct the time",
            field,
        )
