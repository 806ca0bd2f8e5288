"""The rows of the builder's table: each measures ours and the others in turn, and says whether its limit holds.

A row is a method of `Bench` that hands on `Row`s. Changes are made anew in every round (a new line, a new model, a new
list), so that nobody's cache knows the answer; results are checked, not only timed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.build import workshop
from benchmarks.build.daemon import Bento, Daemon, Dockerfile
from benchmarks.build.memory import peak_bytes
from benchmarks.build.product import Home
from benchmarks.measure import Run, alternate, load, median_cpu_s, median_s, run, words

KINDS = ("multistage", "uv", "single")
MB = 1e6
_IMPORT = """
import sys, time
from pathlib import Path
began = time.perf_counter()
sys.path.insert(0, "/app")
from predictor import Digits
Digits().load(Path("/model"))
print(time.perf_counter() - began)
"""


@dataclass
class Row:
    """One line of the table."""

    what: str
    ours: str
    limit: str = ""
    value: float = 0.0  # in the unit of `most`
    most: float = 0.0  # 0: no limit of its own
    others: dict[str, str] = field(default_factory=dict)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    load: list[float] = field(default_factory=load)

    @property
    def verdict(self) -> str:
        """Whether the limit holds, and by how much it does not."""
        if not self.most:
            return ""
        return "holds" if self.value <= self.most else f"{100 * (self.value / self.most - 1):.0f} % over"


class Bench:
    """What the rows share: the seed home, the daemon, the peers, the number of rounds."""

    def __init__(self, seed: Home, daemon: Daemon | None, bento: Path | None, rounds: int, cold_rounds: int) -> None:
        self.seed = seed
        self.models = workshop.OUT / "models"
        self.model = self.models / "model.joblib"
        self.rounds, self.cold_rounds = rounds, cold_rounds
        self.daemon = daemon
        self.dockerfiles = {kind: Dockerfile(daemon, kind, self.model) for kind in KINDS} if daemon else {}
        self.bento = Bento(daemon, bento, seed.index, self.model) if daemon and bento else None
        self.cold: dict[str, float] = {}
        self._count = os.getpid() * 1000  # no earlier run of this benchmark made the same changes
        self.project = workshop.project(workshop.OUT / "project", self.model)
        self.lock = self.project / "pylock.intermodal.toml"
        self.digest = seed.image(self.project)["digest"]
        self.whole = self.lock.read_bytes()

    def count(self) -> int:
        """A number that was not used before."""
        self._count += 1
        return self._count

    def fresh(self, name: str = "bench") -> Path:
        """A project of the same stack with its lock, and nothing remembered about it."""
        folder = workshop.project(workshop.OUT / "fresh" / name, self.model, name=name)
        (folder / "pylock.intermodal.toml").write_bytes(self.whole)
        return folder

    def peers(self, action: Callable[[Dockerfile | Bento], Run]) -> dict[str, Callable[[], Run]]:
        """One action for every peer that there is."""
        found: dict[str, Callable[[], Run]] = {k: lambda d=d: action(d) for k, d in self.dockerfiles.items()}  # type: ignore[misc]
        if self.bento is not None:
            bento = self.bento
            found["bento"] = lambda: action(bento)
        return found

    def first_build(self, name: str) -> str:
        """What every warm row of a peer starts from; why it cannot take part, "" when it can."""
        peer = self.dockerfiles.get(name) or self.bento
        assert peer is not None
        try:
            peer.build()
        except RuntimeError as error:
            self.dockerfiles.pop(name, None)
            self.bento = None if peer is self.bento else self.bento
            return str(error)[-2000:]
        return ""

    # --- rows, in the order of the table ---------------------------------------------------------------------------
    def wheels(self) -> list[Row]:
        """Wheels to layers against recompressing them."""
        out = workshop.OUT / "splice"
        python = workshop.OUT / "intermodal" / "bin" / "python"

        def part(mode: str) -> Callable[[], Run]:
            def action() -> Run:
                if mode == "splice":
                    shutil.rmtree(out, ignore_errors=True)
                argv = [python, "-m", "benchmarks.build.splice", mode, workshop.wheels(), out]
                told = json.loads(run(argv, cwd=workshop.CHECKOUT).out)
                sizes[mode] = told["stored"]
                return Run(told["wall_s"], told["cpu_s"], told["peak_bytes"])

            return action

        sizes: dict[str, int] = {}
        runs = alternate({"ours": part("splice"), "zlib": part("zlib")}, max(2, self.cold_rounds))
        shutil.rmtree(out)
        cpu_s, other_s = median_cpu_s(runs["ours"]), median_cpu_s(runs["zlib"])
        others = {"zlib level 6": f"{words(runs['zlib'])}; {sizes['zlib'] / MB:.1f} MB"}
        ours = f"{words(runs['ours'])}; {sizes['splice'] / MB:.1f} MB"
        what = "wheels to layers (scikit-learn, pandas, onnxruntime), CPU"
        return [
            Row(what, ours, "1.5 s of CPU", cpu_s, 1.5, others, runs),
            Row("- of recompressing", f"1/{other_s / cpu_s:.1f}", "1/9", cpu_s, other_s / 9),
        ]

    def cold_builds(self) -> list[Row]:
        """Nothing made yet, everything fetched; then the same with our base in the store, as theirs is."""

        def ours(make_home: Callable[[Path], Home]) -> Callable[[], Run]:
            def action() -> Run:
                home, project = make_home(workshop.OUT / "cold"), self.fresh()
                done = home.run("build", project)
                self.expect(done.out, self.digest)
                return done

            return action

        def with_base(folder: Path) -> Home:
            return self.seed.clone(folder, keep=lambda layer: layer["kind"] in ("base", "debian"))

        runs = alternate(
            {
                "ours": ours(self.seed.with_files_only),
                "ours, base made": ours(with_base),
                **self.peers(lambda peer: peer.build("--no-cache")),
            },
            self.cold_rounds,
        )
        self.cold = {name: median_s(found) for name, found in runs.items()}
        others = {name: words(found) for name, found in runs.items() if not name.startswith("ours")}
        rows = [
            Row("cold build, wheels and .debs fetched, nothing made", words(runs["ours"]), others=others, runs=runs)
        ]
        made = self.cold["ours, base made"]
        rows.append(Row("cold build, base made as theirs is", words(runs["ours, base made"]), others=dict(others)))
        for kind, share in (("multistage", 8), ("single", 5)):
            if kind in self.cold:
                there = self.cold[kind]
                rows.append(
                    Row(f"- of docker build, {kind}", f"1/{there / made:.1f}", f"1/{share}", made, there / share)
                )
        return rows

    def new_project(self) -> list[Row]:
        """Another project of the same stack, whose wheels are layers already."""
        home = self.seed.clone(workshop.OUT / "warm")

        def ours() -> Run:
            name = f"other-{self.count()}"
            project = self.fresh(name)
            workshop.change_line(project, self.count())
            self.new_model(project)
            return home.run("build", project)

        def theirs(peer: Dockerfile | Bento) -> Run:
            workshop.change_line(peer.context, self.count())
            self.new_model(peer.context)
            return peer.build()

        runs = alternate({"ours": ours, **self.peers(theirs)}, self.rounds)
        row = self.row("new project, same stack, layers of its wheels made", runs)
        if "multistage" in self.cold:
            row.limit, row.value, row.most = (
                "1/30 of a cold docker build",
                median_s(runs["ours"]),
                self.cold["multistage"] / 30,
            )
        return [row]

    def unchanged(self) -> list[Row]:
        """The same command again."""
        runs = alternate(
            {"ours": lambda: self.seed.run("build", self.project), **self.peers(lambda peer: peer.build())}, self.rounds
        )
        self.expect(runs["ours"][0].out, self.digest)
        return [self.row("nothing changed", runs, 0.12)]

    def line(self) -> list[Row]:
        """One line of code."""

        def change(peer: Dockerfile | Bento) -> Run:
            workshop.change_line(peer.context, self.count())
            return peer.build()

        runs = alternate({"ours": self.changed_line, **self.peers(change)}, self.rounds)
        rows = [self.row("one line changed", runs, 0.20)]
        if "multistage" in runs:
            ours, theirs = median_s(runs["ours"]), median_s(runs["multistage"])
            rows.append(Row("- of docker build, multistage", f"{ours / theirs:.2f}", "1.00", ours, theirs))
        return rows

    def answering(self) -> list[Row]:
        """One line of code until the container answers."""
        daemon = self.daemon
        if daemon is None:
            return []
        home = self.seed
        home.run("load", self.project, "--into", "docker", **daemon.variables)
        imports: list[float] = []

        def ours() -> Run:
            done = self.changed_line()
            done += home.run("load", "bench:1.0.0", "--into", "docker", **daemon.variables)
            ready, container = daemon.start("bench:1.0.0", 8080, "/v2/health/ready", "--read-only", "--tmpfs", "/tmp")
            told = daemon.run("exec", container, "/opt/venv/bin/python", "-c", _IMPORT).out
            imports.append(float(told))
            daemon.remove(container)
            return done + ready

        def theirs(peer: Dockerfile | Bento) -> Run:
            workshop.change_line(peer.context, self.count())
            done = peer.build()
            ready, container = peer.start()
            daemon.remove(container)
            return done + ready

        runs = alternate({"ours": ours, **self.peers(theirs)}, max(2, self.cold_rounds))
        own = sorted(imports)[len(imports) // 2]
        row = self.row("one line changed → answering in docker", runs, own + 1)
        row.limit = f"1 s over its imports and load ({own:.2f} s)"
        return [row]

    def model_replaced(self) -> list[Row]:
        """Another model file."""

        def ours() -> Run:
            self.new_model(self.project)
            return self.seed.run("build", self.project)

        def theirs(peer: Dockerfile | Bento) -> Run:
            self.new_model(peer.context)
            return peer.build()

        runs = alternate({"ours": ours, **self.peers(theirs)}, self.rounds)
        shutil.copy(self.model, self.project / "model.joblib")
        return [self.row("model replaced (6 MB)", runs, 0.30)]

    def dependency(self) -> list[Row]:
        """One small pure-Python package more."""
        new: dict[str, int] = {}

        def ours() -> Run:
            home, project = self.seed.clone(workshop.OUT / "warm"), self.fresh()
            before = {layer["digest"] for layer in home.image(project)["layers"]}
            settings = project / "intermodal.toml"
            settings.write_text(settings.read_text().replace('.1"]', '.1", "tabulate==0.10.0"]'))
            done = home.run("lock", project) + home.run("build", project, "--json")
            document = json.loads(done.out[done.out.index("{") :])
            new["ours"] = sum(la["size_bytes"] for la in document["layers"] if la["digest"] not in before)
            return done

        def theirs(peer: Dockerfile | Bento) -> Run:
            before = peer.daemon.layers(peer.image)
            peer.require(f"tabulate==0.10.0\n# {self.count()}")
            done = peer.build()
            if peer.image not in new:
                new[peer.image] = peer.daemon.pushed_bytes(peer.image, before)
            peer.require("")
            return done

        runs = alternate({"ours": ours, **self.peers(theirs)}, max(2, self.cold_rounds - 1))
        row = self.row("one small dependency added (lock and build)", runs)
        if "multistage" in runs:
            row.limit, row.value, row.most = (
                "1/10 of docker build",
                median_s(runs["ours"]),
                median_s(runs["multistage"]) / 10,
            )
        sent = Row("- new bytes", f"{new['ours'] / MB:.3f} MB", "its own bucket only", new["ours"], 1e6)
        sent.others = {
            name.removeprefix("bench-"): f"{size / MB:.1f} MB" for name, size in new.items() if name != "ours"
        }
        return [row, sent]

    def sizes(self) -> list[Row]:
        """Base and images."""
        layers = self.seed.image(self.project)["layers"]
        base = next(layer for layer in layers if layer["kind"] == "base")
        plain, packed = self.tar_bytes(base["digest"]), base["size_bytes"]
        rows = [
            Row("base image, uncompressed", f"{plain / MB:.1f} MB", "48 MB", plain, 48e6),
            Row("- compressed", f"{packed / MB:.1f} MB", "16.5 MB", packed, 16.5e6),
        ]
        digits = workshop.OUT / "digits"
        shutil.rmtree(digits, ignore_errors=True)
        shutil.copytree(workshop.CHECKOUT / "examples" / "digits", digits)
        size = self.seed.image(digits)["compressed_bytes"]
        row = Row("digits image, compressed", f"{size / MB:.1f} MB", "92 MB", size, 92e6)
        for peer in [*self.dockerfiles.values(), *([self.bento] if self.bento else [])]:
            peer.build()
            row.others[peer.image.removeprefix("bench-")] = f"{peer.daemon.pushed_bytes(peer.image) / MB:.1f} MB"
        return [*rows, row]

    def help_page(self) -> list[Row]:
        """The start of the program."""
        runs = alternate({"ours": lambda: self.seed.run("--help")}, 2 * self.rounds)
        return [self.row("`intermodal --help`", runs, 0.10)]

    def memory(self) -> list[Row]:
        """Two gigabytes of model, half of it random; and the cold build."""
        project = self.fresh("large")
        piece = os.urandom(8 << 20)
        with (project / "weights.bin").open("wb") as stream:
            for _ in range(128):
                stream.write(piece + bytes(8 << 20))
        settings = project / "intermodal.toml"
        settings.write_text(settings.read_text().replace("model.joblib", "weights.bin"))
        for name in ("model.joblib", "golden.json"):
            (project / name).unlink()
        home = self.seed.clone(workshop.OUT / "warm")
        home.run("lock", project)
        large = peak_bytes([home.program, "build", project], env=home.variables())
        shutil.rmtree(project)
        cold = self.seed.with_files_only(workshop.OUT / "cold")
        whole = peak_bytes([cold.program, "build", self.fresh()], env=cold.variables())
        rows = []
        for name, (tree, one) in {"a model file of 2 GB": large, "cold build": whole}.items():
            ours = f"{tree / MB:.0f} MB in all, {one / MB:.0f} MB the largest process"
            rows.append(Row(f"peak memory, {name}", ours, "300 MB", tree, 300e6))
        return rows

    # --- helpers -----------------------------------------------------------------------------------------------------
    def changed_line(self) -> Run:
        """A build of ours after another line changed; its digest is new."""
        workshop.change_line(self.project, self.count())
        done = self.seed.run("build", self.project)
        if done.out.strip().endswith(self.digest):
            raise RuntimeError("a changed line gave the old digest")
        return done

    def new_model(self, folder: Path) -> None:
        """The retrained model with other last bytes, which the reader of joblib files ignores."""
        data = (self.models / "retrained.joblib").read_bytes()
        (folder / "model.joblib").write_bytes(data + self.count().to_bytes(8, "little"))

    def tar_bytes(self, digest: str) -> int:
        """How large a layer of the seed is unpacked."""
        folder = self.seed.folder / "cache" / "intermodal" / "layers"
        documents: list[dict[str, Any]] = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
        return int(next(d["tar_bytes"] for d in documents if d.get("digest") == digest))

    @staticmethod
    def expect(out: str, digest: str) -> None:
        """Stop when a build gave something else than all others."""
        if not out.strip().endswith(digest):
            raise RuntimeError(f"{out.strip()} is not {digest}")

    @staticmethod
    def row(what: str, runs: dict[str, list[Run]], most_s: float = 0.0) -> Row:
        """A row of seconds."""
        others = {name: words(found) for name, found in runs.items() if name != "ours"}
        limit = f"{most_s:.2f} s" if most_s else ""
        return Row(what, words(runs["ours"]), limit, median_s(runs["ours"]), most_s, others, runs)


def names(bench: Bench) -> dict[str, Callable[[], Sequence[Row]]]:
    """Every group of rows by the name that `--only` takes."""
    return {
        "wheels": bench.wheels, "cold": bench.cold_builds, "new-project": bench.new_project,
        "unchanged": bench.unchanged, "line": bench.line, "answering": bench.answering, "model": bench.model_replaced,
        "dependency": bench.dependency, "sizes": bench.sizes, "help": bench.help_page, "memory": bench.memory,
    }  # fmt: skip
