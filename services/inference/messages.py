"""Protobuf ↔ our types. On the path of every forecast: columns rather than objects, templates rather than fields."""

import datetime as dt
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from forecasting.cgm import Unit
from forecasting.context import Readings, utc_offset_in
from forecasting.errors import InvalidInput, InvalidReadings
from forecasting.events import EVENTS, EventRows, check_event
from protos.glucast.v1 import forecaster_pb2 as pb
from services.inference.engine import Forecast, Query, Question
from services.inference.models import Opened, Served
from services.inference.wire import Frame, number_mark, plain_readings, time_mark

UNITS: dict[int, Unit] = {pb.MG_DL: "mg/dL", pb.MMOL_L: "mmol/L"}
FLAGS = {pb.LOW: -1, pb.HIGH: 1}
READINGS_AT_MOST = 10_000  # a month of five-minute readings; no context is longer
RISK_MINUTES = (30, 60)
FIRST, LAST = 0, int(dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp())  # seconds; no reading is before or after
UTC_OFFSET_MINUTES = 14 * 60  # no place on Earth is further from UTC
TEMPLATES = 1024

LocalTime = pb.ForecastRequest | pb.MonitorStart


def question_from(request: pb.ForecastRequest, deadline: float | None, bulk: bool) -> Question:
    """What is asked; what was sent with it is read when it is answered.

    deadline: of time.monotonic(); bulk: what a request is that does not say its priority
    """
    if request.priority != pb.PRIORITY_UNSPECIFIED:
        bulk = request.priority == pb.BULK
    return Question(request.patient_id, partial(query_from, request), request.model, deadline, bulk)


def query_from(request: pb.ForecastRequest) -> Query:
    """What a forecast is to be made from; raises InvalidInput, with the field, in sentences for the caller."""
    unit = unit_from(request.unit)
    if len(request.readings) > READINGS_AT_MOST:
        raise InvalidReadings(
            f"the request has {len(request.readings)} readings, at most {READINGS_AT_MOST} are allowed: "
            "send the last hours",
            "readings",
        )
    readings = plain_readings(request)
    if readings is None or readings.seconds[-1] >= LAST:
        readings = readings_from(request.readings, "readings")
    return Query(
        readings,
        unit,
        as_of=_moment_from(request.as_of, "as_of") if request.HasField("as_of") else None,
        utc_offset=utc_offset_from(request, int(readings.seconds[-1])) if len(readings.seconds) else None,
        events=events_from(request.events) if request.events else None,
    )


def events_from(messages: Sequence[pb.Event]) -> EventRows:
    """Carbohydrates and insulin in rows; raises InvalidInput naming the field of the first that is none."""
    if len(messages) > READINGS_AT_MOST:
        raise InvalidInput(
            f"the request has {len(messages)} events, at most {READINGS_AT_MOST} are allowed: send the last hours",
            "events",
        )
    seconds, values = np.empty(len(messages), np.int64), np.full((len(messages), len(EVENTS)), np.nan)
    for k, message in enumerate(messages):
        seconds[k], kind = _checked_event(message, f"events[{k}]")
        values[k, EVENTS.index(kind)] = getattr(message, kind)
    return EventRows(seconds.astype("datetime64[s]"), values)


def _checked_event(message: pb.Event, field: str) -> tuple[int, str]:
    """Its time in whole seconds, rounded up so that it is not seen too early, and which of EVENTS it has."""
    if not message.HasField("time"):
        raise InvalidInput(f"{field} has no time; send the instant of every event", f"{field}.time")
    moment = _moment_from(message.time, f"{field}.time")
    kind = message.WhichOneof("amount")
    if kind is None:
        raise InvalidInput(f"{field} has no amount; send carbs_g, bolus_units or basal_units_h", field)
    try:
        check_event(kind, getattr(message, kind))
    except InvalidReadings as error:
        raise InvalidInput(f"{field}: {error}", f"{field}.{kind}") from error
    return math.ceil(moment), kind


def unit_from(unit: int, field: str = "unit") -> Unit:
    """Raises InvalidReadings where none is said."""
    if unit not in UNITS:
        raise InvalidReadings("the request has no unit of glucose; say MG_DL or MMOL_L", field)
    return UNITS[unit]


def readings_from(messages: Sequence[pb.Reading], field: str) -> Readings:
    """Readings in columns; raises InvalidInput naming the field of the first that is none."""
    rows = [reading_from(message, f"{field}[{k}]") for k, message in enumerate(messages)]
    seconds, values, limits = zip(*rows, strict=True) if rows else ((), (), ())
    return Readings(
        np.array(seconds, np.int64), np.array(values, np.float64), np.array(limits, np.int8) if any(limits) else None
    )


def reading_from(message: pb.Reading, field: str) -> tuple[int, float, int]:
    """(seconds, value, limit) of one reading; raises InvalidInput."""
    limit = _checked_limit(message, field)
    return message.time.seconds, message.value, limit


