"""What people type: a forecast of a file's last readings, its replay as a stream, the models."""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from forecasting.context import Reading
from forecasting.errors import GlucastError
from services.client.blocking import ForecastClient
from services.client.credentials import Tls
from services.client.files import read_person
from services.client.readings import in_unit
from services.client.refusals import ServiceError
from services.client.results import to_json
from services.picture import draw_forecast
from services.table import print_forecast, print_model, print_models, print_update, print_watched

ENVIRONMENT = "GLUCAST_CLIENT_"
TO_CONNECT = "Connection"

# What the commands have in common.
File = Annotated[Path, typer.Option(help="tidy CSV or Parquet: patient_id, timestamp, glucose_mg_dl")]
Patient = Annotated[str | None, typer.Option(help="whose readings to take, where the file has several patients")]
In = Annotated[Literal["mg/dL", "mmol/L"], typer.Option(help="unit that readings are sent in, and answers shown in")]
Offset = Annotated[int | None, typer.Option(min=-840, max=840, help="the patient's clock; 60 is UTC+1")]
Zone = Annotated[str | None, typer.Option(help="or its IANA zone, such as Europe/London")]
Name = Annotated[str | None, typer.Option(help="name, name@alias or name/version; else the patient's")]
Hours = Annotated[float, typer.Option(min=0.1, help="hours of history to send")]
AsJson = Annotated[bool, typer.Option("--json", help="print the answer as JSON")]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def about() -> None:
    """Ask a glucast service. Research prototype, not a medical device; no dosing advice.

    Each command has a --help of its own. To begin, with a service that listens on this machine:

    [bold]python -m services.client forecast --file data/sim/fixture_small.csv --patient adult_002[/bold]

    Options of the connection may stand in the environment: --token-file in GLUCAST_CLIENT_TOKEN_FILE.
    """


def _option(name: str, help: str) -> Any:
    """An option of the connection, which may stand in the environment under its name."""
    variable = ENVIRONMENT + name.removeprefix("--").replace("-", "_").upper()
    return typer.Option(name, help=help, envvar=variable, rich_help_panel=TO_CONNECT, show_envvar=False)


def connect(
    address: Annotated[str, _option("--address", "where the service listens")] = "127.0.0.1:50051",
    tls: Annotated[bool, _option("--tls", "encrypt, and trust what this system trusts")] = False,
    ca: Annotated[Path | None, _option("--ca", "encrypt, and trust who is in this PEM file")] = None,
    certificate: Annotated[Path | None, _option("--certificate", "our own certificate, where one is asked for")] = None,
    key: Annotated[Path | None, _option("--key", "its key")] = None,
    token_file: Annotated[Path | None, _option("--token-file", "holds the token to send")] = None,
    deadline: Annotated[float, _option("--deadline", "seconds to wait for an answer")] = 5.0,
) -> ForecastClient:
    """A client for what the options say."""
    files = Tls(ca, certificate, key)
    return ForecastClient(address, deadline, tls=files if tls or files != Tls() else False, token_file=token_file)


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is given a client, and the options that say where it asks; an error is one sentence and exit 1."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = inspect.signature(connect).parameters

    def run(**given: Any) -> None:
        try:
            with connect(**{name: given.pop(name) for name in shared}) as client:
                command(client, **given)
        except GlucastError as error:
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(1) from error

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    options = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in chain(own, shared.values())]
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # what typer makes options from
    return run


def _sentence(error: GlucastError) -> str:
    """With the id by which an operator finds the call, where the service said one."""
    request_id = error.request_id if isinstance(error, ServiceError) else ""
    return f"{error} (request {request_id})" if request_id else str(error)


