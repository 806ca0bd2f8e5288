"""One machine with Docker or podman, as the Docker target sees it: images, network, containers and the gateway's files.

Takes a way to the machine, hands on the few verbs that a target needs. Everything is found by labels.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from http.client import HTTPException
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from msgspec import Struct

from intermodal.engine.api import ApiError, DockerApi, demultiplex
from intermodal.engine.archive import image_name, read_parts
from intermodal.engine.docker import DockerDriver
from intermodal.engine.podman_seccomp import write_profile
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy.render import Files
from intermodal.rooms.deploy.targets import bodies, podman
from intermodal.rooms.deploy.targets.agent import Agent
from intermodal.rooms.deploy.targets.daemon import local_socket
from intermodal.rooms.deploy.targets.last_words import reason_in
from intermodal.rooms.deploy.targets.reach import Here, Reach, Ssh

_SUBNETS = tuple(f"10.{second}.0.0/16" for second in (213, 214, 215, 216, 217, 218, 219, 220))
_ENDS_TOLD = 3
_LAST_LINES = 30
_FIRST = 16  # addresses below are the bridge's, and spare
_ENDS_WITHIN_S = 45


class Found(Struct, frozen=True):
    """A container of ours."""

    id: str
    labels: Mapping[str, str]
    state: str  # created | running | restarting | exited | dead | paused | removing
    ending: bool = False  # with podman: it was asked to end

    @property
    def alive(self) -> bool:
        """Whether it runs, or will by itself."""
        return self.state in ("running", "restarting", "paused", "created")


class Machine:
    """A machine and its engine.

    Args:
        place: "" for this machine, else "ssh://HOST".
        folder: where it is kept what runs there.
        store: whose images it is given.
        host: this machine.
    """

    def __init__(self, place: str, folder: Path, *, store: Store, host: Host) -> None:
        self._store, self._host, self._folder = store, host, folder
        self.reach: Reach = Ssh(place.removeprefix("ssh://"), host) if place else Here(local_socket(host, folder))
        path = self.reach.path if isinstance(self.reach, Here) else Path(place)
        self.api = DockerApi(path, self.reach.daemon)
        self._agent: Agent | None = None

    def check(self) -> None:
        """Return when the engine can be used.

        Raises:
            EngineError: why not.
        """
        if isinstance(self.reach, Ssh):
            self.reach.check()
        if self.is_podman:
            podman.refuse(self.api.json("GET", "/libpod/info"))

    @cached_property
    def threads(self) -> int:
        """Threads for the gateway there."""
        return max(1, min(2, int(self.api.json("GET", "/info").get("NCPU") or 1)))

    @cached_property
    def platform(self) -> str:
        """The platform of images that run there: "linux/amd64"."""
        return f"{self.api.about['Os']}/{self.api.about['Arch']}"

    @cached_property
    def is_podman(self) -> bool:
        """Whether podman answers in Docker's place."""
        components = self.api.about.get("Components") or ()
        return any(str(one.get("Name", "")).startswith("Podman") for one in components)

    # --- images and network ----------------------------------------------------------------------------------------
    def image(self, manifest: Digest, events: Events) -> str:
        """The engine's id of an image, given to it when it lacks it.

        Raises:
            EngineError: the engine refused.
        """
        driver = DockerDriver(self._store, self._host, self.api)
        parts = read_parts(self._store, manifest)
        if found := driver.find(parts):
            return found
        with self._store.session():
            return driver.load(parts, image_name(self._store, manifest), events).image

    def holds(self, manifest: Digest) -> str | None:
        """The engine's id of an image, when it has it."""
        return DockerDriver(self._store, self._host, self.api).find(read_parts(self._store, manifest))

    def network(self) -> str:
        """The subnet of our network, which is made when missing.

        Raises:
            EngineError: no subnet is free.
        """
        known = self._subnet()
        if known:
            return known
        problem = ""
        for subnet in (self._unused_subnet(), *_SUBNETS):
            try:
                if subnet:
                    self.api.json("POST", "/networks/create", bodies.network(subnet))
                    return subnet
            except ApiError as error:
                problem = "; ".join(error.found)
                if error.status == 409 and (known := self._subnet()):
                    return known
        raise EngineError("cannot make a network for replicas", found=problem, next="docker network ls shows others")

    def _unused_subnet(self) -> str:
        """A subnet that the engine itself would take, because it knows the machine's routes; "" when it has none.

        Replicas keep their addresses, which Docker allows only in a subnet that was asked for: so it is taken once
        without asking, given back, and asked for.
        """
        with suppress(ApiError, KeyError, IndexError):
            trial = self.api.json("POST", "/networks/create", bodies.network())["Id"]
            try:
                return str(self.api.json("GET", f"/networks/{trial}")["IPAM"]["Config"][0]["Subnet"])
            finally:
                self.api.json("DELETE", f"/networks/{trial}")
        return ""

    def _subnet(self) -> str:
        try:
            document = self.api.json("GET", f"/networks/{bodies.NETWORK}")
        except ApiError as error:
            if error.status == 404:
                return ""
            raise
        if (document.get("Labels") or {}).get(bodies.LABEL) != "network":
            raise EngineError(
                f"a network called {bodies.NETWORK} is not ours", next=f"docker network rm {bodies.NETWORK}"
            )
        return str(document["IPAM"]["Config"][0]["Subnet"])

    def free_address(self, taken: set[str]) -> str:
        """An address of the network that no container of ours has.

        Raises:
            EngineError: there is none.
        """
        for number, address in enumerate(ip_network(self.network()).hosts()):
            if number >= _FIRST and str(address) not in taken:
                return str(address)
        raise EngineError("no address is free for another replica", found=f"{len(taken)} are taken")

    # --- containers ------------------------------------------------------------------------------------------------
    def containers(self, **labels: str) -> list[Found]:
        """Containers of ours with these labels (`model`, `revision`), running or not, by name."""
        wanted = [bodies.LABEL, *(f"{bodies.LABEL}.{name}={value}" for name, value in labels.items())]
        query = {"all": "1", "filters": json.dumps({"label": wanted})}
        found = self.api.json("GET", "/containers/json", query=query)
        made = []
        for item in found:
            name = str(item["Names"])
            state, ending = podman.state(item["State"]), podman.ENDING in name
            made.append((name, Found(item["Id"], item["Labels"], state, ending)))
        return [one for _, one in sorted(made, key=lambda pair: pair[0])]

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """The id of a new container; one of the same name that is not running is replaced."""
        if self.is_podman:
            body = podman.body(body, self._profile())
        try:
            return str(self.api.json("POST", "/containers/create", body, {"name": name})["Id"])
        except ApiError as error:
            if error.status != 409 and "already in use" not in str(error):  # podman answers 500
                raise
        self.remove(name)
        return str(self.api.json("POST", "/containers/create", body, {"name": name})["Id"])

    def _profile(self) -> Path | None:
        """Where our filter of system calls is, for podman of this machine."""
        if not isinstance(self.reach, Here):
            return None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return write_profile(self._folder, self._host.architecture)

    def start(self, container: str) -> None:
        """Run it; no error when it runs."""
        self.api.json("POST", f"/containers/{container}/start")

    def inspect(self, container: str) -> dict[str, Any]:
        """Everything about it; empty when it is gone."""
        try:
            document: dict[str, Any] = self.api.json("GET", f"/containers/{container}/json")
        except ApiError as error:
            if error.status == 404:
                return {}
            raise
        return document

    def ask_to_end(self, container: str) -> None:
        """SIGTERM, and no coming back."""
        if self.is_podman:
            with suppress(ApiError):  # 404: gone
                self.api.json("POST", f"/containers/{container}/rename", query={"name": podman.ENDING + container[:12]})
            threading.Thread(target=self._stop, args=(container,), daemon=True).start()
            return
        with suppress(ApiError):  # 404: gone
            self.api.json("POST", f"/containers/{container}/update", {"RestartPolicy": {"Name": "no"}})
        with suppress(ApiError):  # 404, 409: it has ended
            self.api.json("POST", f"/containers/{container}/kill", query={"signal": "SIGTERM"})

    def _stop(self, container: str) -> None:
        """Wait until it has ended: podman's only way to end one that is not started again."""
        with suppress(EngineError):  # gone, or ended; podman goes on by itself when we do not wait
            self.api.json(
                "POST", f"/containers/{container}/stop", query={"t": _ENDS_WITHIN_S}, timeout_s=_ENDS_WITHIN_S + 15.0
            )

    def remove(self, container: str) -> None:
        """Delete it, dead or alive; no error when it is gone."""
        try:
            self.api.json("DELETE", f"/containers/{container}", query={"force": "1"})
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def remove_volume(self, name: str) -> None:
        """Delete a volume; no error when it is gone or used."""
        with suppress(ApiError):
            self.api.json("DELETE", f"/volumes/{name}")

    def remove_network(self) -> None:
        """Delete our network; it stays while a replica is in it."""
        with suppress(ApiError):
            self.api.json("DELETE", f"/networks/{bodies.NETWORK}")

    def put(self, container: str, folder: str, archive: bytes) -> None:
        """Unpack a tar in a container that need not run."""
        with self.api.stream("PUT", f"/containers/{container}/archive", archive, {"path": folder}) as response:
            response.read()

    def logs(self, container: str, lines: int) -> list[str]:
        """The last lines of what it wrote."""
        query = {"stdout": "1", "stderr": "1", "tail": lines}
        with self.api.stream("GET", f"/containers/{container}/logs", query=query) as response:
            data = b"".join(piece for _, piece in demultiplex(response.read()))
        return data.decode("utf-8", "replace").splitlines()

    def restarts(self, containers: Sequence[Found], what: str) -> str:
        """Why something will not become ready by itself, or ""."""
        for one in containers:
            count = int(self.inspect(one.id).get("RestartCount") or 0)
            if count >= _ENDS_TOLD:
                words = reason_in(self.logs(one.id, _LAST_LINES))
                return f"{what} ended {count} times: {words}"
        return ""

    # --- the gateway -----------------------------------------------------------------------------------------------
    def gateway(self) -> Found | None:
        """The gateway's container, running or not."""
        return next((one for one in self.containers() if one.labels.get(bodies.LABEL) == "gateway"), None)

    def agent(self) -> Agent:
        """The helper in the gateway's container.

        Raises:
            ConnectionError: the gateway does not run.
        """
        found = self.gateway()
        if found is None or found.state != "running":
            raise ConnectionRefusedError("the gateway does not run")
        if self._agent is None or self._agent.container != found.id:
            self._agent = Agent(self.api, found.id)
        return self._agent

    def ask(self, path: str) -> bytes:
        """What Envoy's administration answers.

        Raises:
            OSError, ValueError: it does not run, or refuses.
        """
        if self._agent is None:
            self.agent()
        assert self._agent is not None
        try:
            status, body = self._agent.get(bodies.ADMIN_SOCKET, path)
        except (OSError, HTTPException):
            self._agent = None
            raise
        if status != 200:
            raise ValueError(f"the gateway answered {status} to {path}")
        return body


