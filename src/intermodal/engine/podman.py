"""The `podman` engine: containers of podman on this machine, as root or rootless, through its command line.

Takes images of the store, hands on hardened containers (`containers.py`). Also takes images in for `load`.

Rules, in order:
1. An image is pulled out of the store's own layout, so podman copies only the layers it lacks. Where podman cannot
   read this host's files (a machine of its own), it gets the whole archive.
2. Resource limits are never above our own: podman's defaults are, and a runtime without the right to raise them fails.
3. The filter of system calls is podman's own, made stricter: its default lets a process make namespaces.
4. The image's health check is given as options, because podman does not read it from OCI images.
5. A runtime that does not work here is replaced by `runc` when that is installed: crun refuses hybrid control groups.
6. Why rootless podman does not work on this machine is told with what to change.
"""

from __future__ import annotations

import json
import math
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from intermodal.engine.archive import Parts, Sent, archive, common, familiar, feed, index_document
from intermodal.engine.containers import ContainerEngine
from intermodal.engine.driver import CHECKED, HARDENED, MissingError, Policy, Spec, State, published
from intermodal.engine.owner import OWNER_LABEL
from intermodal.engine.podman_seccomp import write_profile
from intermodal.engine.podman_words import options, refusal, size_bytes
from intermodal.engine.runtime import RuntimeFolder
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.canonical import canonical_json
from intermodal.oci.layout import Store
from intermodal_server.contract import GRPC_PORT, HTTP_PORT

_TIMEOUT_S = 600.0
_LOG_LINES = 10_000
_NOT_THERE = (
    "image not known",
    "no such image",
    "no such container",
    "no container with",
    "does not exist in database",
)


class PodmanEngine(ContainerEngine):
    """Runs images of `store` in podman; implements `interface.Engine`."""

    def __init__(self, store: Store, host: Host, policy: Policy = HARDENED) -> None:
        super().__init__(store, host, PodmanDriver(store, host), policy)


