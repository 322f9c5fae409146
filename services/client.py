"""The small client: a class for programs, a command line for people (python -m services.client forecast --help)."""

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

import grpc
import numpy as np
import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from forecasting.cgm import MG_DL_PER_MMOL_L, GlucoseSeries, Unit
from forecasting.context import Reading, utc_offset_in
from forecasting.errors import GlucastError, InvalidInput, NotFound
from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.picture import draw_forecast
from services.table import print_forecast

# Of a call that a service which stops, or starts, did not take: asking again does no harm. The waits add up to 4 s.
RETRY = {"maxAttempts": 5, "initialBackoff": "0.25s", "maxBackoff": "2s", "backoffMultiplier": 2}
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": pb.DESCRIPTOR.services_by_name["Forecaster"].full_name}],
            "retryPolicy": RETRY | {"retryableStatusCodes": ["UNAVAILABLE"]},
        }
    ]
}
OPTIONS = (("grpc.service_config", json.dumps(SERVICE_CONFIG)), ("grpc.initial_reconnect_backoff_ms", 200))
UNITS = {"mg/dL": pb.MG_DL, "mmol/L": pb.MMOL_L}
LIMITS = {"low": pb.LOW, "high": pb.HIGH}


class ServiceError(GlucastError):
    """What the service answered instead of a forecast: a status and one sentence."""

    def __init__(self, status: grpc.StatusCode, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class ForecastClient:
    """Asks a forecaster at an address (host:port). A context manager; every call has a deadline.

    Within it, what a service did not take is asked again: a service that is replaced costs its callers time alone.
    """

    def __init__(self, address: str, deadline_seconds: float = 5.0) -> None:
        self.address = address
        self._deadline = deadline_seconds
        self._channel = grpc.insecure_channel(address, OPTIONS)
        self._stub = forecaster_pb2_grpc.ForecasterStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def forecast(
        self,
        patient_id: str,
        readings: Sequence[Reading],
        unit: Unit,
        utc_offset_minutes: int | None = None,
        time_zone: str | None = None,
        as_of: dt.datetime | None = None,
        model: str | None = None,
    ) -> pb.ForecastResponse:
        """Forecast from readings, oldest first, values in `unit`; the answer is in mg/dL.

        Raises InvalidInput for an offset beside a zone; ServiceError, also where nobody answers within the deadline.
        """
        if utc_offset_minutes is not None and time_zone is not None:
            raise InvalidInput("both a UTC offset and a time zone were given; give one", "time_zone")
        request = pb.ForecastRequest(
            patient_id=patient_id,
            unit=UNITS[unit],
            readings=[_message_of(reading) for reading in readings],
            utc_offset_minutes=utc_offset_minutes,
            time_zone=time_zone,
            as_of=None if as_of is None else timestamp(as_of),
            model=model,
        )
        return self.ask(request)

    def ask(self, request: pb.ForecastRequest) -> pb.ForecastResponse:
        """Send a request as it is; raises ServiceError."""
        try:
            return self._stub.Forecast(request, timeout=self._deadline)
        except grpc.RpcError as error:
            raise ServiceError(error.code(), self._sentence(error)) from error

    def _sentence(self, error: grpc.RpcError) -> str:
        """The service's own words; ours where it could not say any (a connection that failed)."""
        said = error.details() or ""
        if error.code() is grpc.StatusCode.UNAVAILABLE and said.startswith("failed to connect"):
            return f"nobody listens at {self.address}; start python -m services.inference, or give another address"
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{self.address} did not answer within {self._deadline:g} s; try again"
        return said


def timestamp(time: dt.datetime) -> Timestamp:
    """An aware time as a message; raises InvalidInput for a time that could be anywhere."""
    if time.tzinfo is None:
        raise InvalidInput(f"the time {time} has no time zone; give aware times")
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(dt.UTC))
    return stamp


def _message_of(reading: Reading) -> pb.Reading:
    if isinstance(reading.value, str):
        return pb.Reading(time=timestamp(reading.time), out_of_range=LIMITS[reading.value])
    return pb.Reading(time=timestamp(reading.time), value=reading.value)


def clock_of(utc_offset_minutes: int | None, time_zone: str | None) -> dt.tzinfo:
    """The clock that a patient lives by; UTC where nothing is known.

    Raises InvalidInput for an unknown zone.
    """
    if time_zone is None:
        return dt.timezone(dt.timedelta(minutes=utc_offset_minutes or 0))
    utc_offset_in(time_zone, dt.datetime.now(dt.UTC))  # refuses an unknown zone in a sentence
    return ZoneInfo(time_zone)


