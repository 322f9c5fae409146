"""The inference service put together: settings in, a running service out."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from forecasting.bundle import POPULATION
from forecasting.forecaster import Forecaster
from forecasting.references import Version
from forecasting.registry_reader import RegistryReader
from protos.glucast.v1 import forecaster_pb2
from protos.inference import open_inference_pb2
from services import followed_files
from services.access import Access
from services.certificates import Certificates, read_certificates
from services.followed_files import FollowedFiles
from services.inference.batcher import Batcher, Limits
from services.inference.engine import Engine
from services.inference.forecast_ids import Ids
from services.inference.models import Bounds, Models
from services.inference.open_inference import ADMIN_METHODS, OpenInferenceServicer
from services.inference.routing import Routing
from services.inference.servicer import ForecasterServicer
from services.inference.settings import Settings
from services.inference.telemetry import Telemetry
from services.inference.tracing import open_tracer, traced
from services.inference.truth import LiveAccuracy
from services.logs import log_loop_errors
from services.rates import Rates
from services.serving import READY, GrpcServer
from services.tokens import Scope, Tokens, read_tokens

SERVICE = forecaster_pb2.DESCRIPTOR.services_by_name["Forecaster"]
OPEN_INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
BATCH_NICENESS = 15  # of the threads that compute, against 0 of the event loop
MODEL_HEALTH = "model/"  # before a model's name, in the names that health knows

_log = logging.getLogger("glucast.inference")


@dataclass(frozen=True)
class Running:
    """Where a running service listens. metrics_url: empty for a worker, whose parent shows its series."""

    address: str
    metrics_url: str


@asynccontextmanager
async def running(settings: Settings, is_worker: bool = False) -> AsyncIterator[Running]:
    """A started service; drained and stopped at the end. Raises InvalidSetting for an address that is taken."""
    telemetry, tracer = Telemetry(), open_tracer(settings.traces)
    accuracy = LiveAccuracy(telemetry, settings.alarm_low)
    log_loop_errors(asyncio.get_running_loop())
    tokens, certificates = _tokens(settings, telemetry), _certificates(settings, telemetry)
    access = Access(tokens, _rates(settings), settings.streams_per_caller)
    server = GrpcServer(settings.reflection, is_worker, access, certificates, settings.health_port)
    with ThreadPoolExecutor(settings.threads, "forecast", _give_way) as executor:
        models = _models(settings, executor, telemetry)
        routing = Routing(settings.namespace, settings.canary_share, settings.shadow_share)
        engine = Engine(models, routing, Ids(settings.id_secrets()), accuracy, telemetry, tracer)
        servicer = ForecasterServicer(engine, accuracy, settings, telemetry)
        server.add(SERVICE, servicer, telemetry.rpc, partial(traced, tracer), cost_of=_more_than_one)
        open_inference = OpenInferenceServicer(engine, settings)
        server.add(
            OPEN_INFERENCE, open_inference, telemetry.rpc, partial(traced, tracer), scope_of, cost_of=_more_than_one
        )
        metrics = None if is_worker else telemetry.expose(settings.metrics_at, settings.metrics_port)
        health = asyncio.create_task(_tell_health(models, server, telemetry))
        following = asyncio.create_task(_follow(tokens, certificates))
        try:
            port = await server.start(settings.host, settings.port)
            models.start()
            url = f"http://{settings.metrics_at}:{metrics.server_port}/metrics" if metrics else ""
            yield Running(f"{settings.host}:{port}", url)
        finally:
            health.cancel()
            following.cancel()
            await server.retire(settings.pause_seconds)
            servicer.stop()
            open_inference.stop()
            await _drain(server, engine, settings.drain_seconds)
            await engine.close()
            await models.stop()
            await asyncio.to_thread(tracer.shutdown)  # which waits for a collector that is away
            if metrics is not None:
                metrics.shutdown()
                metrics.server_close()


def _tokens(settings: Settings, telemetry: Telemetry) -> FollowedFiles[Tokens] | None:
    file, failed = settings.token_file, telemetry.reload_failures.labels("tokens").inc
    return None if file is None else FollowedFiles((file,), partial(read_tokens, file), failed)


def _certificates(settings: Settings, telemetry: Telemetry) -> FollowedFiles[Certificates] | None:
    files, failed = settings.certificate_files, telemetry.reload_failures.labels("certificates").inc
    if files is None:
        return None

    def read() -> Certificates:
        certificates = read_certificates(files)
        telemetry.certificate_expires.set(certificates.expires)
        return certificates

    return FollowedFiles(files.all, read, failed)


def _rates(settings: Settings) -> Rates | None:
    return Rates(settings.rate_per_second, settings.rate_burst) if settings.rate_per_second else None


async def _follow(*followed: FollowedFiles[Any] | None) -> None:
    """Look at files also while nobody calls: what is amiss with them, and when they end, is to be seen in time."""
    while True:
        await asyncio.sleep(followed_files.LOOK_SECONDS)
        for files in filter(None, followed):
            files.now()


def scope_of(method: str) -> Scope:
    """What a method of the Open Inference Protocol asks of a token."""
    return Scope.ADMIN if method in ADMIN_METHODS else Scope.FORECAST


def _more_than_one(request: Message) -> int:
    """As how many more calls than one a request counts: a batch as many as it asks for."""
    if isinstance(request, forecaster_pb2.ForecastBatchRequest):
        return max(0, len(request.requests) - 1)
    if isinstance(request, open_inference_pb2.ModelInferRequest):
        return max((tensor.shape[0] - 1 for tensor in request.inputs if tensor.shape), default=0)
    return 0


def _give_way() -> None:
    """Let batches run after the event loop where cores are short: it must answer health, and refuse in time."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BATCH_NICENESS)


