"""Tidy tables, CSV or Parquet: patient_id, timestamp, glucose_mg_dl[, carbs_g, bolus_units, basal_units_h]."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from forecasting.cgm import GlucoseSeries, check_range, place_on_grid, to_grid, to_mg_dl
from forecasting.errors import InvalidReadings, NotFound
from forecasting.events import EVENTS, EventRows, Events, check_events, place_events

REQUIRED = ("patient_id", "timestamp", "glucose_mg_dl")
LONGEST = np.timedelta64(20 * 366, "D")  # of one person's readings; more is a wrong date
OPTIONAL = EVENTS  # amounts at the row's time, and the rate at it; empty is not recorded, 0 is none
OFFSET = r"(?:Z|[+-]\d{2}(?::?\d{2})?)$"
LONGEST_OFFSET = 6  # characters
MISSING = (  # what pandas takes for no value
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
    *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)


def read_tidy(path: Path, zone: str | None = None) -> list[GlucoseSeries]:
    """Read every patient of a tidy table.

    Times without an offset are the patient's own clock; `zone` names it where it is known, so that the hour
    which a change of daylight saving repeats can be left out. Times with one common offset are turned to that
    clock, times in UTC or with several offsets are kept as UTC with the time of day unknown.
    Raises NotFound for a missing file, InvalidReadings for a table that is none.
    """
    table = _read_table(path)
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise InvalidReadings(
            f"{path.name} has no column {', '.join(missing)}; a tidy table has {', '.join(REQUIRED)} "
            f"and may have {', '.join(OPTIONAL)}"
        )
    table = table.dropna(subset=["glucose_mg_dl", *_optional(table)], how="all")
    if table["glucose_mg_dl"].isna().all():
        raise InvalidReadings(f"{path.name} holds no readings; it needs rows with a glucose_mg_dl")
    for name in ("patient_id", "timestamp"):
        if lacking := int(table[name].isna().sum()):
            raise InvalidReadings(f"{path.name}: {lacking} readings have no {name}; fill it in or take the rows out")
    numbers = {name: _numbers(table, name, path.name) for name in ("glucose_mg_dl", *_optional(table))}
    times, clock, offset = _read_clock(table["timestamp"], path.name)
    tidy = pd.DataFrame({"patient_id": table["patient_id"].astype(str), "time": times, **numbers})
    people = tidy.groupby("patient_id", sort=True)
    return [_series(str(pid), rows, clock, zone, offset) for pid, rows in people if rows["glucose_mg_dl"].notna().any()]


def _optional(table: pd.DataFrame) -> list[str]:
    """Columns of events that this table has."""
    return [name for name in OPTIONAL if name in table.columns]


def _numbers(table: pd.DataFrame, name: str, file: str) -> pd.Series:
    try:
        return pd.to_numeric(table[name]).astype(float)
    except (ValueError, TypeError) as error:
        raise InvalidReadings(f"{file}: {name} must be numbers: {error}") from error


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise NotFound(f"there is no file {path}; give the path of a tidy CSV or Parquet table")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return _read_csv(path)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidReadings(f"{path.name} cannot be read as a CSV or Parquet table: {reason}") from error


def _read_csv(path: Path) -> pd.DataFrame:
    """By Arrow, several times as fast and only the columns that are needed; by pandas where Arrow refuses.

    Arrow takes nothing that pandas refuses, once all of it is known to be UTF-8, and reads it the same; so what is
    accepted, and the sentence where it is not, are those of pandas.
    """
    content = path.read_bytes()
    with suppress(UnicodeDecodeError):  # compressed, or no text: pandas tells
        content.decode()
        for time_type in (pa.timestamp("us"), pa.string()):
            if (table := _read_plain_csv(content, time_type)) is not None:
                return table
    return pd.read_csv(path, dtype={"patient_id": str, "timestamp": str})


def _read_plain_csv(content: bytes, time_type: pa.DataType) -> pd.DataFrame | None:
    """A CSV all of whose times are of this type and all of whose values are numbers; None for any other."""
    kinds = {"patient_id": pa.string(), "timestamp": time_type, "glucose_mg_dl": pa.float64()}
    parse = csv.ParseOptions(newlines_in_values=True)
    try:
        names = csv.open_csv(pa.BufferReader(content), parse_options=parse).schema.names
        kinds |= {name: pa.float64() for name in OPTIONAL if name in names}
        convert = csv.ConvertOptions(
            column_types=kinds, include_columns=list(kinds), null_values=MISSING, strings_can_be_null=True
        )
        table = csv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    if any(pc.any(pc.is_nan(table[name])).as_py() for name, kind in kinds.items() if kind == pa.float64()):
        return None  # a word such as Nan, which is no missing value of ours but a number to Arrow
    return table.to_pandas()


def _read_clock(stamps: pd.Series, name: str) -> tuple[pd.Series, Literal["local", "utc"], int | None]:
    """Timestamps as naive times, whether they are a local clock or UTC, and the minutes between where known."""
    if isinstance(stamps.dtype, pd.DatetimeTZDtype):
        return stamps.dt.tz_convert("UTC").dt.tz_localize(None), "utc", None
    try:
        if pd.api.types.is_datetime64_any_dtype(stamps):
            return stamps, "local", None
        text = stamps.astype(str).str.strip()
        have_offset = text.str.contains(rf"[T ].*?{OFFSET}")  # a date alone ends in what looks like one
        if not have_offset.any():
            return pd.to_datetime(text, format="ISO8601"), "local", None
        if not have_offset.all():
            raise ValueError("some timestamps have an offset and some have none")
        instants = pd.to_datetime(text, format="ISO8601", utc=True)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InvalidReadings(
            f"{name}: timestamps must be ISO 8601, such as 2025-01-31 08:05:00, "
            f"all with or all without an offset: {reason}"
        ) from error
    offset = _common_offset(text)
    if offset is None:
        return instants.dt.tz_localize(None), "utc", None
    return instants.dt.tz_localize(None) + pd.Timedelta(minutes=offset), "local", offset


def _common_offset(text: pd.Series) -> int | None:
    """Minutes between UTC and times that all have an offset; None where they have several or are UTC."""
    endings = text.str[-LONGEST_OFFSET:].drop_duplicates()  # a few, of a million times
    found = endings.str.extract(f"({OFFSET})", expand=False).str.replace("Z", "+00:00")
    offsets = found.str.replace(r"^([+-]\d{2})$", r"\1:00", regex=True).drop_duplicates().tolist()
    if len(offsets) > 1 or offsets[0].replace(":", "") == "+0000":
        return None
    hours, minutes = int(offsets[0][:3]), int(offsets[0][-2:])
    return 60 * hours + (minutes if hours >= 0 else -minutes)


def _series(
    patient_id: str, rows: pd.DataFrame, clock: Literal["local", "utc"], zone: str | None, offset: int | None
) -> GlucoseSeries:
    times, glucose = rows["time"].to_numpy("datetime64[s]"), rows["glucose_mg_dl"].to_numpy(float)
    events = EventRows(times, rows.reindex(columns=OPTIONAL).to_numpy(float)) if _optional(rows) else None
    read = ~np.isnan(glucose)
    series = series_from_readings(patient_id, times[read], glucose[read], clock=clock, zone=zone, events=events)
    return replace(series, utc_offset_minutes=offset)


def series_from_readings(
    patient_id: str,
    times: np.ndarray,
    glucose_mg_dl: np.ndarray,
    *,
    clock: Literal["local", "utc"] = "local",
    zone: str | None = None,
    test_start: np.datetime64 | None = None,
    events: EventRows | None = None,
) -> GlucoseSeries:
    """Sort, check and lay one patient's readings on their grid, and their events with them.

    times (n,) datetime64 in any order, glucose (n,) mg/dL. Of readings in one step the later entry wins.
    Raises InvalidReadings for values no reading can have, mmol/L in a mg/dL column, or amounts that nobody takes.
    """
    findings = []
    try:
        check_range(to_mg_dl(glucose_mg_dl, "mg/dL"))
        check_events(np.empty((0, len(EVENTS))) if events is None else events.values)
    except InvalidReadings as error:
        raise InvalidReadings(f"patient {patient_id}: {error}") from error
    order = np.argsort(times, kind="stable")
    if (order != np.arange(len(order))).any():
        findings.append("readings were not in order of time")
    times, glucose_mg_dl = times[order], glucose_mg_dl[order]
    if zone is not None and clock == "local":
        repeated = in_repeated_hour(times, zone)
        if repeated.any():
            findings.append(f"{int(repeated.sum())} readings of an hour that the clock repeats were left out")
            times, glucose_mg_dl = times[~repeated], glucose_mg_dl[~repeated]
        events = None if events is None else events[~in_repeated_hour(events.times, zone)]
    _check_span(times, patient_id)
    sampling_minutes = usual_spacing(times)
    grid = to_grid(times, glucose_mg_dl, sampling_minutes)
    on_grid = None if events is None else _events_on_grid(events, times, sampling_minutes)
    if test_start is not None:  # as the grid tells it: the step of the first test reading
        first = place_on_grid(times, sampling_minutes)[np.searchsorted(times, test_start)]
        test_start = times[0] + first * np.timedelta64(60 * sampling_minutes, "s")
    merged = len(times) - int((~np.isnan(grid)).sum())
    if merged:
        findings.append(f"{merged} readings shared a {sampling_minutes}-minute step with a later entry")
    return GlucoseSeries(
        patient_id,
        times[0],
        sampling_minutes,
        grid,
        clock,
        test_start=test_start,
        findings=tuple(findings),
        events=on_grid,
    )


def _events_on_grid(events: EventRows, times: np.ndarray, sampling_minutes: int) -> Events | None:
    recorded = events[~np.isnan(events.values).all(axis=1)]
    if not len(recorded.times):
        return None
    steps = place_on_grid(times, sampling_minutes)
    return Events.on_grid(place_events(recorded, times, steps, sampling_minutes))


def _check_span(times: np.ndarray, patient_id: str) -> None:
    if not len(times):
        raise InvalidReadings(f"patient {patient_id} has readings of a repeated hour only; give times with an offset")
    if times[-1] - times[0] > LONGEST:
        raise InvalidReadings(
            f"patient {patient_id} has readings from {times[0]} to {times[-1]}; at most 20 years are allowed: "
            "correct the timestamps"
        )


def usual_spacing(times: np.ndarray) -> int:
    """Median minutes between readings, at least 1; 5 where a single reading tells nothing."""
    if len(times) < 2:
        return 5
    return max(1, round(float(np.median(np.diff(times.astype("datetime64[s]").astype(np.int64)))) / 60))


def in_repeated_hour(times: np.ndarray, zone: str) -> np.ndarray:
    """(n,) bool: local times that the end of daylight saving makes ambiguous in this zone."""
    clock = ZoneInfo(zone)
    hours, where = np.unique(times.astype("datetime64[h]"), return_inverse=True)
    stamps = [hour.item().replace(tzinfo=clock) for hour in hours]
    ambiguous = np.array([a.utcoffset() > a.replace(fold=1).utcoffset() for a in stamps])  # type: ignore[operator]
    return ambiguous[where]
