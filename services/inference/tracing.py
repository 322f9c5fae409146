"""Traces of requests, where somebody asks for them; without that nothing of OpenTelemetry is imported.

A span never holds a patient id or a reading: its attributes are listed here, a model is named as in telemetry, and of
an error only the type is told, for its sentence may quote what was sent.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, TypedDict
from urllib.parse import urlsplit

from forecasting.errors import InsufficientData, InvalidInput, InvalidSetting, NotFound
from services.inference.telemetry import public_name

EXPORT_SECONDS = 5  # for one parcel of spans; so long may a collector that is away hold up the end of the service
ASKED_WRONGLY = (InvalidInput, InsufficientData, NotFound)  # normal answers: the span does not count as failed

Attributes = TypedDict(
    "Attributes",
    {
        "rpc.service": str,
        "rpc.method": str,
        "glucast.model": str,  # as registered; the span shows its public name
        "glucast.version": str,
        "glucast.alias": str,
        "glucast.batch_size": int,
    },
    total=False,
)


Method = Callable[[Any, Any], Awaitable[Any]]


class Tracer(Protocol):
    """What makes spans."""

    def span(
        self, name: str, parent_headers: Mapping[str, Any] | None = None, attributes: Attributes | None = None
    ) -> AbstractContextManager[None]:
        """A span around a block; a child of the one around it, or of the W3C traceparent in a call's metadata.

        parent_headers: the metadata of a call that came from outside, which need not hold a traceparent
        """

    def shutdown(self) -> None:
        """Send what was not sent yet; blocks for some seconds where the collector is away."""


class NoTracer:
    """Makes none, at no cost."""

    _nothing = nullcontext()

    def span(
        self, name: str, parent_headers: Mapping[str, Any] | None = None, attributes: Attributes | None = None
    ) -> AbstractContextManager[None]:
        """Nothing around a block."""
        return self._nothing

    def shutdown(self) -> None:
        """Nothing to send."""


def open_tracer(endpoint: str | None) -> Tracer:
    """What traces to an OTLP endpoint (gRPC), such as http://127.0.0.1:4317; NoTracer where there is none.

    Raises InvalidSetting for what is no address, and where the extra `traces` is not installed.
    """
    if not endpoint:
        return NoTracer()
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidSetting(f"traces go to {endpoint!r}, which is no OTLP endpoint; write it as http://127.0.0.1:4317")
    try:
        return _OpenTelemetry(endpoint)
    except ImportError as error:
        raise InvalidSetting(
            "traces need OpenTelemetry, which is not installed; pip install glucast[traces], or leave the option out"
        ) from error


class _OpenTelemetry:
    """Spans that go to a collector in parcels, from a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = TracerProvider(resource=Resource.create({"service.name": "glucast-inference"}))
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("glucast")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(
        self, name: str, parent_headers: Mapping[str, Any] | None = None, attributes: Attributes | None = None
    ) -> Iterator[None]:
        """See Tracer."""
        is_call = parent_headers is not None
        with self._tracer.start_as_current_span(
            name,
            context=self._propagator.extract(parent_headers) if is_call else None,
            kind=self._trace.SpanKind.SERVER if is_call else self._trace.SpanKind.INTERNAL,
            attributes=_shown(attributes or {}),
            record_exception=False,  # it would hold the error's sentence
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                self._tell(span, error)
                raise

    def shutdown(self) -> None:
        """See Tracer."""
        self._provider.shutdown()

    def _tell(self, span: Any, error: BaseException) -> None:
        kind = type(error).__name__
        span.set_attribute("error.type", kind)
        if not isinstance(error, ASKED_WRONGLY):
            span.set_status(self._trace.StatusCode.ERROR, kind)


def traced(tracer: Tracer, service: str, name: str, method: Method) -> Method:
    """A unary method with a span around every call."""
    if isinstance(tracer, NoTracer):
        return method

    async def answer(request: Any, context: Any) -> Any:
        headers = dict(context.invocation_metadata() or ())
        with tracer.span(f"{service}/{name}", headers, {"rpc.service": service, "rpc.method": name}):
            return await method(request, context)

    return answer


def _shown(attributes: Attributes) -> dict[str, Any]:
    shown = {key: value for key, value in attributes.items() if key in Attributes.__annotations__}
    if "glucast.model" in attributes:
        shown["glucast.model"] = public_name(attributes["glucast.model"])
    return shown
