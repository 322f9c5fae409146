"""The demo: a real service, a real request, the forecast beside what really came (python -m services.demo --help)."""

import datetime as dt
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import grpc
import numpy as np
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from forecasting.cgm import GlucoseSeries, Unit
from forecasting.context import Reading
from forecasting.errors import GlucastError, InsufficientData
from forecasting.readers.datasets import ALL, Cohort, load_cohort
from forecasting.references import model_name
from forecasting.registry_reader import RegistryReader
from forecasting.windows import WindowShape, cut_windows
from services.client import Forecast, ForecastClient, ServiceError, in_unit
from services.client.clock import Clock
from services.client.readings import recent_readings
from services.picture import draw_forecast
from services.serving import READY
from services.table import print_forecast

START_SECONDS, STOP_SECONDS = 60.0, 20.0
HOURS = 24.0
CLOCK = Clock(dt.UTC, "patient's clock")  # sent as if it were UTC
UNITS: tuple[Unit, Unit] = ("mg/dL", "mmol/L")
SAME_MG_DL = 0.01  # what rounding of units may change

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Scene:
    """A moment of the test part: what was known then, and what came after, {minutes ahead: mg/dL}."""

    patient_id: str
    readings: list[Reading]
    origin: dt.datetime
    truth: dict[int, float]


@app.command()
def demo(
    dataset: Annotated[str, typer.Option(help="data set by name, or a path to a tidy table")] = "virtual",
    data_dir: Annotated[Path | None, typer.Option(help="folder of data sets that are not bundled")] = None,
    patient: Annotated[str | None, typer.Option(help="else the first who has a model of their own")] = None,
    registry: Annotated[str | None, typer.Option(help="tracking URI; else MLFLOW_TRACKING_URI or the default")] = None,
    out: Annotated[Path, typer.Option(help="where the picture goes")] = Path("runs/demo.png"),
) -> None:
    """Start the inference service, ask it for a forecast of test data over gRPC, and draw it beside the truth."""
    console = Console()
    try:
        cohort = load_cohort(dataset, data_dir, patient or ALL)
        scene = set_scene(_choose(cohort, RegistryReader(registry)))
        with service(console, cohort.dataset, registry) as address, ForecastClient(address) as client:
            answer = _ask(client, scene)
        draw_forecast(out, answer, scene.truth, CLOCK)
    except GlucastError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    print_forecast(console, answer, scene.truth, CLOCK)
    console.print("mmol/L   the same readings in mmol/L give the same forecast", highlight=False)
    console.print(f"picture  {out}", highlight=False)


def set_scene(series: GlucoseSeries) -> Scene:
    """The middle one of the test windows whose targets are all real; raises InsufficientData where there is none."""
    shape = WindowShape(sampling_minutes=series.sampling_minutes)
    windows = cut_windows(series, shape, "test")
    windows = windows[~np.isnan(windows.target).any(axis=1)]
    if not len(windows):
        raise InsufficientData(f"patient {series.patient_id} has no whole window in the test part; choose another")
    middle = len(windows) // 2
    origin = windows.origins[middle].item().replace(tzinfo=dt.UTC)
    truth = dict(zip(shape.minutes_ahead, windows.target[middle].tolist(), strict=True))
    return Scene(series.patient_id, recent_readings(series, dt.UTC, HOURS, origin), origin, truth)


def _choose(cohort: Cohort, registry: RegistryReader) -> GlucoseSeries:
    """The first of the chosen patients who has a model, else the first."""
    known = registry.aliases()
    own = (one for one in cohort.chosen if model_name(cohort.dataset, one.patient_id) in known)
    return next(own, cohort.chosen[0])


def _ask(client: ForecastClient, scene: Scene) -> Forecast:
    """The forecast, asked in both units."""
    in_mg_dl, in_mmol_l = (
        client.forecast(scene.patient_id, in_unit(scene.readings, unit), unit, utc_offset_minutes=0, as_of=scene.origin)
        for unit in UNITS
    )
    if any(
        abs(a.mean_mg_dl - b.mean_mg_dl) > SAME_MG_DL for a, b in zip(in_mg_dl.points, in_mmol_l.points, strict=True)
    ):
        raise ServiceError(grpc.StatusCode.INTERNAL, "the same readings in mg/dL and in mmol/L got different forecasts")
    return in_mg_dl


@contextmanager
def service(console: Console, namespace: str, registry: str | None) -> Iterator[str]:
    """A ready inference service as a process of its own, on free ports; its address. Stopped at the end."""
    command = [sys.executable, "-m", "services.inference", "--namespace", namespace, "--port", "0"]
    command += ["--metrics-port", "0", *(["--registry", registry] if registry else [])]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            with console.status("starting the inference service"):
                address = _address_said_by(process, log)
                _wait_until_ready(address)
            console.print(f"service  process {process.pid} answers at {address}", highlight=False)
            yield address
        finally:
            _stop(process)


def _address_said_by(process: subprocess.Popen[str], log: IO[str]) -> str:
    """host:port from the line the service prints when it listens; ServiceError with its last words where it ended."""
    assert process.stdout is not None  # it was asked for
    said = re.search(r"listens on (\S+),", process.stdout.readline())
    if said is not None:
        return said[1]
    process.wait(STOP_SECONDS)
    log.seek(0)
    last = (log.read().strip().splitlines() or ["it said nothing"])[-1]
    raise ServiceError(grpc.StatusCode.UNAVAILABLE, f"the inference service did not start: {last}")


def _wait_until_ready(address: str) -> None:
    """Wait for the health name `ready`; raises ServiceError after START_SECONDS."""
    with grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=READY), timeout=START_SECONDS, wait_for_ready=True
        )
        try:
            next(one for one in watch if one.status == health_pb2.HealthCheckResponse.SERVING)
        except grpc.RpcError as error:
            raise ServiceError(error.code(), f"the inference service at {address} does not become ready") from error
        watch.cancel()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    app(prog_name="python -m services.demo")
