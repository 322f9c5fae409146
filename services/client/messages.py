"""Our types → the messages of a request."""

import datetime as dt
from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from forecasting.cgm import Unit
from forecasting.context import Reading
from forecasting.errors import InvalidInput
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client.events import Event, check_kind

UNITS: dict[str, pb.Unit] = {"mg/dL": pb.MG_DL, "mmol/L": pb.MMOL_L}
LIMITS: dict[str, pb.OutOfRange] = {"low": pb.LOW, "high": pb.HIGH}


def unit_message(unit: Unit) -> pb.Unit:
    """Raises InvalidInput for what is no unit of glucose: it is never guessed."""
    if unit not in UNITS:
        raise InvalidInput(f"the unit is {unit!r}; say mg/dL or mmol/L", "unit")
    return UNITS[unit]


def timestamp(time: dt.datetime) -> Timestamp:
    """An aware time as a message; raises InvalidInput for a time that could be anywhere."""
    if time.tzinfo is None:
        raise InvalidInput(f"the time {time} has no time zone; give aware times")
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(dt.UTC))
    return stamp


def reading_message(reading: Reading) -> pb.Reading:
    """Raises InvalidInput for a time without a zone, and for words that are neither low nor high."""
    if not isinstance(reading.value, str):
        return pb.Reading(time=timestamp(reading.time), value=reading.value)
    if reading.value not in LIMITS:
        raise InvalidInput(f"a reading is {reading.value!r}; give a number, low or high", "readings")
    return pb.Reading(time=timestamp(reading.time), out_of_range=LIMITS[reading.value])


def reading_messages(readings: Iterable[Reading]) -> list[pb.Reading]:
    """As `reading_message`, for each."""
    return [reading_message(reading) for reading in readings]


def event_messages(events: Iterable[Event]) -> list[pb.Event]:
    """Raises InvalidInput for a time without a zone, and for a kind that is none."""
    return [_event_message(event) for event in events]


def _event_message(event: Event) -> pb.Event:
    check_kind(event.kind)
    message = pb.Event(time=timestamp(event.time))
    setattr(message, event.kind, event.amount)
    return message
