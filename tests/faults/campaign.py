"""Runs of the command line under faults, and what must be true after each of them.

Takes a seed and a number; hands on the faults found, in words, each with the command that repeats it.

A run: a world in a known state, one command that meets trouble, and then
1. the command ended in one of the documented ways: done, an error in our form (never an internal one), or killed;
   unless it was killed or could not remove them, it left no temporary files but downloads to be continued;
2. every image of the store validates, and every blob is what its name says;
3. the next `build` gives the digest of a build that nothing interrupted;
4. `prune` removes what is stale, exactly what `--dry-run` said: no temporary file is left, and nothing that an
   undisturbed user would not have; everything validates again;
5. a last `build` gives the same digest.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from intermodal.errors import IntermodalError
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folder_once
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate

from .ground import Ground, World
from .intercept import ERRORS, Fault, Outcome, run
from .site import TROUBLES, Site, serving

# state -> what the person did before, and the command
STATES = {
    "cold": ("", "build"), "code": ("code", "build"), "model": ("model", "build"), "lock": ("lock", "build"),
    "store": ("store", "build"), "export": ("code", "export"), "prune": ("", "prune"),
}  # fmt: skip
STALE = f"rootfs/{'0' * 64}"
KINDS = {"call": 55, "network": 15, "disk": 12, "two": 18}  # in percent


@dataclass(frozen=True)
class Case:
    """One run: `state` is where it starts; the rest is the trouble."""

    kind: str  # "call" | "network" | "disk" | "two"
    state: str
    fault: Fault | None = None
    trouble: str = ""
    at: int = 0
    room: float = 0.0  # part of the space a whole run needs
    beside: str = ""  # what the second process does: "build" | "prune"

    def __str__(self) -> str:
        words = [self.kind, self.state, self.beside and f"beside {self.beside}"]
        words.append(f"{self.fault.act} at {self.fault.place} #{self.fault.number}" if self.fault else "")
        words.append(f"{self.trouble} at request {self.at}" if self.trouble else "")
        words.append(f"{self.room:.0%} of the room" if self.room else "")
        return ", ".join(word for word in words if word)


@dataclass(frozen=True)
class Unbroken:
    """What a state's run does when nothing happens."""

    digest: str
    places: Counter[str]
    requests: int
    grown_bytes: int
    files: frozenset[str]  # after `prune`
    template: World


