"""Messages of the Open Inference Protocol ↔ arrays, by the protocol's rules; what the arrays mean is in rows."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from forecasting.errors import InvalidInput
from forecasting.references import Version
from protos.inference import open_inference_pb2 as pb

DATATYPE = "FP32"
NUMBER = np.dtype("<f4")  # what FP32 is on the wire, where it is raw
TYPED = "fp32_contents"  # and where it is not
SHARED_MEMORY = "shared_memory_"  # how the parameters begin by which the values would be elsewhere
SHOWN = 64  # characters of what was sent that a sentence repeats

Parameters = Mapping[str, pb.InferParameter]
InputTensor = pb.ModelInferRequest.InferInputTensor
Ranks = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input. values: float32, shaped as was said; place: the path of its field, for errors"""

    values: np.ndarray
    place: str


def tensors_from(request: pb.ModelInferRequest, ranks: Ranks) -> dict[str, Tensor]:
    """The inputs by name, each as large as its shape says; raises InvalidInput with the field.

    ranks: the inputs that the model takes, and how many dimensions each may have
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; send one for each, or none",
            "raw_input_contents",
        )
    tensors: dict[str, Tensor] = {}
    for k, tensor in enumerate(request.inputs):
        place = f"inputs[{k}]"
        _check(tensor, place, ranks)
        if tensor.name in tensors:
            raise InvalidInput(f"input {tensor.name} comes twice; send it once", f"{place}.name")
        values = _raw_values(tensor, place, raw[k], k) if raw else _typed_values(tensor, place)
        tensors[tensor.name] = Tensor(values.reshape(tensor.shape), place)
    return tensors


def check_outputs(request: pb.ModelInferRequest, names: Iterable[str]) -> None:
    """Raises InvalidInput where something else is asked for."""
    for k, output in enumerate(request.outputs):
        place = f"outputs[{k}]"
        if output.name not in names:
            raise InvalidInput(
                f"there is no output {_shown(output.name)}; ask for {' or '.join(names)}, or leave outputs out",
                f"{place}.name",
            )
        _check_parameters(output.parameters, place, "classification")


def response_from(
    request: pb.ModelInferRequest, version: Version, name: str, values: np.ndarray
) -> pb.ModelInferResponse:
    """The answer with its one output, raw where the request was."""
    response = pb.ModelInferResponse(model_name=version.name, model_version=version.version, id=request.id)
    output = response.outputs.add(name=name, datatype=DATATYPE, shape=values.shape)
    if request.raw_input_contents:
        response.raw_output_contents.append(values.astype(NUMBER).tobytes())
    else:
        output.contents.fp32_contents.extend(values.ravel().tolist())
    return response


def whole_number(parameters: Parameters, name: str) -> int:
    """A parameter that counts something, 0 where it was left out; raises InvalidInput."""
    if name not in parameters:
        return 0
    kind = parameters[name].WhichOneof("parameter_choice")
    number = getattr(parameters[name], kind) if kind in ("int64_param", "uint64_param") else -1
    if number < 0:
        raise InvalidInput(f"parameter {name} is no whole number from 0 on; send it as int64", f"parameters[{name}]")
    return number


def written(shape: Iterable[int]) -> str:
    """[8,36], cut short where it is long."""
    dims = [str(size) for size in shape]
    return f"[{','.join(dims[: SHOWN // 8])}{',…' if len(dims) > SHOWN // 8 else ''}]"


def _check(tensor: InputTensor, place: str, ranks: Ranks) -> None:
    """Raises InvalidInput for what the model does not take, whatever its values are."""
    if tensor.name not in ranks:
        raise InvalidInput(f"there is no input {_shown(tensor.name)}; send {' and '.join(ranks)}", f"{place}.name")
    if tensor.datatype != DATATYPE:
        raise InvalidInput(
            f"the datatype of {tensor.name} is {_shown(tensor.datatype)}; send {DATATYPE}", f"{place}.datatype"
        )
    allowed = ranks[tensor.name]  # seen to before the sizes are multiplied: of so few, no product is too large
    if len(tensor.shape) not in allowed or min(tensor.shape) < 0:
        raise InvalidInput(
            f"{tensor.name} has shape {written(tensor.shape)}; send {' or '.join(map(str, allowed))} dimensions, "
            "none below 0",
            f"{place}.shape",
        )
    _check_parameters(tensor.parameters, place)


def _check_parameters(parameters: Parameters, place: str, *refused: str) -> None:
    for name in parameters:
        if name in refused or name.startswith(SHARED_MEMORY):
            raise InvalidInput(
                f"parameter {_shown(name)} is not supported; leave it out", f"{place}.parameters[{name[:SHOWN]}]"
            )


def _raw_values(tensor: InputTensor, place: str, raw: bytes, k: int) -> np.ndarray:
    """(values,) float32"""
    if tensor.HasField("contents"):
        raise InvalidInput(
            f"{tensor.name} has contents beside raw_input_contents; send one of the two", f"{place}.contents"
        )
    needed = math.prod(tensor.shape) * NUMBER.itemsize
    if len(raw) != needed:
        raise InvalidInput(
            f"{tensor.name} has {len(raw)} bytes; shape {written(tensor.shape)} needs {needed}",
            f"raw_input_contents[{k}]",
        )
    return np.frombuffer(raw, NUMBER)


def _typed_values(tensor: InputTensor, place: str) -> np.ndarray:
    """(values,) float32"""
    for field, _ in tensor.contents.ListFields():
        if field.name != TYPED:
            raise InvalidInput(
                f"{tensor.name} has {field.name}; {DATATYPE} goes into {TYPED}", f"{place}.contents.{field.name}"
            )
    values, needed = tensor.contents.fp32_contents, math.prod(tensor.shape)
    if len(values) != needed:
        raise InvalidInput(
            f"{tensor.name} has {len(values)} values; shape {written(tensor.shape)} needs {needed}",
            f"{place}.contents.{TYPED}",
        )
    return np.array(values, np.float32)


def _shown(text: str) -> str:
    """What was sent, as far as a sentence repeats it."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
