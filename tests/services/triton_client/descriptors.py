"""What Triton's client believes the twelve RPCs to be, as JSON on standard output.

Runs in an environment that holds tritonclient[grpc] and nothing of ours: two definitions of `inference` in one process
are refused by protobuf. `tests/protos/open_inference.json` is what it wrote; `described` is also used on our stubs.
"""

import json
import sys

from google.protobuf.descriptor import FieldDescriptor

RPCS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
# Of ModelConfig, which describes every kind of model, what is followed further; of the rest the fields are told.
FOLLOWED = {
    "inference.ModelConfig": (
        "version_policy",
        "input",
        "output",
        "dynamic_batching",
        "parameters",
        "model_transaction_policy",
    )
}
TYPES = {
    number: name.removeprefix("TYPE_").lower() for name, number in vars(FieldDescriptor).items() if name[:5] == "TYPE_"
}


def described(service):
    """{"methods", "messages", "enums"}: of a service descriptor, the RPCs above and all that they reach."""
    told = {"methods": {}, "messages": {}, "enums": {}}
    for name in RPCS:
        method = service.methods_by_name[name]
        told["methods"][name] = _method(method)
        for message in (method.input_type, method.output_type):
            _reach(message, told)
    return told


def _method(method):
    streams = method.client_streaming, method.server_streaming
    incoming, outgoing = (
        f"{'stream ' if is_stream else ''}{message.full_name}"
        for is_stream, message in zip(streams, (method.input_type, method.output_type), strict=True)
    )
    return f"{incoming} -> {outgoing}"


def _reach(message, told):
    if message.full_name in told["messages"]:
        return
    told["messages"][message.full_name] = {field.name: _field(field) for field in message.fields}
    for field in message.fields:
        if field.name not in FOLLOWED.get(message.full_name, (field.name,)):
            continue
        if field.enum_type is not None:
            told["enums"][field.enum_type.full_name] = {v.name: v.number for v in field.enum_type.values}
        if field.message_type is not None:
            _reach(field.message_type, told)


def _field(field):
    """Number, label, type, and the oneof that it belongs to: `5 repeated inference.InferParameter`."""
    words = [str(field.number)]
    if field.is_repeated:
        words.append("repeated")
    kind = field.message_type or field.enum_type
    words.append(kind.full_name if kind is not None else TYPES[field.type])
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        words.append("map")
    if field.containing_oneof is not None:
        words.append(f"oneof {field.containing_oneof.name}")
    return " ".join(words)


if __name__ == "__main__":
    from tritonclient.grpc import service_pb2

    told = described(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"])
    parts = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(of.items()))
        + "\n }"
        for part, of in told.items()
    ]
    sys.stdout.write("{\n" + ",\n".join(parts) + "\n}\n")  # a message a line
