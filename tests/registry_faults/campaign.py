"""One run: a random image, a registry with random habits and random faults, a push or a pull, and what must hold then.

What must hold, whatever went wrong:
1. The call completes, or ends with an error of ours that says what was found; the next call completes.
2. No reader of the registry can meet a manifest without its blobs; no name in the store stands for anything that was
   not verified.
3. No credential reaches another host, an error, or a file.
4. What arrived is what was there: the same digest, and a validator that recomputes everything finds nothing.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from support.other_registry import Habits, Handler, Registry, basic, elsewhere, running
from support.people import docker_login, somebody
from support.small_image import noise, small_image

from intermodal.errors import HostError, IntermodalError
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate, validate_store
from intermodal.registry.pace import Speed
from intermodal.registry.patience import Manner, Patience
from intermodal.registry.reference import RemoteReference, parse_remote
from intermodal.rooms.push import pull, push

FAULTS = (
    "drop-request", "drop-answer", "drop-before", "429", "500", "502", "503",
    "lie-digest", "lie-size", "lie-header", "redirect", "trickle", "expired",
)  # fmt: skip
SIZES = (300, 5_000, 60_000, 400_000, 1_500_000)
SLOWNESS = 0.02  # pauses are real, and this much shorter
SECRET = "secret-of-the-registry-4711"


@dataclass
class Outcome:
    """What one run came to."""

    words: str
    problems: list[str] = field(default_factory=list)  # what must never happen
    calls: int = 1
    useful: int = 0  # bytes that had to move
    moved: int = 0  # bytes of bodies that the client sent or received
    faults: int = 0
    requests: int = 0
    error: str = ""  # of the first call


class Run:
    """One run, decided by its seed and number."""

    def __init__(self, folder: Path, seed: int, number: int, rate: float) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.folder, self.rate = folder / f"run-{number}", rate
        self.lock = threading.Lock()
        chance = self.random.random
        self.pulls = chance() < 0.5
        self.habits = Habits(
            token=chance() < 0.5,
            login=("me", SECRET),
            mount=chance() < 0.5,
            resumable=chance() < 0.8,
            ranges=chance() < 0.9,
            absolute_location=chance() < 0.5,
            most_body_bytes=1_100_000 if chance() < 0.1 else 0,
            token_uses=5 if chance() < 0.2 else 0,
        )
        self.habits.basic = not self.habits.token and chance() < 0.5
        self.contents = [
            noise(self.random.choice(SIZES), self.random.randrange(40)) for _ in range(self.random.randint(1, 5))
        ]

    def __str__(self) -> str:
        login = "token" if self.habits.token else "basic" if self.habits.basic else "no login"
        sizes = ", ".join(str(len(content)) for content in self.contents)
        return f"{'pull' if self.pulls else 'push'}, {login}, layers of {sizes} bytes"

    def go(self) -> Outcome:
        """Carry it out."""
        outcome = Outcome(str(self))
        with ExitStack() as stack:
            registry = stack.enter_context(running(self.habits))
            other = stack.enter_context(elsewhere(registry))
            self.habits.redirect_blobs = ""
            try:
                self._walk(registry, other, outcome)
            finally:
                shutil.rmtree(self.folder, ignore_errors=True)
        return outcome

    def _walk(self, registry: Registry, other: Registry, outcome: Outcome) -> None:
        host, store = somebody(self.folder / "home")
        docker_login(self.folder / "home", registry.address, "me", SECRET)
        reference = parse_remote(f"{registry.address}/team/thing:1")
        _, source = (host, store) if not self.pulls else somebody(self.folder / "maker")
        image = small_image(source, "thing:1", contents=self.contents)
        outcome.useful = sum(path.stat().st_size for path in source.blobs.iterdir())
        if self.pulls:
            put_whole(registry, source, reference)
        self.redirect = f"http://{other.address.replace('127.0.0.1', 'localhost')}"
        registry.fault = self._fault
        errors: list[IntermodalError] = []
        while True:
            began = registry.received, registry.sent + other.sent
            try:
                if self.pulls:
                    report = pull(reference, store=store, host=host, manner=self._manner())
                    same = report.digest == image.digest
                    outcome.problems += [
                        f"after the pull: {line}" for line in validate(store, store.resolve(report.name))
                    ]
                else:
                    pushed = push(image, reference, store=store, host=host, manner=self._manner())
                    same = pushed.digest == image.digest and registry.state.tags["team/thing"]["1"] == str(image.digest)
                    outcome.moved += max(0, pushed.uploaded_bytes - (registry.received - began[0]))
                if not same:
                    outcome.problems.append("another digest")
                break
            except IntermodalError as error:
                errors.append(error)
                outcome.problems += self._after_error(error, store)
                if len(errors) > 2:
                    outcome.problems.append("three calls in a row did not complete")
                    break
        outcome.calls = len(errors) + (len(errors) <= 2)
        outcome.error = str(errors[0]) if errors else ""
        outcome.moved += registry.sent + other.sent if self.pulls else registry.received
        outcome.faults, outcome.requests = len(registry.faults), len(registry.seen)
        outcome.problems += [f"a reader could meet {hole}" for hole in registry.visible]
        outcome.problems += self._leaks(registry, other, errors)

    def _manner(self) -> Manner:
        patience = Patience(sleep=lambda pause_s: time.sleep(pause_s * SLOWNESS))
        return Manner(patience, Speed(least_bytes=2048, window_s=0.4), read_s=3.0)

    def _fault(self, handler: Handler) -> str:
        with self.lock:
            if self.random.random() >= self.rate:
                return ""
            fault = self.random.choice(FAULTS)
        if fault == "redirect":
            handler.registry.habits.redirect_blobs = self.redirect
            return "redirect" if handler.command == "GET" and "/blobs/sha256" in handler.path else "503"
        handler.registry.habits.redirect_blobs = ""
        return fault

    def _after_error(self, error: IntermodalError, store: Store) -> list[str]:
        problems = []
        if not error.found or not error.message:
            problems.append(f"an error without evidence: {error}")
        if not isinstance(error, HostError) and "refused" not in error.message:
            problems.append(f"an error of the wrong kind: {type(error).__name__}: {error}")
        if self.pulls and store.listed():
            problems.append("a name in the store after a pull that failed")
        problems += [f"in the store after an error: {fault}" for fault in validate_store(store).faults]
        return problems

    def _leaks(self, registry: Registry, other: Registry, errors: list[IntermodalError]) -> list[str]:
        secrets = [SECRET, basic(self.habits.login).removeprefix("Basic "), *registry.tokens]
        found = [f"{path} was asked with a login" for _, path, headers in other.seen if "Authorization" in headers]
        told = "\n".join(str(error) for error in errors)
        found += ["a secret in an error" for secret in secrets if secret in told]
        for path in (self.folder / "home").rglob("*"):
            if path.is_file() and ".docker" not in path.parts and path.stat().st_size < 100_000:
                data = path.read_bytes()
                found += [f"a secret in {path.name}" for secret in secrets if secret.encode() in data]
        return found


def put_whole(registry: Registry, store: Store, reference: RemoteReference) -> None:
    """The image of a store in the registry, without asking it."""
    descriptor = store.resolve("thing:1")
    data = store.read_bytes(descriptor.digest)
    document = json.loads(data)
    blobs = [
        store.path(Digest.parse(item["digest"])).read_bytes() for item in (document["config"], *document["layers"])
    ]
    registry.put_image(reference.repository, reference.tag, data, *blobs)
