"""CGM readings: units, plausible range, the grid, the gap rule, and one patient's series."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecasting.errors import InvalidReadings

MG_DL_PER_MMOL_L = 18.0156  # molar mass of glucose, 180.156 g/mol
ACCEPTED_MG_DL = (10.0, 600.0)  # anything else is no reading
SENSOR_MG_DL = (40.0, 400.0)  # what a sensor can tell; beyond it a value is censored
LOW_MG_DL, HIGH_MG_DL = 70.0, 180.0
MMOL_L_MEDIAN_BELOW = 35.0  # a median this small cannot be mg/dL
LONGEST_FILL = 12  # steps that any model may fill
RESTART_AFTER = 2.5  # steps without a reading after which the grid is anchored anew
FOLLOW = 0.2  # share of a reading's distance by which the grid's phase moves: drift is followed, jitter averaged

Unit = Literal["mg/dL", "mmol/L"]


@dataclass(frozen=True)
class GlucoseSeries:
    """One patient's readings on the grid.

    glucose_mg_dl: (steps,) float32, NaN where there is no reading
    clock:         "local" where the times are the patient's wall clock, "utc" where only the instant is known
    utc_offset_minutes: of the local clock, where the times say it
    test_start:    where the data set itself says that its test part begins, else None
    findings:      sentences about what was dropped or merged on the way in
    """

    patient_id: str
    start: np.datetime64
    sampling_minutes: int
    glucose_mg_dl: np.ndarray
    clock: Literal["local", "utc"] = "local"
    utc_offset_minutes: int | None = None
    test_start: np.datetime64 | None = None
    findings: tuple[str, ...] = ()

    @property
    def times(self) -> np.ndarray:
        """(steps,) datetime64[s], the time of every step."""
        return self.start + np.arange(len(self.glucose_mg_dl)) * np.timedelta64(60 * self.sampling_minutes, "s")

    @property
    def minute_of_day(self) -> np.ndarray:
        """(steps,) float32, local minute of the day, NaN where the patient's clock is not known."""
        if self.clock == "utc":
            return np.full(len(self.glucose_mg_dl), np.nan, np.float32)
        return minutes_since_midnight(self.times)


def minutes_since_midnight(times: np.ndarray) -> np.ndarray:
    """(n,) datetime64 → (n,) float32 minutes since that day's midnight."""
    seconds = times.astype("datetime64[s]").astype(np.int64) % 86_400
    return (seconds / 60).astype(np.float32)


