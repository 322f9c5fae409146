"""Traces: they arrive, belong to their caller's, and name no patient; without the option they cost nothing."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from forecasting.errors import InsufficientData, InvalidSetting
from services.inference.tracing import NoTracer, open_tracer

trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra `traces` is not installed"
)
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the extra `traces` is not installed")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "user-agent": "test"}


class Collector:
    """A receiver of OTLP over gRPC on loopback that keeps what came."""

    def __init__(self) -> None:
        self.requests: list = []
        self._server = grpc.server(ThreadPoolExecutor(1))
        handler = grpc.unary_unary_rpc_method_handler(
            self._export,
            trace_service.ExportTraceServiceRequest.FromString,
            trace_service.ExportTraceServiceResponse.SerializeToString,
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _export(self, request, context):
        self.requests.append(request)
        return trace_service.ExportTraceServiceResponse()

    def spans(self) -> dict:
        found = [
            span for request in self.requests for r in request.resource_spans for s in r.scope_spans for span in s.spans
        ]
        return {span.name: span for span in found}

    def stop(self) -> None:
        self._server.stop(None)


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.stop()


def attributes_of(span) -> dict:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_spans_arrive_under_the_callers_trace_and_within_each_other(collector):
    tracer = open_tracer(collector.endpoint)
    with tracer.span("Forecast", HEADERS, {"rpc.method": "Forecast"}), tracer.span("compute"):
        pass
    tracer.shutdown()
    call, inner = collector.spans()["Forecast"], collector.spans()["compute"]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert (inner.trace_id, inner.parent_span_id) == (call.trace_id, call.span_id)
    assert attributes_of(call) == {"rpc.method": "Forecast"}
    assert collector.requests[0].resource_spans[0].resource.attributes, "who sends is not told"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}])
def test_a_call_without_a_usable_parent_begins_a_trace(collector, headers):
    tracer = open_tracer(collector.endpoint)
    with tracer.span("Forecast", headers):
        pass
    tracer.shutdown()
    assert collector.spans()["Forecast"].parent_span_id == b""


def test_no_span_holds_a_patient_or_a_reading(collector):
    tracer = open_tracer(collector.endpoint)
    given = {"glucast.model": "virtual-anna_k", "glucast.version": "3", "patient_id": "anna_k"}
    with pytest.raises(InsufficientData), tracer.span("Forecast", {"patient": "anna_k"}, given):
        raise InsufficientData("patient anna_k: 123.5 mg/dL is the last of two readings")
    tracer.shutdown()
    span = collector.spans()["Forecast"]
    assert attributes_of(span) == {
        "glucast.model": "personal",
        "glucast.version": "3",
        "error.type": "InsufficientData",
    }
    assert "anna_k" not in str(collector.requests)
    assert "123.5" not in str(collector.requests)
    assert not span.events


@pytest.mark.parametrize(("error", "is_failed"), [(InsufficientData("few"), False), (ZeroDivisionError(), True)])
def test_only_a_fault_of_the_service_marks_a_span_as_failed(collector, error, is_failed):
    tracer = open_tracer(collector.endpoint)
    with pytest.raises(type(error)), tracer.span("Forecast", {}):
        raise error
    tracer.shutdown()
    span = collector.spans()["Forecast"]
    assert (span.status.code == 2) == is_failed
    assert span.status.message == (type(error).__name__ if is_failed else "")


def test_the_end_waits_a_few_seconds_at_most_for_a_collector_that_is_away():
    tracer = open_tracer("http://127.0.0.1:9")
    with tracer.span("Forecast", {}):
        pass
    began = time.monotonic()
    tracer.shutdown()
    assert time.monotonic() - began < 12


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "http://", "ftp://x"])
def test_what_is_no_endpoint_is_refused(endpoint):
    with pytest.raises(InvalidSetting, match=r"no OTLP endpoint; write it as http://127\.0\.0\.1:4317"):
        open_tracer(endpoint)


def test_a_missing_extra_is_told_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(InvalidSetting, match=r"pip install glucast\[traces\]"):
        open_tracer("http://127.0.0.1:4317")


def test_without_the_option_nothing_of_opentelemetry_is_imported():
    script = (
        "import sys; from services.inference.tracing import open_tracer\n"
        "tracer = open_tracer(None)\n"
        "with tracer.span('Forecast', {}, {'rpc.method': 'Forecast'}): pass\n"
        "tracer.shutdown(); print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_tracer_makes_no_object_for_a_span():
    tracer = NoTracer()
    assert tracer.span("one") is tracer.span("two", HEADERS)
