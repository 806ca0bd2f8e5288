"""Questions to the echo model over gRPC, and callers that never stop asking."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import Any

from support.grpc_clients import import_grpc

grpc = import_grpc()
from intermodal_server.front.grpc.messages import message  # noqa: E402

SERVICE = "/inference.GRPCInferenceService/"
Request = message("inference.ModelInferRequest")
Response = message("inference.ModelInferResponse")


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def question(*values: float) -> bytes:
    """A request for the model `echo`."""
    request = Request(model_name="echo", raw_input_contents=[struct.pack(f"<{len(values)}d", *values)])
    request.inputs.add(name="x", datatype="FP64", shape=[len(values)])
    data: bytes = request.SerializeToString()
    return data


def numbers(data: bytes) -> list[float]:
    """What an answer holds."""
    raw = Response.FromString(data).raw_output_contents[0]
    return list(struct.unpack(f"<{len(raw) // 8}d", raw))


def infer(channel: Any) -> Any:
    """The method, to be called with bytes."""
    return channel.unary_unary(f"{SERVICE}ModelInfer")


def ask(channel: Any, *values: float, **more: Any) -> list[float]:
    """The answer to one question."""
    return numbers(infer(channel)(question(*values), **{"timeout": 60, **more}))


RETRY = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)

BACKOFF = [(f"grpc.{which}_reconnect_backoff_ms", 200) for which in ("initial", "min", "max")]


class Load:
    """Callers that ask one after the other until told to end, or until one of them sees an error."""

    def __init__(self, target: str, callers: int) -> None:
        self._options = [("grpc.service_config", RETRY), ("grpc.use_local_subchannel_pool", 1), *BACKOFF]
        self._target = target
        self._over = threading.Event()
        self._answered: list[float] = []
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self, caller: int) -> None:
        value = caller * 1e6
        with grpc.insecure_channel(self._target, options=self._options) as channel:
            while not self._over.is_set() and not self.errors:
                value += 1
                try:
                    assert ask(channel, 0, value) == [0, value]
                    self._answered.append(value)
                except grpc.RpcError as error:
                    self.errors.append(f"{error.code()} {error.details()}")

    def end(self) -> set[float]:
        """What was answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return set(self._answered)
