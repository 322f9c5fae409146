"""Requests that no honest client sends, made from honest ones; the same for the same seed."""

import struct
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from protos.glucast.v1 import forecaster_pb2 as pb
from protos.inference import open_inference_pb2 as oip
from tests.services.conftest import LAST, readings_until

MODEL = "virtual-population"
PATIENT, VALUE = "PATIENT-MARKER", 123.456  # sent with every honest request; no answer and no log may repeat them
DEEP = 200  # nested groups: more than protobuf reads
LARGE = 9 << 20  # bytes, more than the service receives
MANY = 300  # times what a list held

I32, I64 = 1 << 31, 1 << 63
WHOLE = (0, 1, -1, 2, 7, 36, 1024, 1025, I32 - 1, -I32, I32, I64 - 1, -I64, 2 * I64 - 1, 1 << 32, 1 << 62, 253402300800)
NUMBERS = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, 5e-324, 3.4e38, 1e308, 5.5, 40.0, 599.9, VALUE)
WORDS = (
    "",
    " ",
    "\0",
    "\r\ngrpc-status: 0",
    "%s%n{0}{}",
    "../../../etc/passwd",
    "\ud7ff\ue000\U0010ffff",
    "é\u202e\u200b",
    "💉" * 5000,
    "a" * 300,
    "x" * 100_000,
    "population",
    "virtual-population",
    "virtual-population@latest",
    "virtual-population/999999999",
    "virtual-population/0",
    "1",
    "-1",
    "Europe/London",
    "Etc/../UTC",
    "localtime",
    "FP32",
    "BYTES",
    "INT64",
    "glucose_mg_dl",
    "minute_of_day",
    "forecast_mg_dl",
    "timeout",
    "priority",
    "sequence_id",
    "file:1/model.onnx",
    "config",
)
SIZES = (0, 1, -1, 2, 36, 1 << 31, 1 << 32, 1 << 62, I64 - 1, -I64)  # their products overflow, or are nothing
CHUNKS = (b"", b"\0", b"\0" * 143, b"\0" * 144, b"\0" * 145, b"\xff" * 144, b"\0" * 100_000)
LIMITS = {
    FieldDescriptor.CPPTYPE_INT32: (-I32, I32 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-I32, I32 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2 * I32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-I64, I64 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2 * I64 - 1),
}


