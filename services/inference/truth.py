"""Live accuracy: what was forecast beside what really came, by model version and horizon.

The truth of a horizon is the real reading nearest to it, within half a sampling step. Everything is bounded, and
nothing is written down: after a restart an outcome that is reported again counts again.
"""

from collections import OrderedDict, deque
from functools import lru_cache, partial

import numpy as np

from forecasting.cgm import LOW_MG_DL, SENSOR_MG_DL
from services.inference.forecast_ids import Claim, Record
from services.inference.telemetry import Telemetry

COUNTED = 100_000  # forecasts and horizons that are remembered, so that none counts twice: about 10 MB
SHADOWS = 50_000  # forecasts whose shadow waits for the truth
SERIES = 1024  # model versions and horizons whose series are kept at hand
PENDING = 64  # forecasts of one stream that wait for the truth
RECENT = 64  # its last readings, among which that is looked for


class LiveAccuracy:
    """Compares records with readings and feeds the telemetry. Used from one event loop."""

    def __init__(self, telemetry: Telemetry, alarm_low: float) -> None:
        """alarm_low: the P(< 70 mg/dL) from which a forecast counts as an alarm."""
        self._alarm_low = alarm_low
        self._counted = Once(COUNTED)
        self._shadows: OrderedDict[bytes, Record] = OrderedDict()
        self._series = lru_cache(SERIES)(partial(_Series, telemetry))
        self._shadow_abs_error = lru_cache(2 * SERIES)(telemetry.shadow_abs_error.labels)

    def compare(self, record: Record, seconds: np.ndarray, glucose_mg_dl: np.ndarray) -> tuple[int, ...]:
        """Compare with real readings; the horizons in minutes that were compared now, each once.

        seconds: (n,) int64 since 1970 UTC; glucose_mg_dl: (n,), values beyond a sensor's range count as its edge
        """
        compared = []
        for claim in record.claims:
            truth = truth_of(record, claim, seconds, glucose_mg_dl)
            if truth is not None and self.count(record, claim, truth):
                compared.append(claim.minutes_ahead)
        return tuple(compared)

    def count(self, record: Record, claim: Claim, truth: float) -> bool:
        """Count what really came at one horizon, in mg/dL; False where it was counted before."""
        if not self._counted.is_new(record.key + claim.minutes_ahead.to_bytes(2, "little")):
            return False
        series = self._series(record.model, record.version, claim.minutes_ahead)
        series.add(claim, truth, self._alarm_low)
        series.add_persistence(record.last_mg_dl, truth)
        self._count_shadow(record, claim, truth)
        return True

    def remember_shadow(self, key: bytes, challenger: Record) -> None:
        """Keep what the challenger said beside the forecast whose record has this key; the oldest give way."""
        self._shadows[key] = challenger
        if len(self._shadows) > SHADOWS:
            self._shadows.popitem(last=False)

    def _count_shadow(self, record: Record, claim: Claim, truth: float) -> None:
        """Both errors on the same truth, so that their means can be compared."""
        shadow = self._shadows.get(record.key)
        if shadow is None:
            return
        for said in shadow.claims:
            if said.minutes_ahead == claim.minutes_ahead:
                self._observe_shadow(record, claim, "champion", truth)
                self._observe_shadow(shadow, said, "challenger", truth)

    def _observe_shadow(self, record: Record, claim: Claim, role: str, truth: float) -> None:
        series = self._shadow_abs_error(record.model, record.version, role, claim.minutes_ahead)
        series.observe(abs(float(claim.mean) - truth))