def _checked_limit(reading: pb.Reading, field: str) -> int:
    """-1 Low, 1 High, 0 a value; raises InvalidInput for what is no reading."""
    if not reading.HasField("time"):
        raise InvalidReadings(f"{field} has no time; send the instant of every reading", f"{field}.time")
    _moment_from(reading.time, f"{field}.time")
    if reading.WhichOneof("glucose") == "value":
        return 0
    if reading.out_of_range not in FLAGS:
        raise InvalidReadings(
            f"{field} has no glucose; send a value, or LOW or HIGH, and leave missing readings out", field
        )
    return FLAGS[reading.out_of_range]


def _moment_from(stamp: Timestamp, field: str) -> float:
    if not (FIRST <= stamp.seconds < LAST and 0 <= stamp.nanos < 1_000_000_000):
        raise InvalidInput(
            f"{field} is no timestamp of 1970 to 2199; send seconds since 1970 in UTC, and nanoseconds", field
        )
    return stamp.seconds + stamp.nanos * 1e-9


def utc_offset_from(request: LocalTime, at: int) -> dt.timedelta | None:
    """The patient's offset at an instant (seconds since 1970); None where no clock was said."""
    match request.WhichOneof("local_time"):
        case "time_zone":
            return utc_offset_in(request.time_zone, dt.datetime.fromtimestamp(at, dt.UTC))
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


class Responses:
    """Forecasts → the bytes of their messages."""

    def __init__(self) -> None:
        self._templates: OrderedDict[tuple[str, str, str, str], _Template] = OrderedDict()

    def of(self, forecast: Forecast) -> bytes:
        """A ForecastResponse, in mg/dL."""
        version = forecast.served.opened.version
        key = version.name, version.version, version.digest, forecast.served.alias
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = _Template(forecast.served)
            if len(self._templates) > TEMPLATES:
                self._templates.popitem(last=False)
        return template.filled_in(forecast)


class _Template:
    """What all answers of one model version have in common."""

    def __init__(self, served: Served) -> None:
        spec = served.opened.forecaster.spec
        risks = spec.shape.steps_at(RISK_MINUTES) if spec.quantiles else {}
        self._seconds_ahead = 60 * np.array([0, *spec.shape.minutes_ahead])
        self._risk_steps = list(risks.values())
        marks = count()
        message = pb.ForecastResponse(
            model=version_message(served.opened, served.alias),
            origin=Timestamp(seconds=time_mark(0)),
            points=[
                pb.ForecastPoint(
                    time=Timestamp(seconds=time_mark(1 + k)),
                    minutes_ahead=ahead,
                    mean_mg_dl=number_mark(next(marks)),
                    quantiles=[pb.Quantile(level=p, value_mg_dl=number_mark(next(marks))) for p in spec.quantiles],
                )
                for k, ahead in enumerate(spec.shape.minutes_ahead)
            ],
            risks=[
                pb.Risk(minutes_ahead=m, below_70=number_mark(next(marks)), above_180=number_mark(next(marks)))
                for m in risks
            ],
            clinical_use=False,
        )
        self._frame = Frame(message, len(self._seconds_ahead), next(marks))

    def filled_in(self, forecast: Forecast) -> bytes:
        """The bytes of one answer: of two messages one after the other, which are read as one."""
        row = forecast.row
        risks = [p for step in self._risk_steps for p in (row.below_low[step], row.above_high[step])]
        numbers = np.concatenate([row.outputs.ravel(), risks])
        own = pb.ForecastResponse(warnings=forecast.warnings, forecast_id=forecast.forecast_id)
        return self._frame.filled_in(forecast.origin + self._seconds_ahead, numbers) + own.SerializeToString()


def version_message(opened: Opened, alias: str) -> pb.ModelVersion:
    """Which model version it is."""
    version = opened.version
    return pb.ModelVersion(name=version.name, version=version.version, digest=version.digest, alias=alias)


def description_of(served: Served, aliases: Iterable[str]) -> pb.ModelDescription:
    """What a model version takes, gives and scored; aliases: those it has now."""
    opened, spec = served.opened, served.opened.forecaster.spec
    shape = spec.shape
    return pb.ModelDescription(
        model=version_message(opened, served.alias),
        aliases=sorted(aliases),
        backbone=spec.backbone,
        sampling_minutes=shape.sampling_minutes,
        context_minutes=shape.context_length * shape.sampling_minutes,
        horizon_minutes=shape.minutes_ahead[-1],
        longest_gap_steps=shape.max_fill_bins,
        quantile_levels=spec.quantiles,
        scores=_scores_from(opened.metrics),
        history_minutes=shape.history_length * shape.sampling_minutes,
        inputs=spec.inputs,
    )


def _scores_from(metrics: dict) -> list[pb.Score]:
    """The scores of a bundle's metrics.json; none where it was not evaluated."""
    mean = metrics.get("test", {}).get("mean", {})
    return [
        pb.Score(
            minutes_ahead=int(horizon),
            rmse_mg_dl=score["rmse"],
            mae_mg_dl=score["mae"],
            coverage_90=score.get("coverage_90", float("nan")),
            patients=score["patients"],
        )
        for horizon, score in mean.items()
    ]
