"""The `docker` engine: containers of a Docker daemon on this machine, spoken to through its API.

Takes images of the store, hands on hardened containers (`containers.py`). Also takes images in for `load`.

Rules, in order:
1. Loading sends a partial archive, without the layers that the daemon holds: below the same ones in its old store, as
   blobs of an image that came from here in containerd's. A daemon that refuses a part gets the whole archive.
2. `/images/load` answers 200 also when it fails: the stream is read for its error, and afterwards the image is asked
   for by the digest of its config (or manifest). Only that counts as loaded.
3. An image loaded for a check replaces the one of the same name loaded before, so checks do not fill the disk.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from intermodal.engine.api import ApiError, DockerApi, demultiplex, escaped, find_socket
from intermodal.engine.archive import Parts, Sent, archive, common, read_parts
from intermodal.engine.containers import ContainerEngine
from intermodal.engine.driver import CHECKED, HARDENED, OPEN_FILES, MissingError, Policy, Spec, State, published
from intermodal.engine.owner import OWNER_LABEL
from intermodal.errors import EngineError, InputError, StoreError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal_server.contract import GRPC_PORT, HTTP_PORT, LABEL_LOCK_DIGEST

_LOG_LINES = 10_000
_PORT = f"{HTTP_PORT}/tcp"
_GRPC_PORT = f"{GRPC_PORT}/tcp"


class DockerEngine(ContainerEngine):
    """Runs images of `store` in Docker; implements `interface.Engine`."""

    def __init__(self, store: Store, host: Host, policy: Policy = HARDENED) -> None:
        super().__init__(store, host, DockerDriver(store, host), policy)


class DockerDriver:
    """One Docker daemon; implements `containers.Driver`."""

    name = "docker"

    def __init__(self, store: Store, host: Host, api: DockerApi | None = None) -> None:
        self._store = store
        self._host = host
        self._api = api or DockerApi(find_socket(host))

    @property
    def shares_sockets(self) -> bool:
        """Whether a Unix socket made inside can be connected to from here: not out of Docker Desktop's machine."""
        platform = str((self._api.about.get("Platform") or {}).get("Name", ""))
        return self._host.system == "linux" and not platform.startswith("Docker Desktop")

    # --- images ---------------------------------------------------------------------------------------------------
    def find(self, parts: Parts) -> str | None:
        """The id of the image: its config's digest, or the manifest's with containerd's image store."""
        for digest in (parts.config.digest, parts.manifest.digest):
            if self._image(str(digest)) is not None:
                return str(digest)
        return None

    def load(self, parts: Parts, name: str, events: Events) -> Sent:
        """Put the image into Docker under `name`, sending only the layers it lacks.

        Raises:
            EngineError: Docker refused.
        """
        former = self._image(name)
        found = self.find(parts)
        sent = Sent(found, 0, 0) if found else self._send(parts, name, events)
        self._api.json("POST", f"/images/{sent.image}/tag", query=_repository(name))
        if former and former["Id"] != sent.image and name.startswith(CHECKED):
            with suppress(ApiError):  # still used by a container, or under another name: then it stays
                self._api.json("DELETE", f"/images/{former['Id']}")
        return sent

    def _send(self, parts: Parts, name: str, events: Events) -> Sent:
        held = self._held(parts)
        if held:
            try:
                return self._send_without(parts, name, held, events)
            except EngineError as error:
                why = "; ".join((error.message, *error.found))
                events.notice(f"Docker did not take a part of the image ({why}); sending all of it")
        return self._send_without(parts, name, set(), events)

    def _send_without(self, parts: Parts, name: str, held: Collection[Digest], events: Events) -> Sent:
        missing = {layer.digest: layer.size_bytes for layer in parts.layers if layer.digest not in held}
        count = 0
        with events.task("load into docker", total=sum(missing.values()), unit="bytes") as task:

            def counted() -> Iterator[bytes]:
                nonlocal count
                for piece in archive(parts, self._store, name, without=held):
                    count += len(piece)
                    task.advance(len(piece))
                    yield piece

            for line in self._api.streamed_json("POST", "/images/load", counted(), {"quiet": "1"}):
                if isinstance(line, dict) and (line.get("error") or line.get("errorDetail")):
                    detail = line.get("errorDetail") or {}
                    raise EngineError("Docker did not load the image", found=str(detail.get("message", line["error"])))
        image = self.find(parts)
        if image is None or not self._complete(image, parts):
            raise EngineError("Docker did not load the image", found="it took the archive, but does not know the image")
        return Sent(image, len(missing), count)

    def _complete(self, image: str, parts: Parts) -> bool:
        document = self._image(image) or {}
        return _layers(document) == [str(digest) for digest in parts.diff_ids]

    def _held(self, parts: Parts) -> set[Digest]:
        """The layers that need not be sent, because an image that the daemon lists has them."""
        status = dict(item for item in self._api.json("GET", "/info").get("DriverStatus") or () if len(item) == 2)
        by_blob = "containerd" in status.get("driver-type", "")
        held: set[Digest] = set()
        # images of ours first: most often one of them shares all but the last layers
        for query in ({"filters": f'{{"label":["{LABEL_LOCK_DIGEST}"]}}'}, {}):
            for item in self._api.json("GET", "/images/json", query=query):
                held = max(held, self._blobs(item["Id"]) if by_blob else self._prefix(parts, item["Id"]), key=len)
            if held or by_blob:
                break
        return {layer.digest for layer in parts.layers if layer.digest in held}

    def _prefix(self, parts: Parts, image: str) -> set[Digest]:
        """The lowest layers that an image has in the same order; an old store knows a layer only on top of others."""
        layers: list[str] = []
        with suppress(ApiError):  # removed in between
            layers = _layers(self._image(image) or {})
        shared = common(map(str, parts.diff_ids), layers)
        above = {layer.digest for layer in parts.layers[shared:]}
        return {layer.digest for layer in parts.layers[:shared]} - above

    def _blobs(self, image: str) -> set[Digest]:
        """The layers of an image that is called by its manifest, when that came out of this store."""
        try:
            return {layer.digest for layer in read_parts(self._store, Digest.parse(image)).layers}
        except (StoreError, InputError):
            return set()

    def _image(self, name: str) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = self._api.json("GET", f"/images/{escaped(name)}/json")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return document

    # --- containers -----------------------------------------------------------------------------------------------
    def create(self, spec: Spec) -> str:
        """The id of a new container that does not run yet.

        Raises:
            MissingError: the image is gone.
        """
        try:
            created = self._api.json("POST", "/containers/create", request(spec), {"name": spec.name})
        except ApiError as error:
            if error.status == 404:
                raise MissingError("Docker lost the image", found=error.found) from error
            raise
        return str(created["Id"])

    def start(self, container: str) -> None:
        """Run it."""
        self._api.json("POST", f"/containers/{container}/start")

    def state(self, container: str) -> State:
        """How it is."""
        document = self._api.json("GET", f"/containers/{container}/json")
        state = document["State"]
        bound = document["NetworkSettings"].get("Ports") or {}
        return State(
            running=bool(state["Running"]),
            exit_code=int(state["ExitCode"]),
            pid=_here(int(state["Pid"]), container),
            port=published(bound, HTTP_PORT),
            grpc_port=published(bound, GRPC_PORT),
            error=str(state.get("Error") or ""),
        )

    def logs(self, container: str, limit_bytes: int) -> str:
        """The last part of what it wrote."""
        query = {"stdout": "1", "stderr": "1", "tail": _LOG_LINES}
        with self._api.stream("GET", f"/containers/{container}/logs", query=query) as response:
            data = b"".join(piece for _, piece in demultiplex(response.read()))
        return data[-limit_bytes:].decode("utf-8", "replace")

    def execute(self, container: str, argv: Sequence[str]) -> tuple[int, str]:
        """Exit status and standard output of a command inside."""
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(argv)}
        made = self._api.json("POST", f"/containers/{container}/exec", body)
        start = b'{"Detach": false, "Tty": false}'
        with self._api.stream("POST", f"/exec/{made['Id']}/start", start, content_type="application/json") as response:
            pieces = list(demultiplex(response.read()))
        status = self._api.json("GET", f"/exec/{made['Id']}/json")["ExitCode"]
        output = b"".join(piece for stream, piece in pieces if stream == 1 or status)
        return int(status), output.decode("utf-8", "replace")

    def memory_bytes(self, container: str) -> int:
        """What it holds now, page cache not counted."""
        stats = self._api.json("GET", f"/containers/{container}/stats", query={"stream": "0", "one-shot": "1"})
        memory = stats.get("memory_stats") or {}
        details = memory.get("stats") or {}
        cache = details.get("inactive_file", details.get("total_inactive_file", 0))
        return max(0, int(memory.get("usage", 0)) - int(cache))

    def stop(self, container: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`."""
        seconds = math.ceil(max(0.0, grace_s))
        with suppress(ApiError):  # 304 and 404: it has ended
            self._api.json("POST", f"/containers/{container}/stop", query={"t": seconds}, timeout_s=seconds + 60.0)

    def remove(self, container: str) -> None:
        """Delete it, dead or alive."""
        try:
            self._api.json("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"})
        except ApiError as error:
            if error.status not in (404, 409):  # gone, or somebody else is removing it
                raise

    def owned(self) -> Mapping[str, str]:
        """Every container that carries our label."""
        query = {"all": "1", "filters": f'{{"label":["{OWNER_LABEL}"]}}'}
        return {
            item["Id"]: item["Labels"][OWNER_LABEL] for item in self._api.json("GET", "/containers/json", None, query)
        }


def request(spec: Spec) -> dict[str, object]:
    """The body of `POST /containers/create`: every measure of the policy as Docker names it."""
    policy = spec.policy
    security = ["no-new-privileges"] if policy.no_new_privileges else []
    if not policy.seccomp:
        security.append("seccomp=unconfined")
    host: dict[str, object] = {
        "ReadonlyRootfs": policy.read_only_root,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,exec,mode=1777,size={policy.scratch_bytes}"},  # noqa: S108 - inside
        "ShmSize": policy.scratch_bytes,
        "CapDrop": ["ALL"] if policy.drop_capabilities else [],
        "SecurityOpt": security,
        "PidsLimit": policy.pids,
        "IpcMode": "private",
        "Ulimits": [_open_files()],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "1"}},
        "NetworkMode": "default" if spec.egress else "none",
        "Mounts": [
            {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": False}
            for target, source in spec.binds.items()
        ],
        "RestartPolicy": {"Name": "no"},
    }
    if policy.memory_bytes is not None:
        host |= {"Memory": policy.memory_bytes, "MemorySwap": policy.memory_bytes}
    if policy.cpus is not None:
        host["NanoCpus"] = int(policy.cpus * 1e9)
    ports = {_PORT: spec.publish, _GRPC_PORT: spec.publish_grpc}
    open_ports = {name: port for name, port in ports.items() if port is not None}
    if open_ports:
        host["PortBindings"] = {
            name: [{"HostIp": "127.0.0.1", "HostPort": str(port or "")}] for name, port in open_ports.items()
        }
    return {
        "Image": spec.image,
        "User": policy.user,
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Labels": dict(spec.labels),
        "ExposedPorts": {name: {} for name in {_PORT: 0, **open_ports}},
        "HostConfig": host,
    }


def _open_files() -> dict[str, object]:
    """The limit of open files; not above ours, as a daemon may not be allowed to raise it either."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    return {"Name": "nofile", "Soft": most, "Hard": most}


def _repository(name: str) -> dict[str, object]:
    repository, _, tag = name.rpartition(":")
    return {"repo": repository, "tag": tag}


def _layers(image: Mapping[str, Any]) -> list[str]:
    return list((image.get("RootFS") or {}).get("Layers") or ())


def _here(pid: int, container: str) -> int:
    """The process id, when it is one of this host and not of a virtual machine beside it; else 0."""
    try:
        return pid if container in Path(f"/proc/{pid}/cgroup").read_text() else 0
    except OSError:
        return 0
