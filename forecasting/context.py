"""Readings as a person's app sends them → the one context that a model forecasts from."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from forecasting.cgm import SENSOR_MG_DL, Unit, censor, check_range, fill_short_gaps, place_on_grid, to_mg_dl
from forecasting.errors import InsufficientData, InvalidInput, InvalidReadings
from forecasting.windows import WindowShape

STALE_AFTER = dt.timedelta(minutes=15)
AHEAD_AT_MOST = dt.timedelta(minutes=2)
Limit = Literal["low", "high"]  # the sensor's words for a value outside its range


@dataclass(frozen=True)
class Reading:
    """One CGM reading: an aware time, and a value in the request's unit or the sensor's Low/High."""

    time: dt.datetime
    value: float | Limit


@dataclass(frozen=True)
class Context:
    """What a forecast is made from.

    glucose_mg_dl: (1, context_length); minute_of_day: (1,), NaN where the patient's clock is unknown
    origin:        UTC time of the last reading; warnings: sentences for whoever reads the forecast
    """

    glucose_mg_dl: np.ndarray
    minute_of_day: np.ndarray
    origin: dt.datetime
    warnings: tuple[str, ...]


def context_from(
    readings: Sequence[Reading],
    unit: Unit,
    shape: WindowShape,
    *,
    as_of: dt.datetime | None = None,
    utc_offset: dt.timedelta | None = None,
    now: dt.datetime | None = None,
) -> Context:
    """Check readings and lay them on the grid that runs back from the last one.

    as_of: the moment of the forecast; without it the last reading's own time, which must then not lie ahead of
    `now` (the clock of this machine by default). utc_offset: the patient's clock; None masks the time of day.
    Raises InvalidReadings for wrong units, values, order or times; InsufficientData for too few readings, a gap
    longer than the model fills, or a stale last reading.
    """
    times = _check_times(readings)
    warnings = _check_moment(readings[-1].time, as_of, now or dt.datetime.now(dt.UTC))
    glucose, more = _check_values(readings, unit)
    warnings += more
    steps = place_back_from_last(times, shape.sampling_minutes)
    # no earlier step can matter, and an absurd first time must not ask for a grid of centuries
    size = min(1 - int(steps[0]), shape.context_length + shape.max_fill_bins)
    near = steps > -size
    steps, glucose = steps[near], glucose[near]
    if merged := len(steps) - len(np.unique(steps)):
        warnings.append(
            f"{merged} readings shared a {shape.sampling_minutes}-minute step with a later one, which was used"
        )
    grid = np.full(size, np.nan, np.float32)
    grid[size - 1 + steps] = glucose
    origin = readings[-1].time.astimezone(dt.UTC)
    context, filled = _last_context(grid, shape)
    if filled:
        warnings.append(f"{filled} missing readings of the context were filled on a straight line")
    minute = np.nan if utc_offset is None else _minute_of_day(origin + utc_offset)
    if utc_offset is None:
        warnings.append("no UTC offset or time zone was given: the forecast does not know the time of day")
    return Context(context[None], np.array([minute], np.float32), origin, tuple(warnings))


def utc_offset_in(zone: str, at: dt.datetime) -> dt.timedelta:
    """The offset of an IANA zone at an instant; raises InvalidInput for an unknown zone."""
    try:
        offset = at.astimezone(ZoneInfo(zone)).utcoffset()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"there is no time zone {zone!r}; give an IANA name such as Europe/London", "time_zone"
        ) from error
    assert offset is not None  # aware by construction
    return offset


def place_back_from_last(times: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """(n,) ascending datetime64 → (n,) int64 steps, the last at 0 and earlier ones negative.

    The same rule as `place_on_grid`, run backwards, so that the grid is anchored on the last reading.
    """
    mirrored = times[-1] - times[::-1]
    epoch = np.datetime64(0, "s")
    return -place_on_grid(epoch + mirrored, sampling_minutes)[::-1]


def _check_times(readings: Sequence[Reading]) -> np.ndarray:
    if not readings:
        raise InvalidReadings("there are no readings; send the last hours of CGM readings, oldest first", "readings")
    for k, reading in enumerate(readings):
        if reading.time.tzinfo is None:
            raise InvalidReadings("a reading has no time zone; send UTC instants", f"readings[{k}].time")
    stamps = [int(reading.time.timestamp()) for reading in readings]
    for k in range(1, len(stamps)):
        if stamps[k] < stamps[k - 1]:
            raise InvalidReadings(
                f"reading {k} is earlier than the one before it; send readings oldest first",
                f"readings[{k}].time",
            )
        if stamps[k] == stamps[k - 1]:
            raise InvalidReadings(
                f"reading {k} has the same time as the one before it; send one reading for each time",
                f"readings[{k}].time",
            )
    return np.array(stamps, "datetime64[s]")


def _check_moment(last: dt.datetime, as_of: dt.datetime | None, now: dt.datetime) -> list[str]:
    """Warnings where the forecast is not for this moment."""
    moment, what = (as_of, "as_of") if as_of is not None else (now, "the clock of this service")
    if last - moment > AHEAD_AT_MOST:
        raise InvalidReadings(
            f"the last reading is {_minutes(last - moment)} minutes ahead of {what}; at most 2 are allowed: "
            "correct the time, or give as_of to forecast at another moment",
            "readings",
        )
    if as_of is not None and as_of - last > STALE_AFTER:
        raise InsufficientData(
            f"the last reading is {_minutes(as_of - last)} minutes older than as_of; at most 15 are allowed: "
            "send newer readings"
        )
    if as_of is None and now - last > STALE_AFTER:
        return [
            f"the last reading is {_minutes(now - last)} minutes old by the clock of this service: so is the forecast"
        ]
    if as_of is not None and as_of - now > AHEAD_AT_MOST:
        return [f"as_of lies {_minutes(as_of - now)} minutes ahead of the clock of this service"]
    return []


def _minutes(span: dt.timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f}"


def _check_values(readings: Sequence[Reading], unit: Unit) -> tuple[np.ndarray, list[str]]:
    limits = {"low": SENSOR_MG_DL[0], "high": SENSOR_MG_DL[1]}
    flagged = np.array([isinstance(r.value, str) for r in readings])
    numbers = np.array([r.value for r in readings if not isinstance(r.value, str)], np.float64)
    if np.isnan(numbers).any():
        raise InvalidReadings("a reading is not a number; leave missing readings out", "readings")
    glucose = np.empty(len(readings))
    glucose[~flagged] = to_mg_dl(numbers, unit)
    glucose[flagged] = [limits[r.value] for r in readings if isinstance(r.value, str)]
    check_range(glucose)
    censored = censor(glucose)
    count = int(flagged.sum() + (censored != glucose).sum())
    warnings = (
        [f"{count} readings lie outside what a sensor can tell (40 to 400 mg/dL) and were taken as its edge"]
        if count
        else []
    )
    return censored, warnings


def _last_context(grid: np.ndarray, shape: WindowShape) -> tuple[np.ndarray, int]:
    """The last context_length steps with short gaps filled, and how many were filled."""
    length = shape.context_length
    need = f"{length} steps of {shape.sampling_minutes} minutes ({length * shape.sampling_minutes} minutes)"
    if len(grid) < length:
        raise InsufficientData(f"the readings span {len(grid)} steps, the model needs {need}; send a longer history")
    filled = fill_short_gaps(grid, shape.max_fill_bins)[-length:]
    missing = int(np.isnan(filled).sum())
    if missing:
        raise InsufficientData(
            f"{missing} steps of the last {length} are missing in gaps of more than {shape.max_fill_bins}; the model "
            f"needs {need} with no longer gap: wait until the sensor has read for that long"
        )
    return filled, int(np.isnan(grid[-length:]).sum())


def _minute_of_day(local: dt.datetime) -> float:
    return local.hour * 60 + local.minute + local.second / 60
