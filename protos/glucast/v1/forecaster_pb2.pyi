import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
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
UNIT_UNSPECIFIED: Unit
MG_DL: Unit
MMOL_L: Unit
OUT_OF_RANGE_UNSPECIFIED: OutOfRange
LOW: OutOfRange
HIGH: OutOfRange

class Reading(_message.Message):
    __slots__ = ("time", "value", "out_of_range")
    TIME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_RANGE_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    value: float
    out_of_range: OutOfRange
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., value: _Optional[float] = ..., out_of_range: _Optional[_Union[OutOfRange, str]] = ...) -> None: ...

class ForecastRequest(_message.Message):
    __slots__ = ("patient_id", "unit", "readings", "utc_offset_minutes", "time_zone", "as_of", "model")
    PATIENT_ID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    UTC_OFFSET_MINUTES_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    patient_id: str
    unit: Unit
    readings: _containers.RepeatedCompositeFieldContainer[Reading]
    utc_offset_minutes: int
    time_zone: str
    as_of: _timestamp_pb2.Timestamp
    model: str
    def __init__(self, patient_id: _Optional[str] = ..., unit: _Optional[_Union[Unit, str]] = ..., readings: _Optional[_Iterable[_Union[Reading, _Mapping]]] = ..., utc_offset_minutes: _Optional[int] = ..., time_zone: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "version", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("model", "origin", "points", "risks", "warnings", "clinical_use")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    RISKS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CLINICAL_USE_FIELD_NUMBER: _ClassVar[int]
    model: ModelVersion
    origin: _timestamp_pb2.Timestamp
    points: _containers.RepeatedCompositeFieldContainer[ForecastPoint]
    risks: _containers.RepeatedCompositeFieldContainer[Risk]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    clinical_use: bool
    def __init__(self, model: _Optional[_Union[ModelVersion, _Mapping]] = ..., origin: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., points: _Optional[_Iterable[_Union[ForecastPoint, _Mapping]]] = ..., risks: _Optional[_Iterable[_Union[Risk, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., clinical_use: _Optional[bool] = ...) -> None: ...
