"""Take one of two servers away under load and bring it back, again and again; count the calls that callers lost.

python -m tests.grpc_swaps --swaps 20 --callers 16

Callers have both addresses and retry on UNAVAILABLE only, as kserve's client does. 1 when a call was lost.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from support.grpc_clients import grpc_serve
from support.grpc_load import Load, free_port
from support.serving import Served, echo_settings, write_root

from intermodal_server.contract import ServeSettings

SAME = "class Model:\n    def predict(self, x):\n        return {'y': x}\n"


def main() -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.grpc_swaps", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--callers", type=int, default=16)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = echo_settings(predictor="same:Model", serve=ServeSettings(grpc=True))
        root = write_root(Path(folder), settings, app={"same.py": SAME})
        ports = [free_port(), free_port()]
        stacks: list[ExitStack] = []
        servers: list[Served] = []
        for port in ports:
            stacks.append(stack.enter_context(ExitStack()))
            servers.append(stacks[-1].enter_context(grpc_serve(root, grpc_port=port, drain_s=0.5)).served)
        load = Load(f"ipv4:127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", wanted.callers)
        stack.callback(load.end)
        started_s = time.monotonic()
        for swap in range(wanted.swaps):
            one = swap % 2
            servers[one].process.send_signal(signal.SIGTERM)
            if servers[one].process.wait(60) != 0:
                load.errors.append(f"swap {swap}: the server ended with {servers[one].process.returncode}")
            stacks[one].close()
            servers[one] = stacks[one].enter_context(grpc_serve(root, grpc_port=ports[one], drain_s=0.5)).served
            time.sleep(2)  # callers look again after 0.2 s; the other may only go when all have come back
            if load.errors:
                break
        answered = len(load.end())
        print(
            f"{answered} calls answered, {len(load.errors)} lost, {swap + 1} swaps, "
            f"{answered / (time.monotonic() - started_s):.0f} calls a second"
        )
        print(*load.errors, sep="\n")
    return 1 if load.errors else 0


if __name__ == "__main__":
    sys.exit(main())
