"""What docker and podman share: one hardened container, from the image in the store to the last trace removed.

Takes a `RunRequest` and a `Driver`, which knows how to talk to one engine; offers `interface.Engine` and `Container`.

Rules, in order:
1. Both engines are asked for exactly the measures of `Policy`; what they really gave is measured from inside.
2. Without egress a container has no network. It answers on a Unix socket in a folder bound into it: every user inside
   may write there, nobody outside may enter, because the folder above it is ours alone. Out of an engine's virtual
   machine no socket leads: there the port is published, and the open network reported.
3. A container carries its owner: host, boot, process. What a killed process left is removed at the next start; what
   belongs to a living one, or to a host we cannot look into, is left alone.
4. `stop` removes the container with its volumes, also after Ctrl-C; only the image stays, as a cache.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from intermodal.engine.archive import Parts, image_name, read_parts
from intermodal.engine.doors import Doors, check_grpc, serves_grpc
from intermodal.engine.driver import CHECKED, HARDENED, Driver, MissingError, Policy, Spec
from intermodal.engine.forward import LOOPBACK
from intermodal.engine.hardening import SOCKET_FOLDER
from intermodal.engine.inside import judge, script, unproven
from intermodal.engine.interface import Endpoint, Hardening, Isolation, RunRequest
from intermodal.engine.memory import resident_bytes
from intermodal.engine.owner import OWNER_LABEL, is_stale, owner
from intermodal.engine.runtime import GRPC_NAME, METRICS_NAME, SOCKET_NAME, RuntimeFolder
from intermodal.errors import EngineError, PortTakenError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.layout import Store
from intermodal_server.contract import ENV_GRPC_SOCKET, ENV_METRICS_SOCKET, ENV_PORT, ENV_SOCKET, USER_ID

LOG_BYTES = 256 << 10
_SAMPLE_S = 0.1


class ContainerEngine:
    """An engine behind a driver; implements `interface.Engine`."""

    def __init__(self, store: Store, host: Host, driver: Driver, policy: Policy = HARDENED) -> None:
        self.name = driver.name
        self._store = store
        self._host = host
        self._driver = driver
        self._policy = policy

    @property
    def isolation(self) -> Isolation:
        """What a container without network is asked to get; what it got is in its `hardening`."""
        return "full"

    def start(self, request: RunRequest) -> EngineContainer:
        """A container of `request.image`; it may not be ready yet.

        Raises:
            EngineError: the engine is missing or refused.
            PortTakenError: somebody listens on `request.port`.
        """
        driver = self._driver
        self._sweep()
        parts = read_parts(self._store, request.image)
        by_socket = not request.egress and self._policy.isolate_network and driver.shares_sockets
        check_grpc(request, serves_grpc(parts.settings))
        # open ports of ours for a container without network, else the engine publishes them
        doors = Doors(request if by_socket else replace(request, port=None, grpc_port=None))
        folder = RuntimeFolder(self._host)
        container = ""
        try:
            container = self._create(request, parts, folder, by_socket)
            _start(driver, container, request)
            state = driver.state(container)
            socket = _bound(folder) / SOCKET_NAME if by_socket else None
            if socket is not None:
                doors.start(socket, _bound(folder) / GRPC_NAME)
            metrics = _bound(folder) / METRICS_NAME if by_socket else None
            ports = doors if by_socket else state
            endpoint = Endpoint(socket, LOOPBACK, ports.port, metrics, ports.grpc_port)
            probe = (*_interpreter(parts), "-c", script(self._host.architecture))
            notes = _network_notes(request, by_socket)
            return EngineContainer(driver, container, endpoint, folder, doors, state.pid, probe, notes)
        except BaseException:
            with suppress(EngineError):
                if container:
                    driver.remove(container)
            doors.close()
            folder.remove()
            raise

    def _create(self, request: RunRequest, parts: Parts, folder: RuntimeFolder, by_socket: bool) -> str:
        spec = self._spec(request, parts, self._image(parts, request.events), folder, by_socket)
        try:
            return self._driver.create(spec)
        except MissingError:  # another check of the same name replaced the image in between
            return self._driver.create(replace(spec, image=self._image(parts, request.events)))

    def _image(self, parts: Parts, events: Events) -> str:
        if found := self._driver.find(parts):
            return found
        name = f"{CHECKED}{image_name(self._store, parts.manifest.digest)}"
        with self._store.session():  # `prune` waits until every blob has been read
            return self._driver.load(parts, name, events).image

    def _sweep(self) -> None:
        """Remove what killed processes of this host left."""
        for container, value in self._driver.owned().items():
            if is_stale(value):
                self._driver.remove(container)

    def _spec(self, request: RunRequest, parts: Parts, image: str, folder: RuntimeFolder, by_socket: bool) -> Spec:
        environment = dict(request.environment)
        binds: dict[str, Path] = {}
        if by_socket:
            environment |= {ENV_SOCKET: f"{SOCKET_FOLDER}/{SOCKET_NAME}", ENV_PORT: "0"}
            environment[ENV_METRICS_SOCKET] = f"{SOCKET_FOLDER}/{METRICS_NAME}"
            if serves_grpc(parts.settings):
                environment[ENV_GRPC_SOCKET] = f"{SOCKET_FOLDER}/{GRPC_NAME}"
            binds[SOCKET_FOLDER] = _bound(folder)
            binds[SOCKET_FOLDER].mkdir()
            # the user inside is nobody here; `folder.path` above it keeps everybody else out
            binds[SOCKET_FOLDER].chmod(0o777)
        health = parts.settings.get("Healthcheck")
        return Spec(
            image=image,
            name=f"intermodal-{parts.manifest.digest.short}-{secrets.token_hex(3)}",
            policy=self._policy,
            environment=environment,
            labels={OWNER_LABEL: owner()},
            folder=folder.path,
            binds=binds,
            egress=not by_socket,
            publish=None if by_socket else request.port or 0,
            publish_grpc=None if by_socket else request.grpc_port,
            healthcheck=health if isinstance(health, dict) else {},
        )


class EngineContainer:
    """A container of docker or podman; implements `interface.Container`."""

    def __init__(
        self,
        driver: Driver,
        container: str,
        endpoint: Endpoint,
        folder: RuntimeFolder,
        doors: Doors,
        pid: int,
        probe: Sequence[str],
        notes: Sequence[str],
    ) -> None:
        self.id = container
        self._driver = driver
        self._endpoint = endpoint
        self._folder = folder
        self._doors = doors
        self._probe = probe
        self._notes = notes
        self._pid = pid
        self._peak_bytes = 0
        self._hardening: Hardening | None = None
        self._ended: tuple[int, str] | None = None  # exit status and logs, kept when the container is gone
        self._stopped = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="container-memory", daemon=True)
        self._sampler.start()

    def _sample(self) -> None:
        while not self._stopped.wait(_SAMPLE_S if self._pid else 1.0):
            with suppress(EngineError):
                self._peak_bytes = max(self._peak_bytes, self._resident_bytes())

    def _resident_bytes(self) -> int:
        return resident_bytes(self._pid) if self._pid else self._driver.memory_bytes(self.id)

    @property
    def endpoint(self) -> Endpoint:
        """Where the server answers once it is up."""
        return self._endpoint

    @property
    def hardening(self) -> Hardening:
        """What the container has, tried out from inside when first asked for; ask while it runs."""
        if self._hardening is None:
            try:
                status, said = self._driver.execute(self.id, self._probe)
                self._hardening = (
                    unproven(f"the probe inside the container failed: {said.strip()[-200:]}")
                    if status
                    else judge(said, USER_ID, self._notes)
                )
            except EngineError as error:
                self._hardening = unproven(" ".join(("could not look into the container:", *error.found)))
        return self._hardening

    def logs(self) -> str:
        """What it wrote so far, at most the last 256 KiB."""
        return self._ended[1] if self._ended else self._driver.logs(self.id, LOG_BYTES)

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        if self._ended:
            return self._ended[0]
        if self._pid and Path(f"/proc/{self._pid}").exists() and not _is_zombie(self._pid):
            return None
        state = self._driver.state(self.id)
        return None if state.running else state.exit_code

    def peak_rss_bytes(self) -> int:
        """The highest resident memory of all its processes together seen so far."""
        if not self._stopped.is_set():
            with suppress(EngineError):
                self._peak_bytes = max(self._peak_bytes, self._resident_bytes())
        return self._peak_bytes

    def stop(self, grace_s: float = 10.0) -> int:
        """End it with SIGTERM, after `grace_s` with SIGKILL; its exit status. Safe to call twice."""
        if self._ended is None:
            status, said = -1, ""
            try:
                self._driver.stop(self.id, grace_s)
                status = self._driver.state(self.id).exit_code
                said = self._driver.logs(self.id, LOG_BYTES)
            finally:
                self._finish()
                self._ended = (status, said)
        return self._ended[0]

    def _finish(self) -> None:
        self._stopped.set()
        try:
            self._driver.remove(self.id)
        finally:
            self._doors.close()
            self._folder.remove()
            self._sampler.join()

    def __enter__(self) -> EngineContainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _network_notes(request: RunRequest, by_socket: bool) -> tuple[str, ...]:
    """Why the container has a network, if it has one."""
    if by_socket:
        return ()
    if request.egress:
        return ("the network is open, as asked for",)
    return ("the network is open: this engine runs in a machine of its own, out of which no Unix socket leads",)


def _bound(folder: RuntimeFolder) -> Path:
    return folder.path / "io"


def _interpreter(parts: Parts) -> tuple[str, ...]:
    """The image's own Python, as its entry point calls it: the program and its flags, without the script."""
    entry = [str(word) for word in parts.settings.get("Entrypoint") or ()]
    flags = []
    for word in entry[1:]:
        if not word.startswith("-"):
            break
        flags.append(word)
    return (entry[0] if entry else "python3", *flags)


def _start(driver: Driver, container: str, request: RunRequest) -> None:
    try:
        driver.start(container)
    except EngineError as error:
        said = " ".join((error.message, *error.found)).lower()
        if request.port and any(phrase in said for phrase in ("address already in use", "port is already allocated")):
            raise PortTakenError(
                f"cannot listen on {LOOPBACK}:{request.port}",
                found="somebody listens there",
                next=f"choose another port: --port {request.port % 65535 + 1}",
            ) from error
        raise


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
