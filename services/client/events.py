"""Carbohydrates and insulin for a request: one at a time, from pandas, from a series on its grid."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from forecasting.cgm import GlucoseSeries
from forecasting.errors import InvalidInput, InvalidReadings
from services.client.clock import zone_of
from services.client.readings import instants, pandas_for, rows_of

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["carbs_g", "bolus_units", "basal_units_h"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order of forecasting.events.EVENTS


@dataclass(frozen=True, slots=True)
class Event:
    """What was eaten or injected at an aware time: carbohydrates in g, a bolus in U, or a basal rate in U/h from then
    on. 0 at the time from which a kind was recorded says that nothing came between; what is not sent is not known."""

    time: dt.datetime
    kind: Kind
    amount: float


def events_from_frame(
    frame: "pd.DataFrame",
    *,
    patient_id: str | None = None,
    utc_offset_minutes: int | None = None,
    time_zone: str | None = None,
) -> list[Event]:
    """Events of one person from a DataFrame indexed by time, with some of the columns carbs_g, bolus_units and
    basal_units_h; others, such as glucose, are passed over.

    Times and patients are as for `readings_from_frame`. A missing value is no event, and 0 is one.
    Raises InvalidReadings for times that could be anywhere, and for what is no such frame.
    """
    pandas = pandas_for("a frame of events")
    if not isinstance(frame, pandas.DataFrame) or not any(kind in frame for kind in KINDS):
        raise InvalidReadings(
            f"events come in a pandas DataFrame with some of the columns {', '.join(KINDS)}", "events"
        )
    if "patient_id" in frame:
        frame = rows_of(frame, patient_id)
    amounts = frame.reindex(columns=KINDS).astype(float).dropna(how="all")
    return _recorded(instants(amounts.index, zone_of(utc_offset_minutes, time_zone)), amounts.to_numpy())


def recent_events(
    series: GlucoseSeries, zone: dt.tzinfo, hours: float, until: dt.datetime | None = None
) -> list[Event]:
    """The last `hours` of a series' events, up to and with `until`, or to its end; none where none were recorded.

    zone: what the series' times are on.
    """
    if series.events is None:
        return []
    times = [time.item().replace(tzinfo=zone).astimezone(dt.UTC) for time in series.times]
    end = until or times[-1]
    recorded = _recorded(times, series.events.columns)
    return [event for event in recorded if end - dt.timedelta(hours=hours) < event.time <= end]


def check_kind(kind: str) -> None:
    """Raises InvalidInput for what is neither carbohydrates nor insulin."""
    if kind not in KINDS:
        raise InvalidInput(f"an event is {kind!r}; say {', '.join(KINDS)}", "events")


def _recorded(times: Sequence[dt.datetime], amounts: np.ndarray) -> list[Event]:
    """One for each amount that is there. amounts: (times, 3) of KINDS, NaN where nothing was recorded"""
    return [
        Event(time, kind, float(amount))
        for time, row in zip(times, amounts, strict=True)
        for kind, amount in zip(KINDS, row, strict=True)
        if not np.isnan(amount)
    ]
