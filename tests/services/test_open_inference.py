"""The Open Inference Protocol over a real connection: the same forecasts as the domain's, by the protocol's rules."""

import contextlib
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from forecasting.context import Reading
from forecasting.events import Input
from forecasting.forecaster import Forecaster
from forecasting.references import CHALLENGER, Version
from forecasting.registry import Registry
from protos.inference import open_inference_pb2 as pb
from protos.inference import open_inference_pb2_grpc
from services.calls import DETAILS
from services.inference.open_inference import ADMIN_METHODS
from tests.services.conftest import Shelf, becomes_ready, health_of, holds, readings_until, samples, scrape, tiny_bundle
from tests.services.test_forecast_rpc import request_of as domain_request

Stub = open_inference_pb2_grpc.GRPCInferenceServiceStub
POPULATION = "virtual-population"
STATUS = (("triton_grpc_error", "true"),)
TOKEN = "open-inference-0123456789-0123456789"
BAD, NONE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


class Token(grpc.UnaryUnaryClientInterceptor):
    """Sends who calls with every call."""

    def intercept_unary_unary(self, continuation, details, request):
        return continuation(details._replace(metadata=(("authorization", f"Bearer {TOKEN}"),)), request)


@contextlib.contextmanager
def stub_of(address: str, *interceptors: Token) -> Iterator[Stub]:
    with grpc.insecure_channel(address) as channel:
        yield Stub(grpc.intercept_channel(channel, *interceptors))


@pytest.fixture(scope="module")
def stub(service) -> Iterator[Stub]:
    with stub_of(service.address) as made:
        yield made


@pytest.fixture(scope="module")
def administered(tmp_path_factory, serve) -> Iterator[tuple[Shelf, Stub]]:
    """A shelf with a champion and a challenger, and who may administer the service of it."""
    home = tmp_path_factory.mktemp("administered")
    (home / "tokens").write_text(f"admin {TOKEN}")
    shelf = Shelf(Registry(f"sqlite:///{home}/mlflow.db", home / "trainer-cache", create=True), home)
    shelf.put(POPULATION)
    challenge(shelf, rise=0.2)
    given = {"registry": shelf.registry.uri, "cache": home / "cache", "token_file": home / "tokens"}
    with serve(**given) as where, stub_of(where.address, Token()) as made:
        assert becomes_ready(where.address)
        yield shelf, made


def challenge(shelf: Shelf, rise: float) -> Version:
    """Publish a challenger of the population."""
    version, _ = shelf.registry.publish(tiny_bundle(shelf.folder / f"challenger-{rise}", POPULATION, rise), {})
    return version


def contexts_of(rows: int = 1, level: float = 120.0) -> np.ndarray:
    """(rows, 36) mg/dL"""
    return np.array([[r.value for r in readings_until(steps=36, level=level + k)] for k in range(rows)], np.float32)