def in_mg_dl(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Convert readings to mg/dL: (n,) in `unit` → (n,) float64. Raises InvalidReadings for an unknown unit."""
    if unit == "mmol/L":
        return values.astype(np.float64) * MG_DL_PER_MMOL_L
    if unit != "mg/dL":
        raise InvalidReadings(f"the unit is {unit!r}; say mg/dL or mmol/L", field="unit")
    return values.astype(np.float64, copy=False)


def to_mg_dl(values: np.ndarray, unit: Unit) -> np.ndarray:
    """Convert readings to mg/dL; refuse a unit that the values contradict.

    values: (n,) in `unit`; returns (n,) float64 in mg/dL.
    Raises InvalidReadings for an unknown unit, or mg/dL with a median below 35.
    """
    glucose = in_mg_dl(values, unit)
    if unit == "mmol/L" or not len(values) or values.min() >= MMOL_L_MEDIAN_BELOW:
        return glucose  # the median is no smaller than the minimum, and costs more to find
    median = float(np.nanmedian(values))
    if median < MMOL_L_MEDIAN_BELOW:
        raise InvalidReadings(
            f"the unit is ambiguous: it says mg/dL, but the median reading is {median:.1f}; "
            "give the unit mmol/L, or values in mg/dL",
            field="unit",
        )
    return glucose


def check_range(glucose_mg_dl: np.ndarray) -> None:
    """Refuse values that no reading can have (InvalidReadings); NaN is a missing reading and passes."""
    low, high = ACCEPTED_MG_DL
    wrong = np.flatnonzero((glucose_mg_dl < low) | (glucose_mg_dl > high) | np.isinf(glucose_mg_dl))
    if len(wrong):
        raise InvalidReadings(
            f"{len(wrong)} of {len(glucose_mg_dl)} readings are outside {low:g} to {high:g} mg/dL "
            f"(the first is {glucose_mg_dl[wrong[0]]:g}); leave missing readings out instead of coding them",
            field=f"readings[{wrong[0]}]",
        )


def censor(glucose_mg_dl: np.ndarray) -> np.ndarray:
    """Bring values a sensor cannot tell to the edge of its range; NaN stays."""
    return np.clip(glucose_mg_dl, *SENSOR_MG_DL)


def place_on_grid(times: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """Give each reading its step on a grid that starts with the first one.

    times: (n,) datetime64, ascending; returns (n,) int64 steps, ascending.
    A reading belongs to the nearest step. The grid follows the sensor's clock, so that a slow drift neither loses
    nor doubles a reading, and is anchored anew after a pause of more than one missing reading.
    """
    seconds = times.astype("datetime64[s]").astype(np.int64)
    offsets = (seconds - seconds[0]) / (60.0 * sampling_minutes)
    if not (offsets % 1).any():
        return offsets.astype(np.int64)
    return _follow_clock(offsets)


def _follow_clock(offsets: np.ndarray) -> np.ndarray:
    """(n,) times in steps since the first → (n,) int64 steps of a grid whose phase follows the readings."""
    steps = np.empty(len(offsets), np.int64)
    phase, before, last = 0.0, -np.inf, 0
    for row, offset in enumerate(offsets.tolist()):
        if offset - before > RESTART_AFTER:
            # back to the clock, but never so far that drift hides a pause from the gap rule
            pause = min(max(1, math.floor(offset - before + 0.5)), LONGEST_FILL + 2) if row else 0
            last = max(math.floor(offset + 0.5), last + pause)
            phase = offset - last
        else:
            last = math.floor(offset - phase + 0.5)
            phase += FOLLOW * (offset - phase - last)
        steps[row], before = last, offset
    return steps


def to_grid(times: np.ndarray, glucose_mg_dl: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """Lay ascending readings on the grid; of several in one step the later entry wins.

    times (n,) datetime64, glucose (n,); returns (steps,) float32 with NaN where nothing was read.
    """
    steps = place_on_grid(times, sampling_minutes)
    grid = np.full(int(steps[-1]) + 1, np.nan, np.float32)
    grid[steps] = glucose_mg_dl  # numpy keeps the last of repeated indices
    return grid


def fill_short_gaps(glucose_mg_dl: np.ndarray, max_fill_bins: int) -> np.ndarray:
    """Fill gaps of at most `max_fill_bins` steps on a straight line between their neighbours.

    (steps,) → (steps,). Longer gaps, and gaps at either end, stay NaN. A filled step lies before a real
    reading, so a context that ends in a real reading never looks past its origin.
    """
    steps = np.arange(len(glucose_mg_dl))
    known = ~np.isnan(glucose_mg_dl)
    before = np.maximum.accumulate(np.where(known, steps, -1))
    after = np.minimum.accumulate(np.where(known, steps, len(steps))[::-1])[::-1]
    short = ~known & (before >= 0) & (after < len(steps)) & (after - before - 1 <= max_fill_bins)
    filled = glucose_mg_dl.copy()
    if short.any():
        filled[short] = np.interp(steps[short], steps[known], glucose_mg_dl[known])
    return filled


def double_identities(series: list[GlucoseSeries], run_length: int = 24) -> list[tuple[str, str]]:
    """Pairs of patients who share a run of `run_length` readings: most likely one person under two ids.

    Flat runs (a sensor at the edge of its range) do not count.
    """
    seen: dict[bytes, str] = {}
    pairs: set[tuple[str, str]] = set()
    for one in series:
        values = one.glucose_mg_dl
        if len(values) < run_length:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(values, run_length)
        runs = runs[~np.isnan(runs).any(axis=1) & (np.ptp(runs, axis=1) > run_length / 4)]
        for key in {row.tobytes() for row in runs}:
            other = seen.setdefault(key, one.patient_id)
            if other != one.patient_id:
                pairs.add((other, one.patient_id))
    return sorted(pairs)
