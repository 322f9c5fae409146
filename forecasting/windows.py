"""Series → windows: a context, its targets, and the part of the patient's timeline it belongs to."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, Field

from forecasting.cgm import LONGEST_FILL, GlucoseSeries, censor, fill_short_gaps
from forecasting.errors import InvalidSetting
from forecasting.events import EVENTS
from forecasting.history import history_statistics, running_statistics

Part = Literal["train", "validation", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "calibration", "test")
PART_SHARES = (0.6, 0.1, 0.1, 0.2)  # of every patient's readings, in order of time
DIGEST_CHUNK = 16_384  # windows gathered at a time, so that they stay in the processor's cache


class WindowShape(BaseModel):
    """What a window looks like; lengths in steps of `sampling_minutes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampling_minutes: int = Field(5, ge=1, le=60, description="minutes between two steps of the grid")
    context_length: int = Field(36, ge=2, le=2016, description="past steps a forecast looks at")
    prediction_length: int = Field(12, ge=1, le=288, description="future steps it foretells")
    history_length: int = Field(
        0, ge=0, le=2016, description="steps before the context of which a model knows mean, spread and change; 0: none"
    )
    max_fill_bins: int = Field(1, ge=0, le=LONGEST_FILL, description="longest gap of the context that is filled")

    @property
    def looks_back(self) -> int:
        """Steps that a forecast can depend on: history and context."""
        return self.history_length + self.context_length

    @property
    def minutes_ahead(self) -> tuple[int, ...]:
        """Minutes from the origin to each forecast step."""
        return tuple(self.sampling_minutes * (k + 1) for k in range(self.prediction_length))

    def steps_at(self, horizons: Iterable[int]) -> dict[int, int]:
        """{horizon in minutes: index of its step}, for the horizons that these windows reach."""
        ahead = self.minutes_ahead
        return {h: ahead.index(h) for h in horizons if h in ahead}


@dataclass(frozen=True)
class Timeline:
    """The readings that windows look at, held once: parts of patients, one after the other.

    filled: (steps,) mg/dL, short gaps filled, censored to the sensor's range: where contexts are read
    raw:    (steps,) mg/dL, NaN where nothing was read: where targets are read
    history: (steps, 4) of forecasting.history.STATISTICS up to each step; (steps, 0) for shapes without a history
    events: (steps, 3) of forecasting.events.EVENTS, NaN where not recorded; None where nothing is
    """

    filled: np.ndarray
    raw: np.ndarray
    history: np.ndarray
    context_length: int
    prediction_length: int
    events: np.ndarray | None = None

    @property
    def window_length(self) -> int:
        return self.context_length + self.prediction_length

    def only(self, kept: np.ndarray) -> "Timeline":
        """The steps that are kept, (steps,) bool."""
        events = None if self.events is None else self.events[kept]
        return replace(self, filled=self.filled[kept], raw=self.raw[kept], history=self.history[kept], events=events)

    def contexts(self, begins: np.ndarray) -> np.ndarray:
        """(n,) first steps of windows → (n, context_length) mg/dL."""
        return _stretches(self.filled, begins, self.context_length)

    def targets(self, begins: np.ndarray) -> np.ndarray:
        """(n,) first steps of windows → (n, prediction_length) mg/dL."""
        return _stretches(self.raw, begins + self.context_length, self.prediction_length)

    def histories(self, begins: np.ndarray) -> np.ndarray:
        """(n,) first steps of windows → (n, 4 or 0) statistics up to the end of each context."""
        return self.history[begins + self.context_length - 1]

    def events_of(self, begins: np.ndarray) -> np.ndarray:
        """(n,) first steps of windows → (n, context_length, 3 or 0) events of the context; none lies after it."""
        if self.events is None or not len(begins):
            return np.empty((len(begins), self.context_length, 0 if self.events is None else len(EVENTS)), np.float32)
        views = sliding_window_view(self.events, self.context_length, axis=0)  # (steps, 3, context_length)
        return np.ascontiguousarray(views[begins].transpose(0, 2, 1))


@dataclass(frozen=True)
class Windows:
    """Windows of one or several patients, in order of patient and time.

    Neighbours share all but one of their readings, so windows are places on a timeline; what is selected, joined
    or pickled are the places, and each reading once. Contexts and targets are gathered when they are asked for.

    patient_ids:    (n,) str
    origins:        (n,) datetime64[s], time of the last step of the context
    minute_of_day:  (n,) local minute of the day at the origin, NaN where unknown
    begins:         (n,) int64, the step of the timeline that each context begins with
    """

    patient_ids: np.ndarray
    origins: np.ndarray
    minute_of_day: np.ndarray
    begins: np.ndarray
    timeline: Timeline

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rows: np.ndarray | slice) -> "Windows":
        return Windows(
            self.patient_ids[rows], self.origins[rows], self.minute_of_day[rows], self.begins[rows], self.timeline
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: no gathered copies, and none of the readings that only windows left behind look at.

        Selecting keeps the whole timeline, which costs nothing as it is shared; here it would be copied.
        """
        return dict(vars(self._compact()))

    def of_patient(self, patient_id: str) -> "Windows":
        return self[self.patient_ids == patient_id]

    @cached_property
    def context(self) -> np.ndarray:
        """(n, context_length) mg/dL, short gaps filled, censored to the sensor's range.

        Copies, kept because callers ask in loops. `windows[rows].context` copies those rows and no more.
        """
        return self.timeline.contexts(self.begins)

    @cached_property
    def target(self) -> np.ndarray:
        """(n, prediction_length) mg/dL, NaN where nothing was read; kept as `context` is."""
        return self.timeline.targets(self.begins)

    @cached_property
    def history(self) -> np.ndarray:
        """(n, 4 or 0) statistics of the history up to the origin; kept as `context` is."""
        return self.timeline.histories(self.begins)

    @cached_property
    def events(self) -> np.ndarray:
        """(n, context_length, 3) of forecasting.events.EVENTS within the context, NaN where not recorded, or
        (n, context_length, 0) where nothing is of anybody; kept as `context` is.
        """
        return self.timeline.events_of(self.begins)

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
        line = self.timeline
        for gather, length in ((line.contexts, line.context_length), (line.targets, line.prediction_length)):
            sha.update(repr((len(self), length)).encode())
            for start in range(0, len(self), DIGEST_CHUNK):  # a copy of everything is not needed here
                sha.update(np.ascontiguousarray(gather(self.begins[start : start + DIGEST_CHUNK]), np.float32).data)
        sha.update(repr(self.minute_of_day.shape).encode())
        sha.update(np.ascontiguousarray(self.minute_of_day, np.float32).data)
        sha.update(np.ascontiguousarray(self.history, np.float32).data)  # nothing, without a history
        for start in range(0, len(self) if line.events is not None else 0, DIGEST_CHUNK):  # likewise
            sha.update(line.events_of(self.begins[start : start + DIGEST_CHUNK]).data)
        return sha.hexdigest()

    def _compact(self) -> "Windows":
        """The same windows on a timeline that holds only the steps they look at.

        Every step of a window stays, so its steps remain neighbours in their order.
        """
        line, length = self.timeline, self.timeline.window_length
        looks = np.bincount(self.begins, minlength=len(line.raw) + 1)
        looks -= np.bincount(self.begins + length, minlength=len(line.raw) + 1)
        kept = np.cumsum(looks[:-1]) > 0
        begins = (np.cumsum(kept) - 1)[self.begins]
        return replace(self, begins=begins, timeline=line.only(kept))


def _stretches(values: np.ndarray, begins: np.ndarray, length: int) -> np.ndarray:
    """(steps,) and (n,) places → (n, length), a copy."""
    if not len(begins):
        return np.empty((0, length), values.dtype)
    return sliding_window_view(values, length)[begins]


def concatenate(windows: list[Windows]) -> Windows:
    """Join windows of several patients; at least one must be given, and all of one shape (else ValueError).

    Timelines are put end to end. A window stays where it was cut, so none reaches into its neighbour's.
    """
    lines = [w.timeline for w in windows]
    [(past, ahead)] = {(line.context_length, line.prediction_length) for line in lines}
    starts = np.cumsum([0, *(len(line.raw) for line in lines[:-1])])
    return Windows(
        np.concatenate([w.patient_ids for w in windows]),
        np.concatenate([w.origins for w in windows]),
        np.concatenate([w.minute_of_day for w in windows]),
        np.concatenate([w.begins + start for w, start in zip(windows, starts, strict=True)]),
        Timeline(
            np.concatenate([line.filled for line in lines]),
            np.concatenate([line.raw for line in lines]),
            np.concatenate([line.history for line in lines]),
            past,
            ahead,
            _joined_events(lines),
        ),
    )


def _joined_events(lines: list[Timeline]) -> np.ndarray | None:
    """(steps, 3) of all, NaN for those of whom nothing is recorded; None where that is everybody."""
    if all(line.events is None for line in lines):
        return None
    unknown = np.full((1, len(EVENTS)), np.nan, np.float32)
    return np.concatenate([unknown.repeat(len(line.raw), 0) if line.events is None else line.events for line in lines])


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
    begins = np.flatnonzero(_is_usable(filled, raw, past, ahead))
    origin_steps = first + begins + past - 1
    events = None if series.events is None else series.events.columns[first:end]
    return Windows(
        np.full(len(begins), series.patient_id),
        series.times[origin_steps],
        series.minute_of_day[origin_steps],
        begins,
        Timeline(filled, raw, _history(filled, shape), past, ahead, events),
    )


def statistics_of(glucose_mg_dl: np.ndarray, shape: WindowShape) -> np.ndarray:
    """(n, steps up to the origin) mg/dL, NaN where nothing is known → (n, 4) statistics of their history; (n, 0) for
    shapes without one.
    """
    if not shape.history_length:
        return np.empty((len(glucose_mg_dl), 0), np.float32)
    return history_statistics(glucose_mg_dl, shape.looks_back)


def _history(filled: np.ndarray, shape: WindowShape) -> np.ndarray:
    """(steps,) mg/dL → (steps, 4), or (steps, 0) for shapes without a history. It begins anew with each part."""
    if not shape.history_length:
        return np.empty((len(filled), 0), np.float32)
    return running_statistics(filled, shape.looks_back)


def _is_usable(filled: np.ndarray, raw: np.ndarray, past: int, ahead: int) -> np.ndarray:
    """(steps,) mg/dL, twice → (steps - past - ahead + 1,) bool: whether the window that begins there counts."""
    ends = len(raw) - ahead  # where the target of the last window begins
    missing = _count_before(np.isnan(filled))
    real = _count_before(~np.isnan(raw))
    context_is_complete = missing[past : ends + 1] == missing[: ends - past + 1]
    target_has_a_reading = real[past + ahead :] > real[past : ends + 1]
    return context_is_complete & target_has_a_reading & ~np.isnan(raw[past - 1 : ends])


def _count_before(marks: np.ndarray) -> np.ndarray:
    """(steps,) bool → (steps + 1,) int64: how many are true before each step, and at last in all."""
    return np.concatenate([[0], np.cumsum(marks)])


def cut_all(series: Iterable[GlucoseSeries], shape: WindowShape, part: Part) -> Windows:
    """The windows of one part, patient after patient; none are mixed."""
    found = [cut_windows(one, shape, part) for one in series]
    return concatenate(found) if found else _no_windows(shape)


def thin(windows: Windows, at_most: int | None) -> Windows:
    """So many windows, as evenly spaced as they can be; all of them for None, and where there are no more."""
    if at_most is None or len(windows) <= at_most:
        return windows
    return windows[np.arange(at_most) * len(windows) // at_most]


def distinct(windows: Iterable[Windows]) -> Windows:
    """The windows of several selections of one cohort, each once, in order of patient and time."""
    joined = concatenate(list(windows))
    return joined[np.unique(joined.ids, return_index=True)[1]]


def _no_windows(shape: WindowShape) -> Windows:
    nothing = np.empty(0, np.float32)
    return Windows(
        np.empty(0, dtype=str),
        np.empty(0, dtype="datetime64[s]"),
        nothing,
        np.empty(0, np.int64),
        Timeline(nothing, nothing, _history(nothing, shape), shape.context_length, shape.prediction_length),
    )
