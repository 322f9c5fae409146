"""Prometheus series of the service, each declared once. No label ever names a patient: personal models share one name.

Several processes (PROMETHEUS_MULTIPROC_DIR) are summed by prometheus_client; the mode of each gauge says how.
"""

import os
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector

from forecasting.bundle import POPULATION
from forecasting.errors import InvalidSetting

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
QUEUE_SECONDS = (0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, *SECONDS[3:])
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
GLUCOSE_MG_DL = (40, 54, 70, 100, 140, 180, 250, 300, 400)
ERROR_MG_DL = (2.5, 5, 10, 15, 20, 30, 40, 60, 100)
METHOD = ("grpc_service", "grpc_method", "grpc_type")
MODEL = ("name", "version")
HORIZON = (*MODEL, "horizon")
PERSONAL = "personal"
SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client at import
LOAD_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
REJECTED = ("queue_full", "deadline")

disable_created_metrics()  # a fifth of every scrape, and what workers write has none


class Telemetry:
    """The series of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._loaded: set[tuple[str, str, str]] = set()
        self._sized: set[str] = set()

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = (), over_processes: Any = "livesum") -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=over_processes)

        def histogram(name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, text, labels, registry=registry, buckets=tuple(buckets))

        # calls
        self.started = counter("grpc_server_started_total", "Calls begun", METHOD)
        self.handled = counter("grpc_server_handled_total", "Calls ended, by status", (*METHOD, "grpc_code"))
        self.received = counter("grpc_server_msg_received_total", "Messages that came", METHOD)
        self.sent = counter("grpc_server_msg_sent_total", "Messages that went out", METHOD)
        self.handling = histogram("grpc_server_handling_seconds", "Time from a call to its end", SECONDS, METHOD)
        self.reload_failures = counter(
            "glucose_reload_failures_total", "Replaced tokens or certificates that could not be used", ("files",)
        )
        self.certificate_expires = gauge(
            "glucose_certificate_expiry_timestamp_seconds",
            "When the certificate that is shown to callers ends; 0 without TLS",
            (),
            "livemin",
        )
        # the engine
        self.queue_seconds = histogram(
            "glucose_infer_queue_seconds", "Time a forecast waited for its batch", QUEUE_SECONDS, MODEL
        )
        self.compute_seconds = histogram("glucose_infer_compute_seconds", "Time to compute a batch", SECONDS, MODEL)
        self.batch_size = histogram("glucose_infer_batch_size", "Forecasts computed together", SIZES, MODEL)
        self.queue_depth = gauge("glucose_infer_queue_depth", "Forecasts left waiting as a batch began", MODEL)
        self.rejected = counter(
            "glucose_infer_rejected_total", "Forecasts refused as they came: full, or too late", (*MODEL, "reason")
        )
        self.expired = counter("glucose_infer_expired_total", "Forecasts whose deadline passed in the queue", MODEL)
        self.cancelled = counter("glucose_infer_cancelled_total", "Forecasts given up in the queue", MODEL)
        self.inferences = counter("glucose_infer_inferences_total", "Forecasts computed", MODEL)
        self.executions = counter("glucose_infer_executions_total", "Batches computed", MODEL)
        # models
        self.model_info = gauge(
            "glucose_model_info", "1 for a version that is open", (*MODEL, "alias", "digest"), "livemax"
        )
        self.model_loaded = gauge(
            "glucose_model_loaded_timestamp_seconds", "When the version was opened", MODEL, "livemax"
        )
        self.model_memory = gauge("glucose_model_memory_bytes", "Size of the networks that are open", ("name",))
        self.load = histogram("glucose_model_load_seconds", "Time to fetch, open and warm up a version", LOAD_SECONDS)
        self.load_failures = counter(
            "glucose_model_load_failures_total", "Versions that could not be opened", ("reason",)
        )
        self.evictions = counter("glucose_model_evictions_total", "Versions closed to make room")
        self.ready = gauge("glucose_ready", "1 while the health name `ready` is SERVING", (), "livemin")
        # the registry
        self.registry_last_sync = gauge(
            "glucose_registry_last_sync_timestamp_seconds", "When the registry last answered", (), "livemin"
        )
        self.sync_failures = counter("glucose_registry_sync_failures_total", "Look-ups the registry did not answer")
        # what comes in
        self.readings = counter("glucose_input_readings_total", "Steps of contexts that were forecast from")
        self.refused = counter("glucose_input_refused_total", "Requests refused for their readings", ("reason",))
        self.filled = counter("glucose_input_filled_total", "Missing steps filled on a straight line")
        self.censored = counter("glucose_input_censored_total", "Readings taken as the edge of the sensor's range")
        self.timeless = counter("glucose_input_timeless_total", "Contexts without a time of day")
        self.unlike = counter("glucose_input_unlike_total", "Contexts after a day unlike those a model learned from")
        # what goes out
        self.forecast_mgdl = histogram(
            "glucose_forecast_mgdl", "Mean forecasts in mg/dL, by minutes ahead", GLUCOSE_MG_DL, HORIZON
        )
        self.streams = gauge("glucose_monitor_streams", "Monitor streams open")
        self.monitor_readings = counter("glucose_monitor_readings_total", "Readings of streams, by use", ("use",))
        # the truth
        self.abs_error = histogram(
            "glucose_forecast_abs_error_mgdl", "Absolute error of mean forecasts in mg/dL", ERROR_MG_DL, HORIZON
        )
        self.persistence_abs_error = counter(
            "glucose_persistence_abs_error_mgdl_total",
            "Sum of what the last reading of each forecast is off the same truth, mg/dL",
            HORIZON,
        )
        self.over = counter(
            "glucose_forecast_over_mgdl_total", "Sum of errors of forecasts above the truth, mg/dL", HORIZON
        )
        self.under = counter(
            "glucose_forecast_under_mgdl_total", "Sum of errors of forecasts below the truth, mg/dL", HORIZON
        )
        self.outcomes = counter("glucose_forecast_outcomes_total", "Forecasts compared with the truth", HORIZON)
        self.inside = counter(
            "glucose_forecast_inside_interval_total", "Truths within the 90 % interval of their forecast", HORIZON
        )
        self.lows = counter("glucose_lows_total", "Truths below 70 mg/dL", HORIZON)
        self.lows_missed = counter("glucose_lows_missed_total", "Of those, forecast without an alarm", HORIZON)
        self.low_alarms = counter("glucose_low_alarms_total", "Forecasts whose P(< 70 mg/dL) is an alarm", HORIZON)
        self.low_alarms_false = counter("glucose_low_alarms_false_total", "Of those, with no low at the time", HORIZON)
        self.shadows = counter("glucose_shadow_forecasts_total", "Forecasts of challengers in the shadow", ("outcome",))
        self.shadow_abs_error = histogram(
            "glucose_shadow_abs_error_mgdl",
            "Absolute error of champion and challenger on the same truth, mg/dL",
            ERROR_MG_DL,
            (*MODEL, "role", "horizon"),
        )

    def rpc(self, service: str, method: str, kind: str) -> "CallTelemetry":
        """The series of one method; they exist from now on, so that rates see the first call."""
        return CallTelemetry(self, (service, method, kind))

    def for_model(self, name: str, version: str) -> "ModelTelemetry":
        """The series of one model version. name: as registered; personal ones are joined."""
        return ModelTelemetry(self, (public_name(name), version))

    def opened(self, version: tuple[str, str, str], aliases: tuple[str, ...]) -> None:
        """A version, (name, number, digest), is open under these aliases."""
        self._info(version, aliases).set(1)
        if version not in self._loaded:  # else it only has other aliases now
            self.model_loaded.labels(public_name(version[0]), version[1]).set_to_current_time()
            self._loaded.add(version)

    def closed(self, version: tuple[str, str, str], aliases: tuple[str, ...]) -> None:
        """It is so no longer."""
        self._info(version, aliases).set(0)  # several processes cannot take a series back

    def sizes(self, open_now: dict[tuple[str, str, str], int]) -> None:
        """Bytes of every version that is open."""
        self._loaded &= open_now.keys()
        self._sized |= {public_name(version[0]) for version in open_now}
        for name in self._sized:  # also those of which none is open any more
            size = sum(size for version, size in open_now.items() if public_name(version[0]) == name)
            self.model_memory.labels(name).set(size)

    def expose(self, host: str, port: int) -> WSGIServer:
        """Serve /metrics from a thread of its own; raises InvalidSetting where the address cannot be used."""
        registry = self.registry
        if SHARED_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        else:
            ProcessCollector(registry=registry)
        return serve_metrics(registry, host, port)

    def _info(self, version: tuple[str, str, str], aliases: tuple[str, ...]) -> Gauge:
        name, number, digest = version
        return self.model_info.labels(public_name(name), number, ",".join(sorted(aliases)), digest)


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> WSGIServer:
    """/metrics of a registry; raises InvalidSetting where the address cannot be used."""
    try:
        return start_http_server(port, host, registry)[0]
    except OSError as error:
        raise InvalidSetting(
            f"cannot serve metrics on {host}:{port} ({error.strerror}); choose another metrics port"
        ) from error


class CallTelemetry:
    """What is counted of one method. Children are looked up once: that costs as much as counting."""

    def __init__(self, telemetry: Telemetry, labels: tuple[str, str, str]) -> None:
        self._started = telemetry.started.labels(*labels)
        self._handling = telemetry.handling.labels(*labels)
        self._received = telemetry.received.labels(*labels)
        self._sent = telemetry.sent.labels(*labels)
        self._handled, self._labels = telemetry.handled, labels
        self._is_unary = labels[2] == "UNARY"  # one message in, and one out where it succeeds
        self._by_code = {"OK": self._handled.labels(*labels, "OK")}

    def began(self) -> None:
        """A call came."""
        self._started.inc()
        if self._is_unary:
            self._received.inc()

    def ended(self, code: str, seconds: float) -> None:
        """It was answered with this status, so long after it came."""
        child = self._by_code.get(code)
        if child is None:
            child = self._by_code[code] = self._handled.labels(*self._labels, code)
        child.inc()
        if self._is_unary and code == "OK":
            self._sent.inc()
        self._handling.observe(seconds)

    def received(self) -> None:
        """A message of the caller came."""
        self._received.inc()

    def sent(self) -> None:
        """A message went out."""
        self._sent.inc()


class Share:
    """One model's part of a gauge that others may share, as all personal models do."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge, self._value = gauge, 0.0

    def set(self, value: float) -> None:
        """Change the part, and the sum by as much."""
        if value != self._value:
            self._gauge.inc(value - self._value)
            self._value = value


