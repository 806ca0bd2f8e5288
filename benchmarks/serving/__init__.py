"""What serving costs: `./dev bench serving [--rounds N] [--seconds N] [--only A;B] [--inside] [--update]`.

Ours and the peers in turn, in one run: every round starts each server with each model, compares its answers with the
right ones, and loads it by wrk at every point. Our server runs from the folders that an image has, started as the
image starts it, without the container's network and without the forwarder of `intermodal run`. The tables go to
standard output, every single point into benchmarks/out/serving.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.build.workshop import CHECKOUT
from benchmarks.measure import load as machine_load
from benchmarks.serving import extras, kitchen, load
from benchmarks.serving.contenders import CONTENDERS, Contender, running, verify
from benchmarks.serving.results import POINTS, Results
from benchmarks.serving.tables import markdown

RESULTS = CHECKOUT / "benchmarks" / "out" / "serving.json"
PAGE = CHECKOUT / "docs" / "benchmarks.md"
START, END = "<!-- ./dev bench serving --update -->", "<!-- end -->"


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure, print."""
    options = _options(arguments)
    if options.inside:
        print(extras.inside())
        return
    kitchen.wrk()
    for kind in ("forest", "mlp", "echo", "noop"):
        kitchen.root(kind)
    results = Results(kitchen.job().own_ms)
    chosen = [each for name, each in CONTENDERS.items() if not options.only or name in options.only]
    for number in range(options.rounds):
        for kind in options.kinds:
            for contender in chosen:
                _say(f"round {number + 1}: {kind}, {contender.name} (load {machine_load()[0]})")
                _one(results, contender, kind, options.seconds)
                results.write(RESULTS)  # a long run that is stopped has not been for nothing
        if "ours" in (each.name for each in chosen):
            _say(f"round {number + 1}: one megabyte, and nothing at all")
            results.binary_ms.append(extras.binary_ms(options.seconds))
            results.idle.append(extras.idle())
            results.write(RESULTS)
    text = markdown(results)
    if options.update:
        _update(text)
    print(text)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench serving")
    parser.add_argument("--rounds", type=int, default=2, help="how often everything is started and measured")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each point, after one of warming up")
    parser.add_argument("--only", type=lambda text: text.split(";"), default=[], help="contenders, by semicolon")
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(kitchen.KINDS), help="models")
    parser.add_argument("--inside", action="store_true", help="only the front's own work, which busy machines show too")
    parser.add_argument("--update", action="store_true", help="put the tables into docs/benchmarks.md, too")
    return parser.parse_args(arguments)


def _one(results: Results, contender: Contender, kind: str, seconds: int) -> None:
    """Start one server with one model, verify it, load it at every point, stop it."""
    cell = results.cell(contender.name, kind)
    job = kitchen.job()
    with (
        running(contender, kind, contender.body(kind, job.rows[:1])) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        cell.start_s.append(server.start_s)
        for rows, connections in POINTS:
            body = Path(folder, str(rows))
            body.write_bytes(verify(server, kind, rows, job))
            if kind == "forest" and (rows, connections) == (1, 32):
                with load.probing(server) as probes:
                    point = load.measure(server, body, connections, seconds)
                cell.health_ms.append(sorted(probes))
            else:
                point = load.measure(server, body, connections, seconds)
            cell.add(rows, connections, point)
            _say(f"  {rows} rows, c={connections}: {point.rate:.0f}/s, {point.p50_ms:.2f} / {point.p99_ms:.2f} ms, "
                 f"CPU {point.cpu_us:.0f} us")  # fmt: skip
        cell.memory.append(server.memory())


def _update(text: str) -> None:
    before, start, rest = PAGE.read_text().partition(f"{START}\n")
    _, end, after = rest.partition(END)
    when = time.strftime("%Y-%m-%d", time.gmtime())
    PAGE.write_text(f"{before}{start}{text}\n\n{when}.\n{end}{after}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
