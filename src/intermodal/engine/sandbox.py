"""The `sandbox` engine: containers on a bare machine, as root or not, with nothing installed but this package.

Takes a stored image, hands on a running container. Layers are unpacked once and mounted over each other by bubblewrap
(`rootfs`, `bwrap`); where this host refuses that, the layers are merged by hard links; where it refuses user
namespaces altogether, the image's Python is started through its own loader, without isolation, and says so
(`loader`). The choice is made by trying (`ability`).

The server always listens on a Unix socket in a folder that is bound in, so the network can stay cut; with a port, a
forwarder of ours carries connections from loopback to that socket.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cached_property
from pathlib import Path

from msgspec.structs import replace

from intermodal.engine import bwrap, hardening
from intermodal.engine.ability import ALLOW_USERNS, Ability, ability
from intermodal.engine.container import LocalContainer
from intermodal.engine.doors import Doors, check_grpc
from intermodal.engine.image import ImageStore, RunnableImage, read_image, unpacked_layers
from intermodal.engine.interface import Endpoint, Hardening, Isolation, RunRequest
from intermodal.engine.rootfs import compose
from intermodal.engine.runtime import GRPC_NAME, METRICS_NAME, SOCKET_NAME, RuntimeFolder
from intermodal.errors import EngineError
from intermodal.host import Host
from intermodal_server.contract import ENV_GRPC_SOCKET, ENV_METRICS_SOCKET, ENV_PORT, ENV_SOCKET

_PROBE_S = 30.0


class SandboxEngine:
    """Runs images of `store` on this host; implements `interface.Engine`."""

    name = "sandbox"

    def __init__(self, store: ImageStore, host: Host) -> None:
        self._store = store
        self._host = host

    @cached_property
    def ability(self) -> Ability:
        """The best way that works here."""
        return ability(self._host)

    @property
    def isolation(self) -> Isolation:
        """What a container without network will get here, as far as can be told before starting one."""
        return "none" if self.ability.way == "loader" else "full"

    def start(self, request: RunRequest) -> LocalContainer:
        """A container of `request.image`; it may not be ready yet.

        Raises:
            EngineError: this host or the image does not permit it.
            PortTakenError: somebody listens on `request.port` or `request.grpc_port`.
            StoreError, InputError: the image is damaged or hostile.
        """
        image = read_image(self._store, request.image)
        if image.platform != self._host.platform:
            raise EngineError(
                "the sandbox cannot run this image",
                found=f"it is for {image.platform}, this host is {self._host.platform}",
                next=f'build it with platforms = ["{self._host.platform}"]',
            )
        self._tell(request)
        check_grpc(request, image.grpc)
        doors = Doors(request)
        folder = None
        try:
            folder = RuntimeFolder(self._host)
            layers = unpacked_layers(self._store, image, self._host, request.events)
            if self.ability.way == "loader":
                container = self._start_loader(image, request, layers, folder, doors)
            else:
                container = self._start_bwrap(image, request, layers, folder, doors)
        except BaseException:
            doors.close()
            if folder is not None:
                folder.remove()
            raise
        doors.start(folder.socket, folder.grpc)
        return container

    def _tell(self, request: RunRequest) -> None:
        """Say loudly what this host cannot give."""
        if self.ability.way == "loader":
            request.events.warning(
                f"NOT ISOLATED: {self.ability.why}. The model runs as you. To isolate it: {ALLOW_USERNS}"
            )
        elif self.ability.way == "hardlink":
            request.events.notice(f"layers are merged by hard links: {self.ability.why}")

    def walls(self, image: RunnableImage, request: RunRequest, layers: tuple[Path, ...], folder: Path) -> bwrap.Walls:
        """The walls of a container of `image`."""
        points = (*bwrap.MOUNT_POINTS, hardening.SOCKET_FOLDER)
        root = compose(layers, self.ability.way, self._host.cache_dir, points)
        return bwrap.Walls(
            root.arguments,
            {
                **image.environment,
                **request.environment,
                ENV_SOCKET: f"{hardening.SOCKET_FOLDER}/{SOCKET_NAME}",
                ENV_METRICS_SOCKET: f"{hardening.SOCKET_FOLDER}/{METRICS_NAME}",
                **({ENV_GRPC_SOCKET: f"{hardening.SOCKET_FOLDER}/{GRPC_NAME}"} if image.grpc else {}),
                ENV_PORT: "0",
            },
            image.folder,
            network=request.egress,
            uid=image.uid,
            gid=image.gid,
            bound={hardening.SOCKET_FOLDER: folder},
        )

    def _start_bwrap(
        self,
        image: RunnableImage,
        request: RunRequest,
        layers: tuple[Path, ...],
        folder: RuntimeFolder,
        doors: Doors,
    ) -> LocalContainer:
        """A container behind walls."""
        walls = self.walls(image, request, layers, folder.path)

        def spawn(status: int) -> subprocess.Popen[bytes]:
            return bwrap.spawn(walls, image.argv, self._host.architecture, status=status)

        return LocalContainer(
            spawn,
            endpoint=_endpoint(folder, doors),
            folder=folder,
            doors=doors,
            prove=lambda pid: self.prove(pid, walls, image),
        )

    def prove(self, pid: int, walls: bwrap.Walls, image: RunnableImage) -> Hardening:
        """The hardening of process `pid`, which runs behind `walls`."""

        def run_probe() -> bytes:
            started_anywhere = replace(walls, folder="/")
            process = bwrap.spawn(
                started_anywhere,
                [_python(image), "-I", "-S", "-c", hardening.probe_script(self._host.architecture)],
                self._host.architecture,
                stderr=subprocess.PIPE,
            )
            try:
                output, complaint = process.communicate(timeout=_PROBE_S)
            except BaseException:
                process.kill()
                process.communicate()
                raise
            if process.returncode:
                raise EngineError(complaint.decode("utf-8", "replace").strip()[-200:] or "no output")
            return output

        return hardening.prove(pid, run_probe, network=walls.network)

    def _start_loader(
        self,
        image: RunnableImage,
        request: RunRequest,
        layers: tuple[Path, ...],
        folder: RuntimeFolder,
        doors: Doors,
    ) -> LocalContainer:
        """A process without walls."""
        from intermodal.engine import loader

        root = compose(layers, "loader", self._host.cache_dir, ())
        assert root.merged is not None
        scratch = folder.path / "tmp"
        scratch.mkdir()
        what = loader.command(
            root.merged,
            image.argv,
            image.folder,
            self._host.architecture,
            environment={**image.environment, **request.environment},
            ours={
                ENV_SOCKET: str(folder.socket),
                ENV_METRICS_SOCKET: str(folder.metrics),
                **({ENV_GRPC_SOCKET: str(folder.grpc)} if image.grpc else {}),
                ENV_PORT: "0",
            },
            scratch=scratch,
        )

        def spawn(status: int) -> subprocess.Popen[bytes]:
            process = loader.spawn(what, self._host.architecture, network=request.egress)
            os.write(status, json.dumps({"child-pid": process.pid}).encode() + b"\n")
            return process

        return LocalContainer(
            spawn,
            endpoint=_endpoint(folder, doors),
            folder=folder,
            doors=doors,
            prove=lambda pid: loader.prove(pid, self.ability.why),
        )


def _endpoint(folder: RuntimeFolder, doors: Doors) -> Endpoint:
    """Where the container answers."""
    return Endpoint(folder.socket, port=doors.port, metrics=folder.metrics, grpc_port=doors.grpc_port)


def _python(image: RunnableImage) -> str:
    """The interpreter to probe with: the one that the image itself starts."""
    return image.argv[0] if "python" in image.argv[0].rpartition("/")[2] else "/usr/bin/python3"
