"""What a service answers, as values that do not change, and how each is read from its message.

Names say units. Times are UTC; `Curve` has the numbers of a forecast in columns, in either unit.
"""

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from google.protobuf.timestamp_pb2 import Timestamp

from forecasting.cgm import MG_DL_PER_MMOL_L, Unit
from forecasting.context import Reading
from protos.glucast.v1 import forecaster_pb2 as pb
from services.client.clock import Clock
from services.client.messages import unit_message
from services.client.readings import pandas_for
from services.client.refusals import ServiceError, error_from

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = {"mg/dL": "mg_dl", "mmol/L": "mmol_l"}


@dataclass(frozen=True)
class ModelVersion:
    """Which model answered. digest: sha256 of its manifest; alias: by which it was found, empty for a version."""

    name: str
    version: str
    digest: str
    alias: str = ""

    def __str__(self) -> str:
        return f"{self.name} version {self.version} (digest {self.digest[:12]})"

    @classmethod
    def of(cls, message: pb.ModelVersion) -> Self:
        """Read from its message."""
        return cls(message.name, message.version, message.digest, message.alias)


@dataclass(frozen=True, slots=True)
class Quantile:
    """With probability `level` glucose will not lie above this."""

    level: float
    value_mg_dl: float


@dataclass(frozen=True, slots=True)
class ForecastPoint:
    """One step of a forecast. quantiles: ascending in level and in value."""

    time: dt.datetime
    minutes_ahead: int
    mean_mg_dl: float
    quantiles: tuple[Quantile, ...]

    @classmethod
    def of(cls, message: pb.ForecastPoint) -> Self:
        """Read from its message."""
        quantiles = tuple(Quantile(q.level, q.value_mg_dl) for q in message.quantiles)
        return cls(_instant(message.time), message.minutes_ahead, message.mean_mg_dl, quantiles)


@dataclass(frozen=True, slots=True)
class Risk:
    """Probabilities at one horizon: P(glucose < 70 mg/dL) and P(glucose > 180 mg/dL)."""

    minutes_ahead: int
    below_70: float
    above_180: float


@dataclass(frozen=True)
class Curve:
    """A forecast's numbers in one unit, in columns.

    minutes_ahead, mean: (steps,); quantiles: {level: (steps,)}; mean and quantiles in `unit`
    """

    unit: Unit
    times: tuple[dt.datetime, ...]
    minutes_ahead: tuple[int, ...]
    mean: tuple[float, ...]
    quantiles: Mapping[float, tuple[float, ...]]

    def interval(self, share: float) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Lower and upper edge of the central interval that holds this share; None where the model has none."""
        edges = [round((1 - share) / 2, 6), round((1 + share) / 2, 6)]
        found = [self.quantiles[level] for level in self.quantiles if round(level, 6) in edges]
        return (found[0], found[1]) if len(found) == 2 else None

    def to_frame(self) -> "pd.DataFrame":
        """A row for each step, indexed by time: minutes_ahead, then mean_mg_dl, q0.05_mg_dl, … in the curve's unit."""
        pandas = pandas_for("a frame")
        suffix = SUFFIXES[self.unit]
        columns = {"minutes_ahead": self.minutes_ahead, f"mean_{suffix}": self.mean}
        columns |= {f"q{level:g}_{suffix}": values for level, values in self.quantiles.items()}
        return pandas.DataFrame(columns, index=pandas.DatetimeIndex(self.times, name="time"))


