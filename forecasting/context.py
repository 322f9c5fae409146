"""Readings as a person's app sends them → the one context that a model forecasts from."""

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from forecasting.cgm import (
    RESTART_AFTER,
    SENSOR_MG_DL,
    Unit,
    censor,
    check_range,
    fill_short_gaps,
    in_mg_dl,
    place_on_grid,
    to_mg_dl,
)
from forecasting.errors import InsufficientData, InvalidInput, InvalidReadings
from forecasting.events import EventRows, Input, check_events, events_before, unrecorded
from forecasting.history import ENOUGH_KNOWN
from forecasting.population import Population
from forecasting.windows import WindowShape, statistics_of

STALE_AFTER = 15 * 60  # seconds
AHEAD_AT_MOST = 2 * 60
EVEN = 0.05  # of a step: spacings this even cannot leave their steps on a grid that follows the sensor's clock
Limit = Literal["low", "high"]  # the sensor's words for a value outside its range
LIMITS: dict[Limit, int] = {"low": -1, "high": 1}


@dataclass(frozen=True)
class Reading:
    """One CGM reading: an aware time, and a value in the request's unit or the sensor's Low/High."""

    time: dt.datetime
    value: float | Limit


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings in columns.

    seconds: (n,) int64 since 1970 UTC; values: (n,) float64 in the unit that goes with them
    limits:  (n,) int8, -1 Low, 1 High, 0 a value; None where all are values
    """

    seconds: np.ndarray
    values: np.ndarray
    limits: np.ndarray | None = None

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> "Readings":
        """Raises InvalidReadings for a time that could be anywhere."""
        for k, reading in enumerate(readings):
            if reading.time.tzinfo is None:
                raise InvalidReadings("a reading has no time zone; send UTC instants", f"readings[{k}].time")
        limits = [LIMITS[r.value] if isinstance(r.value, str) else 0 for r in readings]
        return cls(
            np.array([int(r.time.timestamp()) for r in readings], np.int64),
            np.array([0.0 if isinstance(r.value, str) else r.value for r in readings], np.float64),
            np.array(limits, np.int8) if any(limits) else None,
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What a forecast is made from.

    glucose_mg_dl: (context_length,); minute_of_day: NaN where the patient's clock is unknown
    history:       (4,) of forecasting.history.STATISTICS, (0,) for shapes without one
    origin:        seconds since 1970 UTC, of the last reading; warnings: sentences for whoever reads the forecast
    filled:        missing steps that were filled; censored: readings that were taken as the sensor's edge
    events:        (context_length, 3) of forecasting.events.EVENTS, NaN where not recorded; None where nothing is
    is_unlike:     is the day before it unlike those that the model learned from?
    """

    glucose_mg_dl: np.ndarray
    minute_of_day: float
    origin: int
    warnings: tuple[str, ...]
    filled: int
    censored: int
    history: np.ndarray
    events: np.ndarray | None = None
    is_unlike: bool = False


