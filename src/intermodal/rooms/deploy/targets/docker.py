"""The targets `local` and `ssh://HOST`: containers of a Docker engine behind Envoy, which live on without us.

Takes one model's revisions, keeps them running with the engine's own restart policy. Implements `deploy.target`.

Rules, in order:
1. What is there is asked of the engine each time, by labels; only the gateway's plan is kept here, because several
   models share the gateway. It is changed by one process at a time.
2. Replicas keep their address when they are started again, so the gateway's files stay true through a reboot.
3. A replica that was asked to end is not started again; it is removed once it has ended, and killed when it takes too
   long.
4. Another machine is the same through ssh: files and questions go through a helper in the gateway's container.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from intermodal.engine.image import read_image
from intermodal.errors import EngineError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.host.held import lock_file
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy import admin, gateway
from intermodal.rooms.deploy.envoy.image import gateway_image
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, Upstream, refuse_misfit
from intermodal.rooms.deploy.envoy.render import BOOTSTRAP, bootstrap, pipe
from intermodal.rooms.deploy.revision import Exposure, Revision
from intermodal.rooms.deploy.secrets import resolve_secrets
from intermodal.rooms.deploy.target import ReplicaReport, RingPage, Scrape, Seen, Traffic, ring_path
from intermodal.rooms.deploy.targets import bodies
from intermodal.rooms.deploy.targets.kept import replace_file
from intermodal.rooms.deploy.targets.last_words import reason_in
from intermodal.rooms.deploy.targets.machine import Found, GatewayFiles, Machine
from intermodal.rooms.deploy.targets.ports import check_port
from intermodal.rooms.deploy.targets.reach import Through
from intermodal_server.contract import HTTP_PORT

_ENDS_TOLD = 3
_GRACE_S = 45.0
_LAST_LINES = 30


class DockerTarget:
    """One model on one machine with Docker.

    Args:
        name: "local", or "ssh://HOST".
        model: its name.
        exposure: where the gateway offers it.
        store: where images come from.
        host: this machine.
        events: told what takes long.
    """

    def __init__(
        self, name: str, model: str, exposure: Exposure, *, store: Store, host: Host, events: Events = SILENT
    ) -> None:
        self.name = name
        self.model = model
        self._exposure = exposure
        self._store, self._host, self._events = store, host, events
        self._machine = Machine("" if name == "local" else name, store=store, host=host)
        key = "local" if name == "local" else hashlib.sha256(name.encode()).hexdigest()[:16]
        self._folder = host.data_dir / "deploy" / "docker" / key
        self._ending: dict[str, float] = {}  # containers asked to end, and when
        self._certificates: dict[str, str] = {}  # digest of what the gateway was given, by name

    @property
    def platform(self) -> str:
        """That machine's."""
        return self._machine.platform

    # --- before a rollout ------------------------------------------------------------------------------------------
    def prepare(self, revision: Revision) -> None:
        """Give the engine the image and the gateway's, and look whether the port is free.

        Raises:
            PortTakenError: somebody else listens where the gateway should.
            EngineError, DownloadError: that machine cannot.
        """
        refuse_misfit(self._plan(), self.model, self._exposure)
        machine = self._machine
        machine.check()
        if machine.is_podman:
            raise EngineError(
                "podman is no place to deploy to yet", found="the gateway cannot reach its replicas", next="take Docker"
            )
        wanted = read_image(self._store, revision.image).platform
        if wanted != machine.platform:
            raise EngineError(
                "that machine cannot run this image",
                found=f"it is for {wanted}, the machine is {machine.platform}",
                next=f'build it with platforms = ["{machine.platform}"]',
            )
        ports = {one.exposure.port for one in self._plan().sites}
        found = machine.gateway()
        if found is None or found.state != "running" or self._exposure.port not in ports:
            check_port(self._exposure.address, self._exposure.port, machine.reach)
        machine.network()
        machine.image(revision.image, self._events)
        made = gateway_image(revision.image, store=self._store, host=self._host, events=self._events)
        image = machine.image(made.digest, self._events)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._folder / "gateway.image", image.encode())

    def tend(self) -> str:
        """Tell the gateway where replicas are, keep it running, and remove what has ended."""
        with self._lock():
            plan = self._plan()
            site = replace(plan.site(self.model) or Site(self.model), exposure=self._inside())
            site = self._with_replicas(site, self._sweep())
            if site.groups:
                return self._follow(plan.with_site(site))
            if plan.site(self.model) is not None:
                return self._follow(plan.without(self.model))
        return ""

    def _sweep(self) -> list[Found]:
        """The containers of this model, without those that have ended as they were asked to."""
        left = []
        for one in self._machine.containers(model=self.model):
            if one.state == "exited" and (one.id in self._ending or self._asked_to_end(one)):
                self._machine.remove(one.id)
                self._ending.pop(one.id, None)
                continue
            asked_s = self._ending.get(one.id)
            if asked_s is not None and time.monotonic() - asked_s > _GRACE_S:
                self._machine.remove(one.id)
            left.append(one)
        revisions = {_number(one) for one in left}
        for volume in self._volumes() - {bodies.secrets_volume(self.model, number) for number in revisions}:
            self._machine.remove_volume(volume)
        return left

    def _asked_to_end(self, one: Found) -> bool:
        policy = (self._machine.inspect(one.id).get("HostConfig") or {}).get("RestartPolicy") or {}
        return policy.get("Name") != "unless-stopped"

    def _volumes(self) -> set[str]:
        query = {"filters": json.dumps({"label": [f"{bodies.MODEL}={self.model}"]})}
        found = self._machine.api.json("GET", "/volumes", query=query).get("Volumes") or ()
        return {str(one["Name"]) for one in found}

    def _with_replicas(self, site: Site, containers: Sequence[Found]) -> Site:
        numbers = {_number(one) for one in containers} | {group.revision for group in site.groups}
        for number in sorted(numbers):
            own = [one for one in containers if _number(one) == number and one.alive]
            upstreams = tuple(Upstream(one.labels[bodies.ADDRESS], HTTP_PORT) for one in own)
            if own or site.group(number) is not None:
                site = site.with_group(Group(number, upstreams))
            if not own and not dict(site.weights).get(number):
                site = site.without(number)
        return site

    def _follow(self, plan: GatewayPlan) -> str:
        """Make the gateway follow a plan; what is wrong with it."""
        machine = self._machine
        self._keep(plan)
        found = machine.gateway()
        try:
            if not plan.sites:
                self._remove_gateway(found)
                return ""
            if found is None:
                image = (self._folder / "gateway.image").read_text()
                container = machine.create(bodies.GATEWAY, bodies.gateway(image, machine.threads))
                found = Found(container, {}, "created")
            files = GatewayFiles(machine, found.id, running=found.state == "running")
            self._put_certificates(files)
            if found.state != "running":
                files.put(BOOTSTRAP, bootstrap(files.folder, pipe(bodies.ADMIN_SOCKET)))
            gateway.apply(plan, files, machine.ask, running=found.state == "running")
            if found.state in ("created", "exited"):
                machine.start(found.id)
        except (EngineError, OSError) as error:
            return str(error)
        return self._restarts([found], "the gateway")

    def _remove_gateway(self, found: Found | None) -> None:
        if found is not None:
            self._machine.remove(found.id)
        self._machine.remove_volume(bodies.VOLUME)
        self._machine.remove_network()

    def _put_certificates(self, files: GatewayFiles) -> None:
        exposure, inside = self._exposure, self._inside()
        for source, target in ((exposure.certificate, inside.certificate), (exposure.key, inside.key)):
            if source:
                content = Path(source).read_bytes()
                known = hashlib.sha256(content).hexdigest()
                if self._certificates.get(target) != known:
                    files.put(target.rpartition("/")[2], content)
                    self._certificates[target] = known

    def _inside(self) -> Exposure:
        """The exposure with certificates where the gateway has them."""
        exposure = self._exposure
        if not exposure.certificate:
            return exposure
        key = hashlib.sha256(f"{exposure.certificate}\n{exposure.key}".encode()).hexdigest()[:16]
        base = f"{bodies.FILES_DIR}/tls-{key}"
        return replace(exposure, certificate=f"{base}.crt", key=f"{base}.key")

    # --- actions ---------------------------------------------------------------------------------------------------
    def start(self, revision: Revision) -> None:
        """Start the replicas that are missing."""
        machine = self._machine
        with self._lock():
            containers = machine.containers()
            taken = {one.labels.get(bodies.ADDRESS, "") for one in containers}
            there = {one.labels.get(bodies.REPLICA): one for one in containers if self._is(one, revision)}
            for index in range(revision.settings.replicas):
                known = there.get(str(index))
                if known is not None and known.alive and known.state != "created":
                    continue
                if known is None:
                    address = machine.free_address(taken)
                    taken.add(address)
                    known = self._create(revision, index, address)
                machine.start(known.id)

    def _is(self, one: Found, revision: Revision) -> bool:
        """Whether a container is a replica of this very revision; one of an earlier life goes."""
        if one.labels.get(bodies.MODEL) != self.model or _number(one) != revision.number:
            return False
        if one.labels.get(bodies.SETTINGS) == bodies.settings_digest(revision):
            return True
        self._machine.remove(one.id)
        return False

    def _create(self, revision: Revision, index: int, address: str) -> Found:
        machine = self._machine
        image = machine.image(revision.image, self._events)
        if revision.settings.secrets:
            secrets = resolve_secrets(revision.settings.secrets, self._host)
            labels = {bodies.LABEL: "secrets", bodies.MODEL: self.model}
            name = bodies.secrets_volume(self.model, revision.number)
            machine.api.json("POST", "/volumes/create", {"Name": name, "Labels": labels})
        body = bodies.replica(self.model, revision, index, image=image, address=address)
        container = machine.create(bodies.replica_name(self.model, revision.number, index), body)
        if revision.settings.secrets:
            machine.put(container, bodies.SECRETS_DIR, bodies.packed(secrets, mode=0o400))
        return Found(container, body["Labels"], "created")

    def stop(self, revision: int) -> None:
        """Ask all replicas of a revision to end.

        Raises:
            EngineError: it has weight.
        """
        with self._lock():
            site = self._plan().site(self.model)
            if site is not None and dict(site.weights).get(revision):
                raise EngineError(
                    f"revision {revision} of {self.model} still has traffic",
                    found=f"{dict(site.weights)[revision]} %",
                    next="it is stopped when another revision has all of it",
                )
            self._end(self._machine.containers(model=self.model, revision=str(revision)))

    def _end(self, containers: Sequence[Found]) -> None:
        for one in containers:
            if one.id not in self._ending:
                self._ending[one.id] = time.monotonic()
                self._machine.ask_to_end(one.id)
            if one.state in ("exited", "created", "dead"):
                self._machine.remove(one.id)

    def set_traffic(self, traffic: Traffic) -> None:
        """Divide the traffic.

        Raises:
            EngineError: the gateway is gone, or refuses.
        """
        with self._lock():
            plan = self._plan()
            site = replace(plan.site(self.model) or Site(self.model), exposure=self._inside())
            site = self._with_replicas(site, self._machine.containers(model=self.model))
            site = replace(site, weights=traffic.weights, mirror=traffic.mirror)
            if problem := self._follow(plan.with_site(site)):
                raise EngineError("the gateway did not divide the traffic", found=problem)

    def down(self) -> None:
        """Take the route away, then the containers; what they leave (networks, volumes) goes at the call after."""
        with self._lock():
            plan = self._plan().without(self.model)
            self._follow(plan)
            self._end(self._sweep())
            if not plan.sites:
                self._machine.remove_network()

    # --- looking ---------------------------------------------------------------------------------------------------
    def seen(self, revisions: Sequence[int]) -> Mapping[int, Seen]:
        """Containers by the engine, health by the gateway."""
        containers = self._machine.containers(model=self.model)
        try:
            healthy = admin.healthy(self._machine.ask, self.model, revisions)
        except (OSError, ValueError, HTTPException):
            healthy = {}
        found = {}
        for number in revisions:
            own = [one for one in containers if _number(one) == number and one.alive]
            problem = "" if healthy.get(number) else self._restarts(own, f"revision {number}")
            found[number] = Seen(len(own), healthy.get(number, 0), problem)
        return found

    def _restarts(self, containers: Sequence[Found], what: str) -> str:
        """Why something will not become ready by itself."""
        for one in containers:
            count = int(self._machine.inspect(one.id).get("RestartCount") or 0)
            if count >= _ENDS_TOLD:
                words = reason_in(self._machine.logs(one.id, _LAST_LINES))
                return f"{what} ended {count} times: {words}"
        return ""

    def traffic(self) -> Traffic | None:
        """What Envoy confirms."""
        try:
            return admin.traffic(self._machine.ask, self.model, self._inside())
        except (OSError, ValueError, HTTPException, EngineError):
            return None

    def scrape(self, revisions: Sequence[int]) -> Scrape | None:
        """What Envoy counted."""
        try:
            found = self._machine.gateway()
            if found is None:
                return None
            born = str((self._machine.inspect(found.id).get("State") or {}).get("StartedAt", ""))
            return admin.scrape(self._machine.ask, self.model, revisions, f"{found.id[:12]} {born}")
        except (OSError, ValueError, HTTPException, EngineError):
            return None

    def reports(self, revision: int) -> tuple[ReplicaReport, ...]:
        """What the servers say on their metrics ports."""
        told = self._told(revision, lambda _: "/sketches")
        return tuple(ReplicaReport(f"{place}-{document.get('instance')}", document) for place, document in told)

    def predictions(self, revision: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
        """What the servers predicted last."""
        told = self._told(revision, lambda place: ring_path(after, place))
        return tuple(RingPage(place, document) for place, document in told)

    def _told(self, revision: int, path: Callable[[str], str]) -> list[tuple[str, dict[str, Any]]]:
        """What each replica answers to a path on its metrics port, with the container's short id."""
        found = []
        for one in self._machine.containers(model=self.model, revision=str(revision)):
            place = one.id[:12]
            try:
                where = (one.labels[bodies.ADDRESS], bodies.METRICS_PORT)
                status, body = self._machine.agent().get(where, path(place))
                document = json.loads(body)
            except (OSError, ValueError, RecursionError, EngineError):
                continue
            if status == 200 and isinstance(document, dict):
                found.append((place, document))
        return found

    def connect(self, timeout_s: float) -> HTTPConnection:
        """A connection to the gateway's port."""
        return Through(self._machine.reach, self._exposure, timeout_s)

    def logs(self, revision: int, *, lines: int = 100) -> str:
        """The end of what the replicas wrote."""
        found = []
        for one in self._machine.containers(model=self.model, revision=str(revision)):
            found += [f"{one.labels[bodies.REPLICA]}: {line}" for line in self._machine.logs(one.id, lines)]
        return "\n".join(found)

    def endpoint(self) -> str:
        """The address of the model on the gateway."""
        exposure = self._exposure
        name = exposure.address if exposure.host == "*" else exposure.host
        return f"{'https' if exposure.certificate else 'http'}://{name}:{exposure.port}{exposure.path}"

    # --- the plan --------------------------------------------------------------------------------------------------
    def _lock(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return lock_file(self._folder / "plan.lock")

    def _plan(self) -> GatewayPlan:
        try:
            return msgspec.json.decode((self._folder / "plan.json").read_bytes(), type=GatewayPlan)
        except (FileNotFoundError, msgspec.DecodeError):
            return GatewayPlan()

    def _keep(self, plan: GatewayPlan) -> None:
        if plan != self._plan():
            replace_file(self._folder / "plan.json", msgspec.json.encode(plan))


def _number(one: Found) -> int:
    text = one.labels.get(bodies.REVISION, "")
    return int(text) if text.isdigit() else 0