@dataclass(frozen=True)
class Forecast:
    """One person's forecast. A research prototype's: never for dosing (clinical_use is always False).

    origin:      the last reading's time, from which points count; UTC
    warnings:    sentences for whoever reads the forecast
    forecast_id: what to send with `report_outcome`, when the truth is known; empty where nothing would be compared
    readings:    those that were sent with the request, in mg/dL; none where it was a stream's
    """

    patient_id: str
    origin: dt.datetime
    model: ModelVersion
    points: tuple[ForecastPoint, ...]
    risks: tuple[Risk, ...]
    warnings: tuple[str, ...]
    forecast_id: str
    clinical_use: bool = False
    readings: tuple[Reading, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def of(cls, message: pb.ForecastResponse, patient_id: str = "", readings: Sequence[Reading] = ()) -> Self:
        """Read from its message."""
        return cls(
            patient_id,
            _instant(message.origin),
            ModelVersion.of(message.model),
            tuple(map(ForecastPoint.of, message.points)),
            tuple(Risk(r.minutes_ahead, r.below_70, r.above_180) for r in message.risks),
            tuple(message.warnings),
            message.forecast_id,
            message.clinical_use,
            tuple(readings),
        )

    def in_unit(self, unit: Unit) -> Curve:
        """The numbers in mg/dL or mmol/L; 1 mmol/L is 18.0156 mg/dL. Raises InvalidInput for another unit."""
        unit_message(unit)
        divisor = 1.0 if unit == "mg/dL" else MG_DL_PER_MMOL_L
        levels = [quantile.level for quantile in self.points[0].quantiles] if self.points else []
        return Curve(
            unit,
            tuple(point.time for point in self.points),
            tuple(point.minutes_ahead for point in self.points),
            tuple(point.mean_mg_dl / divisor for point in self.points),
            {
                level: tuple(point.quantiles[k].value_mg_dl / divisor for point in self.points)
                for k, level in enumerate(levels)
            },
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row for each step, indexed by time (UTC): minutes_ahead, mean_mg_dl, q0.05_mg_dl, …"""
        return self.in_unit("mg/dL").to_frame()

    def plot(self, path: "str | PathLike[str]", time_zone: str | None = None, unit: Unit = "mg/dL") -> None:
        """Draw the readings and the forecast into a PNG, on the clock of an IANA zone, else on UTC.

        Raises InvalidInput for an unknown zone; InvalidSetting where matplotlib or a place to write is missing.
        """
        from services.picture import draw_forecast  # which knows forecasts, as these need not know pictures

        draw_forecast(Path(path), self, clock=Clock.of(time_zone), unit=unit)


class ReadingUse(StrEnum):
    """What became of a stream's reading; the contract says what each means."""

    NEWEST = "newest"
    LATE = "late"
    CORRECTED = "corrected"
    DUPLICATE = "duplicate"
    TOO_OLD = "too_old"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # of a newer service

    @classmethod
    def of(cls, number: int) -> "ReadingUse":
        """Read from the contract's number."""
        return cls.__members__.get(_name(pb.ReadingUse, number), cls.UNKNOWN)


class AlarmKind(StrEnum):
    """What an alarm says: never advice, only what the readings and the forecast say."""

    LOW_NOW = "low_now"
    HIGH_NOW = "high_now"
    LOW_EXPECTED = "low_expected"
    HIGH_EXPECTED = "high_expected"
    UNKNOWN = "unknown"  # of a newer service

    @classmethod
    def of(cls, number: int) -> "AlarmKind":
        """Read from the contract's number."""
        return cls.__members__.get(_name(pb.AlarmKind, number), cls.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that holds now. minutes_ahead and probability: 0 and 1 for what is so now; is_new: it begins here."""

    kind: AlarmKind
    minutes_ahead: int
    probability: float
    is_new: bool


@dataclass(frozen=True)
class Update:
    """The answer to one reading of a stream: a forecast, or the problem in its place, or neither for a duplicate."""

    time: dt.datetime
    use: ReadingUse
    forecast: Forecast | None
    problem: ServiceError | None
    alarms: tuple[Alarm, ...]

    @classmethod
    def of(cls, message: pb.MonitorResponse, patient_id: str) -> Self:
        """Read from its message."""
        return cls(
            _instant(message.time),
            ReadingUse.of(message.use),
            Forecast.of(message.forecast, patient_id) if message.HasField("forecast") else None,
            error_from(message.problem) if message.HasField("problem") else None,
            tuple(Alarm(AlarmKind.of(a.kind), a.minutes_ahead, a.probability, a.is_new) for a in message.alarms),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on the test part, at one horizon. coverage_90: share of truths in the 90 % interval."""

    minutes_ahead: int
    rmse_mg_dl: float
    mae_mg_dl: float
    coverage_90: float
    patients: int


@dataclass(frozen=True)
class Model:
    """What one model version takes, gives and scored.

    context_minutes:   that it needs, without longer gaps than it fills
    longest_gap_steps: missing readings in a row that it fills
    history_minutes:   before the context; it forecasts better with these readings, and without them too
    inputs:            what it knows beside glucose and time: carbs, insulin
    """

    model: ModelVersion
    aliases: tuple[str, ...]
    backbone: str
    sampling_minutes: int
    context_minutes: int
    horizon_minutes: int
    longest_gap_steps: int
    quantile_levels: tuple[float, ...]
    scores: tuple[Score, ...]
    history_minutes: int
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, message: pb.ModelDescription) -> Self:
        """Read from its message."""
        return cls(
            ModelVersion.of(message.model),
            tuple(message.aliases),
            message.backbone,
            message.sampling_minutes,
            message.context_minutes,
            message.horizon_minutes,
            message.longest_gap_steps,
            tuple(message.quantile_levels),
            tuple(Score(s.minutes_ahead, s.rmse_mg_dl, s.mae_mg_dl, s.coverage_90, s.patients) for s in message.scores),
            message.history_minutes,
            tuple(message.inputs),
        )


def to_json(result: Any, indent: int | None = 2) -> str:
    """A result as JSON, named as in the contract; the readings that were sent are left out."""
    return json.dumps(_plain(result), indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, ServiceError):
        return {"status": value.status.name, "sentence": value.sentence}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__ if name != "readings"}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, dt.datetime) else value


def _instant(stamp: Timestamp) -> dt.datetime:
    return stamp.ToDatetime(tzinfo=dt.UTC)


def _name(numbers: Any, number: int) -> str:
    """The contract's name of a number; empty where it has none."""
    return str(numbers.Name(number)) if number in numbers.values() else ""
