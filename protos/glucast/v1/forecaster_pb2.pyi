import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Unit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNIT_UNSPECIFIED: _ClassVar[Unit]
    MG_DL: _ClassVar[Unit]
    MMOL_L: _ClassVar[Unit]

class OutOfRange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUT_OF_RANGE_UNSPECIFIED: _ClassVar[OutOfRange]
    LOW: _ClassVar[OutOfRange]
    HIGH: _ClassVar[OutOfRange]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    INTERACTIVE: _ClassVar[Priority]
    BULK: _ClassVar[Priority]

class ReadingUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READING_USE_UNSPECIFIED: _ClassVar[ReadingUse]
    NEWEST: _ClassVar[ReadingUse]
    LATE: _ClassVar[ReadingUse]
    CORRECTED: _ClassVar[ReadingUse]
    DUPLICATE: _ClassVar[ReadingUse]
    TOO_OLD: _ClassVar[ReadingUse]
    REFUSED: _ClassVar[ReadingUse]

class AlarmKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALARM_KIND_UNSPECIFIED: _ClassVar[AlarmKind]
    LOW_NOW: _ClassVar[AlarmKind]
    HIGH_NOW: _ClassVar[AlarmKind]
    LOW_EXPECTED: _ClassVar[AlarmKind]
    HIGH_EXPECTED: _ClassVar[AlarmKind]
UNIT_UNSPECIFIED: Unit
MG_DL: Unit
MMOL_L: Unit
OUT_OF_RANGE_UNSPECIFIED: OutOfRange
LOW: OutOfRange
HIGH: OutOfRange
PRIORITY_UNSPECIFIED: Priority
INTERACTIVE: Priority
BULK: Priority
READING_USE_UNSPECIFIED: ReadingUse
NEWEST: ReadingUse
LATE: ReadingUse
CORRECTED: ReadingUse
DUPLICATE: ReadingUse
TOO_OLD: ReadingUse
REFUSED: ReadingUse
ALARM_KIND_UNSPECIFIED: AlarmKind
LOW_NOW: AlarmKind
HIGH_NOW: AlarmKind
LOW_EXPECTED: AlarmKind
HIGH_EXPECTED: AlarmKind

class Reading(_message.Message):
    __slots__ = ("time", "value", "out_of_range")
    TIME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    value: float
    out_of_range: OutOfRange
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., value: _Optional[float] = ..., out_of_range: _Optional[_Union[OutOfRange, str]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("time", "carbs_g", "bolus_units", "basal_units_h")
    TIME_FIELD_NUMBER: _ClassVar[int]
    CARBS_G_FIELD_NUMBER: _ClassVar[int]
    BOLUS_UNITS_FIELD_NUMBER: _ClassVar[int]
    BASAL_UNITS_H_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    carbs_g: float
    bolus_units: float
    basal_units_h: float
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., carbs_g: _Optional[float] = ..., bolus_units: _Optional[float] = ..., basal_units_h: _Optional[float] = ...) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("patient_id", "unit", "readings", "utc_offset_minutes", "time_zone", "as_of", "model", "priority", "events")
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    UTC_OFFSET_MINUTES_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    patient_id: str
    unit: Unit
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    utc_offset_minutes: int
    time_zone: str
    as_of: _timestamp_pb2.Timestamp
    model: str
    priority: Priority
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, patient_id: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., utc_offset_minutes: _Optional[int] = ..., time_zone: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "digest", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    digest: str
    alias: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

class Quantile(_message.Message):
    __slots__ = ("level", "value_mg_dl")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_MG_DL_FIELD_NUMBER: _ClassVar[int]
    level: float
    value_mg_dl: float
    def __init__(self, level: _Optional[float] = ..., value_mg_dl: _Optional[float] = ...) -> None: ...

class ForecastPoint(_message.Message):
    __slots__ = ("time", "minutes_ahead", "mean_mg_dl", "quantiles")
    TIME_FIELD_NUMBER: _ClassVar[int]
    MINUTES_AHEAD_FIELD_NUMBER: _ClassVar[int]
    MEAN_MG_DL_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    minutes_ahead: int
    mean_mg_dl: float
    quantiles: _containers.RepeatedCompositeFieldContainer[Quantile]
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., minutes_ahead: _Optional[int] = ..., mean_mg_dl: _Optional[float] = ..., quantiles: _Optional[_Iterable[_Union[Quantile, _Mapping]]] = ...) -> None: ...

class Risk(_message.Message):
    __slots__ = ("minutes_ahead", "below_70", "above_180")
    MINUTES_AHEAD_FIELD_NUMBER: _ClassVar[int]
    BELOW_70_FIELD_NUMBER: _ClassVar[int]
    ABOVE_180_FIELD_NUMBER: _ClassVar[int]
    minutes_ahead: int
    below_70: float
    above_180: float
    def __init__(self, minutes_ahead: _Optional[int] = ..., below_70: _Optional[float] = ..., above_180: _Optional[float] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("model", "origin", "points", "risks", "warnings", "clinical_use", "forecast_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    RISKS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CLINICAL_USE_FIELD_NUMBER: _ClassVar[int]
    FORECAST_ID_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    origin: _timestamp_pb2.Timestamp
    points: _containers.RepeatedCompositeFieldContainer[ForecastPoint]
    risks: _containers.RepeatedCompositeFieldContainer[Risk]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    clinical_use: bool
    forecast_id: str
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., origin: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., points: _Optional[_Iterable[_Union[ForecastPoint, _Mapping]]] = ..., risks: _Optional[_Iterable[_Union[Risk, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., clinical_use: _Optional[bool] = ..., forecast_id: _Optional[str] = ...) -> None: ...

class ForecastBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ForecastRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ForecastRequest, _Mapping]]] = ...) -> None: ...

class ForecastBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ForecastResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ForecastResult, _Mapping]]] = ...) -> None: ...

class ForecastResult(_message.Message):
    __slots__ = ("forecast", "problem")
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    forecast: ForecastResponse
    problem: _status_pb2.Status
    def __init__(self, forecast: _Optional[_Union[ForecastResponse, _Mapping]] = ..., problem: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class MonitorRequest(_message.Message):
    __slots__ = ("start", "reading")
    START_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    start: MonitorStart
    reading: Reading
    def __init__(self, start: _Optional[_Union[MonitorStart, _Mapping]] = ..., reading: _Optional[_Union[Reading, _Mapping]] = ...) -> None: ...

class MonitorStart(_message.Message):
    __slots__ = ("patient_id", "unit", "utc_offset_minutes", "time_zone", "model", "history", "forecast_ids")
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    UTC_OFFSET_MINUTES_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    FORECAST_IDS_FIELD_NUMBER: _ClassVar[int]
    patient_id: str
    unit: Unit
    utc_offset_minutes: int
    time_zone: str
    model: str
    history: _containers.RepeatedCompositeFieldContainer[Reading]
    forecast_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, patient_id: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., utc_offset_minutes: _Optional[int] = ..., time_zone: _Optional[str] = ..., model: _Optional[str] = ..., history: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., forecast_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class MonitorResponse(_message.Message):
    __slots__ = ("time", "use", "forecast", "problem", "alarms")
    TIME_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    use: ReadingUse
    forecast: ForecastResponse
    problem: _status_pb2.Status
    alarms: _containers.RepeatedCompositeFieldContainer[Alarm]
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., use: _Optional[_Union[ReadingUse, str]] = ..., forecast: _Optional[_Union[ForecastResponse, _Mapping]] = ..., problem: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., alarms: _Optional[_Iterable[_Union[Alarm, _Mapping]]] = ...) -> None: ...

class Alarm(_message.Message):
    __slots__ = ("kind", "minutes_ahead", "probability", "is_new")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MINUTES_AHEAD_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    IS_NEW_FIELD_NUMBER: _ClassVar[int]
    kind: AlarmKind
    minutes_ahead: int
    probability: float
    is_new: bool
    def __init__(self, kind: _Optional[_Union[AlarmKind, str]] = ..., minutes_ahead: _Optional[int] = ..., probability: _Optional[float] = ..., is_new: _Optional[bool] = ...) -> None: ...

class ReportOutcomeRequest(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("forecast_id", "unit", "readings")
    FORECAST_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    forecast_id: str
    unit: Unit
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    def __init__(self, forecast_id: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ...) -> None: ...

class ReportOutcomeResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[OutcomeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[OutcomeResult, _Mapping]]] = ...) -> None: ...

class OutcomeResult(_message.Message):
    __slots__ = ("minutes_ahead", "problem")
    MINUTES_AHEAD_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    minutes_ahead: _containers.RepeatedScalarFieldContainer[int]
    problem: _status_pb2.Status
    def __init__(self, minutes_ahead: _Optional[_Iterable[int]] = ..., problem: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("patient_id",)
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    patient_id: str
    def __init__(self, patient_id: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelDescription]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelDescription, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ModelDescription(_message.Message):
    __slots__ = ("model", "aliases", "backbone", "sampling_minutes", "context_minutes", "horizon_minutes", "longest_gap_steps", "quantile_levels", "scores", "history_minutes", "inputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_MINUTES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_MINUTES_FIELD_NUMBER: _ClassVar[int]
    HORIZON_MINUTES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_GAP_STEPS_FIELD_NUMBER: _ClassVar[int]
    QUANTILE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_MINUTES_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    aliases: _containers.RepeatedScalarFieldContainer[str]
    backbone: str
    sampling_minutes: int
    context_minutes: int
    horizon_minutes: int
    longest_gap_steps: int
    quantile_levels: _containers.RepeatedScalarFieldContainer[float]
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    history_minutes: int
    inputs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., aliases: _Optional[_Iterable[str]] = ..., backbone: _Optional[str] = ..., sampling_minutes: _Optional[int] = ..., context_minutes: _Optional[int] = ..., horizon_minutes: _Optional[int] = ..., longest_gap_steps: _Optional[int] = ..., quantile_levels: _Optional[_Iterable[float]] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., history_minutes: _Optional[int] = ..., inputs: _Optional[_Iterable[str]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("minutes_ahead", "rmse_mg_dl", "mae_mg_dl", "coverage_90", "patients")
    MINUTES_AHEAD_FIELD_NUMBER: _ClassVar[int]
    RMSE_MG_DL_FIELD_NUMBER: _ClassVar[int]
    MAE_MG_DL_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_90_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    minutes_ahead: int
    rmse_mg_dl: float
    mae_mg_dl: float
    coverage_90: float
    patients: int
    def __init__(self, minutes_ahead: _Optional[int] = ..., rmse_mg_dl: _Optional[float] = ..., mae_mg_dl: _Optional[float] = ..., coverage_90: _Optional[float] = ..., patients: _Optional[int] = ...) -> None: ...