class GatewayFiles:
    """Envoy's files in the gateway's volume; implements `envoy.gateway.FileSink`.

    While the gateway runs its agent replaces them by renaming; else the engine unpacks them, which nobody watches.
    """

    folder = bodies.FILES_DIR

    def __init__(self, machine: Machine, container: str, *, running: bool) -> None:
        self._machine, self._container, self._running = machine, container, running
        self._known: Files | None = None

    def read(self) -> Files:
        """All files by name."""
        if self._known is None:
            try:
                path = f"/containers/{self._container}/archive"
                with self._machine.api.stream("GET", path, query={"path": self.folder}) as response:
                    found = bodies.unpacked(response.read())
            except ApiError as error:
                if error.status != 404:
                    raise
                found = {}
            self._known = {name: content for name, content in found.items() if name.endswith(".json")}
        return dict(self._known)

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place."""
        if self._running:
            self._machine.agent().put(f"{self.folder}/{name}", content)
        else:
            folder, _, last = f"{bodies.LIVE}/{name}".rpartition("/")
            self._machine.put(
                self._container, self.folder.rpartition("/")[0], bodies.packed({last: content}, folder=folder)
            )
        if self._known is not None:
            self._known[name] = content

    def remove(self, name: str) -> None:
        """Remove a file, when somebody is there to do it."""
        if self._running:
            self._machine.agent().remove(f"{self.folder}/{name}")
        if self._known is not None:
            self._known.pop(name, None)
