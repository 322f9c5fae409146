"""The command line of the inference service: python -m services.inference --help"""

import asyncio
import gc
import inspect
import logging
import os
import types
import typing
from typing import Annotated, Any

# gRPC's core says on standard error, in its own words, what we say in a sentence. Read by gRPC at import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer
from pydantic import SecretStr, ValidationError

from forecasting.errors import GlucastError, InvalidSetting
from services.inference import workers
from services.inference.settings import PREFIX, Settings
from services.logs import LogFormat, start_logging

METAVARS = {str: "TEXT", int: "INTEGER", LogFormat: "|".join(LogFormat)}

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _options() -> list[inspect.Parameter]:
    """One option for each setting, which says what the setting says. Secrets come by the environment alone."""
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, kind))
        for name, field in Settings.model_fields.items()
        if (kind := _kind(field.annotation)) is not SecretStr
    ]


def _option(name: str, kind: Any) -> Any:
    field, flag = Settings.model_fields[name], name.replace("_", "-")
    flags = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    default = False if field.default is None else str(field.default)
    metavar = None if kind is bool else METAVARS.get(kind, kind.__name__.upper())
    option = typer.Option(
        flags, envvar=PREFIX + name.upper(), help=field.description, show_default=default, metavar=metavar
    )
    return Annotated[bool | None if kind is bool else str | None, option]  # what a text means, Settings decides


def _kind(annotation: Any) -> Any:
    """The type of a setting that may be None."""
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    return annotation


def main(**given: Any) -> None:
    """Answer glucose forecasts over gRPC, from the champions of a model registry.

    A request that names no model gets its patient's own champion, {namespace}-{patient}, else the population's,
    {namespace}-population. Publish and promote them first: [bold]python -m trainer pipeline --help[/bold]

    The service starts without a registry too, and is ready once that answers. Options override the environment.

    In another terminal, ask it: [bold]python -m services.client forecast --help[/bold]

    A research prototype, not a medical device.
    """
    try:
        settings = _settings({name: value for name, value in given.items() if value is not None})
        start_logging(settings.log_format, workers.number())
        if settings.exposure and workers.number() is None:
            logging.getLogger("glucast.inference").warning(settings.exposure)
        if settings.workers > 1:
            raise typer.Exit(workers.supervise(settings))
        asyncio.run(_serve(settings))
    except GlucastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


main.__signature__ = inspect.Signature(_options())  # type: ignore[attr-defined]  # what typer makes options from
app.command()(main)


def _settings(given: dict[str, Any]) -> Settings:
    """Settings from options and environment; raises InvalidSetting naming the one that is wrong."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "-".join(map(str, first["loc"])).replace("_", "-")
        raise InvalidSetting(f"--{name} is {first['input']!r}: {first['msg']}; see --help") from error


async def _serve(settings: Settings) -> None:
    from services.inference.service import running  # gRPC: not for --help, nor for the parent of workers
    from services.serving import stop_signal

    told = stop_signal()  # before anyone can know that there is something to stop
    worker = workers.number()
    if worker is not None:
        workers.join(worker, told)
    async with running(settings, is_worker=worker is not None) as service:
        gc.freeze()  # what is there now stays: no need to walk through it again and again
        typer.echo(workers.listening_line(service.address, service.metrics_url))
        await told.wait()


if __name__ == "__main__":
    app(prog_name="python -m services.inference")
