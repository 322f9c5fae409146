"""The client asks again where a service did not take its call, and only there."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from services.client import ForecastClient, ServiceError


class Failing(forecaster_pb2_grpc.ForecasterServicer):
    """Fails with one status so many times, then answers."""

    def __init__(self, code, times):
        self.code, self.left, self.calls = code, times, 0

    def Forecast(self, request, context):
        self.calls += 1
        if self.left:
            self.left -= 1
            context.abort(self.code, "try elsewhere")
        return pb.ForecastResponse(warnings=["answered"])


@pytest.fixture
def ask():
    """Ask a server that fails so; what came, and how often it was asked."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")

        def asked(code, times):
            failing = Failing(code, times)
            forecaster_pb2_grpc.add_ForecasterServicer_to_server(failing, server)
            server.start()
            with ForecastClient(f"127.0.0.1:{port}") as client:
                try:
                    return client.ask(pb.ForecastRequest()).warnings[0], failing.calls
                except ServiceError as error:
                    return error.status, failing.calls

        yield asked
        server.stop(0).wait()


def test_a_call_that_was_not_taken_is_asked_again(ask):
    assert ask(grpc.StatusCode.UNAVAILABLE, 2) == ("answered", 3)


def test_it_gives_up_in_the_end(ask):
    assert ask(grpc.StatusCode.UNAVAILABLE, 99) == (grpc.StatusCode.UNAVAILABLE, 5)


@pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "INTERNAL"])
def test_what_was_refused_is_not_asked_again(ask, code):
    assert ask(grpc.StatusCode[code], 1) == (grpc.StatusCode[code], 1)