def request_of(
    contexts: np.ndarray, minutes: np.ndarray | None = None, model: str = POPULATION, **more: object
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(**{"model_name": model, "id": "7", **more})
    tensors = {"glucose_mg_dl": contexts} if minutes is None else {"glucose_mg_dl": contexts, "minute_of_day": minutes}
    for name, values in tensors.items():
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.raw_input_contents.append(values.astype("<f4").tobytes())
    return request


def forecasts_in(answer: pb.ModelInferResponse) -> np.ndarray:
    (output,) = answer.outputs
    assert (output.name, output.datatype) == ("forecast_mg_dl", "FP32")
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(output.shape)


def refusal(function, request, **more: object) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        function(request, timeout=5, **more)
    return caught.value


def field_in(error: grpc.RpcError) -> str:
    """The field that the details of a status name."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS])
    details = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(details)
    return details.field_violations[0].field


def statistics_of(stub: Stub, **asked: str) -> pb.ModelStatistics:
    (told,) = stub.ModelStatistics(pb.ModelStatisticsRequest(**asked), timeout=5).model_stats
    return told


def test_it_lives_is_ready_and_says_who_it_is(stub, service):
    assert health_of(service.address, "inference.GRPCInferenceService") == health_pb2.HealthCheckResponse.SERVING
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    told = stub.ServerMetadata(pb.ServerMetadataRequest())
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert (told.name, told.version) == (project["name"], project["version"])
    assert {"model_repository", "model_configuration", "statistics"} <= set(told.extensions)


@pytest.mark.parametrize(
    ("name", "version", "is_ready"),
    [
        (POPULATION, "", True),
        (POPULATION, "1", True),
        ("virtual-570", "", True),  # opened for the question
        (POPULATION, "99", False),
        ("nobody", "", False),
        ("nobody", "1", False),
    ],
)
def test_ready_is_what_can_answer_and_an_unknown_model_is_no_error(stub, name, version, is_ready):
    assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=5).ready == is_ready


def test_metadata_tells_tensors_in_mg_dl(stub):
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name=POPULATION))
    assert (told.name, list(told.versions), told.platform) == (POPULATION, ["1"], "glucast_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        ("glucose_mg_dl", "FP32", [-1, 36]),
        ("minute_of_day", "FP32", [-1, 1]),
    ]
    assert [(t.name, t.datatype, list(t.shape)) for t in told.outputs] == [("forecast_mg_dl", "FP32", [-1, 12, 10])]


def test_the_configuration_tells_what_no_tensor_says(stub, shelf):
    config = stub.ModelConfig(pb.ModelConfigRequest(name=POPULATION)).config
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
        ("glucose_mg_dl", pb.TYPE_FP32, [36], False),
        ("minute_of_day", pb.TYPE_FP32, [1], True),
    ]
    assert (config.max_batch_size, list(config.output[0].dims)) == (1024, [12, 10])
    assert list(config.dynamic_batching.preferred_batch_size) == [64]
    meaning = {key: value.string_value for key, value in config.parameters.items()}
    assert meaning["unit"] == "mg/dL"
    assert meaning["minutes_ahead"] == "5,10,15,20,25,30,35,40,45,50,55,60"
    assert meaning["quantile_levels"].startswith("0.025,0.05,0.1,")
    assert meaning["clinical_use"] == "false"
    assert meaning["digest"] == shelf.registry.resolve(POPULATION).digest


def test_a_forecast_is_that_of_the_domain_service(stub, client):
    readings = readings_until(steps=36)
    readings[-1] = Reading(readings[-1].time, 401.0)  # beyond the sensor's range
    answer = client.ask(domain_request(readings, patient_id="571", model=POPULATION, utc_offset_minutes=0))
    contexts = np.array([[reading.value for reading in readings]], np.float32)
    tensors = stub.ModelInfer(request_of(contexts, np.array([720.0])), timeout=5)
    points = [[p.mean_mg_dl, *(q.value_mg_dl for q in p.quantiles)] for p in answer.points]
    np.testing.assert_allclose(forecasts_in(tensors)[0], points, atol=1e-4)
    assert (tensors.model_name, tensors.model_version) == (answer.model.name, answer.model.version)


@pytest.mark.parametrize("rows", [1, 7, 300, 1024])
def test_each_row_gets_what_it_would_get_alone(stub, rows):
    contexts = contexts_of(rows, level=80)[:, :] % 340 + 41
    together = forecasts_in(stub.ModelInfer(request_of(contexts), timeout=20))
    assert together.shape == (rows, 12, 10)
    for k in {0, rows // 2, rows - 1}:
        alone = forecasts_in(stub.ModelInfer(request_of(contexts[k : k + 1]), timeout=5))
        np.testing.assert_allclose(together[k], alone[0], atol=1e-4)


def test_typed_is_answered_typed_and_says_which_version_and_that_it_is_no_advice(stub, shelf):
    request = request_of(contexts_of(), outputs=[{"name": "forecast_mg_dl"}])
    raw = stub.ModelInfer(request, timeout=5)
    request.ClearField("raw_input_contents")
    request.inputs[0].contents.fp32_contents.extend(contexts_of().ravel())
    typed = stub.ModelInfer(request, timeout=5)
    assert not typed.raw_output_contents
    np.testing.assert_array_equal(np.float32(typed.outputs[0].contents.fp32_contents), forecasts_in(raw).ravel())
    assert (typed.id, typed.model_name, typed.model_version) == ("7", POPULATION, "1")
    assert typed.parameters["clinical_use"].WhichOneof("parameter_choice") == "bool_param"
    assert not typed.parameters["clinical_use"].bool_param
    assert typed.parameters["digest"].string_param == shelf.registry.resolve(POPULATION).digest


def test_a_personal_model_answers_who_knows_its_name_and_is_named_to_nobody(stub):
    own = forecasts_in(stub.ModelInfer(request_of(contexts_of(), model="virtual-570"), timeout=5))
    others = forecasts_in(stub.ModelInfer(request_of(contexts_of()), timeout=5))
    np.testing.assert_allclose(own, others + 30, atol=1e-3)
    assert statistics_of(stub, name="virtual-570").inference_count
    told = [stub.RepositoryIndex(pb.RepositoryIndexRequest()), stub.ModelStatistics(pb.ModelStatisticsRequest())]
    assert all(POPULATION in str(one) and "virtual-570" not in str(one) for one in told)


@pytest.mark.parametrize(
    ("more", "code", "field", "words"),
    [
        pytest.param({"model_name": ""}, BAD, "model_name", "no model reference", id="no model"),
        pytest.param({"model_name": "x" * 300}, BAD, "model_name", "more than 200", id="long name"),
        pytest.param({"model_version": "latest"}, BAD, "model_name", "no model reference", id="odd version"),
        pytest.param({"model_name": "nobody"}, NONE, "", "there is no nobody", id="unknown model"),
        pytest.param({"model_version": "99"}, NONE, "", "there is no virtual-population/99", id="unknown version"),
        pytest.param({"outputs": [{"name": "y"}]}, BAD, "outputs[0].name", "no output 'y'", id="another output"),
        pytest.param({"raw_input_contents": [b"", b""]}, BAD, "raw_input_contents", "2 entries", id="raw entries"),
        pytest.param(
            {"parameters": {"timeout": pb.InferParameter(string_param="1")}},
            BAD,
            "parameters[timeout]",
            "no whole",
            id="odd timeout",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(stub, more, code, field, words):
    request = request_of(contexts_of())
    if "raw_input_contents" in more:
        request.ClearField("raw_input_contents")
    request.MergeFrom(pb.ModelInferRequest(**more))
    for name in ("model_name", "model_version"):
        setattr(request, name, more.get(name, getattr(request, name)))
    error = refusal(stub.ModelInfer, request)
    assert (error.code(), words in error.details()) == (code, True), error.details()
    assert not field or field_in(error) == field


def test_a_row_that_is_in_mmol_l_refuses_the_request_and_no_other(stub, service):
    contexts = contexts_of(5)
    contexts[3] /= 18
    error = refusal(stub.ModelInfer, request_of(contexts))
    assert (error.code(), field_in(error)) == (BAD, "inputs[0]")
    assert "row 3 of glucose_mg_dl: the median is 6." in error.details()
    assert samples(scrape(service.metrics_url), "glucose_input_refused_total", reason="InvalidReadings")[0] >= 1
    assert stub.ModelInfer(request_of(contexts_of()), timeout=5).outputs


def test_statistics_are_of_what_was_computed(stub):
    before = statistics_of(stub, name=POPULATION, version="1")
    for rows in (1, 1, 5):
        stub.ModelInfer(request_of(contexts_of(rows)), timeout=5)
    refusal(stub.ModelInfer, request_of(contexts_of() / 18))
    after = statistics_of(stub, name=POPULATION, version="1")
    was, now = before.inference_stats, after.inference_stats
    assert after.inference_count - before.inference_count == 7
    assert 3 <= after.execution_count - before.execution_count <= 7
    assert now.success.count - was.success.count == 3
    assert now.fail.count - was.fail.count == 1
    assert now.queue.count - was.queue.count == 8
    assert now.compute_infer.count - was.compute_infer.count == 7
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    means = [getattr(now, part).ns / getattr(now, part).count for part in parts]
    assert all(1e3 < mean < 1e9 for mean in means), "between a microsecond and a second"
    assert abs(after.last_inference / 1e3 - time.time()) < 60
    assert sum(one.batch_size * one.compute_infer.count for one in after.batch_stats) == after.inference_count
    assert after.memory_usage[0].byte_size > 100


def test_its_forecasts_are_counted_as_the_domains_are(stub, service):
    labels = {"name": POPULATION, "version": "1"}
    series = ("glucose_infer_inferences_total", "glucose_input_readings_total", "glucose_forecast_mgdl_count")
    before = [sum(samples(scrape(service.metrics_url), one, **labels) or [0]) for one in series]
    stub.ModelInfer(request_of(contexts_of(4)), timeout=5)
    text = scrape(service.metrics_url)
    assert samples(text, "glucose_infer_inferences_total", **labels)[0] - before[0] == 4
    assert sum(samples(text, "glucose_forecast_mgdl_count", **labels)) - before[2] == 8  # at 30 and at 60 minutes
    method = {"grpc_service": "inference.GRPCInferenceService", "grpc_method": "ModelInfer", "grpc_code": "OK"}
    assert samples(text, "grpc_server_handled_total", **method)[0] >= 1


@pytest.fixture
def slow(service, monkeypatch) -> Iterator[threading.Event]:
    """Networks that answer when the event is set."""
    may_go_on, predict = threading.Event(), Forecaster.predict

    def wait(self: Forecaster, *given: object, **more: object) -> object:
        assert may_go_on.wait(10)
        return predict(self, *given, **more)

    monkeypatch.setattr(Forecaster, "predict", wait)
    yield may_go_on
    may_go_on.set()


def test_a_request_waits_no_longer_than_it_lets_itself_and_never_beyond_its_deadline(stub, slow):
    bulk = {"priority": pb.InferParameter(uint64_param=2)}  # goes to the threads, and holds up no event loop
    running = [stub.ModelInfer.future(request_of(contexts_of(64), parameters=bulk), timeout=10) for _ in range(4)]
    time.sleep(0.2)
    timeout = {**bulk, "timeout": pb.InferParameter(int64_param=100_000)}
    waiting = stub.ModelInfer.future(request_of(contexts_of(), parameters=timeout), timeout=10)
    cancelled = stub.ModelInfer.future(request_of(contexts_of(9), parameters=bulk), timeout=10)
    time.sleep(0.3)
    cancelled.cancel()
    slow.set()
    assert waiting.exception().code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert all(len(forecasts_in(one.result())) == 64 for one in running)


def test_what_does_not_fit_the_queue_is_refused_and_the_rest_answered(stub, slow):
    """A request has 256 rows in the queue at most, which holds 1,024."""
    asked = [stub.ModelInfer.future(request_of(contexts_of(256)), timeout=20) for _ in range(8)]
    assert holds(lambda: any(one.done() for one in asked))  # the only answer while no network goes on
    slow.set()
    refused = [one for one in asked if one.exception()]
    assert {one.code() for one in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    status = status_pb2.Status.FromString(dict(refused[0].trailing_metadata())[DETAILS])
    assert status.details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    answered = [one for one in asked if one not in refused]
    assert len(answered) >= 4
    assert all(len(forecasts_in(one.result())) == 256 for one in answered)


def test_a_stream_answers_each_message_in_order_and_goes_on_after_errors(stub):
    requests = [request_of(contexts_of(1 + k % 3), id=f"{k}") for k in range(40)]
    requests[7].model_name = "nobody"
    requests[8].inputs[0].datatype = "FP64"
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=10))
    assert [one.infer_response.id for one in answers] == [str(k) for k in range(40)]
    assert [k for k, one in enumerate(answers) if one.error_message] == [7, 8]
    assert "there is no nobody" in answers[7].error_message
    assert not answers[7].infer_response.outputs
    assert len(forecasts_in(answers[5].infer_response)) == 3
    assert answers[5].infer_response.parameters["triton_final_response"].bool_param


def test_a_stream_that_wants_statuses_ends_with_one(stub):
    requests = [request_of(contexts_of()), request_of(contexts_of(), model="nobody"), request_of(contexts_of())]
    answers = stub.ModelStreamInfer(iter(requests), timeout=10, metadata=STATUS)
    assert next(answers).infer_response.outputs
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is NONE


def test_an_open_stream_is_told_that_the_service_stops(shelf, serve, tmp_path):
    over = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        yield request_of(contexts_of())
        over.wait(20)

    with contextlib.ExitStack() as later:
        later.callback(over.set)
        with serve(registry=shelf.registry.uri, cache=tmp_path / "cache") as where:
            assert becomes_ready(where.address)
            answers = later.enter_context(stub_of(where.address)).ModelStreamInfer(requests(), timeout=30)
            assert next(answers).infer_response.outputs
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "open another stream" in caught.value.details()


def states_of(stub: Stub, **asked: object) -> dict[str, str]:
    """{version: state} of the population's models."""
    models = stub.RepositoryIndex(pb.RepositoryIndexRequest(**asked), timeout=5).models
    assert {model.name for model in models} <= {POPULATION}
    return {model.version: model.state for model in models}


def test_a_model_is_closed_and_opened_by_order(administered):
    _, stub = administered
    assert holds(lambda: states_of(stub) == {"1": "READY", "2": "UNAVAILABLE"})
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=f"{POPULATION}@{CHALLENGER}"), timeout=5)
    assert states_of(stub) == {"1": "READY", "2": "READY"}
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=POPULATION), timeout=5)
    assert states_of(stub) == {"1": "UNAVAILABLE", "2": "UNAVAILABLE"}
    time.sleep(0.5)  # the registry was looked at meanwhile
    assert states_of(stub, ready=True) == {}
    assert not stub.ModelReady(pb.ModelReadyRequest(name=POPULATION), timeout=5).ready
    assert stub.ModelInfer(request_of(contexts_of()), timeout=5).model_version == "1"
    assert stub.ModelReady(pb.ModelReadyRequest(name=POPULATION), timeout=5).ready