class PodmanDriver:
    """Podman for this user; implements `containers.Driver`."""

    name = "podman"

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host
        self._program = shutil.which("podman", path=host.environment.get("PATH"))

    @property
    def shares_sockets(self) -> bool:
        """Whether a Unix socket made inside can be connected to from here: not out of podman's machine."""
        return self._host.system == "linux"

    # --- images ---------------------------------------------------------------------------------------------------
    def find(self, parts: Parts) -> str | None:
        """The id of the image, which is its config's digest."""
        with suppress(MissingError):
            self._podman("image", "inspect", "--format", "{{.Id}}", parts.config.digest.hex)
            return parts.config.digest.hex
        return None

    def load(self, parts: Parts, name: str, events: Events) -> Sent:
        """Put the image into podman under `name`, sending only the layers it lacks.

        Raises:
            EngineError: podman refused.
        """
        listed = self._listed()
        image = parts.config.digest.hex
        sent = Sent(image, 0, 0) if image in listed else self._send(parts, list(listed), events)
        full = _full(name)
        former = [other for other, names in listed.items() if full in names and other != image]
        if former or full not in listed.get(image, ()):
            self._podman("tag", image, full)
        if former and name.startswith(CHECKED):
            with suppress(EngineError):  # still used by a container, or under another name: then it stays
                self._podman("rmi", *former)
        return sent

    def _send(self, parts: Parts, others: Sequence[str], events: Events) -> Sent:
        known = max((common(map(str, parts.diff_ids), held) for held in self._layers_of(others)), default=0)
        missing = parts.layers[known:]
        total = sum(layer.size_bytes for layer in missing)
        with events.task("load into podman", total=total, unit="bytes") as task:
            try:
                self._pull(parts)
                sent = Sent(parts.config.digest.hex, len(missing), total)
            except EngineError as error:
                why = "; ".join((error.message, *error.found))
                events.notice(f"podman did not read the store ({why}); sending the whole image")
                sent = self._send_archive(parts)
            task.advance(sent.bytes)
        if self.find(parts) is None:
            raise EngineError("podman did not load the image", found="it took it, but does not know it")
        return sent

    def _pull(self, parts: Parts) -> None:
        with layout_of(parts, self._store, self._host) as layout:
            # Podman lists what it pulls: version 4 under the folder's (relative) name, version 5 under the reference.
            name = f"localhost/{layout.name}:latest"
            self._podman("pull", "--quiet", f"oci:{layout.name}:{name}", folder=layout.parent)
            with suppress(EngineError):
                self._podman("untag", parts.config.digest.hex, name)

    def _send_archive(self, parts: Parts) -> Sent:
        name = f"localhost/intermodal/{secrets.token_hex(6)}:1"
        count = feed([self._found(), "load", "--quiet"], archive(parts, self._store, name), self._host)
        with suppress(EngineError):
            self._podman("untag", parts.config.digest.hex, name)
        return Sent(parts.config.digest.hex, len(parts.layers), count)

    def _listed(self) -> dict[str, list[str]]:
        """Every image that podman holds: id -> names."""
        listed = json.loads(self._podman("images", "--all", "--no-trunc", "--format", "json") or "[]")
        return {item["Id"].removeprefix("sha256:"): item.get("Names") or [] for item in listed or ()}

    def _layers_of(self, images: Sequence[str]) -> list[list[str]]:
        if not images:
            return []
        try:
            documents = json.loads(self._podman("image", "inspect", *images))
        except (MissingError, ValueError):  # removed in between: nothing is known, all is sent
            return []
        return [list((item.get("RootFS") or {}).get("Layers") or ()) for item in documents]

    # --- containers -----------------------------------------------------------------------------------------------
    def create(self, spec: Spec) -> str:
        """The id of a new container that does not run yet."""
        runtime = ["--runtime", "runc"] if hybrid_groups() and shutil.which("runc") else []
        profile = write_profile(spec.folder, self._host.architecture) if spec.policy.seccomp else None
        filtered = ["--security-opt", f"seccomp={profile}"] if profile else []
        return (
            self._podman(*runtime, "create", *options(spec, timers=self._systemd()), *filtered, spec.image)
            .strip()
            .splitlines()[-1]
        )

    def _systemd(self) -> bool:
        runtime = "/run" if self._host.uid == 0 else self._host.environment.get("XDG_RUNTIME_DIR", "")
        return Path(runtime, "systemd", "private").exists()

    def start(self, container: str) -> None:
        """Run it."""
        self._podman("start", container)

    def state(self, container: str) -> State:
        """How it is."""
        document = json.loads(self._podman("container", "inspect", container))[0]
        state = document["State"]
        bound = (document.get("NetworkSettings") or {}).get("Ports") or {}
        return State(
            running=state["Status"] in ("running", "created", "initialized", "stopping", "paused"),
            exit_code=int(state["ExitCode"]),
            pid=int(state["Pid"]),
            port=published(bound, HTTP_PORT),
            grpc_port=published(bound, GRPC_PORT),
            error=str(state.get("Error") or ""),
        )

    def logs(self, container: str, limit_bytes: int) -> str:
        """The last part of what it wrote."""
        done = self._run("logs", "--tail", str(_LOG_LINES), container, together=True)
        return done.stdout[-limit_bytes:].decode("utf-8", "replace")

    def execute(self, container: str, argv: Sequence[str]) -> tuple[int, str]:
        """Exit status and standard output of a command inside."""
        done = self._run("exec", container, *argv)
        output = done.stdout + (done.stderr if done.returncode else b"")
        return done.returncode, output.decode("utf-8", "replace")

    def memory_bytes(self, container: str) -> int:
        """What it holds now."""
        said = self._podman("stats", "--no-stream", "--format", "{{.MemUsageBytes}}", container)
        return size_bytes(said.partition("/")[0])

    def stop(self, container: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`."""
        with suppress(MissingError):
            self._podman("stop", "--time", str(math.ceil(max(0.0, grace_s))), container, timeout_s=grace_s + 60)

    def remove(self, container: str) -> None:
        """Delete it, dead or alive."""
        with suppress(MissingError):
            self._podman("rm", "--force", "--time", "0", "--volumes", container)

    def owned(self) -> Mapping[str, str]:
        """Every container that carries our label."""
        listed = self._podman("ps", "--all", "--no-trunc", "--filter", f"label={OWNER_LABEL}", "--format", "json")
        return {item["Id"]: item["Labels"][OWNER_LABEL] for item in json.loads(listed or "[]") or ()}

    # --- the program ----------------------------------------------------------------------------------------------
    def _found(self) -> str:
        if self._program is None:
            raise EngineError(
                "podman is not installed",
                found="no podman in PATH",
                next=("sudo apt install podman", "or: --engine sandbox"),
            )
        return self._program

    def _podman(self, *arguments: str, folder: Path | None = None, timeout_s: float = _TIMEOUT_S) -> str:
        """Standard output of podman.

        Raises:
            MissingError: it does not know the image or container.
            EngineError: it refused; its last words are in `found`.
        """
        done = self._run(*arguments, folder=folder, timeout_s=timeout_s)
        if done.returncode == 0:
            return done.stdout.decode("utf-8", "replace")
        said = done.stderr.decode("utf-8", "replace").strip()
        if any(phrase in said.lower() for phrase in _NOT_THERE):
            raise MissingError("podman does not know it", found=said.splitlines()[-1])
        raise refusal(said)

    def _run(
        self, *arguments: str, folder: Path | None = None, timeout_s: float = _TIMEOUT_S, together: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [self._found(), *arguments],
                env={**self._host.environment, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},  # else it ends up in logs
                # podman refuses to start in a folder that its user may not enter
                cwd=folder or "/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if together else subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError("podman does not answer", found=f"{arguments[0]} took {timeout_s:.0f} s") from error
        except OSError as error:
            raise EngineError("podman cannot be started", found=str(error)) from error


@contextmanager
def layout_of(parts: Parts, store: Store, host: Host) -> Iterator[Path]:
    """A layout that holds this image alone, as `localhost/FOLDER:latest`; its blobs are those of the store."""
    folder = RuntimeFolder(host)
    layout = folder.path / f"layout{secrets.token_hex(6)}"
    try:
        layout.mkdir()
        (layout / "oci-layout").write_bytes(canonical_json({"imageLayoutVersion": "1.0.0"}))
        name = f"localhost/{layout.name}:latest"
        (layout / "index.json").write_bytes(index_document(parts, name, reference=name))
        (layout / "blobs").symlink_to(store.blobs.parent.absolute())
        yield layout
    finally:
        folder.remove()


def _full(name: str) -> str:
    """The name in full; podman calls images of no registry `localhost/…`."""
    return name if familiar(name) == name else f"localhost/{name}"


def hybrid_groups() -> bool:
    """Whether both versions of control groups are mounted, which crun refuses."""
    try:
        kinds = {line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    except (OSError, IndexError):
        return False
    return {"cgroup", "cgroup2"} <= kinds
