"""Series → windows: a context, its targets, and the part of the patient's timeline it belongs to."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, Field

from forecasting.cgm import LONGEST_FILL, GlucoseSeries, censor, fill_short_gaps
from forecasting.errors import InvalidSetting

Part = Literal["train", "validation", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "calibration", "test")
PART_SHARES = (0.6, 0.1, 0.1, 0.2)  # of every patient's readings, in order of time


class WindowShape(BaseModel):
    """What a window looks like; lengths in steps of `sampling_minutes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling_minutes: int = Field(5, ge=1, le=60, description="minutes between two steps of the grid")
    context_length: int = Field(36, ge=2, le=2016, description="past steps a forecast looks at")
    prediction_length: int = Field(12, ge=1, le=288, description="future steps it foretells")
    max_fill_bins: int = Field(1, ge=0, le=LONGEST_FILL, description="longest gap of the context that is filled")

    @property
    def minutes_ahead(self) -> tuple[int, ...]:
        """Minutes from the origin to each forecast step."""
        return tuple(self.sampling_minutes * (k + 1) for k in range(self.prediction_length))

    def steps_at(self, horizons: Iterable[int]) -> dict[int, int]:
        """{horizon in minutes: index of its step}, for the horizons that these windows reach."""
        ahead = self.minutes_ahead
        return {h: ahead.index(h) for h in horizons if h in ahead}


@dataclass(frozen=True)
class Windows:
    """Windows of one or several patients, in order of patient and time.

    patient_ids:    (n,) str
    origins:        (n,) datetime64[s], time of the last step of the context
    context:        (n, context_length) mg/dL, short gaps filled, censored to the sensor's range
    target:         (n, prediction_length) mg/dL, NaN where nothing was read
    minute_of_day:  (n,) local minute of the day at the origin, NaN where unknown
    """

    patient_ids: np.ndarray
    origins: np.ndarray
    context: np.ndarray
    target: np.ndarray
    minute_of_day: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rows: np.ndarray | slice) -> "Windows":
        return Windows(
            self.patient_ids[rows],
            self.origins[rows],
            self.context[rows],
            self.target[rows],
            self.minute_of_day[rows],
        )

    def of_patient(self, patient_id: str) -> "Windows":
        return self[self.patient_ids == patient_id]

    @property
    def patients(self) -> list[str]:
        """The patients who have windows here, in order of appearance."""
        return list(dict.fromkeys(self.patient_ids.tolist()))

    @cached_property
    def ids(self) -> np.ndarray:
        """(n,) str, patient and origin: what a stored teacher forecast is matched by."""
        return np.char.add(
            np.char.add(self.patient_ids.astype(str), "@"), np.datetime_as_string(self.origins, unit="s")
        )

    @cached_property
    def digest(self) -> str:
        """sha256 of everything a forecast of these windows can depend on."""
        sha = hashlib.sha256("\n".join(self.ids.tolist()).encode())
        for values in (self.context, self.target, self.minute_of_day):
            sha.update(repr(values.shape).encode())
            sha.update(np.ascontiguousarray(values, np.float32).tobytes())
        return sha.hexdigest()


def concatenate(windows: list[Windows]) -> Windows:
    """Join windows of several patients; at least one must be given."""
    return Windows(
        np.concatenate([w.patient_ids for w in windows]),
        np.concatenate([w.origins for w in windows]),
        np.concatenate([w.context for w in windows]),
        np.concatenate([w.target for w in windows]),
        np.concatenate([w.minute_of_day for w in windows]),
    )


def part_bounds(series: GlucoseSeries, shape: WindowShape, part: Part) -> tuple[int, int]:
    """First and one-past-last step of a part of this patient's timeline.

    The parts follow each other in time, hold their shares of the real readings (a pause of weeks leaves no part
    empty), and are kept apart by the length of one window. Where the data set names the start of its test part,
    the other three share what lies before it in the same proportions.
    """
    readings = np.flatnonzero(~np.isnan(series.glucose_mg_dl))
    shares = np.cumsum(PART_SHARES)[:-1]
    before_test = len(readings)
    if series.test_start is not None:
        before_test = int(np.searchsorted(series.times[readings], series.test_start))
        shares = shares / shares[-1]
    ranks = np.minimum(np.rint(shares * before_test).astype(int), len(readings) - 1)
    edges = [0, *readings[ranks].tolist(), len(series.glucose_mg_dl)]
    k = PARTS.index(part)
    gap = shape.context_length + shape.prediction_length if k else 0
    return edges[k] + gap, edges[k + 1]


def cut_windows(series: GlucoseSeries, shape: WindowShape, part: Part) -> Windows:
    """All windows of one part of one patient's timeline.

    A window counts when its context is complete after filling short gaps, ends in a real reading, and at least
    one of its targets is real; context and targets lie inside the part.
    Raises InvalidSetting where series and shape have different grids.
    """
    if series.sampling_minutes != shape.sampling_minutes:
        raise InvalidSetting(
            f"{series.patient_id} is sampled every {series.sampling_minutes} minutes, the windows ask for "
            f"{shape.sampling_minutes}; choose patients of that grid or another sampling_minutes"
        )
    first, end = part_bounds(series, shape, part)
    past, ahead = shape.context_length, shape.prediction_length
    raw = series.glucose_mg_dl[first:end]
    if len(raw) < past + ahead:
        return _no_windows(shape)
    filled = fill_short_gaps(censor(raw), shape.max_fill_bins)
    context = sliding_window_view(filled, past)[: len(raw) - past - ahead + 1]
    target = sliding_window_view(raw, ahead)[past:]
    usable = (
        ~np.isnan(context).any(axis=1) & ~np.isnan(target).all(axis=1) & ~np.isnan(raw[past - 1 : len(raw) - ahead])
    )
    rows = np.flatnonzero(usable)
    origin_steps = first + rows + past - 1
    return Windows(
        np.full(len(rows), series.patient_id),
        series.times[origin_steps],
        context[rows],
        target[rows],
        series.minute_of_day[origin_steps],
    )


def cut_all(series: Iterable[GlucoseSeries], shape: WindowShape, part: Part) -> Windows:
    """The windows of one part, patient after patient; none are mixed."""
    found = [cut_windows(one, shape, part) for one in series]
    return concatenate(found) if found else _no_windows(shape)


def thin(windows: Windows, at_most: int | None) -> Windows:
    """Every n-th window, n the smallest that leaves `at_most` or fewer; all of them for None."""
    if at_most is None or len(windows) <= at_most:
        return windows
    return windows[:: -(-len(windows) // at_most)]


def distinct(windows: Iterable[Windows]) -> Windows:
    """The windows of several selections of one cohort, each once, in order of patient and time."""
    joined = concatenate(list(windows))
    return joined[np.unique(joined.ids, return_index=True)[1]]


def _no_windows(shape: WindowShape) -> Windows:
    return Windows(
        np.empty(0, dtype=str),
        np.empty(0, dtype="datetime64[s]"),
        np.empty((0, shape.context_length), np.float32),
        np.empty((0, shape.prediction_length), np.float32),
        np.empty(0, np.float32),
    )
