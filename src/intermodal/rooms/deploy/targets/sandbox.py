"""The target `sandbox`: rollouts on a bare machine, for trying out. Containers of the sandbox engine behind Envoy.

Takes one model's revisions, keeps them running as processes that live on without us. Implements `deploy.target`.

Where things lie, below the data folder: `deploy/sandbox/gateway` (plan, Envoy's files, its keeper) and
`deploy/sandbox/models/NAME/rN/REPLICA` (a keeper each, with its log).

Rules, in order:
1. Everything is read from these folders each time: who lives is told by locks (`kept`), what the gateway does by Envoy.
2. The plan is changed by one process at a time, by lock, because several models share the gateway.
3. Replicas listen on loopback ports that their keepers choose; `tend` tells the gateway.
4. It does not survive a reboot; `intermodal watch` starts it again as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from intermodal.engine.forward import LOOPBACK
from intermodal.engine.http import get
from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.interface import Endpoint
from intermodal.errors import EngineError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.host.held import lock_file
from intermodal.oci.folder_once import folders_in_use
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy import admin, gateway
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, Upstream, refuse_misfit, refuse_weight
from intermodal.rooms.deploy.envoy.program import envoy
from intermodal.rooms.deploy.keys import keys_secret, keys_variable
from intermodal.rooms.deploy.revision import Exposure, Revision
from intermodal.rooms.deploy.target import ReplicaReport, RingPage, Scrape, Seen, Traffic, ring_path
from intermodal.rooms.deploy.targets.kept import Kept, replace_file
from intermodal.rooms.deploy.targets.ports import check_port
from intermodal.rooms.deploy.targets.tls import spoken

_ANSWER_BYTES = 32 << 20
_ENDS_TOLD = 2
_GRACE_S = 45.0
_KEPT_FOLDERS = 10
ENV_MODE = "INTERMODAL_MODE"


class SandboxTarget:
    """One model on this machine's sandbox."""

    name = "sandbox"

    def __init__(self, model: str, exposure: Exposure, *, store: Store, host: Host, events: Events = SILENT) -> None:
        self.model = model
        self._exposure = exposure
        self._store, self._host, self._events = store, host, events
        root = host.data_dir / "deploy" / "sandbox"
        self._gateway = Kept(root / "gateway")
        self._files = gateway.LocalFiles(root / "gateway" / "envoy")
        self._models = root / "models"

    @property
    def platform(self) -> str:
        """This machine's."""
        return self._host.platform

    # --- before a rollout ------------------------------------------------------------------------------------------
    def prepare(self, revision: Revision) -> None:
        """Fetch the gateway and unpack the image.

        Raises:
            PortTakenError: somebody else listens where the gateway should.
            InputError: another model is offered there.
            EngineError, DownloadError: this machine cannot.
        """
        refuse_misfit(self._plan(), self.model, self._exposure)
        settings = revision.settings
        others = [name for name, _ in settings.secrets if name != keys_secret(settings.environment)]
        unsupported = [key for key in ("cpu", "memory", "gpu") if getattr(settings, key)] + ["secrets"] * bool(others)
        if unsupported:
            self._events.warning(f"the sandbox target sets no {', '.join(unsupported)}: it is for trying out")
        envoy(self._host, self._events)
        with folders_in_use(self._host.cache_dir):
            unpacked_layers(self._store, read_image(self._store, revision.image), self._host, self._events)
        exposure = self._exposure
        if not self._gateway.lives or exposure.port not in {one.exposure.port for one in self._plan().sites}:
            check_port(exposure.address, exposure.port)

    def tend(self) -> str:
        """Tell the gateway where replicas are, and keep it running."""
        with lock_file(self._gateway.folder / "plan.lock"):
            plan = self._plan()
            site = replace(plan.site(self.model) or Site(self.model), exposure=self._exposure)
            site = self._with_replicas(site)
            if site.groups:
                plan = plan.with_site(site)
                return self._follow(plan)
            if plan.site(self.model) is not None:
                return self._follow(plan.without(self.model))
        return ""

    def _with_replicas(self, site: Site) -> Site:
        for number in self._numbers():
            replicas = self._replicas(number)
            living = [one for one in replicas if one.lives]
            known = [int(one.status["port"]) for one in living if one.status.get("port")]
            if living or site.group(number) is not None:
                upstreams = tuple(Upstream(LOOPBACK, port) for port in known)
                site = site.with_group(Group(number, upstreams))
            if not living and not dict(site.weights).get(number):
                site = site.without(number)
        return site

    def _follow(self, plan: GatewayPlan) -> str:
        """Make the gateway follow a plan; what is wrong with it."""
        self._keep(plan)
        try:
            self._files.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            running = self._gateway.lives and bool(self._gateway.status.get("admin"))
            gateway.apply(plan, self._files, self._ask, running=running)
        except EngineError as error:
            return str(error)
        if plan.sites and not self._gateway.lives:
            self._gateway.begin(
                {
                    "kind": "gateway",
                    "files": str(self._files.path),
                    "program": str(envoy(self._host, self._events)),
                    "threads": min(2, self._host.cores),
                },
                self._host,
            )
        elif not plan.sites:
            self._gateway.end()
        problem = self._gateway.status.get("problem")
        return "; ".join(problem) if problem else ""

    # --- actions ---------------------------------------------------------------------------------------------------
    def start(self, revision: Revision) -> None:
        """Start the keepers that are missing."""
        self._forget_old()
        settings = revision.settings
        environment = {**dict(settings.environment), **keys_variable(settings, self._host)}
        if settings.mode:
            environment.setdefault(ENV_MODE, settings.mode)
        for index in range(settings.replicas):
            Kept(self._folder(revision.number) / str(index)).begin(
                {
                    "kind": "replica",
                    "image": revision.manifest,
                    "environment": environment,
                    "grace_s": _GRACE_S,
                },
                self._host,
            )

    def stop(self, revision: int) -> None:
        """Ask all keepers of a revision to end.

        Raises:
            EngineError: it has weight.
        """
        with lock_file(self._gateway.folder / "plan.lock"):
            refuse_weight(self._plan(), self.model, revision)
        for one in self._replicas(revision):
            one.end()

    def set_traffic(self, traffic: Traffic) -> None:
        """Divide the traffic.

        Raises:
            EngineError: the gateway is gone, or refuses.
        """
        with lock_file(self._gateway.folder / "plan.lock"):
            plan = self._plan()
            site = self._with_replicas(plan.site(self.model) or Site(self.model, self._exposure))
            site = replace(site, exposure=self._exposure, weights=traffic.weights, mirror=traffic.mirror)
            if problem := self._follow(plan.with_site(site)):
                raise EngineError("the gateway did not divide the traffic", found=problem)

    def down(self) -> None:
        """Take the route away, then the containers."""
        with lock_file(self._gateway.folder / "plan.lock"):
            self._follow(self._plan().without(self.model))
        for number in self._numbers():
            for one in self._replicas(number):
                one.end()

    # --- looking ---------------------------------------------------------------------------------------------------
    def seen(self, revisions: Sequence[int]) -> Mapping[int, Seen]:
        """Containers by their locks, health by the gateway."""
        try:
            healthy = admin.healthy(self._ask, self.model, revisions)
        except (OSError, ValueError, HTTPException):
            healthy = {}
        found = {}
        for number in revisions:
            living = [one for one in self._replicas(number) if one.lives]
            found[number] = Seen(len(living), healthy.get(number, 0), _problem([one.status for one in living]))
        return found

    def traffic(self) -> Traffic | None:
        """What Envoy confirms."""
        try:
            return admin.traffic(self._ask, self.model, self._exposure)
        except (OSError, ValueError, HTTPException):
            return None

    def scrape(self, revisions: Sequence[int]) -> Scrape | None:
        """What Envoy counted."""
        born = str(self._gateway.status.get("born", ""))
        try:
            return admin.scrape(self._ask, self.model, revisions, born)
        except (OSError, ValueError, HTTPException):
            return None

    def reports(self, revision: int) -> tuple[ReplicaReport, ...]:
        """What the servers say on their metrics sockets, which lie in folders that a container writes in."""
        told = self._told(revision, lambda _: "/sketches")
        return tuple(ReplicaReport(f"{place}-{document.get('instance')}", document) for place, document in told)

    def predictions(self, revision: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
        """What the servers predicted last."""
        told = self._told(revision, lambda place: ring_path(after, place))
        return tuple(RingPage(place, document) for place, document in told)

    def _told(self, revision: int, path: Callable[[str], str]) -> list[tuple[str, dict[str, Any]]]:
        """What each replica answers to a path on its metrics socket, with the replica's name."""
        found = []
        for one in self._replicas(revision):
            socket = Endpoint(socket=Path(str(one.status.get("metrics", "/nowhere"))))
            try:
                code, body = get(socket, path(one.folder.name), limit=_ANSWER_BYTES)
                document = json.loads(body)
            except (OSError, HTTPException, ValueError, RecursionError):
                continue
            if code == 200 and isinstance(document, dict):
                found.append((one.folder.name, document))
        return found

    def connect(self, timeout_s: float) -> HTTPConnection:
        """A connection to the gateway's port."""
        return _Connection(self._exposure, timeout_s)

    def logs(self, revision: int, *, lines: int = 100) -> str:
        """The end of the replicas' logs."""
        found = []
        for one in self._replicas(revision):
            for name in ("keeper.log", "log"):
                with suppress(FileNotFoundError):
                    text = (one.folder / name).read_text("utf-8", "replace").splitlines()[-lines:]
                    found += [f"{one.folder.name}: {line}" for line in text]
        return "\n".join(found)

    def endpoint(self) -> str:
        """The address of the model on the gateway."""
        exposure = self._exposure
        name = exposure.address if exposure.host == "*" else exposure.host
        return f"{'https' if exposure.certificate else 'http'}://{name}:{exposure.port}{exposure.path}"

    # --- folders ---------------------------------------------------------------------------------------------------
    def _ask(self, path: str) -> bytes:
        place = self._gateway.status.get("admin")
        if not place:
            raise ConnectionRefusedError("the gateway does not run")
        status, body = get(Endpoint(socket=Path(str(place))), path, limit=_ANSWER_BYTES)
        if status != 200:
            raise ValueError(f"the gateway answered {status} to {path}")
        return body

    def _plan(self) -> GatewayPlan:
        try:
            return msgspec.json.decode((self._gateway.folder / "plan.json").read_bytes(), type=GatewayPlan)
        except (FileNotFoundError, msgspec.DecodeError):
            return GatewayPlan()

    def _keep(self, plan: GatewayPlan) -> None:
        if plan != self._plan():
            self._gateway.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._gateway.folder / "plan.json", msgspec.json.encode(plan))

    def _folder(self, number: int) -> Path:
        return self._models / self.model / f"r{number}"

    def _numbers(self) -> list[int]:
        names = _names(self._models / self.model)
        return sorted(int(name[1:]) for name in names if name[:1] == "r" and name[1:].isdigit())

    def _replicas(self, number: int) -> list[Kept]:
        folder = self._folder(number)
        return [Kept(folder / name) for name in sorted(_names(folder), key=int)]

    def _forget_old(self) -> None:
        """Remove the logs of revisions that ended long ago."""
        for number in self._numbers()[:-_KEPT_FOLDERS]:
            if not any(one.lives for one in self._replicas(number)):
                shutil.rmtree(self._folder(number), ignore_errors=True)


def _names(folder: Path) -> list[str]:
    """What lies in a folder; nothing where it is gone, since whoever rolls out removes those of old revisions."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


class _Connection(HTTPConnection):
    """A connection to the gateway."""

    def __init__(self, exposure: Exposure, timeout_s: float) -> None:
        address = LOOPBACK if exposure.address in ("0.0.0.0", "") else exposure.address  # noqa: S104
        super().__init__(address, exposure.port, timeout=timeout_s)
        self._exposure = exposure

    def connect(self) -> None:
        """Open it; also called by `request` after the other side has closed."""
        self.sock: socket.socket = spoken(
            socket.create_connection((self.host, self.port), self.timeout), self._exposure
        )


def _problem(statuses: Sequence[Mapping[str, Any]]) -> str:
    """Why a revision will not become ready by itself."""
    for status in statuses:
        if int(status.get("ends", 0)) >= _ENDS_TOLD and status.get("problem"):
            return f"ended {status['ends']} times: {'; '.join(status['problem'])}"
    return ""
