"""ForecastBatch: a result for each, and nobody spoils another's."""

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from protos.glucast.v1 import forecaster_pb2 as pb
from protos.glucast.v1 import forecaster_pb2_grpc
from tests.services.conftest import readings_until
from tests.services.test_forecast_rpc import request_of

OK, BAD, TOO_LITTLE, NONE = 0, 3, 9, 5  # of google.rpc.Code


@pytest.fixture
def stub(service):
    with grpc.insecure_channel(service.address) as channel:
        yield forecaster_pb2_grpc.ForecasterStub(channel)


def people(count: int) -> list[pb.ForecastRequest]:
    return [request_of(readings_until(level=100.0 + k % 90), patient_id=f"p{k}") for k in range(count)]


def test_each_gets_what_it_would_get_alone_in_its_place(stub):
    requests = people(70)
    answer = stub.ForecastBatch(pb.ForecastBatchRequest(requests=requests), timeout=20)
    assert len(answer.results) == 70
    for request, result in zip(requests, answer.results, strict=True):
        alone = stub.Forecast(request, timeout=5)
        np.testing.assert_allclose(
            [p.mean_mg_dl for p in result.forecast.points], [p.mean_mg_dl for p in alone.points], atol=1e-6
        )
        assert result.forecast.model == alone.model


def test_what_is_wrong_with_one_is_its_own_result_with_the_field(stub):
    requests = people(7)
    requests[1].unit = pb.UNIT_UNSPECIFIED
    requests[2].readings[5].ClearField("time")
    del requests[3].readings[:40]
    requests[4].model = "virtual-nobody/7"
    requests[5].patient_id = ""
    answer = stub.ForecastBatch(pb.ForecastBatchRequest(requests=requests), timeout=20)
    assert [result.problem.code for result in answer.results] == [OK, BAD, BAD, TOO_LITTLE, NONE, BAD, OK]
    details = error_details_pb2.BadRequest()
    assert answer.results[2].problem.details[0].Unpack(details)
    assert details.field_violations[0].field == "requests[2].readings[5].time"
    assert answer.results[0].forecast.points
    assert answer.results[6].forecast.points


def test_a_patients_own_model_answers_within_a_batch_too(stub):
    requests = people(3)
    requests[1].patient_id = "570"
    answer = stub.ForecastBatch(pb.ForecastBatchRequest(requests=requests), timeout=20)
    names = [result.forecast.model.name for result in answer.results]
    assert names == ["virtual-population", "virtual-570", "virtual-population"]


@pytest.mark.parametrize("count", [0, 1025])
def test_a_message_of_none_or_too_many_is_refused_whole(stub, count):
    with pytest.raises(grpc.RpcError) as refused:
        stub.ForecastBatch(pb.ForecastBatchRequest(requests=[pb.ForecastRequest()] * count), timeout=5)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "1 to 1,024 are allowed" in refused.value.details()


def test_a_batch_of_the_greatest_size_is_answered(stub):
    answer = stub.ForecastBatch(pb.ForecastBatchRequest(requests=people(1024)), timeout=60)
    assert [result.problem.code for result in answer.results] == [OK] * 1024


def test_a_caller_who_gives_up_leaves_the_service_well(stub):
    call = stub.ForecastBatch.future(pb.ForecastBatchRequest(requests=people(1024)), timeout=60)
    call.cancel()
    assert stub.Forecast(people(1)[0], timeout=5).points
