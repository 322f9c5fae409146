"""Triton's own client against a running service: python checks.py ADDRESS MODEL [AUTHORIZATION]

Runs in an environment that holds tritonclient[grpc] and nothing of ours. Every check is made with the client that
blocks and with that of asyncio; the last line says how many passed. MODEL has 36 steps of context and 12 of forecast;
AUTHORIZATION is the metadata that goes with every call, such as `Bearer TOKEN`.
"""

import sys
import traceback

import grpc
import numpy as np
from clients import Asynchronous, Authorization, Blocking
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

STREAMED = 30
STATUS = {"triton_grpc_error": "true"}


class Checks:
    """What is checked, a method each."""

    def __init__(self, client, model):
        self.client, self.model = client, model

    def server_is_live_and_ready(self):
        assert self.client.is_server_live()
        assert self.client.is_server_ready()

    def model_is_ready(self):
        assert self.client.is_model_ready(self.model)
        assert self.client.is_model_ready(self.model, "1")

    def unknown_model_is_not_ready_and_no_error(self):
        assert not self.client.is_model_ready("nobody")
        assert not self.client.is_model_ready(self.model, "99")

    def server_tells_its_extensions(self):
        told = self.client.get_server_metadata(as_json=True)
        assert told["name"] == "glucast"
        assert {"model_repository", "model_configuration", "statistics"} <= set(told["extensions"])

    def metadata_tells_tensors(self):
        told = self.client.get_model_metadata(self.model, as_json=True)
        assert [one["name"] for one in told["inputs"]] == ["glucose_mg_dl", "minute_of_day"]
        assert told["inputs"][0]["shape"] == ["-1", "36"]
        assert told["outputs"][0]["datatype"] == "FP32"

    def configuration_tells_batching_and_units(self):
        config = self.client.get_model_config(self.model).config
        assert config.max_batch_size == 1024
        assert config.HasField("dynamic_batching")
        assert config.parameters["unit"].string_value == "mg/dL"

    def unknown_model_is_not_found(self):
        for ask in (self.client.get_model_metadata, self.client.get_model_config, self.client.get_inference_statistics):
            refused("NOT_FOUND", ask, "nobody")
        refused("NOT_FOUND", self.client.infer, **self.request(model_name="nobody"))
        refused("NOT_FOUND", self.client.infer, **self.request(model_version="99"))

    def one_row_is_forecast(self):
        forecast = self.forecast(rows=1)
        assert (forecast.shape, forecast.dtype) == ((1, 12, 10), np.float32)
        assert (np.diff(forecast[0, :, 1:]) >= -1e-3).all()
        assert 10 < forecast.min() < forecast.max() < 600

    def rows_are_forecast_as_if_alone(self):
        together = self.forecast(rows=100)
        for k in (0, 50, 99):
            alone = self.client.infer(**self.request(contexts()[k : k + 1])).as_numpy("forecast_mg_dl")
            np.testing.assert_allclose(together[k], alone[0], atol=1e-4)

    def minute_of_day_may_be_told(self):
        minutes = np.array([[60], [np.nan], [1439]], np.float32)
        assert self.forecast(rows=3, minutes=minutes).shape == (3, 12, 10)

    def answer_names_its_request_and_version(self):
        answer = self.client.infer(**self.request(request_id="r-1", model_version="1")).get_response()
        assert (answer.id, answer.model_name, answer.model_version) == ("r-1", self.model, "1")
        assert answer.parameters["clinical_use"].bool_param is False

    def output_may_be_named(self):
        wanted = InferRequestedOutput("forecast_mg_dl")
        assert self.client.infer(**self.request(outputs=[wanted])).as_numpy("forecast_mg_dl") is not None
        unknown = InferRequestedOutput("y")
        refused("INVALID_ARGUMENT", self.client.infer, **self.request(outputs=[unknown]))

    def wrong_shape_or_datatype_is_refused(self):
        refused("INVALID_ARGUMENT", self.client.infer, **self.request(contexts()[:, :-1]))
        refused("INVALID_ARGUMENT", self.client.infer, **self.request(contexts().astype(np.float64)))

    def mmol_l_and_gaps_are_refused(self):
        refused("INVALID_ARGUMENT", self.client.infer, **self.request(contexts()[:2] / 18))
        refused("INVALID_ARGUMENT", self.client.infer, **self.request(contexts()[:2] * np.nan))

    def priority_and_timeout_are_taken(self):
        for priority in (1, 2, 9):
            answer = self.client.infer(**self.request(priority=priority, timeout=5_000_000))
            assert answer.as_numpy("forecast_mg_dl").shape == (1, 12, 10)

    def deadline_of_the_call_is_kept(self):
        refused("Deadline Exceeded", self.client.infer, **self.request(client_timeout=0.000_1))

    def many_at_once_are_each_answered(self):
        answers = self.client.together([self.request(contexts()[k : k + 1], request_id=str(k)) for k in range(50)])
        assert sorted(int(answer.get_response().id) for answer in answers) == list(range(50))

    def statistics_count_requests_rows_and_batches(self):
        before, _ = self.statistics(), [self.forecast(rows=rows) for rows in (1, 1, 6)]
        after = self.statistics()
        assert after.inference_count - before.inference_count == 8
        assert after.inference_stats.success.count - before.inference_stats.success.count == 3
        assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns

    def index_tells_states(self):
        told = self.client.get_model_repository_index().models
        assert (self.model, "1", "READY") in {(one.name, one.version, one.state) for one in told}

    def model_is_unloaded_and_loaded(self):
        self.client.unload_model(self.model)
        assert not self.client.is_model_ready(self.model)
        self.client.load_model(self.model)
        assert self.client.is_model_ready(self.model)

    def load_takes_no_files_and_no_configuration(self):
        load, file = self.client.load_model, {"file:1/model.onnx": b"x"}
        refused("INVALID_ARGUMENT", load, self.model, config="{}")
        refused("INVALID_ARGUMENT", load, self.model, config="{}", files=file)

    def stream_is_answered_in_order(self):
        requests = [self.request(contexts()[k : k + 1], request_id=str(k)) for k in range(STREAMED)]
        answers = self.client.stream(requests)
        assert [result.get_response().id for result, error in answers if not error] == list(map(str, range(STREAMED)))
        for k in (0, STREAMED - 1):
            alone = self.client.infer(**self.request(contexts()[k : k + 1])).as_numpy("forecast_mg_dl")
            np.testing.assert_allclose(answers[k][0].as_numpy("forecast_mg_dl"), alone, atol=1e-4)

    def stream_goes_on_after_an_error(self):
        requests = [self.request(), self.request(model_name="nobody"), self.request(request_id="last")]
        (_, none), (_, error), (last, _) = self.client.stream(requests)
        assert none is None
        assert "there is no nobody" in str(error)
        assert last.get_response().id == "last"

    def stream_ends_with_a_status_where_that_is_asked_for(self):
        requests = [self.request(), self.request(model_name="nobody")]
        try:
            error = self.client.stream(requests, headers=STATUS)[-1][1]
        except grpc.RpcError as raised:  # which the client of asyncio lets through as it is
            error = raised
        assert "StatusCode.NOT_FOUND" in str(error)

    def stream_says_which_response_is_the_last(self):
        ((result, error),) = self.client.stream([self.request(enable_empty_final_response=True)])
        assert error is None
        assert result.get_response().parameters["triton_final_response"].bool_param

    def what_is_not_there_is_unimplemented(self):
        refused("UNIMPLEMENTED", self.client.get_system_shared_memory_status)
        refused("UNIMPLEMENTED", self.client.get_trace_settings)
        refused("UNIMPLEMENTED", self.client.get_log_settings)

    def request(self, values=None, minutes=None, **more):
        """What infer takes; the tensors go raw, as this client always sends them."""
        tensors = {"glucose_mg_dl": contexts()[:1] if values is None else values}
        if minutes is not None:
            tensors["minute_of_day"] = minutes
        inputs = [InferInput(name, one.shape, kind_of(one)) for name, one in tensors.items()]
        for tensor, values_sent in zip(inputs, tensors.values(), strict=True):
            tensor.set_data_from_numpy(values_sent)
        return {"model_name": self.model, "inputs": inputs, **more}

    def forecast(self, rows, minutes=None):
        return self.client.infer(**self.request(contexts()[:rows], minutes)).as_numpy("forecast_mg_dl")

    def statistics(self):
        (told,) = self.client.get_inference_statistics(self.model, "1").model_stats
        return told