class Campaign:
    """The ground, the unbroken runs, and any number of cases; a context manager, because servers run."""

    def __init__(self, folder: Path, states: tuple[str, ...] = tuple(STATES)) -> None:
        self.folder = folder
        self.ground = Ground(folder)
        self.unbroken = {state: self._unbroken(state) for state in states}

    def _unbroken(self, state: str) -> Unbroken:
        with serving(self.ground.served) as site:
            template = self.ground.world(f"template-{state}", site.url)
            change, _ = STATES[state]
            if state != "cold":
                _done(self._call(template, "build"))
            if state == "prune":
                template.change("code")
                _done(self._call(template, "build"))
                (template.store / "tmp" / "0123456789abcdef.tmp").write_bytes(b"left" * 1000)
                (template.cache / "tmp" / "left.tmp").mkdir()
                folder_once(template.cache / STALE, lambda folder: (folder / "file").touch(), ("of no image",))
            if change:
                template.change(change)
            world = self.ground.copy(template, f"unbroken-{state}", site.url)
            before, _ = _bytes(world.root), site.begin("", 0)
            outcome = self._call(world, STATES[state][1])
            _done(outcome)
            requests, after = site.count, _bytes(world.root)
            built = self._call(world, "build")
            _done(built)
            _done(self._call(world, "prune"))
            files = _files(world)
            self._remove(world)
            digest = str(json.loads(built.out)["digest"])
            return Unbroken(digest, outcome.places, requests, max(after - before, 1), files, template)

    # --- choosing ------------------------------------------------------------------------------------------------
    def case(self, seed: int, number: int) -> Case:
        """Run `number` of a seed; the same on every machine where the unbroken runs do the same."""
        dice = random.Random(f"{seed}:{number}")
        kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
        state = dice.choices(list(self.unbroken), [4 if name == "cold" else 2 for name in self.unbroken])[0]
        plain = self.unbroken[state]
        if kind == "network" and not plain.requests:
            kind = "call"
        if kind == "network":
            return Case(kind, state, trouble=dice.choice(TROUBLES), at=dice.randint(1, plain.requests))
        if kind == "disk":
            return Case(kind, state, room=dice.uniform(0.01, 0.98))
        place = dice.choice(sorted(plain.places))
        acts = [*ERRORS[place.split()[1]], "kill", "kill", "kill-all"]
        acts += [] if place.startswith("intermodal") else ["kill-it"]
        fault = Fault(place, dice.randint(1, plain.places[place]), dice.choice(acts))
        if kind == "call":
            return Case(kind, state, fault)
        beside = dice.choice(("build", "build", "prune"))
        return Case(kind, state, fault if dice.random() < 0.6 else None, beside=beside)

    # --- running -------------------------------------------------------------------------------------------------
    def faults(self, case: Case, name: str) -> tuple[list[str], bool]:
        """What is wrong after a case, and whether its trouble was met at all."""
        plain = self.unbroken[case.state]
        with serving(self.ground.served) as site, self._world(plain, case, name, site) as (world, grow):
            outcomes = self._trouble(world, case, plain, site)
            met = site.struck or any(outcome.struck for outcome in outcomes) or case.kind in ("disk", "two")
            site.begin("", 0)
            grow()
            found = [fault for outcome in outcomes for fault in _ending(outcome, garbage="garbage" in case.trouble)]
            cannot_remove = case.fault is not None and case.fault.place.split()[1] in ("unlink", "unlinkat", "rmdir")
            if not cannot_remove and not any(outcome.code < 0 for outcome in outcomes):
                before = _temporary(plain.template)
                left = [path for path in _temporary(world) if not path.endswith(".part") and path not in before]
                found += [f"left behind without being killed: {path}" for path in left]
            found += _invalid(world, "after the fault")
            found += self._recovers(world, plain, "export" if case.state == "export" else "build")
        if found:
            said = [f"    {line}" for outcome in outcomes for line in outcome.err.splitlines()[-6:]]
            found += [f"  codes {[outcome.code for outcome in outcomes]}", *said]
        return found, met

    def _trouble(self, world: World, case: Case, plain: Unbroken, site: Site) -> list[Outcome]:
        command = STATES[case.state][1]
        site.begin(case.trouble, case.at)
        limit = 0
        if case.kind == "disk" and not os.path.ismount(world.root):
            limit = int(case.room * 9_000_000) + 1
        if case.kind != "two":
            return [self._call(world, command, case.fault, limit)]
        outcomes: list[Outcome] = []
        second = threading.Thread(target=lambda: outcomes.append(self._call(world, case.beside)))
        second.start()
        outcomes.append(self._call(world, command, case.fault))
        second.join()
        return outcomes

    def _recovers(self, world: World, plain: Unbroken, command: str) -> Iterator[str]:
        again = self._call(world, command)
        if again.code:
            yield f"the next build ends in {again.code}: {again.err[-600:]}"
            return
        if (digest := json.loads(again.out)["digest"]) != plain.digest:
            yield f"the next build gives {digest}, unbroken it was {plain.digest}"
        said, did = self._call(world, "prune --dry-run"), self._call(world, "prune")
        if said.code or did.code:
            yield f"prune ends in {said.code} and {did.code}: {said.err[-400:]}{did.err[-400:]}"
            return
        if json.loads(said.out) | {"dry_run": False} != json.loads(did.out):
            yield f"prune --dry-run said {said.out}, prune did {did.out}"
        yield from (f"left after prune: {path}" for path in _temporary(world))
        if (world.cache / STALE).exists():
            yield "prune leaves a tree of no image"
        yield from (f"more than an undisturbed user has: {path}" for path in sorted(_files(world) - plain.files)[:5])
        yield from _invalid(world, "after prune")
        last = self._call(world, "build")
        if last.code or json.loads(last.out)["digest"] != plain.digest:
            yield f"the build after prune ends in {last.code}: {last.out[:300]}{last.err[-400:]}"

    def _call(self, world: World, what: str, fault: Fault | None = None, largest_bytes: int = 0) -> Outcome:
        verb, *options = what.split()
        arguments = {"build": ["build", str(world.project)], "prune": ["prune", *options]}.get(verb)
        arguments = arguments or ["build", str(world.project), "--output", f"oci:{world.root / 'out'}"]
        command = [sys.executable, "-m", "intermodal", *arguments, "--json"]
        return run(command, root=world.root, cwd=world.root, env=world.env, fault=fault, largest_bytes=largest_bytes)

    @contextmanager
    def _world(self, plain: Unbroken, case: Case, name: str, site: Site):  # type: ignore[no-untyped-def]
        """A copy of the state's template, on a disk of its own that is too small when the case says so."""
        root = self.folder / name
        root.mkdir()
        mounted = False
        if case.kind == "disk" and os.getuid() == 0:
            room = _bytes(plain.template.root) + int(case.room * plain.grown_bytes)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "small", root], check=True)
            mounted = True
        try:
            world = self.ground.copy(plain.template, name, site.url, root)
            if mounted:
                _resize(root, room)
            yield world, lambda: _resize(root, 1 << 30) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", root], check=True)
            shutil.rmtree(root)

    @staticmethod
    def _remove(world: World) -> None:
        shutil.rmtree(world.root)


