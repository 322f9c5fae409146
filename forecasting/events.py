"""Carbohydrates and insulin: their limits, the grid they share with glucose, and how a network sees them.

Everything here is of the past, and unknown is not zero: NaN is not recorded, 0 is recorded that there was none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from forecasting.errors import InvalidReadings

Input = Literal["carbs", "insulin"]
INPUTS: tuple[Input, ...] = get_args(Input)
EVENTS = ("carbs_g", "bolus_units", "basal_units_h")  # in the order of every (…, 3) array of events
AT_MOST = {"carbs_g": (500.0, "g"), "bolus_units": (100.0, "U"), "basal_units_h": (50.0, "U/h")}
COLUMNS: dict[Input, tuple[str, ...]] = {"carbs": ("carbs_g",), "insulin": ("bolus_units", "basal_units_h")}
WORDS: dict[Input, str] = {"carbs": "carbohydrates", "insulin": "insulin"}
ONE = {"carbs_g": 50.0, "bolus_units": 5.0, "basal_units_h": 1.0}  # what counts as one unit in a channel
RATE_HOLDS_SECONDS = 24 * 3600  # an older basal rate says nothing of now
# Minutes after which a network sees 1/e of an amount; of single amounts it learned less (docs/accuracy.md)
FADES_MINUTES = {"carbs_g": 60.0, "bolus_units": 90.0}


@dataclass(frozen=True)
class EventRows:
    """Events as they were recorded, in any order.

    times:  (n,) datetime64[s]
    values: (n, 3) float64 of EVENTS (amounts at once in g and U, the rate from then on in U/h), NaN where not recorded
    """

    times: np.ndarray
    values: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "EventRows":
        return EventRows(self.times[rows], self.values[rows])


@dataclass(frozen=True)
class Events:
    """One patient's events on the grid of their glucose, (steps,) float32 each, NaN where nothing was recorded.

    carbs_g, bolus_units: what came within each step, in g and U; basal_units_h: the rate at it, in U/h
    """

    carbs_g: np.ndarray
    bolus_units: np.ndarray
    basal_units_h: np.ndarray

    @classmethod
    def on_grid(cls, values: np.ndarray) -> "Events | None":
        """From (steps, 3) of EVENTS; None where nothing was recorded at all."""
        return None if np.isnan(values).all() else cls(*values.T.astype(np.float32))

    @property
    def columns(self) -> np.ndarray:
        """(steps, 3) float32 of EVENTS."""
        return np.stack([self.carbs_g, self.bolus_units, self.basal_units_h], axis=1)


def nothing_recorded(count: int) -> EventRows:
    """That many rows without a value, all at the beginning of 1970."""
    return EventRows(np.zeros(count, "datetime64[s]"), np.full((count, len(EVENTS)), np.nan))


def check_events(values: np.ndarray) -> None:
    """Refuse amounts that nobody takes (InvalidReadings). values: (…, 3) of EVENTS, NaN passes."""
    for column, name in enumerate(EVENTS):
        most, unit = AT_MOST[name]
        one = values[..., column]
        wrong = one[(one < 0) | (one > most)]
        if len(wrong):
            raise InvalidReadings(
                f"{name} is {wrong[0]:g} in {len(wrong)} of {one.size} places; 0 to {most:g} {unit} is allowed, and "
                "what was not recorded is left out",
                name,
            )


def check_event(name: str, amount: float) -> None:
    """Refuse one amount that nobody takes, or that is no number (InvalidReadings)."""
    most, unit = AT_MOST[name]
    if not 0 <= amount <= most:
        raise InvalidReadings(f"{name} is {amount:g}; 0 to {most:g} {unit} is allowed", name)


def place_events(rows: EventRows, times: np.ndarray, steps: np.ndarray, sampling_minutes: int) -> np.ndarray:
    """(steps up to the last, 3) float32 of EVENTS: amounts are added up, of several rates in a step the last counts.

    times, steps: (n,) of the readings, ascending, and where the grid has them. An event belongs to the first step that
    is not before it, counted back from the next reading, and never to a reading before it: none is seen too early.
    Events before the first and after the last reading are nobody's past.
    """
    following = np.searchsorted(times, rows.times)
    reached = following < len(times)
    rows, following = rows[reached], following[reached]
    seconds = (times[following] - rows.times).astype("timedelta64[s]").astype(np.int64)
    latest = steps[following]
    after_previous = np.where(following > 0, np.minimum(steps[following - 1] + 1, latest), np.iinfo(np.int64).min)
    places = np.maximum(latest - seconds // (60 * sampling_minutes), after_previous)
    on_grid = places >= 0
    order = np.argsort(rows.times[on_grid], kind="stable")
    return _laid_out(rows.values[on_grid][order], places[on_grid][order], int(steps[-1]) + 1)


def events_before(rows: EventRows, origin: int, length: int, sampling_minutes: int) -> tuple[np.ndarray, int]:
    """((length, 3) float32 of EVENTS in the steps that end at `origin`, how many came after it and were left out).

    origin: seconds since 1970. As `place_events` with one reading at the origin; besides, each kind counts as recorded
    from its first event on: none where nothing was sent, and a rate until the next one, for a day at most.
    """
    seconds = rows.times.astype("datetime64[s]").astype(np.int64)
    order = np.argsort(seconds, kind="stable")
    order = order[seconds[order] <= origin]
    ago, values = origin - seconds[order], rows.values[order]
    places = length - 1 - ago // (60 * sampling_minutes)
    grid = _laid_out(values[places >= 0], places[places >= 0], length)
    for column, name in enumerate(EVENTS):
        own = ~np.isnan(values[:, column])
        if name != "basal_units_h" and own.any():
            recorded = grid[max(int(places[own][0]), 0) :, column]
            recorded[np.isnan(recorded)] = 0
        elif own.any():
            earlier = values[own & (places < 0) & (ago <= RATE_HOLDS_SECONDS), column]
            grid[:, column] = _held(grid[:, column], earlier[-1] if len(earlier) else np.nan)
    return grid, len(seconds) - len(order)


def _held(rates: np.ndarray, before: float) -> np.ndarray:
    """(n,) U/h, NaN where no rate begins → (n,) the rate that holds, `before` until the first."""
    latest = np.maximum.accumulate(np.where(np.isnan(rates), -1, np.arange(len(rates))))
    return np.where(latest >= 0, rates[latest], before)


def _laid_out(values: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """(n, 3) in order of time and the step of each → (size, 3) float32."""
    grid = np.full((size, len(EVENTS)), np.nan, np.float32)
    for column, name in enumerate(EVENTS):
        known = ~np.isnan(values[:, column])
        own, at = values[known, column], places[known]
        if name == "basal_units_h":
            grid[at, column] = own  # numpy keeps the last of repeated indices
        else:
            grid[at, column] = np.bincount(at, own, size)[at]
    return grid


def event_channels(inputs: Iterable[Input]) -> tuple[str, ...]:
    """Names of the channels that a network has for these inputs: each amount, and whether it is known."""
    return tuple(name for column in columns_of(inputs) for name in (column, f"{column}_known"))


def events_known(events: np.ndarray, inputs: Iterable[Input]) -> bool:
    """Is anything recorded of these inputs? events: (…, 3)"""
    return any(not np.isnan(events[..., EVENTS.index(name)]).all() for name in columns_of(inputs))


def unrecorded(events: np.ndarray | None, inputs: Iterable[Input]) -> str:
    """What of these inputs nothing is recorded, in words; empty where something is of each. events: (…, 3)"""
    return " and ".join(WORDS[one] for one in inputs if events is None or not events_known(events, (one,)))


def encode_events(events: np.ndarray, inputs: Iterable[Input], sampling_minutes: int) -> np.ndarray:
    """(n, context_length, 3) of EVENTS → (n, context_length, channels) float32, those of `event_channels`.

    Carbohydrates and boluses as what is left of them at each step, rates as they are, in units of about one; what is
    not known counts 0 with 0 for known.
    """
    columns = columns_of(inputs)
    x = np.empty((*events.shape[:2], 2 * len(columns)), np.float32)
    for k, name in enumerate(columns):
        values = events[..., EVENTS.index(name)]
        known = ~np.isnan(values)
        amounts = np.where(known, values, 0) / np.float32(ONE[name])
        x[..., 2 * k] = amounts @ _fading(events.shape[1], sampling_minutes, name) if name in FADES_MINUTES else amounts
        x[..., 2 * k + 1] = known
    return x


@lru_cache
def _fading(length: int, sampling_minutes: int, name: str) -> np.ndarray:
    """(length, length) float32: how much of an amount at step i is left at step j; 0 before it came."""
    steps = np.arange(length)[None] - np.arange(length)[:, None]
    left = np.exp(-np.maximum(steps, 0) * sampling_minutes / FADES_MINUTES[name])
    return np.where(steps >= 0, left, 0).astype(np.float32)


def columns_of(inputs: Iterable[Input]) -> tuple[str, ...]:
    """The columns of EVENTS that inputs are made of, in one order however they are given."""
    asked = set(inputs)
    return tuple(name for one in INPUTS if one in asked for name in COLUMNS[one])
