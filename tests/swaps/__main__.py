"""Swap servers behind Envoy under load and count what clients lost; 1 when it was anything.

python -m tests.swaps --swaps 20 --requests 100000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from .campaign import campaign


def main() -> int:
    """Do what the arguments say; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.swaps", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--mode", choices=["rolling", "weights"], default="rolling")
    parser.add_argument("--no-resets", action="store_true", help="Envoy may not ask again what a server dropped")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--processes", type=int, default=0, help="with the model inline, instead of in a worker")
    parser.add_argument("--drain-s", type=float, default=1.0)
    wanted = parser.parse_args()
    found = campaign(
        swaps=wanted.swaps,
        requests=wanted.requests,
        mode=wanted.mode,
        resets=not wanted.no_resets,
        connections=wanted.connections,
        drain_s=wanted.drain_s,
        processes=wanted.processes,
    )
    print(
        f"{wanted.mode}: {found.answered} requests answered, {len(found.lost)} lost, "
        f"{found.again} asked again by Envoy, {found.swaps} swaps in {found.seconds:.0f} s"
    )
    print(*found.lost[:20], sep="\n")
    return 1 if found.lost else 0


if __name__ == "__main__":
    sys.exit(main())
