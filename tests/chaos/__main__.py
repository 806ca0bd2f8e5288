"""The command: misbehaviour for so many minutes in one mode, or in all.

    python -m tests.chaos --mode workers --minutes 2 --seed 1
    python -m tests.chaos --mode inline --seconds 20 --kinds hang,exit

Exit status 1 when something did not hold; what it was is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "src")]

from chaos import model  # noqa: E402
from chaos.campaign import Plan, Report, run  # noqa: E402

MODES = ("inline", "thread", "workers")


def tell(report: Report) -> None:
    """Print what came of it."""
    latencies = sorted(report.latencies_s) or [0.0]
    count = sum(report.words.values())
    print(
        f"{report.plan.mode}: {count} requests, capacity {report.capacity:.0f} a second, {report.deaths} processes died"
    )
    print("  " + ", ".join(f"{word}: {number}" for word, number in sorted(report.words.items())))
    half, most = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    print(f"  good answers: p50 {half * 1000:.1f} ms, p99 {most * 1000:.0f} ms, slowest {latencies[-1]:.1f} s")
    probing = report.probing
    print(f"  probes: {probing.ready} ready, {probing.unready} not, slowest {probing.slowest_s:.2f} s")
    if report.seen:
        early, late = report.seen[len(report.seen) // 4], report.seen[-1]
        print(
            f"  supervisor {early.supervisor_bytes >> 10} -> {late.supervisor_bytes >> 10} KiB, "
            f"front {early.front_bytes >> 10} -> {late.front_bytes >> 10} KiB, "
            f"descriptors {early.supervisor_descriptors}/{early.front_descriptors} -> "
            f"{late.supervisor_descriptors}/{late.front_descriptors}, log {report.log_bytes >> 10} KiB"
        )
    for (kind, word, status), number in sorted(report.by_kind.items()):
        if number:
            print(f"    {kind or '(good)'}: {word} {status} x{number}")
    if report.strained:
        print(f"  STRAINED {report.strained}")
    for fault in report.faults[:40]:
        print(f"  FAULT {fault}")


def main(arguments: Sequence[str]) -> int:
    """The exit status of `python -m tests.chaos ARGUMENTS`."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--mode", choices=[*MODES, "all"], default="all")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=0.0, help="instead of minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.05, help="of requests that misbehave")
    parser.add_argument("--processes", type=int, default=1, help="that answer, in mode inline")
    parser.add_argument("--kinds", default="", help="only these, with commas between")
    parser.add_argument("--keep-log", default="", help="where to leave the server's log")
    options = parser.parse_args(arguments)
    kinds = tuple(options.kinds.split(",")) if options.kinds else tuple(model.KINDS)
    seconds = options.seconds or options.minutes * 60
    failed = False
    for mode in MODES if options.mode == "all" else (options.mode,):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            processes = options.processes if mode == "inline" else 1
            plan = Plan(mode, seconds, options.seed, options.share, kinds=kinds, processes=processes)
            report = run(plan, Path(folder), keep_log=options.keep_log)
        tell(report)
        failed = failed or bool(report.faults)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
