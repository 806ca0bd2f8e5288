"""What registries cost: `./dev bench registry [--runs N] [--large-mb N] [--no-docker]`.

Ours, skopeo and (where it is installed) `docker push`, in turn, in one run, each time into an empty registry of
Debian's own `docker-registry` on loopback. The image is examples/digits, built with this machine's configuration of
pip, uv and apt. The table goes to standard output, every single run into benchmarks/out/registry.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure import Run, alternate, load, median_s, table, words
from benchmarks.registry import images, ours
from benchmarks.registry.peers import Docker, Skopeo

RESULTS = Path(__file__).parents[1] / "out" / "registry.json"


def main(arguments: Sequence[str]) -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(prog="./dev bench registry")
    parser.add_argument("--runs", type=int, default=5, help="rounds of every timed row")
    parser.add_argument("--large-mb", type=int, default=2000, help="size of the large model; 0 leaves the row out")
    parser.add_argument("--no-docker", action="store_true", help="leave `docker push` out")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-registry-")))
        say("building examples/digits")
        home = images.Home(folder / "home")
        digits = home.build(images.example(folder / "digits"))
        rows, raw = _timed(options.runs, folder, home, digits, stack, with_docker=not options.no_docker)
        say("what a change sends")
        rows += _changes(folder, home, digits)
        if options.large_mb:
            say(f"a model of {options.large_mb} MB")
            rows.append(_large(folder, options.large_mb))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({name: [asdict(each) for each in runs] for name, runs in raw.items()}, indent=1))
    print(f"digits: {digits.size_bytes / 1e6:.1f} MB in {digits.layers} layers; load now {load()[0]}\n")
    print(table(("what", "ours", "skopeo", "docker push"), rows))


def _timed(
    runs: int, folder: Path, home: images.Home, digits: images.Built, stack: ExitStack, *, with_docker: bool
) -> tuple[list[Sequence[str]], dict[str, list[Run]]]:
    from support.registries import docker_registry

    layout = home.export(digits, folder / "layout")
    skopeo = Skopeo(layout)
    docker = stack.enter_context(Docker.started(home, digits)) if with_docker and shutil.which("docker") else None

    def cold(push: Callable[[str], Run]) -> Callable[[], Run]:
        def once() -> Run:
            with docker_registry() as registry:
                return push(f"{registry.address}/bench/digits")

        return once

    say("cold pushes")
    pushes: dict[str, Callable[[str], Run]] = {"ours": lambda to: home.push(digits.name, to), "skopeo": skopeo.push}
    if docker is not None:
        pushes["docker"] = docker.push
    found = alternate({name: cold(push) for name, push in pushes.items()}, runs)
    say("unchanged pushes")
    with docker_registry() as registry:
        to = f"{registry.address}/bench/digits"
        again: dict[str, list[Run]] = {}
        for name, push in pushes.items():
            place = f"{to}-{name}"
            push(place)
            again[name] = [push(place) for _ in range(runs)]
        inside = ours.unchanged_s(home.variables(), digits.name, f"{to}-ours", runs)
    raw = {f"cold {n}": r for n, r in found.items()} | {f"unchanged {n}": r for n, r in again.items()}

    def cells(results: dict[str, list[Run]]) -> list[str]:
        return [
            words(results[n]) + (f", {median_s(results[n]) / median_s(results['ours']):.1f}x" if n != "ours" else " s")
            if n in results
            else "not here"
            for n in ("ours", "skopeo", "docker")
        ]

    rows: list[Sequence[str]] = [
        ["cold push into an empty registry, whole process", *cells(found)],
        ["unchanged push, whole process", *cells(again)],
        ["unchanged push, in process", f"{inside * 1000:.1f} ms", "", ""],
    ]
    return rows, raw


def _changes(folder: Path, home: images.Home, digits: images.Built) -> list[Sequence[str]]:
    from support.registries import docker_registry

    rows = []
    with docker_registry() as registry:
        to = f"{registry.address}/bench/digits"
        home.push(digits.name, to)
        for what, built in images.variants(home, folder):
            document = json.loads(home.push(built.name, f"{to}:{built.name.partition(':')[2]}", "--json").out)
            sent = document["uploaded_bytes"]
            new = sum(size for digest, size in built.blobs.items() if digest not in digits.blobs)
            rows.append(
                [f"{what}: bytes sent", f"{sent:,} B in {len(document['uploaded'])} blobs ({new:,} new)", "", ""]
            )
    return rows


def _large(folder: Path, megabytes: int) -> Sequence[str]:
    from support.registries import docker_registry

    home = images.Home(folder / "large")
    name = images.large(home, megabytes)
    with docker_registry() as registry:
        to = f"{registry.address}/bench/large"
        peak, wall = ours.peak(home.variables(), name, to)
        idle, _ = ours.peak(home.variables(), name, to)
    extra = (peak - idle) / 1e6
    return [f"push of a {megabytes} MB model: memory above an unchanged push", f"{extra:.1f} MB, {wall:.1f} s", "", ""]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