def contexts():
    """(100, 36) mg/dL"""
    return (120 + 30 * np.sin(np.arange(36) / 6 + np.arange(100)[:, None])).astype(np.float32)


def kind_of(values):
    return {"float32": "FP32", "float64": "FP64"}[values.dtype.name]


def refused(words, function, *given, **more):
    """It fails with this status or sentence."""
    error = None
    try:
        function(*given, **more)
    except InferenceServerException as raised:
        error = raised
    assert error is not None, f"{words} was expected"
    assert words in f"{error.status()} {error.message()}", error


def failures_of(checks):
    """How many checks ran, and the names of those that failed; why goes to standard error."""
    names = [name for name in vars(Checks) if name[0] != "_" and name not in ("request", "forecast", "statistics")]
    failed = []
    for name in names:
        try:
            getattr(checks, name)()
        except Exception:  # noqa: BLE001 - told, and the others are made
            failed.append(name)
            traceback.print_exc()
    return len(names), failed


def main(address, model, authorization=""):
    count, failed = 0, []
    for face in (Blocking, Asynchronous):
        ran, wrong = failures_of(Checks(face(address, Authorization(authorization)), model))
        count += ran
        failed += [f"{face.__name__}: {name}" for name in wrong]
    print(*failed, sep="\n")
    print(f"{count - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
