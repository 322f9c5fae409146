"""Tensors: by the protocol's rules or refused with the field, and never another unit or a gap."""

import re

import numpy as np
import pytest

from forecasting.errors import InvalidInput
from forecasting.references import Version
from forecasting.windows import WindowShape
from protos.inference import open_inference_pb2 as pb
from services.inference.open_inference_rows import FORECAST, GLUCOSE, HISTORY, MINUTE, rows_from
from services.inference.open_inference_tensors import response_from, whole_number

SHAPE = WindowShape(context_length=4, prediction_length=2)
A_LONGER = SHAPE.model_copy(update={"history_length": 3})
VERSION = Version("virtual-population", "7", "d" * 64, {}, (), "")
CONTEXTS = np.array([[100, 110, 120, 130], [90, 80, 70, 60]], np.float32)


def typed(**more: object) -> pb.ModelInferRequest:
    """Two contexts in typed fields; more: of the first input."""
    request = pb.ModelInferRequest(id="7")
    fields = {"name": GLUCOSE, "datatype": "FP32", "shape": CONTEXTS.shape, **more}
    request.inputs.add(**fields).contents.fp32_contents.extend(CONTEXTS.ravel())
    return request


def raw(contexts: np.ndarray = CONTEXTS, **more: object) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(raw_input_contents=[contexts.astype("<f4").tobytes()])
    request.inputs.add(**{"name": GLUCOSE, "datatype": "FP32", "shape": contexts.shape, **more})
    return request


def with_minutes(*minutes: float, **more: object) -> pb.ModelInferRequest:
    request = raw()
    request.inputs.add(**{"name": MINUTE, "datatype": "FP32", "shape": [len(minutes)], **more})
    request.raw_input_contents.append(np.array(minutes, "<f4").tobytes())
    return request


def changed(request: pb.ModelInferRequest, change) -> pb.ModelInferRequest:
    change(request)
    return request


def error_of(request: pb.ModelInferRequest) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        read(request)
    return caught.value


def read(request: pb.ModelInferRequest) -> None:
    rows = rows_from(request, SHAPE)
    for k in range(len(rows)):
        rows.context(k)


@pytest.mark.parametrize("request_of", [typed, raw])
def test_both_ways_give_the_same_rows(request_of):
    rows = rows_from(request_of(), SHAPE)
    np.testing.assert_array_equal(rows.glucose_mg_dl, CONTEXTS)
    assert np.isnan(rows.minute_of_day).all()
    np.testing.assert_array_equal(rows.context(1).glucose_mg_dl, CONTEXTS[1])


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_the_minute_of_day_may_be_unknown_for_some(shape):
    rows = rows_from(with_minutes(1439.5, np.nan, shape=shape), SHAPE)
    np.testing.assert_array_equal(rows.minute_of_day, [1439.5, np.nan])
    assert rows.context(0).minute_of_day == 1439.5


def with_history(*earlier: list[float]) -> pb.ModelInferRequest:
    request, values = raw(), np.array(earlier, "<f4")
    request.inputs.add(name=HISTORY, datatype="FP32", shape=values.shape)
    request.raw_input_contents.append(values.tobytes())
    return request