def context_from(
    readings: Readings,
    unit: Unit,
    shape: WindowShape,
    *,
    as_of: float | None = None,
    utc_offset: dt.timedelta | None = None,
    now: float | None = None,
    events: EventRows | None = None,
    inputs: tuple[Input, ...] = (),
    learned_from: Population | None = None,
) -> Context:
    """Check readings and lay them on the grid that runs back from the last one.

    as_of: the moment of the forecast, in seconds since 1970; without it the last reading's own time, which must then
    not lie ahead of `now` (the clock of this machine by default). utc_offset: the patient's clock; None masks the
    time of day. events: what was eaten and taken; inputs: of which the model knows, and misses where it is not sent;
    learned_from: the people whose days it knows, so that one unlike theirs is told.
    Raises InvalidReadings for wrong units, values, order, times or amounts; InsufficientData for too few readings,
    a gap longer than the model fills, or a stale last reading.
    """
    gaps = check_order(readings.seconds)
    origin = int(readings.seconds[-1])
    warnings = _check_moment(origin, as_of, time.time() if now is None else now)
    glucose, censored = sensor_mg_dl(readings, unit)
    if censored:
        warnings.append(
            f"{censored} readings lie outside what a sensor can tell (40 to 400 mg/dL) and were taken as its edge"
        )
    past, filled, merged = _lay_out(readings.seconds, gaps, glucose, shape)
    history = statistics_of(past[None], shape)[0]
    if merged:
        warnings.append(
            f"{merged} readings shared a {shape.sampling_minutes}-minute step with a later one, which was used"
        )
    if filled:
        warnings.append(f"{filled} missing readings of the context were filled on a straight line")
    if len(history) and history[-1] < ENOUGH_KNOWN:
        warnings.append(_too_short(history[-1], shape))
    unlike = None if learned_from is None else learned_from.warning(history)
    if unlike:
        warnings.append(unlike)
    taken = _taken(events, origin, shape, inputs, warnings)
    if utc_offset is None:
        warnings.append("no UTC offset or time zone was given: the forecast does not know the time of day")
    minute = np.nan if utc_offset is None else (origin + utc_offset.total_seconds()) % 86_400 / 60
    context = past[-shape.context_length :]
    return Context(context, minute, origin, tuple(warnings), filled, censored, history, taken, bool(unlike))


def _taken(
    events: EventRows | None, origin: int, shape: WindowShape, inputs: tuple[Input, ...], warnings: list[str]
) -> np.ndarray | None:
    """(context_length, 3) of what was sent, None for nothing; what whoever reads the forecast should know is added
    to the warnings.

    Raises InvalidReadings for amounts that nobody takes.
    """
    taken = None
    if events is not None and len(events.times):
        check_events(events.values)
        taken, after = events_before(events, origin, shape.context_length, shape.sampling_minutes)
        if after:
            warnings.append(f"{after} events came after the last reading and were not used")
        if not inputs:
            warnings.append("events were sent, but this model does not know carbohydrates or insulin")
    if missing := unrecorded(taken, inputs):
        warnings.append(f"this model knows {missing}, of which nothing was sent: it forecast without")
    return taken


def _too_short(known: float, shape: WindowShape) -> str:
    hours = shape.looks_back * shape.sampling_minutes / 60
    return f"{known * hours:.0f} of the last {hours:.0f} hours are known; with all of them the forecast is better"


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"there is no time zone {name!r}; give an IANA name such as Europe/London", "time_zone"
        ) from error


def utc_offset_in(zone: str, at: dt.datetime) -> dt.timedelta:
    """The offset of an IANA zone at an instant; raises InvalidInput for an unknown zone."""
    offset = at.astimezone(_zone(zone)).utcoffset()
    assert offset is not None  # aware by construction
    return offset


def place_back_from_last(seconds: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """(n,) ascending seconds → (n,) int64 steps, the last at 0 and earlier ones negative.

    The same rule as `place_on_grid`, run backwards, so that the grid is anchored on the last reading.
    """
    mirrored = seconds[-1] - seconds[::-1]
    return -place_on_grid(mirrored.astype("datetime64[s]"), sampling_minutes)[::-1]


def check_order(seconds: np.ndarray) -> np.ndarray:
    """(n - 1,) seconds from each reading to the next.

    Raises InvalidReadings where there are no readings, or one is not later than the one before it.
    """
    if not len(seconds):
        raise InvalidReadings("there are no readings; send the last hours of CGM readings, oldest first", "readings")
    gaps = seconds[1:] - seconds[:-1]
    if not len(gaps) or gaps.min() > 0:
        return gaps
    k = int(np.flatnonzero(gaps <= 0)[0]) + 1
    sentence = (
        f"reading {k} has the same time as the one before it; send one reading for each time"
        if seconds[k] == seconds[k - 1]
        else f"reading {k} is earlier than the one before it; send readings oldest first"
    )
    raise InvalidReadings(sentence, f"readings[{k}].time")


def _check_moment(last: int, as_of: float | None, now: float) -> list[str]:
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


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f}"