def _resize(root: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={max(size_bytes // 4096, 1) * 4096}", root], check=True)


def _done(outcome: Outcome) -> None:
    if outcome.code:
        raise RuntimeError(f"an unbroken run ends in {outcome.code}: {outcome.err}{outcome.out}")


def _ending(outcome: Outcome, *, garbage: bool) -> Iterator[str]:
    """Why a command's end is none of the documented ones; an index of `garbage` may look like one without the name."""
    if outcome.code == -9 and outcome.struck:
        return
    if outcome.code not in ((0, 2, 3) if garbage else (0, 3)):
        yield f"it ends in {outcome.code}"
    text = outcome.err + outcome.out
    if "Traceback" in text or "internal error" in text:
        yield "an error that nobody foresaw"
    if outcome.code:
        document = json.loads(outcome.out or "{}")
        if not all(document.get(key) for key in ("error", "found", "next")):
            yield f"an error that does not say what was tried, found and next: {document}"


def _temporary(world: World) -> list[str]:
    """Every temporary file or folder below the user's folders; what uv keeps for itself is uv's."""
    found = []
    for path in world.root.rglob("*"):
        name = str(path.relative_to(world.root))
        if name.startswith("cache/uv/"):
            continue
        parts = name.split("/")
        inside = any(part == "tmp" for part in parts[:-1])
        if inside or path.name.endswith((".tmp", ".part", ".partial")):
            found.append(name)
    return sorted(found)


def _files(world: World) -> frozenset[str]:
    """Every file of store and cache by name."""
    found = set()
    for top in (world.store, world.cache):
        for folder, _, names in os.walk(top):
            relative = os.path.relpath(folder, world.root)
            parts = relative.split("/")
            if "rootfs" in parts or "merged" in parts:
                relative = "/".join(parts[:5])
            found |= {f"{relative}/{name}" for name in names if "/warm" not in relative}
    return frozenset(found)


def _bytes(root: Path) -> int:
    return sum((path.lstat().st_size + 8191) // 4096 * 4096 for path in root.rglob("*"))


def _invalid(world: World, when: str) -> Iterator[str]:
    """What is wrong with the store, and with an exported layout that claims to be one."""
    for root in (world.store, world.root / "out"):
        if not (root / "index.json").exists():
            continue
        store = Store(root)
        try:
            for item in store.listed():
                yield from (f"{when}: {fault}" for fault in validate(store, item))
        except IntermodalError as error:
            yield f"{when}: {error}"
        for blob in store.blobs.iterdir():
            if Digest.of_file(blob)[0].hex != blob.name:
                yield f"{when}: blob {blob.name[:12]} holds other bytes than its name says"