def honest(method: MethodDescriptor, forecast_id: str = "") -> list[Message]:
    """Messages that a method answers; those of a stream in their order."""
    seconds = [int(reading.time.timestamp()) for reading in readings_until()]
    values = [*(reading.value for reading in readings_until()[:-1]), VALUE]
    readings = [pb.Reading(value=value) for value in values]
    for reading, second in zip(readings, seconds, strict=True):
        reading.time.seconds = second
    person = {"patient_id": PATIENT, "unit": pb.MG_DL, "utc_offset_minutes": 0}
    forecast = pb.ForecastRequest(**person, readings=readings)
    forecast.as_of.FromDatetime(LAST)
    infer = oip.ModelInferRequest(model_name=MODEL, id="one")
    for tensor, content in (("glucose_mg_dl", np.float32([values[-36:]])), ("minute_of_day", np.float32([600]))):
        infer.inputs.add(name=tensor, datatype="FP32", shape=content.shape)
        infer.raw_input_contents.append(content.tobytes())
    typed = oip.ModelInferRequest(model_name=MODEL, model_version="1")
    typed.inputs.add(name="glucose_mg_dl", datatype="FP32", shape=[1, 36]).contents.fp32_contents.extend(values[-36:])
    typed.outputs.add(name="forecast_mg_dl").parameters["binary_data"].bool_param = False
    load = oip.RepositoryModelLoadRequest(model_name=MODEL)
    load.parameters["config"].string_param = "{}"
    outcome = pb.Outcome(forecast_id=forecast_id, unit=pb.MG_DL, readings=readings[-3:])
    start = pb.MonitorStart(**person, history=readings[:-3], forecast_ids=[forecast_id] if forecast_id else [])
    messages = {
        "Forecast": [forecast],
        "ForecastBatch": [pb.ForecastBatchRequest(requests=[forecast] * 3)],
        "Monitor": [pb.MonitorRequest(start=start), *(pb.MonitorRequest(reading=one) for one in readings[-3:])],
        "ReportOutcome": [pb.ReportOutcomeRequest(outcomes=[outcome, outcome])],
        "ListModels": [pb.ListModelsRequest(patient_id=PATIENT)],
        "GetModel": [pb.GetModelRequest(model=f"{MODEL}@champion"), pb.GetModelRequest(model=f"{MODEL}/1")],
        "ModelInfer": [infer, typed],
        "ModelStreamInfer": [infer, typed],
        "RepositoryIndex": [oip.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [load],
        "RepositoryModelUnload": [oip.RepositoryModelUnloadRequest(model_name=MODEL)],
    }
    if method.name in messages:
        return messages[method.name]
    request = GetMessageClass(method.input_type)
    if "name" in request.DESCRIPTOR.fields_by_name:
        return [request(name=MODEL), request(name=MODEL, version="1")]
    return [request()]


def fuzzed(random: Random, method: MethodDescriptor, honest: Sequence[Message]) -> tuple[bytes, ...]:
    """The messages of one call, one where the method takes no stream: honest ones, most of them spoilt.

    honest: messages that the method answers, in the order of a stream
    """
    if not method.client_streaming:
        return (_spoilt(random, random.choice(honest)),)
    taken = [random.choice(honest) for _ in range(random.randrange(6))]
    if random.random() < 0.7:  # so that it comes further than its first message
        taken.insert(0, honest[0])
        return (honest[0].SerializeToString(), *(_spoilt(random, one) for one in taken[1:]))
    return tuple(_spoilt(random, one) for one in taken)


def _spoilt(random: Random, honest: Message) -> bytes:
    return random.choice(WAYS)(random, honest)


def odd_fields(random: Random, honest: Message) -> bytes:
    """A message in which some fields hold what no client means."""
    message = GetMessageClass(honest.DESCRIPTOR)()
    message.CopyFrom(honest)
    for _ in range(random.randint(1, 4)):
        _disturb(random, message)
    return message.SerializeToString()


def _disturb(random: Random, message: Message) -> None:
    """Change one field, here or further in."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = random.choice(fields)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _disturb(random, getattr(message, field.name)[random.choice(WORDS)])
    elif field.is_repeated:
        _disturb_list(random, field, getattr(message, field.name))
    elif field.message_type is None:
        setattr(message, field.name, _odd(random, field))
    elif random.random() < 0.1:
        message.ClearField(field.name)
    else:
        getattr(message, field.name).SetInParent()
        _disturb(random, getattr(message, field.name))


def _disturb_list(random: Random, field: FieldDescriptor, values: Sequence) -> None:
    """Empty, longer, far longer, in another order, or with one that is odd."""
    is_scalar = field.message_type is None
    match random.randrange(6):
        case 0:
            del values[random.randint(0, len(values)) :]
        case 1:
            values.extend([_odd(random, field)] if is_scalar else [GetMessageClass(field.message_type)()])
        case 2 if values and not is_scalar and sum(one.ByteSize() for one in values) < LARGE // MANY:
            values.extend(list(values) * random.choice((1, 1, MANY)))
        case 3 if values:
            values.extend([values[0]])
            del values[0]
        case _ if values and is_scalar:
            values[random.randrange(len(values))] = _odd(random, field)
        case _ if values:
            _disturb(random, random.choice(values))


def _odd(random: Random, field: FieldDescriptor) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return random.choice(NUMBERS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return random.choice(CHUNKS)
        case FieldDescriptor.CPPTYPE_STRING:
            return random.choice(WORDS)
        case kind:
            low, high = LIMITS[kind]
            return random.choice([n for n in WHOLE if low <= n <= high] + [random.randint(low, high)])


def flipped(random: Random, honest: Message) -> bytes:
    """The bytes of a message, some of them changed, taken out or put in."""
    wire = bytearray(honest.SerializeToString())
    for _ in range(random.randint(1, 4)):
        place = random.randint(0, len(wire))
        match random.randrange(4):
            case 0:
                wire[place : place + 1] = bytes([random.randrange(256)])
            case 1:
                del wire[place : place + random.randint(1, 30)]
            case 2:
                wire[place:place] = random.randbytes(random.randint(1, 30))
            case 3:
                wire[place:place] = wire[place : place + random.randint(1, 200)]
    return bytes(wire)


def cut_short(random: Random, honest: Message) -> bytes:
    """The beginning of a message."""
    wire = honest.SerializeToString()
    return wire[: random.randint(0, len(wire))]


def noise(random: Random, honest: Message) -> bytes:
    """Bytes that mean nothing."""
    return random.randbytes(random.choice((1, 2, 8, 100, 20_000)))


def no_text(random: Random, honest: Message) -> bytes:
    """A message whose strings, where it has any, are no UTF-8: a surrogate."""
    return honest.SerializeToString().replace(PATIENT.encode(), b"PATIENT-\xed\xa0\x80AR")  # of the same length


def twice(random: Random, honest: Message) -> bytes:
    """Two messages, which are read as one: the second's fields win, lists are joined."""
    return honest.SerializeToString() + odd_fields(random, honest)


def unknown_fields(random: Random, honest: Message) -> bytes:
    """Fields that no contract has; also such as are nested too deep, and such as claim more bytes than there are."""
    group, ended = b"\xa3\x06", b"\xa4\x06"  # of field 100
    fields = (
        b"\xf8\x07\x01",  # a number
        b"\xfa\x07\x05hello",
        b"\xfa\x07\xff\xff\xff\xff\x07",  # two gigabytes
        b"\x00\x00",  # field 0
        b"\xa0\x06" + b"\xff" * 11,  # a number without end
        b"\xa7\x06",  # a kind that there is not
        group * DEEP + ended * DEEP,
        group * random.randint(1, 20),
    )
    return honest.SerializeToString() + random.choice(fields)


def too_large(random: Random, honest: Message) -> bytes:
    """More than the service receives; one in fifty, for they take long."""
    if random.randrange(50):
        return flipped(random, honest)
    return honest.SerializeToString() + b"\xfa\x07" + _varint(LARGE) + bytes(LARGE)


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def odd_tensor(random: Random, honest: Message) -> bytes:
    """A tensor that contradicts itself; where the message has none, odd fields."""
    if not getattr(honest, "raw_input_contents", ()):
        return odd_fields(random, honest)
    message = GetMessageClass(honest.DESCRIPTOR)()
    message.CopyFrom(honest)
    tensor, raw = random.choice(message.inputs), message.raw_input_contents
    match random.randrange(7):
        case 0:
            tensor.shape[:] = random.choices(SIZES, k=random.randint(0, 4))
        case 1:
            raw[0] = raw[0][:-1] if random.random() < 0.5 else raw[0] + b"\0"
        case 2:
            tensor.datatype = random.choice(("FP64", "FP16", "BF16", "INT32", "BYTES", "BOOL", "fp32", "FP32\0", ""))
        case 3:
            tensor.contents.fp32_contents.extend([VALUE] * random.randint(0, 40))
        case 4:
            del raw[random.randrange(len(raw)) :]
            content = random.choice(("fp32_contents", "fp64_contents", "int64_contents"))
            getattr(tensor.contents, content).extend([1] * 36)
        case 5:
            message.inputs.append(tensor)
            raw.append(raw[0])
        case 6:
            raw[0] = struct.pack("<36f", *random.choices(NUMBERS[:6], k=36))
    return message.SerializeToString()


WAYS: tuple[Callable[[Random, Message], bytes], ...] = (
    odd_fields,
    odd_fields,
    odd_fields,
    odd_tensor,
    odd_tensor,
    flipped,
    flipped,
    cut_short,
    noise,
    no_text,
    twice,
    unknown_fields,
    too_large,
)