class ModelTelemetry:
    """What is counted of one model version."""

    def __init__(self, telemetry: Telemetry, labels: tuple[str, str]) -> None:
        self.queue_seconds = telemetry.queue_seconds.labels(*labels)
        self.compute_seconds = telemetry.compute_seconds.labels(*labels)
        self.batch_size = telemetry.batch_size.labels(*labels)
        self.queue_depth = Share(telemetry.queue_depth.labels(*labels))
        self.expired = telemetry.expired.labels(*labels)
        self.cancelled = telemetry.cancelled.labels(*labels)
        self.inferences = telemetry.inferences.labels(*labels)
        self.executions = telemetry.executions.labels(*labels)
        self._rejected = {reason: telemetry.rejected.labels(*labels, reason) for reason in REJECTED}
        self._forecast, self._labels = telemetry.forecast_mgdl, labels
        self._forecasts: dict[int, Histogram] = {}

    def rejected(self, reason: str) -> Counter:
        """queue_full or deadline."""
        return self._rejected[reason]

    def forecast_mgdl(self, minutes_ahead: int) -> Histogram:
        """The forecasts of one horizon."""
        child = self._forecasts.get(minutes_ahead)
        if child is None:
            child = self._forecast.labels(*self._labels, str(minutes_ahead))
            self._forecasts[minutes_ahead] = child
        return child


def public_name(model: str) -> str:
    """A model's name where a patient id must not appear: logs and labels. The digest tells versions apart."""
    patient = model.partition("-")[2]  # a data set's name holds no '-'
    return model if patient == POPULATION else PERSONAL
