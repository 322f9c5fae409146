"""The inference service put together: settings in, a running service out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from forecasting.errors import GlucastError, IntegrityError, NotFound
from forecasting.registry import model_name
from protos.glucast.v1 import forecaster_pb2, forecaster_pb2_grpc
from services.inference.models import Models
from services.inference.servicer import ForecasterServicer
from services.inference.settings import Settings
from services.inference.telemetry import CountRequests, Telemetry
from services.serving import GrpcServer

RETRY_SECONDS = 1.0
SERVICE = forecaster_pb2.DESCRIPTOR.services_by_name["Forecaster"]

_log = logging.getLogger("glucast.inference")


@dataclass(frozen=True)
class Running:
    """Where a running service listens."""

    address: str
    metrics_url: str


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A started service; drained and stopped at the end. Raises InvalidSetting for an address that is taken."""
    telemetry = Telemetry()
    telemetry.start_at_zero(SERVICE.full_name, [method.name for method in SERVICE.methods])
    models = Models(settings.registry, settings.cache, settings.refresh_seconds, telemetry)
    telemetry.watch(models.versions)
    server = GrpcServer([SERVICE.full_name], [CountRequests(telemetry)], settings.reflection)
    with ThreadPoolExecutor(settings.threads, "forecast") as executor:
        servicer = ForecasterServicer(models, settings.namespace, executor, telemetry)
        forecaster_pb2_grpc.add_ForecasterServicer_to_server(servicer, server.server)
        metrics = telemetry.expose(settings.host, settings.metrics_port)
        try:
            port = await server.start(settings.host, settings.port)
            async with _in_background(_be_ready_when_registry_answers(models, settings.namespace, server)):
                yield Running(f"{settings.host}:{port}", f"http://{settings.host}:{metrics.server_port}/metrics")
        finally:
            await server.stop(settings.drain_seconds)
            metrics.shutdown()
            metrics.server_close()


@asynccontextmanager
async def _in_background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _be_ready_when_registry_answers(models: Models, namespace: str, server: GrpcServer) -> None:
    """Ask for the population's champion, which also opens it, until the registry says anything at all."""
    said = ""
    while (error := await _why_not_ready(models, namespace)) is not None:
        if str(error) != said:
            said = str(error)
            _log.warning("not ready: %s", said, exc_info=None if isinstance(error, GlucastError) else error)
        await asyncio.sleep(RETRY_SECONDS)
    _log.info("ready: the registry answers")
    await server.be_ready()


async def _why_not_ready(models: Models, namespace: str) -> Exception | None:
    try:
        await models.first((model_name(namespace),))
    except (NotFound, IntegrityError) as error:  # an answer too: other models can be served
        # without the text, which lists models and so names patients
        _log.warning("no population model to begin with (%s)", type(error).__name__)
    except Exception as error:  # noqa: BLE001 - whatever it is, the service stays and asks again
        return error
    return None