async def _drain(server: GrpcServer, engine: Engine, drain_seconds: float) -> None:
    """Take in what was sent, refuse what comes after, answer what was taken in."""
    engine.hold(True)
    await server.take_in()
    stopping = asyncio.create_task(server.stop(drain_seconds))
    await asyncio.sleep(0.01)  # from here on callers are told to go elsewhere
    engine.hold(False)
    await stopping


def _models(settings: Settings, executor: ThreadPoolExecutor, telemetry: Telemetry) -> Models:
    limits = Limits(
        settings.batch_size,
        settings.batch_wait_ms / 1e3,
        settings.queue_size,
        settings.threads,
        settings.inline_ms / 1e3,
    )

    def batcher_for(version: Version, forecaster: Forecaster) -> Batcher:
        return Batcher(forecaster, executor, limits, telemetry.for_model(version.name, version.version))

    bounds = Bounds(settings.namespace, settings.refresh_seconds, settings.memory_mb << 20, settings.batch_size)
    return Models(RegistryReader(settings.registry, settings.cache), bounds, batcher_for, telemetry)


async def _tell_health(models: Models, server: GrpcServer, telemetry: Telemetry) -> None:
    """Let health say what can be answered: `ready`, and each model that is not one patient's by its name."""
    try:
        await _tell_changes(models, server, telemetry)
    finally:  # the service ends, and health says so
        telemetry.ready.set(0)


async def _tell_changes(models: Models, server: GrpcServer, telemetry: Telemetry) -> None:
    told: dict[str, bool] = {}
    while True:
        await models.changed.wait()
        models.changed.clear()
        now = dict.fromkeys(told, False) | {READY: models.is_ready}
        now |= {MODEL_HEALTH + name: True for name in models.open_names() if name.endswith(f"-{POPULATION}")}
        if models.is_ready and not told.get(READY):
            _log.info("ready: a champion has forecast")
        for name, is_serving in now.items():
            if told.get(name) != is_serving:
                await server.tell(name, is_serving)
        telemetry.ready.set(models.is_ready)
        told = now
