"""The builder's figures: `./dev bench build [--runs N] [--cold N] [--only a,b] [--no-peers] [--markdown] [--update]`.

Ours and the peers in turn, in one run, on one machine: `docker build` of three Dockerfiles (multi-stage with pip, the
same with uv, single-stage) and BentoML, all from the same wheels on the same base. The table goes to standard output,
every single run into benchmarks/out/build.json; docs/benchmarks.md says how each row is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.build import workshop
from benchmarks.build.daemon import daemon
from benchmarks.build.product import Home
from benchmarks.build.rows import Bench, Row, names
from benchmarks.measure import load, table

PEERS = {"multistage": "docker, multi-stage", "uv": "docker, uv", "single": "docker, single-stage", "bento": "BentoML"}

START, END = "<!-- ./dev bench build --update -->", "<!-- end -->"


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure, print."""
    options = _options(arguments)
    with ExitStack() as stack:
        index = stack.enter_context(workshop.index(workshop.wheels()))
        bento = workshop.environment("bento", "-r", workshop.BENTO_LIST)
        program = workshop.product()
        shutil.rmtree(workshop.OUT / "seed", ignore_errors=True)
        seed = Home(workshop.OUT / "seed", program, index)
        workshop.models(bento, seed.run)
        running = None if options.no_peers else stack.enter_context(daemon())
        bench = Bench(seed, running, None if options.no_peers else bento / "bentoml", options.runs, options.cold)
        if running is not None:  # what every warm row starts from
            for name in (*bench.dockerfiles, "bento"):
                _say(f"first build with {name}")
                if why := bench.first_build(name):
                    _say(f"{name} is left out, it cannot build here: {why}")
        rows: list[Row] = []
        for name, action in names(bench).items():
            if not options.only or name in options.only:
                _say(f"{name} (load {load()[0]})")
                for row in action():
                    rows.append(row)
                    _say(f"  {row.what}: {row.ours} {row.verdict}")
                _write(rows)  # a long run that is stopped has not been for nothing
    text = _markdown(rows)
    if options.update:
        _update(text)
    print(text if options.markdown else f"{_machine()}; load now {load()[0]}\n\n{text}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench build")
    parser.add_argument("--runs", type=int, default=7, help="rounds of the quick rows")
    parser.add_argument("--cold", type=int, default=3, help="rounds of the slow rows")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="groups of rows, by comma")
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone; needs no root and no Docker")
    parser.add_argument("--markdown", action="store_true", help="print the table alone")
    parser.add_argument("--update", action="store_true", help="put the table into docs/benchmarks.md, too")
    return parser.parse_args(arguments)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release().partition('-')[0]}"


def _markdown(rows: Sequence[Row]) -> str:
    """The table, and the machine it comes from."""
    used = [name for name in PEERS if any(name in row.others for row in rows)]
    header = ["what", "intermodal", "at most", "verdict", *(PEERS[name] for name in used)]
    lines = []
    for row in rows:
        told = [f"{name}: {text}" for name, text in row.others.items() if name not in PEERS]
        ours = "; against ".join([row.ours, *told])
        lines.append([row.what, ours, row.limit, row.verdict, *(row.others.get(name, "") for name in used)])
    loads = [row.load[0] for row in rows]
    when = time.strftime("%Y-%m-%d", time.gmtime())
    told = f"{_machine()}; load average at the rows {min(loads)} to {max(loads)}; {when}."
    return f"{table(header, lines)}\n\n{told}"


def _update(text: str) -> None:
    page = workshop.CHECKOUT / "docs" / "benchmarks.md"
    before, start, rest = page.read_text().partition(f"{START}\n")
    _, end, after = rest.partition(END)
    page.write_text(f"{before}{start}{text}\n{end}{after}")


def _write(rows: Sequence[Row]) -> None:
    document = {"machine": _machine(), "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    workshop.RESULTS.parent.mkdir(parents=True, exist_ok=True)
    workshop.RESULTS.write_text(json.dumps(document, indent=1, default=str))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