def recent_readings(
    series: GlucoseSeries, clock: dt.tzinfo, hours: float, until: dt.datetime | None = None
) -> list[Reading]:
    """The last `hours` of readings in mg/dL, up to and with `until` where it is given (aware).

    clock: what the series' times are on.
    """
    known = ~np.isnan(series.glucose_mg_dl)
    readings = [
        Reading(time.item().replace(tzinfo=clock).astimezone(dt.UTC), float(value))
        for time, value in zip(series.times[known], series.glucose_mg_dl[known], strict=True)
    ]
    end = until or readings[-1].time
    return [reading for reading in readings if end - dt.timedelta(hours=hours) < reading.time <= end]


def in_unit(readings: Sequence[Reading], unit: Unit) -> list[Reading]:
    """Readings in mg/dL, in another unit."""
    factor = 1.0 if unit == "mg/dL" else 1 / MG_DL_PER_MMOL_L
    return [Reading(r.time, r.value if isinstance(r.value, str) else r.value * factor) for r in readings]


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def about() -> None:
    """Ask a glucast service. Research prototype, not a medical device; no dosing advice."""


@app.command()
def forecast(
    file: Annotated[Path, typer.Option(help="tidy CSV or Parquet: patient_id, timestamp, glucose_mg_dl")],
    patient: Annotated[str, typer.Option(help="whose readings to take from the file")],
    address: Annotated[str, typer.Option(help="where the service listens")] = "127.0.0.1:50051",
    unit: Annotated[Literal["mg/dL", "mmol/L"], typer.Option(help="unit the readings are sent in")] = "mg/dL",
    utc_offset_minutes: Annotated[
        int | None, typer.Option(min=-840, max=840, help="the patient's clock; 60 is UTC+1")
    ] = None,
    time_zone: Annotated[str | None, typer.Option(help="or its IANA zone, such as Europe/London")] = None,
    as_of: Annotated[str | None, typer.Option(help="ISO time of the forecast; else the last reading's")] = None,
    model: Annotated[str | None, typer.Option(help="name, name@alias or name/version; else the patient's")] = None,
    hours: Annotated[float, typer.Option(min=0.1, help="hours of history to send")] = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
    plot: Annotated[Path | None, typer.Option(help="draw a picture into this PNG")] = None,
) -> None:
    """Forecast one patient of a file from their last readings, and print it.

    Times in the file are the patient's clock. With an offset or a zone they are sent as instants; without, as if
    the clock showed UTC, and the model does not learn the time of day.
    """
    try:
        clock = clock_of(utc_offset_minutes, time_zone)
        series = _patient_of(file, patient, time_zone)
        clock, utc_offset_minutes = _clock_of_file(series, clock, utc_offset_minutes, time_zone)
        moment = None if as_of is None else _moment(as_of, clock)
        readings = recent_readings(series, clock, hours, moment)
        with ForecastClient(address) as client:
            answer = client.forecast(
                patient, in_unit(readings, unit), unit, utc_offset_minutes, time_zone, moment, model
            )
        if plot is not None:
            draw_forecast(plot, answer, readings)
    except GlucastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(MessageToJson(answer, preserving_proto_field_name=True))
    else:
        print_forecast(Console(), answer)


def _patient_of(file: Path, patient: str, time_zone: str | None) -> GlucoseSeries:
    try:
        from forecasting.readers.tidy import read_tidy  # pandas, which programs that only ask do without
    except ImportError as error:
        raise GlucastError(f"reading a file needs {error.name}; install glucast[data]") from error
    everyone = {series.patient_id: series for series in read_tidy(file, time_zone)}
    if patient not in everyone:
        raise NotFound(f"there is no patient {patient} in {file.name}; there are {', '.join(list(everyone)[:12])}")
    return everyone[patient]


def _clock_of_file(
    series: GlucoseSeries, clock: dt.tzinfo, utc_offset_minutes: int | None, time_zone: str | None
) -> tuple[dt.tzinfo, int | None]:
    """The clock a file's times are on, and the offset to send: what the file itself says comes first."""
    if series.clock == "utc":
        return dt.UTC, utc_offset_minutes
    if series.utc_offset_minutes is None:
        return clock, utc_offset_minutes
    is_given = utc_offset_minutes is not None or time_zone is not None
    return clock_of(series.utc_offset_minutes, None), utc_offset_minutes if is_given else series.utc_offset_minutes


def _moment(text: str, clock: dt.tzinfo) -> dt.datetime:
    """An ISO time as an instant; on the patient's clock where it has no offset of its own."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"--as-of is {text!r}; give an ISO 8601 time such as 2025-01-31T08:05", "as_of") from error
    return (time if time.tzinfo else time.replace(tzinfo=clock)).astimezone(dt.UTC)


if __name__ == "__main__":
    app(prog_name="python -m services.client")
