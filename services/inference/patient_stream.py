"""The readings of one person that a stream keeps: in order, without doubles, bounded."""

from array import array
from bisect import bisect_left
from enum import Enum

import numpy as np

from forecasting.context import Readings

KEPT_SECONDS = 48 * 3600  # before the newest; no context is longer
KEPT_AT_MOST = 1024  # readings


class Use(Enum):
    """What became of a reading."""

    NEWEST = "newest"  # the newest of all
    LATE = "late"  # older than the newest, put into its place
    CORRECTED = "corrected"  # another value for a time that was there, which it replaced
    DUPLICATE = "duplicate"  # there already
    TOO_OLD = "too old"  # before everything that is kept; not used


class PatientStream:
    """Keeps the last readings: none more than two days older than the newest, and 1,024 at most.

    Times of the future are refused by whoever calls: one reading far ahead would push out all the others.
    """

    def __init__(self) -> None:
        # arrays, not lists: 17 bytes a reading in thousands of streams, and columns for numpy at the cost of a copy
        self._seconds, self._values, self._limits = array("q"), array("d"), array("b")

    def add(self, seconds: int, value: float, limit: int) -> Use:
        """Put a reading into its place; of two for one second the later entry wins.

        seconds: since 1970 UTC; value: in the stream's unit, ignored where limit is -1 Low or 1 High instead of 0
        """
        value = 0.0 if limit else value
        place = bisect_left(self._seconds, seconds)
        if place < len(self._seconds) and self._seconds[place] == seconds:
            return self._correct(place, value, limit)
        is_newest = place == len(self._seconds)
        if not is_newest and self._is_too_old(seconds, place):
            return Use.TOO_OLD
        self._seconds.insert(place, seconds)
        self._values.insert(place, value)
        self._limits.insert(place, limit)
        self._drop_oldest()
        return Use.NEWEST if is_newest else Use.LATE

    def readings(self) -> Readings:
        """All that is kept, oldest first: a copy, which later readings do not change."""
        limits = np.array(self._limits, np.int8)
        return Readings(
            np.array(self._seconds, np.int64), np.array(self._values, np.float64), limits if limits.any() else None
        )

    def _correct(self, place: int, value: float, limit: int) -> Use:
        if (self._values[place], self._limits[place]) == (value, limit):
            return Use.DUPLICATE
        self._values[place], self._limits[place] = value, limit
        return Use.CORRECTED

    def _is_too_old(self, seconds: int, place: int) -> bool:
        return seconds < self._seconds[-1] - KEPT_SECONDS or (place == 0 and len(self._seconds) == KEPT_AT_MOST)

    def _drop_oldest(self) -> None:
        outdated = bisect_left(self._seconds, self._seconds[-1] - KEPT_SECONDS)
        first = max(outdated, len(self._seconds) - KEPT_AT_MOST)
        if first:
            del self._seconds[:first], self._values[:first], self._limits[:first]
