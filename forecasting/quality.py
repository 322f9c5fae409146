"""Which readings are doubtful: new sensors, calibration jumps, compression lows and folded clocks.

Every flag is causal: that of a step follows from this step and those before it, so that what is measured without
flagged windows is what a service could have withheld at the time. A flag is a suspicion by simple rules with
published or measured thresholds, not a finding; nobody compared the sensor with blood.
"""

from collections.abc import Sequence
from enum import IntFlag

import numpy as np

from forecasting.cgm import HIGH_MG_DL, LOW_MG_DL, GlucoseSeries
from forecasting.windows import Windows


class Quality(IntFlag):
    """What is suspected of a reading; several may be."""

    WARM_UP = 1
    JUMP = 2
    COMPRESSION = 4
    CLOCK = 8


ANY = Quality.WARM_UP | Quality.JUMP | Quality.COMPRESSION | Quality.CLOCK

# A new Dexcom G4 to G6 or Guardian shows nothing for two hours, and pauses of T1D-UOM and AZT1D pile up at 120 to 140
# minutes. A Libre (one hour) or G7 (half an hour) is replaced unseen. Marak et al. 2023, doi 10.1089/dia.2023.0287:
# Dexcom G6 Pro differs from blood by 13.6 % in the first 12 hours, 10.5 % in the next 12 and 10.1 % from then on.
NEW_SENSOR_PAUSE = 120.0  # minutes without a reading
WARM_UP_LASTS = 12 * 60.0  # minutes

# Faster than any glucose: the bound of "Retrofitting CGM traces", eq. 11.23, in Glucose Monitoring Devices, 2020.
JUMP_RATE = 5.0  # mg/dL per minute

# Facchinetti et al. 2016, doi 10.1089/dia.2015.0250: compression takes 24 (10 to 48) mg/dL for 45 (30 to 70) minutes
# (median, 5th and 95th percentile), mostly at night. What counts as steady and as night is our choice.
COMPRESSION_FALL = 24.0  # mg/dL, at least
COMPRESSION_FALLS_IN = 15.0  # minutes, at most
COMPRESSION_LASTS = 70.0  # minutes
STEADY_FOR, STEADY_WITHIN = 45.0, 20.0  # minutes, mg/dL: the level that it fell from
NIGHT = (22 * 60.0, 8 * 60.0)  # local minutes of the day, from and until

# Interleaved hours go back and forth. Of half hours in T1D-UOM 0.012 % do so by as much; those of 2301 when his clock
# was put back (2023-10-29 01:20 to 01:35) by 22 to 37 mg/dL.
ZIGZAG_READINGS = 7  # half an hour, every 5 minutes
ZIGZAG_WITHIN = 45.0  # minutes, so that two of them may be missing, or three
ZIGZAG_EXCESS = 20.0  # mg/dL


