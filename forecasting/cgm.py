"""CGM readings: units, plausible range, the grid, the gap rule, and one patient's series."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forecasting.errors import InvalidReadings
from forecasting.events import Events

MG_DL_PER_MMOL_L = 18.0156  # molar mass of glucose, 180.156 g/mol
ACCEPTED_MG_DL = (10.0, 600.0)  # anything else is no reading
SENSOR_MG_DL = (40.0, 400.0)  # what a sensor can tell; beyond it a value is censored
LOW_MG_DL, HIGH_MG_DL = 70.0, 180.0
MMOL_L_MEDIAN_BELOW = 35.0  # a median this small cannot be mg/dL
LONGEST_FILL = 12  # steps that any model may fill
RESTART_AFTER = 2.5  # steps without a reading after which the grid is anchored anew
FOLLOW = 0.2  # share of a reading's distance by which the grid's phase moves: drift is followed, jitter averaged
STEADY = 0.249  # steps; with readings no further than this off the grid, none depends on the phase (place_on_grid)
HASH_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64
HASH_BASE_INVERSE = np.uint64(pow(int(HASH_BASE), -1, 2**64))

Unit = Literal["mg/dL", "mmol/L"]


@dataclass(frozen=True)
class GlucoseSeries:
    """One patient's readings on the grid.

    glucose_mg_dl: (steps,) float32, NaN where there is no reading
    clock:         "local" where the times are the patient's wall clock, "utc" where only the instant is known
    utc_offset_minutes: of the local clock, where the times say it
    test_start:    where the data set itself says that its test part begins, else None
    findings:      sentences about what was dropped or merged on the way in
    events:        carbohydrates and insulin on the same grid, None where none were recorded
    """

    patient_id: str
    start: np.datetime64
    sampling_minutes: int
    glucose_mg_dl: np.ndarray
    clock: Literal["local", "utc"] = "local"
    utc_offset_minutes: int | None = None
    test_start: np.datetime64 | None = None
    findings: tuple[str, ...] = ()
    events: Events | None = None

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
    firsts = np.flatnonzero(np.diff(offsets, prepend=-np.inf) > RESTART_AFTER)
    ends = np.append(firsts[1:], len(offsets))
    since = offsets - np.repeat(offsets[firsts], ends - firsts)
    steps = np.rint(since)
    # The phase is a mean of distances to the grid. Where all of them are below a quarter of a step so is the phase,
    # a reading is less than half a step from where the phase expects it, and nobody needs to follow the clock.
    drifts = np.maximum.reduceat(np.abs(since - steps), firsts) >= STEADY
    last, before = 0, 0.0
    for first, end, drifting in zip(firsts.tolist(), ends.tolist(), drifts.tolist(), strict=True):
        begin = _step_after_pause(float(offsets[first]), before, last) if first else 0
        if drifting:
            steps[first:end] = _follow_clock(offsets[first:end], begin)
        else:
            steps[first:end] += begin
        last, before = int(steps[end - 1]), float(offsets[end - 1])
    return steps.astype(np.int64)


def _step_after_pause(offset: float, before: float, last: int) -> int:
    """The step of the first reading after a pause: `offset`, after the one at `before` on step `last`.

    Back to the clock, but never so far that drift hides a pause from the gap rule.
    """
    pause = min(max(1, math.floor(offset - before + 0.5)), LONGEST_FILL + 2)
    return max(math.floor(offset + 0.5), last + pause)


def _follow_clock(offsets: np.ndarray, begin: int) -> list[int]:
    """(n,) times in steps, without a pause, the first of them on step `begin` → n steps of a grid that follows them."""
    steps, floor = [begin], math.floor
    phase = float(offsets[0]) - begin
    for offset in offsets[1:].tolist():
        on_grid = offset - phase
        step = floor(on_grid + 0.5)
        phase += FOLLOW * (on_grid - step)
        steps.append(step)
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
    spare_bits = len(series).bit_length()
    runs = [_complete_runs(one.glucose_mg_dl, run_length, spare_bits) for one in series]
    shared = _held_by_several([hashes for _, hashes in runs], spare_bits)
    seen: dict[bytes, str] = {}
    pairs: set[tuple[str, str]] = set()
    for one, (begins, hashes) in zip(series, runs, strict=True):
        # equal runs have equal hashes, so this keeps every run that two people share, and next to nothing else
        for key in _run_contents(one.glucose_mg_dl, begins[np.isin(hashes, shared)], run_length):
            other = seen.setdefault(key, one.patient_id)
            if other != one.patient_id:
                pairs.add((other, one.patient_id))
    return sorted(pairs)


def _complete_runs(glucose_mg_dl: np.ndarray, run_length: int, spare_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(steps,) float32 → where the runs without a gap begin, (n,), and a hash of each, (n,) uint64.

    The hash is a polynomial modulo 2^64 without its last `spare_bits`; as a difference of running sums it costs the
    same for runs of any length.
    """
    if len(glucose_mg_dl) < run_length:
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    gaps = np.concatenate([[0], np.cumsum(np.isnan(glucose_mg_dl))])
    begins = np.flatnonzero(gaps[run_length:] == gaps[:-run_length])
    numbers = np.ascontiguousarray(glucose_mg_dl, np.float32).view(np.uint32).astype(np.uint64)
    up, down = (np.cumprod(np.full(len(numbers), base)) for base in (HASH_BASE, HASH_BASE_INVERSE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(numbers * up)])
    return begins, (sums[begins + run_length] - sums[begins]) * down[begins] >> spare_bits


def _held_by_several(hashes: list[np.ndarray], spare_bits: int) -> np.ndarray:
    """(n,) uint64 for each person → the hashes that more than one of them has."""
    # with the person in the spare bits, one sort brings equal hashes together, and those of one person within them
    of_each = [(own << spare_bits) + person for person, own in enumerate(hashes)]
    tagged = np.sort(np.concatenate([np.empty(0, np.uint64), *of_each]))
    plain = tagged >> spare_bits
    return np.unique(plain[1:][(plain[1:] == plain[:-1]) & (tagged[1:] != tagged[:-1])])


def _run_contents(glucose_mg_dl: np.ndarray, begins: np.ndarray, run_length: int) -> set[bytes]:
    """The bytes of the runs that begin there and are not flat, each once."""
    if not len(begins):
        return set()
    runs = np.lib.stride_tricks.sliding_window_view(glucose_mg_dl, run_length)[begins]
    return {run.tobytes() for run in runs[np.ptp(runs, axis=1) > run_length / 4]}
