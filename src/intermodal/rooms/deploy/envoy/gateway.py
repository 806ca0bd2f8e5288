"""A running Envoy that follows a plan: files in an order in which nobody is lost, and proof that they were taken.

Takes the place of Envoy's files and a way to ask it; hands on nothing but errors.

Rules, in order:
1. Make before break: endpoints and clusters that come are there before a route names them; those that go, go after
   every route has let go of them.
2. Only what changed is written, so a change of weights is one file and one question.
3. A file counts as taken when Envoy tells its version; a refusal is an error with what Envoy logs to be looked at.
4. An Envoy that does not run is no error here: it reads the files when it starts.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol

from intermodal.errors import EngineError, InputError
from intermodal.host.files import failure
from intermodal.rooms.deploy.envoy import admin
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, faults
from intermodal.rooms.deploy.envoy.render import CLUSTERS, LISTENERS, Files, document, render, version_of

_POLL_S = 0.004
_TAKEN_S = 5.0


class FileSink(Protocol):
    """Where Envoy's files lie; a rename must happen inside the folder that Envoy watches."""

    folder: str  # as Envoy sees it

    def read(self) -> Files:
        """All files by name, those of before this program included."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place in one step."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        ...


class LocalFiles:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.folder = str(folder)

    def read(self) -> Files:
        """All files by name."""
        if not self.path.is_dir():
            return {}
        return {one.name: one.read_bytes() for one in self.path.iterdir() if one.name.endswith(".json")}

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place by renaming."""
        temporary = self.path / f".{name}.new"
        try:
            temporary.write_bytes(content)
            temporary.rename(self.path / name)
        except OSError as error:
            raise failure("cannot write the gateway's configuration", self.path / name, error) from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)


def apply(plan: GatewayPlan, files: FileSink, ask: admin.Ask, *, running: bool, taken_s: float = _TAKEN_S) -> None:
    """Make Envoy follow `plan`; returns when it does.

    Args:
        plan: everything this gateway shall do.
        files: where its files lie.
        ask: its administration.
        running: whether Envoy runs; else files are only written.
        taken_s: how long it may take until a file is taken.

    Raises:
        InputError: the plan contradicts itself; nothing was changed.
        EngineError: Envoy refused, or did not answer.
        StoreError: a file cannot be written.
    """
    if wrong := faults(plan):
        raise InputError("the models on this gateway do not fit together", found=wrong)
    before, after = files.read(), render(plan, files.folder)
    change = _Change(files, before, ask if running else None, taken_s)
    change.put({name: content for name, content in after.items() if name.startswith(("eds-", "sds-"))}, wait=False)
    change.put({CLUSTERS: _both(before.get(CLUSTERS), after[CLUSTERS])})
    change.wait_warm()
    routes = {name: content for name, content in after.items() if name.startswith("rds-")}
    change.put(routes, wait=False)
    change.put({LISTENERS: after[LISTENERS]})
    change.wait(routes)
    change.put({CLUSTERS: after[CLUSTERS]})
    change.wait({name: content for name, content in after.items() if name.startswith("eds-")})
    for name in before.keys() - after.keys():
        if name.startswith(("eds-", "rds-", "sds-")):
            files.remove(name)


class _Change:
    def __init__(self, files: FileSink, now: Files, ask: admin.Ask | None, taken_s: float) -> None:
        self._files, self._now, self._ask, self._taken_s = files, dict(now), ask, taken_s
        self._warm = True

    def put(self, wanted: Files, *, wait: bool = True) -> None:
        """Write what is not as wanted."""
        written = {name: content for name, content in wanted.items() if self._now.get(name) != content}
        for name, content in written.items():
            self._files.put(name, content)
            self._now[name] = content
            self._warm = self._warm and name != CLUSTERS
        if wait:
            self.wait(written)

    def wait(self, written: Files) -> None:
        """Wait until Envoy has taken these files."""
        if self._ask is None or not written:
            return
        ask = self._ask
        wanted = {name: version_of(content) for name, content in written.items()}
        self._until(lambda: wanted.items() <= admin.versions(ask).items(), ", ".join(sorted(wanted)))

    def wait_warm(self) -> None:
        """Wait until new clusters know their endpoints and whether these are healthy."""
        if self._ask is not None and not self._warm:
            ask = self._ask
            self._until(lambda: admin.warming(ask) == 0, "the new clusters")

    def _until(self, condition: object, what: str) -> None:
        assert callable(condition)
        deadline_s = time.monotonic() + self._taken_s
        problem = "it did not take it"
        while True:
            try:
                if condition():
                    return
            except (OSError, ValueError) as error:
                problem = str(error)
            if time.monotonic() > deadline_s:
                break
            time.sleep(_POLL_S)
        assert self._ask is not None
        try:
            problem = f"it refused {admin.refused(self._ask)} files since it started" if "take" in problem else problem
        except (OSError, ValueError):
            problem = "it does not answer"
        raise EngineError(
            "the gateway did not follow its configuration", found=f"{what}: {problem}", next="see the gateway's log"
        )


def _both(before: bytes | None, after: bytes) -> bytes:
    """The clusters of after, and those of before that nobody names any more, until the routes have changed."""
    if before is None:
        return after
    old = {one["name"]: one for one in json.loads(before)["resources"]}
    new = {one["name"]: one for one in json.loads(after)["resources"]}
    if not old.keys() - new.keys():
        return after
    return document([*new.values(), *(old[name] for name in sorted(old.keys() - new.keys()))])