def test_what_is_known_before_a_context_is_among_the_statistics_of_its_history():
    rows = rows_from(with_history([np.nan, 140, 120], [np.nan] * 3), A_LONGER)
    mean, _, change, known = rows.context(0).history
    assert (mean, change, known) == (pytest.approx(120), pytest.approx(14), pytest.approx(6 / 7))
    alone = rows_from(raw(), A_LONGER).context(1).history
    np.testing.assert_array_equal(rows.context(1).history, alone)
    assert alone[-1] == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("request_", "shape", "said"),
    [
        (with_history([100, 100], [100, 100]), A_LONGER, "send [2,3], NaN where it is unknown"),
        (with_history([100, 100, 100], [100, 100, 700]), A_LONGER, "outside 10 to 600 mg/dL"),
        (with_history([100, 100, 100], [100, 100, 100]), SHAPE, "this model knows none: leave it out"),
    ],
)
def test_a_history_that_cannot_be_is_refused(request_, shape, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        rows_from(request_, shape)


def test_what_a_sensor_cannot_tell_is_taken_as_its_edge_as_for_readings():
    context = rows_from(raw(np.array([[100, 39, 401, 600]], np.float32)), SHAPE).context(0)
    np.testing.assert_array_equal(context.glucose_mg_dl, [100, 40, 400, 400])
    assert context.censored == 3


def of_shape(*shape: int):
    return lambda: raw(shape=shape)


REFUSED = {
    "no input": (pb.ModelInferRequest, "inputs", "no input glucose_mg_dl"),
    "another input": (lambda: raw(name="x"), "inputs[0].name", "no input 'x'"),
    "a name without end": (lambda: raw(name="x" * 10_000), "inputs[0].name", "…"),
    "an input twice": (
        lambda: changed(typed(), lambda r: r.inputs.append(r.inputs[0])),
        "inputs[1].name",
        "comes twice",
    ),
    "another datatype": (lambda: raw(datatype="FP64"), "inputs[0].datatype", "'FP64'; send FP32"),
    "no datatype": (lambda: raw(datatype=""), "inputs[0].datatype", "send FP32"),
    "a dimension too few": (of_shape(8), "inputs[0].shape", "has shape [8]; send 2 dimensions"),
    "dimensions without end": (lambda: raw(shape=[1 << 62] * 5000), "inputs[0].shape", "2 dimensions"),
    "a negative dimension": (of_shape(-1, 4), "inputs[0].shape", "none below 0"),
    "two negative dimensions": (of_shape(-2, -4), "inputs[0].shape", "none below 0"),
    "a product beyond 64 bits": (of_shape(1 << 62, 1 << 62), "raw_input_contents[0]", "has 32 bytes"),
    "another context length": (of_shape(4, 2), "inputs[0].shape", "send [rows,4]"),
    "no row": (lambda: raw(CONTEXTS[:0]), "inputs[0].shape", "1 to 1,024 rows"),
    "too many rows": (lambda: raw(np.full((1025, 4), 100.0)), "inputs[0].shape", "1 to 1,024 rows"),
    "bytes too few": (of_shape(3, 4), "raw_input_contents[0]", "has 32 bytes; shape [3,4] needs 48"),
    "no whole number": (
        lambda: changed(raw(), lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 31)),
        "raw_input_contents[0]",
        "has 31 bytes",
    ),
    "raw entries too many": (
        lambda: changed(raw(), lambda r: r.raw_input_contents.append(b"")),
        "raw_input_contents",
        "2 entries for 1 inputs",
    ),
    "raw and typed": (
        lambda: changed(typed(), lambda r: r.raw_input_contents.append(CONTEXTS.tobytes())),
        "inputs[0].contents",
        "send one of the two",
    ),
    "values too few": (lambda: typed(shape=[3, 4]), "inputs[0].contents.fp32_contents", "has 8 values"),
    "no values": (
        lambda: changed(typed(), lambda r: r.inputs[0].ClearField("contents")),
        "inputs[0].contents.fp32_contents",
        "has 0 values",
    ),
    "values of another type": (
        lambda: changed(typed(), lambda r: r.inputs[0].contents.fp64_contents.append(1)),
        "inputs[0].contents.fp64_contents",
        "goes into fp32_contents",
    ),
    "shared memory": (
        lambda: changed(raw(), lambda r: r.inputs[0].parameters["shared_memory_region"].MergeFromString(b"")),
        "inputs[0].parameters[shared_memory_region]",
        "not supported",
    ),
    "another output": (
        lambda: changed(raw(), lambda r: r.outputs.add(name="y")),
        "outputs[0].name",
        "no output 'y'; ask for forecast_mg_dl",
    ),
    "classes": (
        lambda: changed(
            raw(), lambda r: r.outputs.add(name=FORECAST).parameters["classification"].MergeFromString(b"")
        ),
        "outputs[0].parameters[classification]",
        "not supported",
    ),
    "minutes too few": (lambda: with_minutes(60), "inputs[1].shape", "has shape [1]; send [2,1]"),
    "minutes of another day": (lambda: with_minutes(60, 1440), "inputs[1]", "no minute of a day"),
    "minutes below 0": (lambda: with_minutes(-1, 60), "inputs[1]", "no minute of a day"),
    "a gap": (lambda: raw(np.array([[100, np.nan, 100, 100]])), "inputs[0]", "row 0 of glucose_mg_dl: a step is not"),
    "mmol/L": (lambda: raw(np.stack([CONTEXTS[0], CONTEXTS[1] / 18])), "inputs[0]", "row 1 of glucose_mg_dl: the med"),
    "too high": (lambda: raw(CONTEXTS * 10), "inputs[0]", "outside 10 to 600 mg/dL"),
    "infinite": (lambda: raw(np.array([[100, np.inf, 100, 100]])), "inputs[0]", "outside 10 to 600 mg/dL"),
}


@pytest.mark.parametrize(("make", "field", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_its_field(make, field, words):
    error = error_of(make())
    assert (error.field, words in str(error)) == (field, True), str(error)
    assert len(str(error)) < 300


def test_raw_is_answered_raw_and_typed_typed():
    values = np.arange(12, dtype=np.float64).reshape(2, 3, 2)
    answer = response_from(raw(), VERSION, FORECAST, values)
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4"), values.ravel())
    assert not answer.outputs[0].HasField("contents")
    answer = response_from(typed(), VERSION, FORECAST, values)
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.fp32_contents) == list(range(12))
    assert (answer.id, answer.model_version, list(answer.outputs[0].shape)) == ("7", "7", [2, 3, 2])


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_a_number_may_come_signed_or_not(kind):
    request = pb.ModelInferRequest(parameters={"priority": pb.InferParameter(**{kind: 2})})
    assert whole_number(request.parameters, "priority") == 2
    assert whole_number(request.parameters, "timeout") == 0


@pytest.mark.parametrize("given", [{"string_param": "1"}, {"int64_param": -1}, {"double_param": 1.0}, {}])
def test_what_is_no_number_is_refused(given):
    request = pb.ModelInferRequest(parameters={"timeout": pb.InferParameter(**given)})
    with pytest.raises(InvalidInput, match="timeout is no whole number") as caught:
        whole_number(request.parameters, "timeout")
    assert caught.value.field == "parameters[timeout]"