def sensor_mg_dl(readings: Readings, unit: Unit, judge_unit: bool = True) -> tuple[np.ndarray, int]:
    """(n,) mg/dL within the sensor's range, and how many readings were brought to its edge.

    judge_unit: refuse mg/dL that look like mmol/L; for one reading alone that cannot be told.
    Raises InvalidReadings for a wrong unit, for what is no number, and for what no reading can be.
    """
    values, limits = readings.values, readings.limits
    if limits is None:
        glucose = in_mg_dl(values, unit)
        if SENSOR_MG_DL[0] <= glucose.min() and glucose.max() <= SENSOR_MG_DL[1]:  # NaN compares false
            return glucose, 0  # nor can mmol/L look like that
    is_value = np.ones(len(values), bool) if limits is None else limits == 0
    convert = to_mg_dl if judge_unit else in_mg_dl
    glucose = np.full(len(values), SENSOR_MG_DL[0]) if limits is None else np.where(limits < 0, *SENSOR_MG_DL)
    glucose[is_value] = convert(values[is_value], unit)
    flagged = int(len(values) - is_value.sum())
    _check_numbers(glucose)
    censored = censor(glucose)
    return censored, flagged + int((censored != glucose).sum())


def _check_numbers(glucose_mg_dl: np.ndarray) -> None:
    """Raises InvalidReadings for what is no number and for what no reading can be."""
    missing = np.flatnonzero(np.isnan(glucose_mg_dl))
    if len(missing):
        raise InvalidReadings("a reading is not a number; leave missing readings out", f"readings[{missing[0]}]")
    check_range(glucose_mg_dl)


def _lay_out(
    seconds: np.ndarray, gaps: np.ndarray, glucose: np.ndarray, shape: WindowShape
) -> tuple[np.ndarray, int, int]:
    """(up to `looks_back` steps, NaN where nothing is known before the context; how many steps of the context were
    filled; how many readings shared a step with a later one).
    """
    length = shape.looks_back
    if len(seconds) >= length and _are_even(gaps[1 - length :], 60 * shape.sampling_minutes):
        return glucose[-length:].astype(np.float32), 0, 0
    reach = length + shape.max_fill_bins
    # earlier readings cannot matter: a grid of centuries, and a walk over a month of readings, are not asked for
    near = seconds >= seconds[-1] - (reach + RESTART_AFTER) * 60 * shape.sampling_minutes
    near[-reach - 1 :] = True  # drift may bring an older one near
    steps, glucose = place_back_from_last(seconds[near], shape.sampling_minutes), glucose[near]
    size = min(1 - int(steps[0]), reach)
    steps, glucose = steps[steps > -size], glucose[steps > -size]
    grid = np.full(size, np.nan, np.float32)
    grid[size - 1 + steps] = glucose
    past, filled = _filled(grid, shape)
    return past, filled, len(steps) - len(np.unique(steps))


def _are_even(gaps: np.ndarray, spacing: int) -> bool:
    """Does each reading follow the one before it by one step, within so little that the grid cannot place it else?"""
    return bool(gaps.max() <= (1 + EVEN) * spacing and gaps.min() >= (1 - EVEN) * spacing)


def _filled(grid: np.ndarray, shape: WindowShape) -> tuple[np.ndarray, int]:
    """The last steps that a forecast depends on with short gaps filled, and how many were filled in the context."""
    length = shape.context_length
    need = f"{length} steps of {shape.sampling_minutes} minutes ({length * shape.sampling_minutes} minutes)"
    if len(grid) < length:
        raise InsufficientData(f"the readings span {len(grid)} steps, the model needs {need}; send a longer history")
    filled = fill_short_gaps(grid, shape.max_fill_bins)[-shape.looks_back :]
    missing = int(np.isnan(filled[-length:]).sum())
    if missing:
        raise InsufficientData(
            f"{missing} steps of the last {length} are missing in gaps of more than {shape.max_fill_bins}; the model "
            f"needs {need} with no longer gap: wait until the sensor has read for that long"
        )
    return filled, int(np.isnan(grid[-length:]).sum())
