"""Our declaration of the Open Inference Protocol against what Triton's client has: a wrong number breaks every caller.

open_inference.json is what tests/services/triton_client/descriptors.py wrote; `make test-triton` compares again.
"""

import json
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto

from protos.inference import open_inference_pb2
from tests.services.triton_client.descriptors import described

SERVICE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
THEIRS = json.loads(Path(__file__).with_name("open_inference.json").read_text())
OURS = described(SERVICE)
OF_MODELS = {"inference.ModelConfig", "inference.ModelInput", "inference.ModelOutput"}  # where ours is a part


def test_the_rpcs_are_those_of_the_protocol_and_no_others():
    assert OURS["methods"] == THEIRS["methods"]
    assert {method.name for method in SERVICE.methods} == THEIRS["methods"].keys()


def test_every_message_of_the_protocol_is_there():
    assert THEIRS["messages"].keys() - OURS["messages"].keys() == {"inference.ModelTensorReshape"}
    assert OURS["messages"].keys() <= THEIRS["messages"].keys()


@pytest.mark.parametrize("name", OURS["messages"])
def test_every_field_has_their_number_label_type_and_oneof(name):
    ours, theirs = OURS["messages"][name], THEIRS["messages"][name]
    assert ours.items() <= theirs.items()
    if name not in OF_MODELS:
        assert ours == theirs


@pytest.mark.parametrize("name", sorted(OF_MODELS))
def test_the_numbers_that_are_not_ours_are_reserved(name):
    message = DescriptorProto()
    open_inference_pb2.DESCRIPTOR.message_types_by_name[name.partition(".")[2]].CopyToProto(message)
    reserved = {number for span in message.reserved_range for number in range(span.start, span.end)}
    left_out = THEIRS["messages"][name].items() - OURS["messages"][name].items()
    assert reserved == {int(field.split()[0]) for _, field in left_out}


def test_enumerations_have_their_numbers():
    assert OURS["enums"] == THEIRS["enums"]
