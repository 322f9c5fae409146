"""The command line of the inference service: python -m services.inference --help"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated, Any

# gRPC's core says on standard error, in its own words, what we say in a sentence. Read by gRPC at import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import typer
from pydantic import ValidationError

from forecasting.errors import GlucastError, InvalidSetting
from services.inference.service import running
from services.inference.settings import PREFIX, Settings
from services.serving import stop_signal

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _option(name: str, *flags: str) -> Any:
    """An option that says what its setting says, so that neither can be forgotten."""
    field = Settings.model_fields[name]
    default = False if field.default is None else str(field.default)
    return typer.Option(*flags, envvar=PREFIX + name.upper(), help=field.description, show_default=default)


@app.command()
def main(
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    metrics_port: Annotated[int | None, _option("metrics_port")] = None,
    namespace: Annotated[str | None, _option("namespace")] = None,
    registry: Annotated[str | None, _option("registry")] = None,
    cache: Annotated[Path | None, _option("cache")] = None,
    reflection: Annotated[bool | None, _option("reflection", "--reflection/--no-reflection")] = None,
    refresh_seconds: Annotated[float | None, _option("refresh_seconds")] = None,
    drain_seconds: Annotated[float | None, _option("drain_seconds")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
) -> None:
    """Answer glucose forecasts over gRPC, from the champions of a model registry.

    A request that names no model gets its patient's own champion, {namespace}-{patient}, else the population's,
    {namespace}-population. Publish and promote them first: [bold]python -m trainer pipeline --help[/bold]

    The service starts without a registry too, and is ready once that answers. Options override the environment.

    In another terminal, ask it: [bold]python -m services.client forecast --help[/bold]

    A research prototype, not a medical device.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    given = {name: value for name, value in locals().items() if value is not None}
    try:
        asyncio.run(_serve(_settings(given)))
    except GlucastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _settings(given: dict[str, Any]) -> Settings:
    """Settings from options and environment; raises InvalidSetting naming the one that is wrong."""
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "-".join(map(str, first["loc"])).replace("_", "-")
        raise InvalidSetting(f"--{name} is {first['input']!r}: {first['msg']}; see --help") from error


async def _serve(settings: Settings) -> None:
    told = stop_signal()  # before anyone can know that there is something to stop
    async with running(settings) as service:
        typer.echo(f"glucast inference listens on {service.address}, metrics on {service.metrics_url}")
        await told.wait()


if __name__ == "__main__":
    app(prog_name="python -m services.inference")
