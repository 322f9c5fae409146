"""The clock that times are read from and shown on."""

import datetime as dt
from dataclasses import dataclass
from typing import Self
from zoneinfo import ZoneInfo

from forecasting.context import utc_offset_in
from forecasting.errors import InvalidInput


@dataclass(frozen=True)
class Clock:
    """What times are shown on, and what people call it."""

    zone: dt.tzinfo = dt.UTC
    name: str = "UTC"

    @classmethod
    def of(cls, time_zone: str | None) -> Self:
        """The clock of an IANA zone, or UTC; raises InvalidInput for an unknown one."""
        zone = zone_of(None, time_zone)
        return cls() if zone is None or time_zone is None else cls(zone, time_zone)

    def at(self, instant: dt.datetime) -> dt.datetime:
        """An aware time, on this clock."""
        return instant.astimezone(self.zone)


def check_one_clock(utc_offset_minutes: int | None, time_zone: str | None) -> None:
    """Raises InvalidInput for an offset beside a zone."""
    if utc_offset_minutes is not None and time_zone is not None:
        raise InvalidInput("both a UTC offset and a time zone were given; give one", "time_zone")


def zone_of(utc_offset_minutes: int | None, time_zone: str | None) -> dt.tzinfo | None:
    """The clock that a patient lives by; None where nothing is known.

    Raises InvalidInput for an unknown zone, and for an offset beside a zone.
    """
    check_one_clock(utc_offset_minutes, time_zone)
    if time_zone is not None:
        utc_offset_in(time_zone, dt.datetime.now(dt.UTC))  # refuses an unknown zone in a sentence
        return ZoneInfo(time_zone)
    return None if utc_offset_minutes is None else dt.timezone(dt.timedelta(minutes=utc_offset_minutes))