def test_closing_a_model_that_is_in_use_fails_no_request(administered):
    _, stub = administered
    asked = []
    for _ in range(10):
        asked += [stub.ModelInfer.future(request_of(contexts_of(5)), timeout=20) for _ in range(20)]
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=POPULATION), timeout=5)
    assert all(len(forecasts_in(one.result())) == 5 for one in asked)


def test_loading_sees_what_was_published_just_now(administered):
    shelf, stub = administered
    shelf.put("virtual-new", rise=0.1)
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="virtual-new"), timeout=5)
    assert stub.ModelReady(pb.ModelReadyRequest(name="virtual-new"), timeout=5).ready


def test_a_damaged_model_is_not_ready_and_is_tried_again_when_it_is_loaded(administered):
    shelf, stub = administered
    version = shelf.put("virtual-damaged", rise=0.1)
    network = Path(version.source.removeprefix("file://")) / "model.onnx"
    whole = network.read_bytes()
    shelf.damage(version)
    load = pb.RepositoryModelLoadRequest(model_name="virtual-damaged")
    assert refusal(stub.RepositoryModelLoad, load).code() is grpc.StatusCode.DATA_LOSS
    assert not stub.ModelReady(pb.ModelReadyRequest(name="virtual-damaged"), timeout=5).ready
    network.write_bytes(whole)
    stub.RepositoryModelLoad(load, timeout=5)
    assert stub.ModelInfer(request_of(contexts_of(), model="virtual-damaged"), timeout=5).outputs


