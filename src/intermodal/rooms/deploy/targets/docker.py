"""The targets `local` and `ssh://HOST`: containers of Docker or podman behind Envoy, which live on without us.

Takes one model's revisions, keeps them running with the engine's own restart policy. Implements `deploy.target`.

Rules, in order:
1. What is there is asked of the engine each time, by labels; only the gateway's plan is kept here, because several
   models share the gateway. It is changed by one process at a time.
2. Replicas keep their address when they are started again, so the gateway's files stay true through a reboot.
3. A replica that was asked to end is not started again; it is removed once it has ended, and killed when it takes too
   long.
4. An address that the engine does not give, because a container that nobody knows any more has it, is not asked for
   again by this process; the replica is made anew with another.
5. Another machine is the same through ssh: files and questions go through a helper in the gateway's container.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any

from msgspec.structs import replace

from intermodal.engine.api import ApiError
from intermodal.engine.image import read_image
from intermodal.errors import EngineError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy import admin
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, Upstream, refuse_misfit, refuse_weight
from intermodal.rooms.deploy.revision import Exposure, Revision
from intermodal.rooms.deploy.secrets import SECRETS_DIR, resolve_secrets
from intermodal.rooms.deploy.target import ReplicaReport, RingPage, Scrape, Seen, Traffic, ring_path
from intermodal.rooms.deploy.targets import bodies
from intermodal.rooms.deploy.targets.machine import Found, Machine
from intermodal.rooms.deploy.targets.machine_gateway import MachineGateway, in_gateway
from intermodal.rooms.deploy.targets.ports import check_port
from intermodal.rooms.deploy.targets.reach import Through
from intermodal_server.contract import HTTP_PORT

_GRACE_S = 45.0
_TAKEN = ("already allocated to container", "Address already in use")  # as podman and Docker say it


class DockerTarget:
    """One model on one machine with Docker or podman.

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
        key = "local" if name == "local" else hashlib.sha256(name.encode()).hexdigest()[:16]
        folder = host.data_dir / "deploy" / "docker" / key
        self._machine = Machine("" if name == "local" else name, folder, store=store, host=host)
        self._gateway = MachineGateway(self._machine, folder, store=store, host=host)
        self._ending: dict[str, float] = {}  # containers asked to end, and when
        self._refused: set[str] = set()  # addresses

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
        refuse_misfit(self._gateway.plan(), self.model, self._exposure)
        machine = self._machine
        machine.check()
        wanted = read_image(self._store, revision.image).platform
        if wanted != machine.platform:
            raise EngineError(
                "that machine cannot run this image",
                found=f"it is for {wanted}, the machine is {machine.platform}",
                next=f'build it with platforms = ["{machine.platform}"]',
            )
        ports = {one.exposure.port for one in self._gateway.plan().sites}
        found = machine.gateway()
        if found is None or found.state != "running" or self._exposure.port not in ports:
            check_port(self._exposure.address, self._exposure.port, machine.reach)
        machine.network()
        machine.image(revision.image, self._events)
        self._gateway.prepare(revision.image, self._events)

    def tend(self) -> str:
        """Tell the gateway where replicas are, keep it running, and remove what has ended."""
        with self._gateway.lock():
            plan = self._gateway.plan()
            site = replace(plan.site(self.model) or Site(self.model), exposure=in_gateway(self._exposure))
            containers = self._sweep()
            problem = self._start_made(containers)
            site = self._with_replicas(site, containers)
            if site.groups:
                return self._follow(plan.with_site(site)) or problem
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
            if one.ending and one.id not in self._ending:  # whoever asked may have died before it was done
                self._ask_to_end(one)
            asked_s = self._ending.get(one.id)
            if asked_s is not None and time.monotonic() - asked_s > _GRACE_S:
                self._machine.remove(one.id)
            left.append(one)
        revisions = {_number(one) for one in left}
        for volume in self._volumes() - {bodies.secrets_volume(self.model, number) for number in revisions}:
            self._machine.remove_volume(volume)
        return left

    def _start_made(self, containers: Sequence[Found]) -> str:
        """Start what was only made: its maker died, or podman has just been through a reboot; what is wrong with it."""
        try:
            for one in containers:
                if one.state == "created" and one.id not in self._ending:
                    self._run(one)
        except (EngineError, OSError) as error:
            return str(error)
        return ""

    def _run(self, one: Found) -> None:
        try:
            self._machine.start(one.id)
        except ApiError as error:
            if any(words in str(error) for words in _TAKEN):
                self._refused.add(one.labels[bodies.ADDRESS])
                self._machine.remove(one.id)
            raise

    def _asked_to_end(self, one: Found) -> bool:
        if self._machine.is_podman:
            return one.ending
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
        try:
            return self._gateway.follow(plan, self._exposure)
        except (EngineError, OSError) as error:
            return str(error)

    # --- actions ---------------------------------------------------------------------------------------------------
    def start(self, revision: Revision) -> None:
        """Start the replicas that are missing."""
        machine = self._machine
        with self._gateway.lock():
            containers = machine.containers()
            taken = {one.labels.get(bodies.ADDRESS, "") for one in containers} | self._refused
            there = {one.labels.get(bodies.REPLICA): one for one in containers if self._is(one, revision)}
            for index in range(revision.settings.replicas):
                known = there.get(str(index))
                if known is not None and known.alive and known.state != "created":
                    continue
                if known is None:
                    address = machine.free_address(taken)
                    taken.add(address)
                    known = self._create(revision, index, address)
                self._run(known)

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
            machine.put(container, SECRETS_DIR, bodies.packed(secrets, mode=0o400))
        return Found(container, body["Labels"], "created")

    def stop(self, revision: int) -> None:
        """Ask all replicas of a revision to end.

        Raises:
            EngineError: it has weight.
        """
        with self._gateway.lock():
            refuse_weight(self._gateway.plan(), self.model, revision)
            self._end(self._machine.containers(model=self.model, revision=str(revision)))

    def _end(self, containers: Sequence[Found]) -> None:
        for one in containers:
            if one.id not in self._ending:
                self._ask_to_end(one)
            if one.state in ("exited", "created", "dead"):
                self._machine.remove(one.id)

    def _ask_to_end(self, one: Found) -> None:
        self._ending[one.id] = time.monotonic()
        self._machine.ask_to_end(one.id)

    def set_traffic(self, traffic: Traffic) -> None:
        """Divide the traffic.

        Raises:
            EngineError: the gateway is gone, or refuses.
        """
        with self._gateway.lock():
            plan = self._gateway.plan()
            site = replace(plan.site(self.model) or Site(self.model), exposure=in_gateway(self._exposure))
            site = self._with_replicas(site, self._machine.containers(model=self.model))
            site = replace(site, weights=traffic.weights, mirror=traffic.mirror)
            if problem := self._follow(plan.with_site(site)):
                raise EngineError("the gateway did not divide the traffic", found=problem)

    def down(self) -> None:
        """Take the route away, then the containers; what they leave (networks, volumes) goes at the call after."""
        with self._gateway.lock():
            plan = self._gateway.plan().without(self.model)
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
            problem = "" if healthy.get(number) else self._machine.restarts(own, f"revision {number}")
            found[number] = Seen(len(own), healthy.get(number, 0), problem)
        return found

    def traffic(self) -> Traffic | None:
        """What Envoy confirms."""
        try:
            return admin.traffic(self._machine.ask, self.model, in_gateway(self._exposure))
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


def _number(one: Found) -> int:
    text = one.labels.get(bodies.REVISION, "")
    return int(text) if text.isdigit() else 0
