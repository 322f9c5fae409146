"""Readings for a request: from pandas, from a series on its grid, from one unit to another."""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from forecasting.cgm import MG_DL_PER_MMOL_L, GlucoseSeries, Unit
from forecasting.context import LIMITS, Reading
from forecasting.errors import GlucastError, InvalidReadings
from services.client.clock import zone_of

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"mg/dL": "glucose_mg_dl", "mmol/L": "glucose_mmol_l"}


def in_unit(readings: Iterable[Reading], unit: Unit) -> list[Reading]:
    """Readings in mg/dL, in another unit."""
    return _changed(readings, unit, lambda glucose_mg_dl: glucose_mg_dl / MG_DL_PER_MMOL_L)


def readings_in_mg_dl(readings: Iterable[Reading], unit: Unit) -> list[Reading]:
    """Readings in `unit`, in mg/dL."""
    return _changed(readings, unit, lambda glucose_mmol_l: glucose_mmol_l * MG_DL_PER_MMOL_L)


def _changed(readings: Iterable[Reading], unit: Unit, change: Callable[[float], float]) -> list[Reading]:
    if unit == "mg/dL":
        return list(readings)
    return [r if isinstance(r.value, str) else replace(r, value=change(r.value)) for r in readings]


def recent_readings(
    series: GlucoseSeries, zone: dt.tzinfo, hours: float, until: dt.datetime | None = None
) -> list[Reading]:
    """The last `hours` of readings in mg/dL, up to and with `until` where it is given (aware).

    zone: what the series' times are on.
    """
    known = ~np.isnan(series.glucose_mg_dl)
    readings = [
        Reading(time.item().replace(tzinfo=zone).astimezone(dt.UTC), float(value))
        for time, value in zip(series.times[known], series.glucose_mg_dl[known], strict=True)
    ]
    end = until or readings[-1].time
    return [reading for reading in readings if end - dt.timedelta(hours=hours) < reading.time <= end]


def readings_from_frame(
    frame: "pd.DataFrame | pd.Series",
    unit: Unit,
    *,
    patient_id: str | None = None,
    utc_offset_minutes: int | None = None,
    time_zone: str | None = None,
) -> list[Reading]:
    """Readings of one person from a Series of glucose in `unit`, or a DataFrame with a column of it.

    The index holds the times: aware, or naive beside the offset or the zone whose clock they are on. A missing value
    is no reading. In a DataFrame the column is glucose_mg_dl or glucose_mmol_l, or the only one; where it has a column
    patient_id, the rows of `patient_id` are taken.
    Raises InvalidReadings for times that could be anywhere, and for what is no such frame.
    """
    glucose = _column(frame, unit, patient_id)
    glucose = glucose[glucose.notna()]
    times = instants(glucose.index, zone_of(utc_offset_minutes, time_zone))
    return [Reading(time, _value(value)) for time, value in zip(times, glucose.tolist(), strict=True)]


def pandas_for(what: str) -> ModuleType:
    """The pandas module, which programs that only ask do without; raises GlucastError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise GlucastError(f"{what} needs {error.name}; install glucast[data]") from error
    return pandas


def _column(frame: "pd.DataFrame | pd.Series", unit: Unit, patient_id: str | None) -> "pd.Series":
    pandas = pandas_for("a frame of readings")
    if isinstance(frame, pandas.Series):
        return frame
    if not isinstance(frame, pandas.DataFrame):
        raise InvalidReadings(f"readings came as {type(frame).__name__}; give a pandas Series or DataFrame", "readings")
    if "patient_id" in frame:
        frame = rows_of(frame, patient_id)
    name = COLUMNS.get(unit, "")
    if name not in frame and len(frame.columns) == 1:
        name = frame.columns[0]
    if name not in frame:
        raise InvalidReadings(
            f"the frame has the columns {', '.join(map(str, frame.columns))}; name the one in {unit} {name}, "
            "or give it alone",
            "readings",
        )
    return frame[name]


def rows_of(frame: "pd.DataFrame", patient_id: str | None) -> "pd.DataFrame":
    """One person's rows, without the column that says whose they are."""
    own = frame[frame["patient_id"].astype(str) == patient_id].drop(columns="patient_id")
    if own.empty:
        there = ", ".join(map(str, frame["patient_id"].unique()[:12]))
        raise InvalidReadings(f"the frame has no readings of patient {patient_id}; there are {there}", "readings")
    return own


def instants(index: Any, zone: dt.tzinfo | None) -> Sequence[dt.datetime]:
    """The times of a frame, aware."""
    pandas = pandas_for("a frame of readings")
    if not isinstance(index, pandas.DatetimeIndex):
        raise InvalidReadings("the index holds no times; set the column of times as index, as datetimes", "readings")
    if index.hasnans:
        raise InvalidReadings("a reading has no time; fill it in or leave the reading out", "readings")
    if index.tz is None:
        index = _placed(index, zone)
    return list(index.tz_convert("UTC").to_pydatetime())


def _placed(index: "pd.DatetimeIndex", zone: dt.tzinfo | None) -> "pd.DatetimeIndex":
    """Naive times, on the clock of a zone."""
    if zone is None:
        raise InvalidReadings(
            "the times have no time zone; give aware times, or time_zone or utc_offset_minutes for the clock they "
            "are on",
            "readings",
        )
    try:
        return index.tz_localize(zone, ambiguous="infer")
    except ValueError as error:
        raise InvalidReadings(
            f"a time is none, or two, on the clock of {zone}: {str(error).splitlines()[0]}; give aware times",
            "readings",
        ) from error


def _value(value: Any) -> Any:
    """A number, or the sensor's word for a value outside its range, however it is written."""
    if not isinstance(value, str):
        return float(value)
    if value.lower() not in LIMITS:
        raise InvalidReadings(f"a reading is {value!r}; give numbers, low or high", "readings")
    return value.lower()