def flag_readings(glucose_mg_dl: np.ndarray, minute_of_day: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """What is suspected of every reading, from it and those before it.

    glucose_mg_dl: (steps,) NaN where nothing was read; minute_of_day: (steps,) local, NaN where unknown
    returns: (steps,) uint8 of Quality, 0 where nothing was read
    """
    flags = np.zeros(len(glucose_mg_dl), np.uint8)
    steps = np.flatnonzero(~np.isnan(glucose_mg_dl))
    minutes, glucose = steps * float(sampling_minutes), glucose_mg_dl[steps].astype(np.float64)
    flags[steps] |= np.where(_after_pause(minutes), Quality.WARM_UP, 0).astype(np.uint8)
    flags[steps] |= np.where(_jumps(minutes, glucose), Quality.JUMP, 0).astype(np.uint8)
    flags[steps] |= np.where(_zigzags(minutes, glucose), Quality.CLOCK, 0).astype(np.uint8)
    low = _compressed(glucose_mg_dl, minute_of_day, sampling_minutes)
    flags |= np.where(low, Quality.COMPRESSION, 0).astype(np.uint8)
    return flags


def flagged_share(flags: np.ndarray, glucose_mg_dl: np.ndarray) -> dict[str, float]:
    """{warm_up, jump, compression, clock, any: share of the readings}, 0 where there are none; both (steps,)."""
    readings = max(1, int((~np.isnan(glucose_mg_dl)).sum()))
    kinds = {kind.name.lower(): kind for kind in Quality if kind.name} | {"any": ANY}
    return {name: int(np.count_nonzero(flags & kind)) / readings for name, kind in kinds.items()}


def recently_flagged(
    flags: np.ndarray, origin_steps: np.ndarray, sampling_minutes: int, minutes: int = 60, kinds: Quality = ANY
) -> np.ndarray:
    """Whether a reading of the newest `minutes` of a context is flagged with one of these kinds.

    flags: (steps,) of flag_readings; origin_steps: (n,) the last step of every context, on the same timeline
    returns: (n,) bool
    """
    length = max(1, minutes // sampling_minutes)
    before = np.concatenate([[0], np.cumsum((flags & kinds) > 0)])  # how many are flagged before each step
    return before[origin_steps + 1] > before[np.maximum(origin_steps + 1 - length, 0)]


def flagged_windows(
    windows: Windows, series: Sequence[GlucoseSeries], minutes: int = 60, kinds: Quality = ANY
) -> np.ndarray:
    """Which windows have a flagged reading in the newest `minutes` of their context: (n,) bool.

    series: those that the windows were cut from, found by patient and time. Flags come from all of a series, so that
    a pause before the part which the windows belong to counts.
    """
    flagged = np.zeros(len(windows), bool)
    for one in series:
        rows = np.flatnonzero(windows.patient_ids == one.patient_id)
        steps = (windows.origins[rows] - one.start) // np.timedelta64(one.sampling_minutes, "m")
        flags = flag_readings(one.glucose_mg_dl, one.minute_of_day, one.sampling_minutes)
        flagged[rows] = recently_flagged(flags, steps, one.sampling_minutes, minutes, kinds)
    return flagged


def _after_pause(minutes: np.ndarray) -> np.ndarray:
    """(readings,) times → (readings,) bool: in the first hours after a long pause.

    Whether the first reading of all comes from a new sensor is not known, and not suspected.
    """
    begins = np.diff(minutes, prepend=minutes[:1]) >= NEW_SENSOR_PAUSE
    return minutes - _latest(begins, minutes) < WARM_UP_LASTS


def _jumps(minutes: np.ndarray, glucose: np.ndarray) -> np.ndarray:
    """(readings,) times and mg/dL → (readings,) bool: reached faster than glucose moves, and against the slope.

    Both the rate and its change from the rate before exceed JUMP_RATE; so the second step of a steep rise is none,
    and the way back from a single outlier is one. A correction below 25 mg/dL in 5 minutes is not seen.
    """
    rate = np.zeros(len(glucose))
    rate[1:] = np.diff(glucose) / np.diff(minutes)
    change = np.diff(rate, prepend=0.0)
    return (np.abs(rate) > JUMP_RATE) & (np.abs(change) > JUMP_RATE)


def _zigzags(minutes: np.ndarray, glucose: np.ndarray) -> np.ndarray:
    """(readings,) times and mg/dL → (readings,) bool: the last half hour goes back and forth.

    A curve that turns once is at most twice as long as it is high; what is longer is a zigzag. Two hours that share
    their times look like that, and so may a noisy sensor. Readers leave the hour out where they know the zone; an
    hour that the clock skips is a pause. With readings further apart than 7.5 minutes nothing is flagged.
    """
    found = np.zeros(len(glucose), bool)
    last = ZIGZAG_READINGS - 1
    if len(glucose) > last:
        path = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(glucose)))])
        runs = np.stack([glucose[k : len(glucose) - last + k] for k in range(ZIGZAG_READINGS)])
        excess = path[last:] - path[:-last] - 2 * np.ptp(runs, axis=0)
        found[last:] = (excess >= ZIGZAG_EXCESS) & (minutes[last:] - minutes[:-last] <= ZIGZAG_WITHIN)
    return found


def _compressed(glucose_mg_dl: np.ndarray, minute_of_day: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """(steps,) bool: low readings since a fast fall at night, for as long as compression lasts.

    Where the clock is not known the fall alone decides, at any hour.
    """
    steps = np.arange(len(glucose_mg_dl))
    night = np.isnan(minute_of_day) | (minute_of_day >= NIGHT[0]) | (minute_of_day < NIGHT[1])
    fell = _latest(_falls_from_steady(glucose_mg_dl, sampling_minutes) & night, steps)
    rose = _latest(glucose_mg_dl >= LOW_MG_DL, steps)
    lasts = (steps - fell) * sampling_minutes <= COMPRESSION_LASTS
    return ~np.isnan(glucose_mg_dl) & (fell > rose) & lasts


def _falls_from_steady(glucose_mg_dl: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """(steps,) bool: low, and far below a steady level in range that it had a quarter of an hour ago.

    The level is told by the readings of STEADY_FOR before that, half of which must be there. Where readings are
    further apart than a quarter of an hour the level would be the low itself, and nothing is found.
    """
    first = int(COMPRESSION_FALLS_IN // sampling_minutes)  # steps back
    lags = range(first, first + int(STEADY_FOR // sampling_minutes) + 1)
    earlier = [_shifted(glucose_mg_dl, lag) for lag in lags]
    low, high = np.fmin.reduce(earlier), np.fmax.reduce(earlier)
    there = np.add.reduce([~np.isnan(values) for values in earlier], dtype=np.int16)
    steady = (high - low <= STEADY_WITHIN) & (low >= LOW_MG_DL) & (high <= HIGH_MG_DL) & (2 * there >= len(lags))
    return steady & (glucose_mg_dl < LOW_MG_DL) & (glucose_mg_dl <= low - COMPRESSION_FALL)


def _shifted(values: np.ndarray, steps: int) -> np.ndarray:
    """(steps,) → (steps,) float: the value so many steps earlier, NaN before the first."""
    earlier = np.full(len(values), np.nan, np.float32)
    earlier[steps:] = values[: max(0, len(values) - steps)]
    return earlier


def _latest(marks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(n,) bool and (n,) ascending places → (n,) float: the place of the latest mark so far, −inf before the first."""
    return np.maximum.accumulate(np.where(marks, places, -np.inf))
