"""The front alone, in one process: `inside.py CODE-PARENT FRONT-SITE SETTINGS [PARTS]`, run by `--inside`.

Bytes go into connections whose transports write nowhere, the model is one that answers at once: what is left is the
front's own work for a request, without kernel, polling and model. The least time of many turns is printed, in
microseconds a request: on a busy machine, too, it hardly changes, and a change of the code shows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

CONNECTIONS = 32
TURNS = 1500


class Transport:
    """Takes answers and counts them."""

    answers = 0

    def write(self, data):
        """An answer."""
        Transport.answers += 1
        self.last = data

    def is_closing(self):
        """Never."""
        return False

    def get_write_buffer_size(self):
        """Everything has left."""
        return 0

    def __getattr__(self, name):
        return lambda *arguments, **named: None


async def main(settings_path, rows, parts):
    """Print the times with everything, and without each of the parts."""
    from intermodal_server.contract import ModelSettings
    from intermodal_server.front.app import App
    from intermodal_server.front.execute.batcher import Batcher
    from intermodal_server.front.execute.decide import Decision
    from intermodal_server.front.execute.local import InlineModel
    from intermodal_server.front.health import Health
    from intermodal_server.front.http import make_server
    from intermodal_server.front.observe.instruments import Instruments
    from intermodal_server.front.service import Service
    from intermodal_server.log import Log
    from intermodal_server.options import read_options
    from intermodal_server.tensors import Tensor

    class Model:
        def predict(self, tensors):
            count = tensors[0].shape[0]
            return [Tensor("probabilities", "FP32", (count, 10), b"\0\0\x80\x3f" * 10 * count)]

    settings = ModelSettings.from_json(Path(settings_path).read_bytes())
    data = [float(value % 17) for value in range(64 * rows)]
    tensor = {"name": "X", "datatype": "FP32", "shape": [rows, 64], "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = b"POST /v2/models/bench/infer HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
    request = b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
    log, health = Log("bench"), Health()
    health.phase = "ready"
    decision = Decision("inline", "measured here", CONNECTIONS * rows, "on")
    executor = Batcher(settings, decision, log, lost=print, each_turn=True)
    executor.add(InlineModel(Model(), log))
    service = Service(settings, executor, health, slow_body_s=10, log=log)
    instruments = Instruments(service, read_options({}).observe, "127.0.0.1", log)
    observers = instruments.observers() if "observers" in parts else []
    app = App(service, log, guards=[instruments.began], observers=observers)
    server = make_server(app, slow_header_s=10)
    connections = [server._connection() for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.connection_made(Transport())
    least = 1e9
    for _ in range(max(300, TURNS // rows)):
        Transport.answers = 0
        begin = time.perf_counter()
        for connection in connections:
            connection.data_received(request)
        while Transport.answers < CONNECTIONS:
            await asyncio.sleep(0)
        least = min(least, (time.perf_counter() - begin) / CONNECTIONS)
    assert b"HTTP/1.1 200 " in connections[0].transport.last, connections[0].transport.last
    print(f"{least * 1e6:.1f}")


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:3]
    import uvloop

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main(sys.argv[3], int(sys.argv[4]), sys.argv[5:]))
