"""What can be asked, once for both clients: each function makes the call that a client's method of its name sends."""

import datetime as dt
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from google.protobuf.message import Message

from forecasting.cgm import Unit
from forecasting.context import Reading
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client.clock import check_one_clock
from services.client.events import Event, events_from_frame
from services.client.messages import event_messages, reading_messages, timestamp, unit_message
from services.client.readings import readings_from_frame, readings_in_mg_dl
from services.client.refusals import ServiceError, error_from
from services.client.results import Forecast, Model, ReadingUse, Update

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Priority = Literal["interactive", "bulk"]
PRIORITIES: dict[Priority | None, pb.Priority] = {
    None: pb.PRIORITY_UNSPECIFIED,
    "interactive": pb.INTERACTIVE,
    "bulk": pb.BULK,
}
KEPT = 1000  # readings of a stream: some days at five minutes, and longer than any model looks back at one
USED = (ReadingUse.NEWEST, ReadingUse.LATE, ReadingUse.CORRECTED)


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call: the method of the contract, its request, and how its answer is read."""

    method: str
    request: Message
    read: Callable[[Any], T]


@dataclass(frozen=True)
class Question:
    """What a forecast is asked for with.

    readings: oldest first, aware, values in `unit`; somewhat more of them than the model looks at
    utc_offset_minutes or time_zone: the patient's clock, for the time of day
    as_of:    the moment of the forecast; else the last reading's
    model:    name (its champion), name@alias or name/version; else the patient's own champion, or the population's
    priority: what is computed first when requests wait; else a forecast alone is interactive, those of a batch bulk
    events:   carbohydrates and insulin of the last hours, in any order; for models that list them in `inputs`
    """

    patient_id: str
    readings: Sequence[Reading]
    unit: Unit
    _: KW_ONLY
    utc_offset_minutes: int | None = None
    time_zone: str | None = None
    as_of: dt.datetime | None = None
    model: str | None = None
    priority: Priority | None = None
    events: Sequence[Event] = ()

    def message(self) -> pb.ForecastRequest:
        """As it is sent; raises InvalidInput for a unit that is none, a naive time, an offset beside a zone."""
        check_one_clock(self.utc_offset_minutes, self.time_zone)
        return pb.ForecastRequest(
            patient_id=self.patient_id,
            unit=unit_message(self.unit),
            readings=reading_messages(self.readings),
            utc_offset_minutes=self.utc_offset_minutes,
            time_zone=self.time_zone,
            as_of=None if self.as_of is None else timestamp(self.as_of),
            model=self.model,
            priority=PRIORITIES[self.priority],
            events=event_messages(self.events),
        )

    def answered(self, message: pb.ForecastResponse) -> Forecast:
        """Its answer, read from the message."""
        return Forecast.of(message, self.patient_id, readings_in_mg_dl(self.readings, self.unit))


@dataclass(frozen=True)
class Outcome:
    """What really came after a forecast: readings of the same person, oldest first, values in `unit`."""

    forecast_id: str
    readings: Sequence[Reading]
    unit: Unit

    def message(self) -> pb.Outcome:
        """As it is sent; raises InvalidInput for a unit that is none, and for a naive time."""
        return pb.Outcome(
            forecast_id=self.forecast_id, unit=unit_message(self.unit), readings=reading_messages(self.readings)
        )


def forecast(
    patient_id: str,
    readings: Sequence[Reading],
    unit: Unit,
    *,
    utc_offset_minutes: int | None = None,
    time_zone: str | None = None,
    as_of: dt.datetime | None = None,
    model: str | None = None,
    priority: Priority | None = None,
    events: Sequence[Event] = (),
) -> Call[Forecast]:
    """Forecast one person's glucose from their readings; Question says what each argument is.

    Raises InvalidInput for what cannot be sent; ServiceError, also where nobody answers within the deadline.
    """
    question = Question(
        patient_id,
        readings,
        unit,
        utc_offset_minutes=utc_offset_minutes,
        time_zone=time_zone,
        as_of=as_of,
        model=model,
        priority=priority,
        events=events,
    )
    return Call("Forecast", question.message(), question.answered)


def forecast_frame(
    frame: "pd.DataFrame | pd.Series",
    patient_id: str,
    unit: Unit,
    *,
    utc_offset_minutes: int | None = None,
    time_zone: str | None = None,
    as_of: dt.datetime | None = None,
    model: str | None = None,
    events: "pd.DataFrame | None" = None,
) -> Call[Forecast]:
    """Forecast from a pandas Series of glucose, or a DataFrame with a column of it, indexed by time.

    events: carbohydrates and insulin, as `events_from_frame` has them; may be the same frame
    Naive times are on the clock that `time_zone` or `utc_offset_minutes` names; without either they are refused.
    Raises as `forecast` does, and as `readings_from_frame`, which says what a frame may be.
    """
    whose: Any = {"patient_id": patient_id, "utc_offset_minutes": utc_offset_minutes, "time_zone": time_zone}
    return forecast(
        patient_id,
        readings_from_frame(frame, unit, **whose),
        unit,
        utc_offset_minutes=utc_offset_minutes,
        time_zone=time_zone,
        as_of=as_of,
        model=model,
        events=() if events is None else events_from_frame(events, **whose),
    )


def forecast_many(questions: Sequence[Question]) -> Call[list[Forecast | ServiceError]]:
    """Forecast up to 1,024 people at once: for each a forecast, or the error in its place, in their order.

    A large batch takes longer than one forecast: `client.within(60).forecast_many(…)`.
    Raises InvalidInput for what cannot be sent; ServiceError where the call as a whole fails.
    """

    def read(answer: pb.ForecastBatchResponse) -> list[Forecast | ServiceError]:
        pairs = zip(questions, answer.results, strict=True)
        return [
            error_from(one.problem) if one.HasField("problem") else question.answered(one.forecast)
            for question, one in pairs
        ]

    request = pb.ForecastBatchRequest(requests=[question.message() for question in questions])
    return Call("ForecastBatch", request, read)


def report_outcome(outcomes: Iterable[Outcome]) -> Call[list[tuple[int, ...] | ServiceError]]:
    """Tell what really came after forecasts, for the service's live accuracy: up to 1,024 at once.

    For each the horizons in minutes that were compared now (each counts once), or the error in their place.
    Raises InvalidInput for what cannot be sent; ServiceError where the call as a whole fails.
    """

    def read(answer: pb.ReportOutcomeResponse) -> list[tuple[int, ...] | ServiceError]:
        return [
            error_from(one.problem) if one.HasField("problem") else tuple(one.minutes_ahead) for one in answer.results
        ]

    request = pb.ReportOutcomeRequest(outcomes=[outcome.message() for outcome in outcomes])
    return Call("ReportOutcome", request, read)


def list_models(patient_id: str = "") -> Call[list[Model]]:
    """The models that may answer: the population's, and the patient's own where one is named. Raises ServiceError."""
    return Call(
        "ListModels", pb.ListModelsRequest(patient_id=patient_id), lambda answer: list(map(Model.of, answer.models))
    )


def get_model(model: str) -> Call[Model]:
    """What a model takes, gives and scored; by name, name@alias or name/version. Raises ServiceError."""
    return Call("GetModel", pb.GetModelRequest(model=model), Model.of)


def monitor(
    patient_id: str,
    unit: Unit,
    *,
    utc_offset_minutes: int | None = None,
    time_zone: str | None = None,
    model: str | None = None,
    history: Iterable[Reading] = (),
    forecast_ids: Sequence[str] = (),
) -> "Watching":
    """Open a stream for one person's readings, all in `unit`: each that is sent is answered with an update.

    history:      the last hours before, oldest first; used, not answered
    forecast_ids: of an earlier stream's forecasts that wait for their truth
    A stream that breaks is opened anew, once for a reading, with the readings that it has had.
    Raises InvalidInput for what cannot be sent.
    """
    check_one_clock(utc_offset_minutes, time_zone)
    start = pb.MonitorStart(
        patient_id=patient_id,
        unit=unit_message(unit),
        utc_offset_minutes=utc_offset_minutes,
        time_zone=time_zone,
        model=model,
        forecast_ids=forecast_ids,
    )
    return Watching(start, reading_messages(history))


class Watching:
    """What a stream is opened with, and opened anew where it breaks."""

    def __init__(self, start: pb.MonitorStart, history: Iterable[pb.Reading]) -> None:
        self._start = start
        self._had: deque[pb.Reading] = deque(history, KEPT)

    def start(self) -> pb.MonitorRequest:
        """The first message of a stream, with the readings of those before it."""
        had = sorted(self._had, key=lambda reading: reading.time.ToNanoseconds())
        start = pb.MonitorStart(history=had)
        start.MergeFrom(self._start)
        # a service that was started since need not know them, and would refuse the stream for it
        del self._start.forecast_ids[:]
        return pb.MonitorRequest(start=start)

    def answered(self, reading: pb.Reading, response: pb.MonitorResponse) -> Update:
        """The answer to a reading, which is kept where it was used."""
        update = Update.of(response, self._start.patient_id)
        if update.use in USED:
            self._had.append(reading)
        return update
