"""What a service answers in place of a forecast: gRPC statuses with google.rpc details → one error."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from forecasting.errors import GlucastError

DETAILS = "grpc-status-details-bin"  # metadata that carries google.rpc.Status, by the convention of gRPC
REQUEST_ID = "x-request-id"
CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class FieldViolation:
    """Which part of a request cannot be used, such as readings[3].time, and why."""

    field: str
    sentence: str


class ServiceError(GlucastError):
    """What the service answered instead: a status and one sentence.

    violations:    the fields of the request that it is about, where it is about any
    request_id:    by which the service's log knows the call; empty where it said none
    retry_seconds: when to ask again at the earliest; None where asking again does not help
    """

    def __init__(
        self,
        status: grpc.StatusCode,
        sentence: str,
        violations: Sequence[FieldViolation] = (),
        request_id: str = "",
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.violations, self.request_id, self.retry_seconds = tuple(violations), request_id, retry_seconds


def error_from(status: status_pb2.Status, request_id: str = "") -> ServiceError:
    """The error that a google.rpc.Status tells of."""
    bad, hint = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_seconds = None
    for detail in status.details:
        if detail.Unpack(hint):
            retry_seconds = hint.retry_delay.ToMicroseconds() / 1e6
        detail.Unpack(bad)
    violations = [FieldViolation(one.field, one.description) for one in bad.field_violations]
    code = CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return ServiceError(code, status.message, violations, request_id, retry_seconds)


def error_of(call: grpc.RpcError) -> ServiceError:
    """The error that a failed call tells of; one that failed on the way has no details."""
    pairs: Any = call.trailing_metadata()  # of one type from gRPC's blocking half, of another from asyncio's
    metadata = dict(pairs or ())
    status = status_pb2.Status()
    with suppress(DecodeError):  # of another server's making
        status.ParseFromString(metadata.get(DETAILS, b""))
    # the call's own status is the one that counts
    status.code, status.message = call.code().value[0], call.details() or ""
    return error_from(status, str(metadata.get(REQUEST_ID, "")))
