"""One person's readings out of a file, and the clock that they are on."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from forecasting.cgm import GlucoseSeries
from forecasting.context import Reading
from forecasting.errors import GlucastError, InvalidInput, NotFound
from services.client.clock import Clock, zone_of
from services.client.events import Event, recent_events
from services.client.readings import recent_readings

AS_UTC = Clock(dt.UTC, "the file's clock")  # which says nothing of where it is


@dataclass(frozen=True)
class Person:
    """Whose readings a file holds.

    clock: what their times are on; utc_offset_minutes, time_zone: what a service is told of it, at most one
    """

    series: GlucoseSeries
    clock: Clock
    utc_offset_minutes: int | None
    time_zone: str | None

    @property
    def patient_id(self) -> str:
        return self.series.patient_id

    def readings(self, hours: float, until: dt.datetime | None = None) -> list[Reading]:
        """The last hours in mg/dL, up to and with `until` or to the end of the file."""
        return recent_readings(self.series, self.clock.zone, hours, until)

    def events(self, hours: float, until: dt.datetime | None = None) -> list[Event]:
        """Their carbohydrates and insulin, as far as the file has them, in the same hours."""
        return recent_events(self.series, self.clock.zone, hours, until)

    def moment(self, text: str) -> dt.datetime:
        """An ISO time as an instant; on the file's clock where it has no offset of its own.

        Raises InvalidInput for what is no time.
        """
        try:
            time = dt.datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidInput(
                f"--as-of is {text!r}; give an ISO 8601 time such as 2025-01-31T08:05", "as_of"
            ) from error
        return (time if time.tzinfo else time.replace(tzinfo=self.clock.zone)).astimezone(dt.UTC)


def read_person(file: Path, patient: str | None, utc_offset_minutes: int | None, time_zone: str | None) -> Person:
    """A patient of a tidy table, or its only one. What the file says of its clock comes before what was given.

    Raises GlucastError for a file that cannot be read, and for a patient who is not there or not named.
    """
    zone_of(utc_offset_minutes, time_zone)  # refuses an unknown zone, and an offset beside a zone
    series = _patient_of(file, patient, time_zone)
    is_told = utc_offset_minutes is not None or time_zone is not None
    offset = utc_offset_minutes if is_told else series.utc_offset_minutes
    return Person(series, _clock_of(series, utc_offset_minutes, time_zone), offset, time_zone)


def _clock_of(series: GlucoseSeries, utc_offset_minutes: int | None, time_zone: str | None) -> Clock:
    """What the times of a series are on."""
    if series.clock == "utc":
        return Clock()
    if series.utc_offset_minutes is None and time_zone is not None:
        return Clock.of(time_zone)
    minutes = utc_offset_minutes if series.utc_offset_minutes is None else series.utc_offset_minutes
    if minutes is None:
        return AS_UTC
    zone = dt.timezone(dt.timedelta(minutes=minutes))
    return Clock(zone, str(zone))


def _patient_of(file: Path, patient: str | None, time_zone: str | None) -> GlucoseSeries:
    try:
        from forecasting.readers.tidy import read_tidy  # pandas, which programs that only ask do without
    except ImportError as error:
        raise GlucastError(f"reading a file needs {error.name}; install glucast[data]") from error
    everyone = {series.patient_id: series for series in read_tidy(file, time_zone)}
    there = ", ".join(list(everyone)[:12])
    if patient is None and len(everyone) > 1:
        raise InvalidInput(f"{file.name} holds {len(everyone)} patients; name one with --patient: {there}", "patient")
    patient = patient or next(iter(everyone))
    if patient not in everyone:
        raise NotFound(f"there is no patient {patient} in {file.name}; there are {there}")
    return everyone[patient]
