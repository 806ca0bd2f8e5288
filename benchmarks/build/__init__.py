"""The builder's figures: `./dev bench build [--runs N] [--cold N] [--only a,b] [--no-peers] [--markdown]`.

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


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure, print."""
    options = _options(arguments)
    with ExitStack() as stack:
        index = stack.enter_context(workshop.index(workshop.wheels()))
        bento = workshop.environment("bento", "-r", workshop.BENTO_LIST)
        workshop.models(bento)
        program = workshop.product()
        shutil.rmtree(workshop.OUT / "seed", ignore_errors=True)
        seed = Home(workshop.OUT / "seed", program, index)
        running = None if options.no_peers else stack.enter_context(daemon())
        bench = Bench(seed, running, None if options.no_peers else bento / "bentoml", options.runs, options.cold)
        if running is not None:  # what every warm row starts from
            for peer in [*bench.dockerfiles.values(), *([bench.bento] if bench.bento else [])]:
                _say(f"first build of {peer.image}")
                peer.build()
        rows: list[Row] = []
        for name, action in names(bench).items():
            if not options.only or name in options.only:
                _say(f"{name} (load {load()[0]})")
                rows += action()
    _write(rows)
    _print(rows, markdown=options.markdown)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench build")
    parser.add_argument("--runs", type=int, default=7, help="rounds of the quick rows")
    parser.add_argument("--cold", type=int, default=3, help="rounds of the slow rows")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="groups of rows, by comma")
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone; needs no root and no Docker")
    parser.add_argument("--markdown", action="store_true", help="print only the table, as docs/benchmarks.md has it")
    return parser.parse_args(arguments)


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release().partition('-')[0]}"


def _print(rows: Sequence[Row], *, markdown: bool) -> None:
    used = [name for name in ("zlib level 6", *PEERS) if any(name in row.others for row in rows)]
    shown = [name for name in used if name != "zlib level 6"]
    header = ["what", "intermodal", "at most", "verdict", *(PEERS[name] for name in shown)]
    lines = []
    for row in rows:
        others = [row.others.get(name, "") for name in shown]
        if shown and "zlib level 6" in row.others:
            others[0] = f"zlib level 6: {row.others['zlib level 6']}"
        lines.append([row.what, row.ours, row.limit, row.verdict, *others])
    if not markdown:
        print(f"{_machine()}; load now {load()[0]}\n")
    print(table(header, lines))
    if markdown:
        print(f"\n{_machine()}; load average at the rows {min(r.load[0] for r in rows)} to "
              f"{max(r.load[0] for r in rows)}; {time.strftime('%Y-%m-%d', time.gmtime())}.")  # fmt: skip


def _write(rows: Sequence[Row]) -> None:
    document = {"machine": _machine(), "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    workshop.RESULTS.parent.mkdir(parents=True, exist_ok=True)
    workshop.RESULTS.write_text(json.dumps(document, indent=1, default=str))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