class Pending:
    """The forecasts of one stream that wait for their truth, at most 64 of them."""

    def __init__(self, accuracy: LiveAccuracy) -> None:
        self._accuracy = accuracy
        self._waiting: OrderedDict[bytes, tuple[Record, list[Claim]]] = OrderedDict()
        self._seconds, self._glucose = np.empty(0, np.int64), np.empty(0)  # (RECENT,) in the order they came
        self._newest = 0

    def __len__(self) -> int:
        """How many forecasts wait."""
        return len(self._waiting)

    def add(self, record: Record) -> None:
        """Let a forecast wait; where too many do, the oldest no longer does."""
        self._waiting[record.key] = record, list(record.claims)
        if len(self._waiting) > PENDING:
            self._waiting.popitem(last=False)

    def due(self, seconds: np.ndarray, glucose_mg_dl: np.ndarray) -> None:
        """Take readings of the stream, compare what they are the truth of, let go of what waits no longer.

        seconds: (n,) int64 since 1970 UTC; glucose_mg_dl: (n,). A horizon is compared when a reading at or after it
        has come: a nearer one can then only be late. One that has none waits for a late one until the newest reading
        is more than a step past the forecast's last horizon.
        """
        self._take(seconds, glucose_mg_dl)
        for record, claims in list(self._waiting.values()):
            claims[:] = [claim for claim in claims if not self._is_settled(record, claim)]
            if not claims or self._newest > _end(record):
                del self._waiting[record.key]

    def _take(self, seconds: np.ndarray, glucose_mg_dl: np.ndarray) -> None:
        self._seconds = np.concatenate([self._seconds, seconds])[-RECENT:]
        self._glucose = np.concatenate([self._glucose, glucose_mg_dl])[-RECENT:]
        self._newest = max(self._newest, int(seconds.max(initial=0)))

    def _is_settled(self, record: Record, claim: Claim) -> bool:
        if self._newest < _moment(record, claim):
            return False
        truth = truth_of(record, claim, self._seconds, self._glucose)
        if truth is not None:
            self._accuracy.count(record, claim, truth)
        return truth is not None


def truth_of(record: Record, claim: Claim, seconds: np.ndarray, glucose_mg_dl: np.ndarray) -> float | None:
    """The reading nearest to a horizon, within half a step and brought into the sensor's range; None: there is none.

    seconds: (n,) since 1970 UTC; glucose_mg_dl: (n,). Of two equally near the later entry wins, so that a corrected
    value may follow the one that it replaces.
    """
    if not len(seconds):
        return None
    apart = np.abs(seconds - _moment(record, claim))
    nearest = len(apart) - 1 - int(apart[::-1].argmin())
    if 2 * apart[nearest] > 60 * record.sampling_minutes:
        return None
    return min(max(float(glucose_mg_dl[nearest]), SENSOR_MG_DL[0]), SENSOR_MG_DL[1])


def _moment(record: Record, claim: Claim) -> int:
    return record.origin + 60 * claim.minutes_ahead


def _end(record: Record) -> int:
    """When a record is given up: one step after its last horizon."""
    return max(_moment(record, claim) for claim in record.claims) + 60 * record.sampling_minutes


class Once:
    """Remembers the last `size` keys."""

    def __init__(self, size: int) -> None:
        self._keys: set[bytes] = set()
        self._order: deque[bytes] = deque()
        self._size = size

    def is_new(self, key: bytes) -> bool:
        """Was this key not seen among the last ones? It is remembered from now on."""
        if key in self._keys:
            return False
        if len(self._order) == self._size:
            self._keys.remove(self._order.popleft())
        self._keys.add(key)
        self._order.append(key)
        return True


class _Series:
    """The series of one model version at one horizon; all begin with its first truth, so that rates see zeros."""

    def __init__(self, telemetry: Telemetry, name: str, version: str, horizon: int) -> None:
        labels = name, version, str(horizon)
        self.outcomes, self.inside = telemetry.outcomes.labels(*labels), telemetry.inside.labels(*labels)
        self.abs_error = telemetry.abs_error.labels(*labels)
        self.persistence_abs_error = telemetry.persistence_abs_error.labels(*labels)
        self.over, self.under = telemetry.over.labels(*labels), telemetry.under.labels(*labels)
        self.lows, self.lows_missed = telemetry.lows.labels(*labels), telemetry.lows_missed.labels(*labels)
        self.low_alarms = telemetry.low_alarms.labels(*labels)
        self.low_alarms_false = telemetry.low_alarms_false.labels(*labels)

    def add(self, claim: Claim, truth: float, alarm_low: float) -> None:
        """Count one forecast beside its truth in mg/dL."""
        error = float(claim.mean) - truth
        self.outcomes.inc()
        self.abs_error.observe(abs(error))
        (self.over if error > 0 else self.under).inc(abs(error))
        if claim.low <= truth <= claim.high:
            self.inside.inc()
        self._add_low(round(truth) < LOW_MG_DL, claim.below_70 >= alarm_low)  # rounded: it may come from mmol/L

    def add_persistence(self, last_mg_dl: float, truth: float) -> None:
        """Count the forecast that costs nothing, the last reading, beside the same truth."""
        self.persistence_abs_error.inc(abs(float(last_mg_dl) - truth))

    def _add_low(self, is_low: bool, is_alarm: bool) -> None:
        if is_low:
            self.lows.inc()
            if not is_alarm:
                self.lows_missed.inc()
        if is_alarm:
            self.low_alarms.inc()
            if not is_low:
                self.low_alarms_false.inc()
