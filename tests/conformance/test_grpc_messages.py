"""The messages of gRPC: compiled as committed, those of the public protocol, and read by every protobuf we allow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.envs import CHECKOUT, training_python
from support.grpc_clients import clients_python

# what another package's compiled messages say, in the words of DESCRIBE below
THEIRS = r"""
import json, sys
from importlib import import_module

def fields(message):
    return {f.name: [f.number, f.type, f.is_repeated, f.message_type.full_name if f.message_type else "",
                     f.enum_type.full_name if f.enum_type else "",
                     f.containing_oneof.name if f.containing_oneof else ""] for f in message.fields}

def messages(of, found):
    for message in of:
        found[message.full_name] = fields(message)
        messages(message.nested_types, found)
        for enum in message.enum_types:
            found[enum.full_name] = {v.name: v.number for v in enum.values}

def described(files):
    found = {}
    for file in files:
        messages(file.message_types_by_name.values(), found)
        for enum in file.enum_types_by_name.values():
            found[enum.full_name] = {v.name: v.number for v in enum.values}
        for service in file.services_by_name.values():
            found[service.full_name] = {m.name: [m.input_type.full_name, m.output_type.full_name, m.server_streaming]
                                        for m in service.methods}
    return found
"""
CLIENTS = {
    "tritonclient": ["tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"],
    "kserve": ["kserve.protocol.grpc.grpc_predict_v2_pb2"],
    "grpcio-health-checking": ["grpc_health.v1.health_pb2"],
}
OURS = (
    THEIRS
    + """
from intermodal_server.front.grpc.descriptors import FILES
from google.protobuf import descriptor_pb2, descriptor_pool
pool = descriptor_pool.DescriptorPool()
names = []
for data in FILES:
    pool.AddSerializedFile(data)
    names.append(descriptor_pb2.FileDescriptorProto.FromString(data).name)
print(json.dumps(described([pool.FindFileByName(name) for name in names])))
"""
)


def _told(script: str, *arguments: str) -> dict[str, dict[str, object]]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    command = [str(clients_python()), "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def test_the_committed_descriptors_are_those_of_the_proto_files() -> None:
    command = [sys.executable, "-m", "tests.grpc_messages"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_field_is_that_of_the_clients() -> None:
    ours = _told(OURS)
    seen: dict[str, set[str]] = {name: set() for name in ours}
    for client, modules in CLIENTS.items():
        script = f"{THEIRS}\nprint(json.dumps(described([import_module(m).DESCRIPTOR for m in sys.argv[1:]])))"
        theirs = _told(script, *modules)
        for name in ours.keys() & theirs.keys():
            for key in ours[name].keys() & theirs[name].keys():
                assert ours[name][key] == theirs[name][key], f"{client}: {name}.{key}"
                seen[name].add(key)
    unknown = {f"{name}.{key}" for name, keys in ours.items() for key in keys.keys() - seen[name]}
    assert unknown == set()  # every name of ours is known to one of them


ROUND_TRIP = """
import struct
from google.protobuf import __version__
from intermodal_server.contract import ModelSettings, Signature, TensorSpec
from intermodal_server.front.grpc.codec import format_infer, parse_infer, select
from intermodal_server.front.grpc.inference import _bytes
from intermodal_server.front.grpc.messages import INFERENCE, message, request_classes
signature = Signature((TensorSpec("x", "FP64", (-1,)), TensorSpec("s", "BYTES", (-1,))), ())
settings = ModelSettings("m", "1", "predictor", "predictor", "", signature)
request = message("inference.ModelInferRequest")(model_name="m", id="7")
request.inputs.add(name="x", datatype="FP64", shape=[2]).contents.fp64_contents.extend([1.5, float("inf")])
request.inputs.add(name="s", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"ab")
request.inputs[0].parameters["a"].int64_param = 1
request = request_classes(INFERENCE)["ModelInfer"].FromString(request.SerializeToString())
tensors = parse_infer(request, settings)
assert [bytes(t.data) for t in tensors] == [struct.pack("<2d", 1.5, float("inf")), struct.pack("<I2s", 2, b"ab")]
answer = message("inference.ModelInferResponse").FromString(format_infer(settings, "7", select(request, tensors)))
assert answer.id == "7" and list(answer.outputs[0].shape) == [2] and len(answer.raw_output_contents) == 2
_bytes("ModelConfigResponse", {"config": {"name": "m", "input": [{"name": "x", "data_type": "TYPE_FP64", "dims": [-1]}],
                                          "instance_group": [{"kind": "KIND_CPU"}], "new": 1}})
print(__version__)
"""


@pytest.mark.parametrize("version", ["protobuf==4.25.*", "protobuf==5.*", "protobuf==6.*", "protobuf==7.*"])
def test_every_protobuf_that_we_allow_can_read_and_write_them(version: str, tmp_path: Path) -> None:
    python = training_python(version, "msgspec", "orjson")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "src")}
    command = [str(python), "-c", ROUND_TRIP]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(version.partition("==")[2].rstrip("*"))