@pytest.mark.parametrize("parameter", ["config", "file:1/model.onnx", "else"])
def test_loading_takes_nothing_from_the_caller(administered, parameter):
    value = pb.ModelRepositoryParameter(string_param="{}")
    request = pb.RepositoryModelLoadRequest(model_name=POPULATION, parameters={parameter: value})
    error = refusal(administered[1].RepositoryModelLoad, request)
    assert (error.code(), field_in(error)) == (BAD, f"parameters[{parameter}]")


@pytest.mark.parametrize("method", sorted(ADMIN_METHODS))
def test_an_unknown_model_is_neither_loaded_nor_unloaded(administered, method):
    message = getattr(pb, f"{method}Request")
    assert refusal(getattr(administered[1], method), message(model_name="nobody")).code() is NONE
    assert refusal(getattr(administered[1], method), message(model_name=POPULATION, repository_name="x")).code() is BAD


def test_what_triton_has_and_we_do_not_is_unimplemented(service):
    with grpc.insecure_channel(service.address) as channel:
        for method in ("SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            assert refusal(call, b"").code() is grpc.StatusCode.UNIMPLEMENTED


def put_and_seen(shelf: Shelf, stub: Stub, name: str, inputs: tuple[Input, ...]) -> None:
    """What was published just now is seen after some seconds."""

    def known() -> bool:
        with contextlib.suppress(grpc.RpcError):
            return bool(stub.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=5).name)
        return False

    shelf.put(name, inputs=inputs)
    assert holds(known, 15)


