"""Prometheus series of the service. No label ever names a patient: personal models share one name."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import InfoMetricFamily
from prometheus_client.registry import Collector

from forecasting.bundle import POPULATION
from forecasting.errors import InvalidSetting
from forecasting.registry import Version
from services.serving import UnaryInterceptor, UnaryMethod

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
METHOD = ("grpc_service", "grpc_method", "grpc_type")
PERSONAL = "personal"


class Telemetry:
    """The series of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.started = Counter("grpc_server_started_total", "Requests begun", METHOD, registry=registry)
        self.handled = Counter(
            "grpc_server_handled_total", "Requests answered, by status", (*METHOD, "grpc_code"), registry=registry
        )
        self.handling = Histogram(
            "grpc_server_handling_seconds", "Time to an answer", METHOD, buckets=SECONDS, registry=registry
        )
        self.compute = Histogram(
            "glucose_infer_compute_seconds", "Time to check and forecast", buckets=SECONDS, registry=registry
        )
        self.load = Histogram(
            "glucose_model_load_seconds", "Time to fetch and open a version", buckets=SECONDS, registry=registry
        )
        self.load_failures = Counter(
            "glucose_model_load_failures_total", "Versions that could not be opened", ("reason",), registry=registry
        )
        self.sync_failures = Counter(
            "glucose_registry_sync_failures_total", "Look-ups the registry did not answer", registry=registry
        )

    def start_at_zero(self, service: str, methods: Iterable[str]) -> None:
        """Let the series of unary methods exist before the first request, so that rates see it."""
        for method in methods:
            labels = (service, method, "UNARY")
            self.started.labels(*labels)
            self.handling.labels(*labels)
            self.handled.labels(*labels, grpc.StatusCode.OK.name)

    def watch(self, serving: Callable[[], list[Version]]) -> None:
        """Tell at every scrape which versions are served then."""
        self.registry.register(ModelInfo(serving))

    def expose(self, host: str, port: int) -> WSGIServer:
        """Serve /metrics from a thread of its own; raises InvalidSetting where the address cannot be used."""
        try:
            return start_http_server(port, host, self.registry)[0]
        except OSError as error:
            raise InvalidSetting(
                f"cannot serve metrics on {host}:{port} ({error.strerror}); choose another metrics port"
            ) from error


class ModelInfo(Collector):
    """glucose_model_info, one series for each version being served."""

    def __init__(self, serving: Callable[[], list[Version]]) -> None:
        self._serving = serving

    def collect(self) -> Iterator[InfoMetricFamily]:
        labels = ("name", "version", "alias", "digest")
        family = InfoMetricFamily("glucose_model", "Model versions being served", labels=labels)
        for version in self._serving():
            aliases = ",".join(sorted(version.aliases))
            family.add_metric((public_name(version.name), version.version, aliases, version.digest), {})
        yield family


def public_name(model: str) -> str:
    """A model's name where a patient id must not appear: logs and labels. The digest tells versions apart."""
    patient = model.partition("-")[2]  # a data set's name holds no '-'
    return model if patient == POPULATION else PERSONAL


class CountRequests(UnaryInterceptor):
    """Counts and times unary requests; the outermost interceptor, so that it sees the final status."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def around(self, method: UnaryMethod, path: str) -> UnaryMethod:
        _, service, name = path.split("/")
        labels = (service, name, "UNARY")

        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self._telemetry.started.labels(*labels).inc()
            began, code = time.perf_counter(), grpc.StatusCode.UNKNOWN
            try:
                response = await method(request, context)
                code = grpc.StatusCode.OK
                return response
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code()
                raise
            finally:
                self._telemetry.handled.labels(*labels, code.name).inc()
                self._telemetry.handling.labels(*labels).observe(time.perf_counter() - began)

        return answer
