"""Message classes, made at run time from the compiled .proto files.

Takes `descriptors.py`, hands on one class for each name. Two rules, in order: descriptors instead of generated code,
because such code refuses other versions of protobuf than the one it was made with; a pool of our own, because in
inline and thread mode the model may bring its own messages of the same names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

from intermodal_server.front.grpc.descriptors import FILES

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"

_POOL: Any = descriptor_pool.DescriptorPool()
for _file in FILES:
    _POOL.AddSerializedFile(_file)


def message(name: str) -> Any:
    """The class of a message: `message("inference.ModelInferRequest")`."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def request_classes(service: str) -> dict[str, Any]:
    """Name of each method of a service, and the class of its requests."""
    methods = _POOL.FindServiceByName(service).methods
    return {method.name: message_factory.GetMessageClass(method.input_type) for method in methods}
