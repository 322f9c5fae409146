"""What a caller is told of an error: a status, a sentence, details; and never the text of what nobody foresaw."""

import logging
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from forecasting.errors import (
    GlucastError,
    InsufficientData,
    IntegrityError,
    InvalidInput,
    InvalidSetting,
    NotFound,
    Overloaded,
    RegistryUnavailable,
    TooLate,
)
from services.logs import without_text
from services.tokens import PermissionDenied, Unauthenticated


class Stopping(GlucastError):
    """The service is stopping; the caller goes on with another."""


STATUS = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidSetting: grpc.StatusCode.INTERNAL,  # of this service: no caller can have caused it
    InsufficientData: grpc.StatusCode.FAILED_PRECONDITION,
    NotFound: grpc.StatusCode.NOT_FOUND,
    IntegrityError: grpc.StatusCode.DATA_LOSS,
    RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    Stopping: grpc.StatusCode.UNAVAILABLE,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
}
NO_REGISTRY = "the model registry does not answer and this model is not loaded; try again later"
LONGEST = 800  # bytes of a sentence: it goes twice into 8 kB of metadata, which write some bytes as three
NOT_HERE = "this service does not have this method"

_log = logging.getLogger("glucast.serving")


def status_of(error: Exception) -> status_pb2.Status:
    """What a caller is told of an error: code, sentence, details. An unforeseen one is logged and told by its id."""
    code = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), grpc.StatusCode.INTERNAL)
    if isinstance(error, NotImplementedError):  # what the generated servicers raise
        return status_pb2.Status(code=grpc.StatusCode.UNIMPLEMENTED.value[0], message=NOT_HERE)
    if code is grpc.StatusCode.INTERNAL:
        return status_pb2.Status(code=code.value[0], message=_log_internal(error))
    if isinstance(error, RegistryUnavailable):  # the sentence says where the registry is
        _log.warning("unavailable: %s", error)
        return status_pb2.Status(code=code.value[0], message=NO_REGISTRY)
    sentence = _short(str(error))
    status = status_pb2.Status(code=code.value[0], message=sentence)
    if isinstance(error, InvalidInput) and error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_short(error.field), description=sentence)
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromMicroseconds(int(error.retry_seconds * 1e6))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _short(sentence: str) -> str:
    """What fits into metadata, where a status travels: sentences quote what was sent."""
    content = sentence.encode(errors="replace")
    return sentence if len(content) <= LONGEST else content[:LONGEST].decode(errors="ignore") + "…"


def _log_internal(error: Exception) -> str:
    """Log where an unforeseen error came from; what the caller is told. Its text may quote readings: left out."""
    reference = uuid.uuid4().hex[:12]
    _log.error("internal error %s: %s", reference, without_text(error))
    return f"internal error {reference}; the service's log says more under this id"
