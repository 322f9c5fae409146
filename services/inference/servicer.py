"""The Forecaster RPCs: protobuf → our types → forecast → protobuf."""

import asyncio
import datetime as dt
from concurrent.futures import Executor

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL, Unit
from forecasting.context import Context, Limit, Reading, context_from, utc_offset_in
from forecasting.errors import InvalidInput, InvalidReadings
from forecasting.forecaster import Forecasts
from forecasting.windows import WindowShape
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.inference.models import Models, Served
from services.inference.routing import is_for_another_patient, references_for
from services.inference.telemetry import Telemetry

UNITS: dict[int, Unit] = {pb.MG_DL: "mg/dL", pb.MMOL_L: "mmol/L"}
LIMITS: dict[int, Limit] = {pb.LOW: "low", pb.HIGH: "high"}
READINGS_AT_MOST = 10_000  # a month of five-minute readings; no context is longer
RISK_MINUTES = (30, 60)
TIMES = (dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(2200, 1, 1, tzinfo=dt.UTC))
UTC_OFFSET_MINUTES = 14 * 60  # no place on Earth is further from UTC


class ForecasterServicer(forecaster_pb2_grpc.ForecasterServicer):
    """Answers Forecast: the event loop routes, the executor checks the readings and computes."""

    def __init__(self, models: Models, namespace: str, executor: Executor, telemetry: Telemetry) -> None:
        self._models, self._namespace = models, namespace
        self._executor, self._telemetry = executor, telemetry

    async def Forecast(self, request: pb.ForecastRequest, context: grpc.aio.ServicerContext) -> pb.ForecastResponse:
        served = await self._models.first(references_for(request.patient_id, request.model, self._namespace))
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, request, served)

    def _answer(self, request: pb.ForecastRequest, served: Served) -> pb.ForecastResponse:
        with self._telemetry.compute.time():
            shape = served.forecaster.spec.shape
            context = context_of(request, shape)
            forecasts = served.forecaster.predict(context.glucose_mg_dl, context.minute_of_day)
            response = response_from(forecasts, context, shape, served)
            if is_for_another_patient(served.version.name, request.patient_id, self._namespace):
                response.warnings.append("the model that was named is another patient's own: it does not know this one")
            return response


def context_of(request: pb.ForecastRequest, shape: WindowShape) -> Context:
    """What the model looks at; raises InvalidInput and InsufficientData in sentences for the caller."""
    if request.unit not in UNITS:
        raise InvalidReadings("the request has no unit of glucose; say MG_DL or MMOL_L", "unit")
    if len(request.readings) > READINGS_AT_MOST:
        raise InvalidReadings(
            f"the request has {len(request.readings)} readings, at most {READINGS_AT_MOST} are allowed: "
            "send the last hours",
            "readings",
        )
    readings = [_reading_from(reading, k) for k, reading in enumerate(request.readings)]
    as_of = _time_from(request.as_of, "as_of") if request.HasField("as_of") else None
    offset = _utc_offset(request, readings[-1].time) if readings else None
    return context_from(readings, UNITS[request.unit], shape, as_of=as_of, utc_offset=offset)


def response_from(forecasts: Forecasts, context: Context, shape: WindowShape, served: Served) -> pb.ForecastResponse:
    """The first of the forecasts as a message, in mg/dL."""
    version = served.version
    return pb.ForecastResponse(
        model=pb.ModelVersion(name=version.name, version=version.version, digest=version.digest),
        origin=_timestamp(context.origin),
        points=[_point(forecasts, k, context.origin, minutes) for k, minutes in enumerate(shape.minutes_ahead)],
        risks=_risks(forecasts, shape),
        warnings=context.warnings,
        clinical_use=False,
    )


def _reading_from(reading: pb.Reading, k: int) -> Reading:
    if not reading.HasField("time"):
        raise InvalidReadings(f"reading {k} has no time; send the instant of every reading", f"readings[{k}].time")
    value = reading.value if reading.WhichOneof("glucose") == "value" else LIMITS.get(reading.out_of_range)
    if value is None:
        raise InvalidReadings(
            f"reading {k} has no glucose; send a value, or LOW or HIGH, and leave missing readings out",
            f"readings[{k}]",
        )
    return Reading(_time_from(reading.time, f"readings[{k}].time"), value)


def _time_from(stamp: Timestamp, field: str) -> dt.datetime:
    try:
        time = stamp.ToDatetime(tzinfo=dt.UTC)
    except ValueError as error:
        raise InvalidInput(f"{field} is no valid timestamp; send seconds since 1970 in UTC", field) from error
    if not TIMES[0] <= time < TIMES[1]:
        raise InvalidInput(f"{field} is in the year {time.year}; 1970 to 2199 are allowed", field)
    return time


def _utc_offset(request: pb.ForecastRequest, last: dt.datetime) -> dt.timedelta | None:
    match request.WhichOneof("local_time"):
        case "time_zone":
            return utc_offset_in(request.time_zone, last)
        case "utc_offset_minutes":
            return _checked_offset(request.utc_offset_minutes)
        case _:
            return None


def _checked_offset(minutes: int) -> dt.timedelta:
    if abs(minutes) > UTC_OFFSET_MINUTES:
        raise InvalidInput(
            f"utc_offset_minutes is {minutes}; -{UTC_OFFSET_MINUTES} to {UTC_OFFSET_MINUTES} are allowed",
            "utc_offset_minutes",
        )
    return dt.timedelta(minutes=minutes)


def _point(forecasts: Forecasts, step: int, origin: dt.datetime, minutes_ahead: int) -> pb.ForecastPoint:
    values = forecasts.quantiles[0, step]
    return pb.ForecastPoint(
        time=_timestamp(origin + dt.timedelta(minutes=minutes_ahead)),
        minutes_ahead=minutes_ahead,
        mean_mg_dl=forecasts.mean[0, step],
        quantiles=[pb.Quantile(level=p, value_mg_dl=q) for p, q in zip(forecasts.levels, values, strict=True)],
    )


def _risks(forecasts: Forecasts, shape: WindowShape) -> list[pb.Risk]:
    if not forecasts.levels:
        return []
    below, above = forecasts.probability_below(LOW_MG_DL)[0], forecasts.probability_above(HIGH_MG_DL)[0]
    return [
        pb.Risk(minutes_ahead=minutes, below_70=below[step], above_180=above[step])
        for minutes, step in shape.steps_at(RISK_MINUTES).items()
    ]


def _timestamp(time: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