@pytest.fixture(scope="module")
def taker(shelf, stub) -> None:
    put_and_seen(shelf, stub, "virtual-taker-2", ("carbs",))


def test_events_are_optional_tensors_of_models_that_know_them(stub, shelf):
    put_and_seen(shelf, stub, "virtual-taker", ("carbs", "insulin"))
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name="virtual-taker"), timeout=5)
    named = {tensor.name: list(tensor.shape) for tensor in metadata.inputs}
    assert [named[name] for name in ("carbs_g", "bolus_units", "basal_units_h")] == [[-1, 36]] * 3
    contexts = contexts_of(2)
    unknown = forecasts_in(stub.ModelInfer(request_of(contexts, model="virtual-taker"), timeout=5))
    eaten = np.zeros((2, 36), np.float32)
    eaten[1, -1] = 50
    request = with_tensor(request_of(contexts, model="virtual-taker"), "carbs_g", eaten)
    known = forecasts_in(stub.ModelInfer(request, timeout=5))
    np.testing.assert_allclose((known - unknown)[:, 0, 0], [10, 60], atol=1e-3)


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        ("virtual-taker-2", np.zeros((1, 35)), r"carbs_g has shape \[1,35\]; send \[1,36\]"),
        ("virtual-taker-2", np.full((1, 36), -1.0), "carbs_g is -1 in 36 of 36 places; 0 to 500 g is allowed"),
        (POPULATION, np.zeros((1, 36)), "carbs_g"),
    ],
)
def test_events_that_cannot_be_are_refused(stub, taker, model, values, sentence):
    request = with_tensor(request_of(contexts_of(), model=model), "carbs_g", values)
    error = refusal(stub.ModelInfer, request)
    assert error.code() == BAD
    assert re.search(sentence, error.details())


def with_tensor(request: pb.ModelInferRequest, name: str, values: np.ndarray) -> pb.ModelInferRequest:
    request.inputs.add(name=name, datatype="FP32", shape=values.shape)
    request.raw_input_contents.append(values.astype("<f4").tobytes())
    return request
