"""Asks a glucast service for forecasts: from Python, or from a terminal (python -m services.client --help).

The README has an example. `AsyncForecastClient` has the same methods, to be awaited. Times are aware, units are said,
every call has a deadline, and what the service refuses is a ServiceError: a status, one sentence, the fields that it is
about.
"""

import os

# What gRPC's core would print by itself, in its own words, errors say in sentences. Read by gRPC at import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from forecasting.context import Reading
from services.client.aio import AsyncForecastClient, AsyncStream
from services.client.blocking import ForecastClient, Stream
from services.client.calls import Outcome, Question
from services.client.credentials import Tls
from services.client.events import Event, events_from_frame
from services.client.readings import in_unit, readings_from_frame
from services.client.refusals import FieldViolation, ServiceError
from services.client.results import (
    Alarm,
    AlarmKind,
    Curve,
    Forecast,
    ForecastPoint,
    Model,
    ModelVersion,
    Quantile,
    ReadingUse,
    Risk,
    Score,
    Update,
)

__all__ = [
    "Alarm",
    "AlarmKind",
    "AsyncForecastClient",
    "AsyncStream",
    "Curve",
    "Event",
    "FieldViolation",
    "Forecast",
    "ForecastClient",
    "ForecastPoint",
    "Model",
    "ModelVersion",
    "Outcome",
    "Quantile",
    "Question",
    "Reading",
    "ReadingUse",
    "Risk",
    "Score",
    "ServiceError",
    "Stream",
    "Tls",
    "Update",
    "events_from_frame",
    "in_unit",
    "readings_from_frame",
]