@app.command()
@connected
def forecast(
    client: ForecastClient,
    file: File,
    patient: Patient = None,
    unit: In = "mg/dL",
    utc_offset_minutes: Offset = None,
    time_zone: Zone = None,
    as_of: Annotated[str | None, typer.Option(help="ISO time of the forecast; else the last reading's")] = None,
    model: Name = None,
    hours: Hours = 24.0,
    events: Annotated[bool, typer.Option("--events", help="send the file's carbohydrates and insulin too")] = False,
    as_json: AsJson = False,
    plot: Annotated[Path | None, typer.Option(help="draw a picture into this PNG")] = None,
) -> None:
    """Forecast one patient of a file from their last readings, and print it.

    Times in the file are the patient's clock. With an offset or a zone they are sent as instants; without, as if
    the clock showed UTC, and the model does not learn the time of day.

    [bold]python -m services.client forecast --file export.csv --time-zone Europe/London --plot out.png[/bold]
    """
    person = read_person(file, patient, utc_offset_minutes, time_zone)
    moment = None if as_of is None else person.moment(as_of)
    answer = client.forecast(
        person.patient_id,
        in_unit(person.readings(hours, moment), unit),
        unit,
        utc_offset_minutes=person.utc_offset_minutes,
        time_zone=person.time_zone,
        as_of=moment,
        model=model,
        events=person.events(hours, moment) if events else (),
    )
    if plot is not None:
        draw_forecast(plot, answer, clock=person.clock, unit=unit)
    if as_json:
        typer.echo(to_json(answer))
    else:
        print_forecast(Console(), answer, clock=person.clock, unit=unit)


@app.command()
@connected
def monitor(
    client: ForecastClient,
    file: File,
    patient: Patient = None,
    unit: In = "mg/dL",
    utc_offset_minutes: Offset = None,
    time_zone: Zone = None,
    model: Name = None,
    hours: Hours = 24.0,
    minutes: Annotated[float, typer.Option(min=1, help="of the file's end to replay, after the history")] = 120.0,
    speed: Annotated[float, typer.Option(min=0, help="times as fast as they were read; 0 does not wait")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="print each update as a line of JSON")] = False,
) -> None:
    """Replay the end of a file as if a sensor read it now, and print each answer: forecast, alarms, use.

    The hours before are sent as history, which is not answered. Times and clocks are as for [bold]forecast[/bold].

    [bold]python -m services.client monitor --file export.csv --minutes 60 --speed 300[/bold]
    """
    person = read_person(file, patient, utc_offset_minutes, time_zone)
    replayed = person.readings(minutes / 60)
    history = person.readings(hours + minutes / 60)[: -len(replayed)]
    stream = client.monitor(
        person.patient_id,
        unit,
        utc_offset_minutes=person.utc_offset_minutes,
        time_zone=person.time_zone,
        model=model,
        history=in_unit(history, unit),
    )
    console = Console()
    if not as_json:
        print_watched(console, person.patient_id, person.clock, unit)
    with stream:
        for reading in _paced(in_unit(replayed, unit), speed):
            update = stream.send(reading)
            if as_json:
                typer.echo(to_json(update, indent=None))
            else:
                print_update(console, update, reading, person.clock, unit)


def _paced(readings: Iterable[Reading], speed: float) -> Iterator[Reading]:
    """Readings at the pace at which they were read, so many times as fast; at once where that is 0."""
    readings = list(readings)
    yield from readings[:1]
    for before, reading in pairwise(readings):
        if speed:
            time.sleep((reading.time - before.time).total_seconds() / speed)
        yield reading


@app.command()
@connected
def models(
    client: ForecastClient,
    model: Annotated[str | None, typer.Argument(help="one of them: name, name@alias or name/version")] = None,
    patient: Annotated[str, typer.Option(help="list this patient's own model too")] = "",
    as_json: AsJson = False,
) -> None:
    """List the models that may answer, or tell what one takes, gives and scored.

    [bold]python -m services.client models virtual-population@champion[/bold]
    """
    found = [client.get_model(model)] if model else client.list_models(patient)
    if as_json:
        typer.echo(to_json(found[0] if model else found))
    elif model:
        print_model(Console(), found[0])
    else:
        print_models(Console(), found)
