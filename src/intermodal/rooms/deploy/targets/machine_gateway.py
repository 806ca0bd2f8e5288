"""The gateway of one machine, shared by all models there: its plan, its container, and its files.

Takes plans, hands on what is wrong. The plan is kept here, on the side of the commands, because the gateway itself
knows only files; it is changed by one process at a time.

Rules, in order:
1. A gateway that is there is used as it is; its image is made only where there is none to run.
2. What an engine has lost (the image, the container, the volume) is given to it again.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from intermodal.errors import EngineError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.host.held import lock_file
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy import gateway
from intermodal.rooms.deploy.envoy.image import gateway_image
from intermodal.rooms.deploy.envoy.plan import GatewayPlan
from intermodal.rooms.deploy.envoy.render import BOOTSTRAP, bootstrap, pipe
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.targets import bodies, daemon
from intermodal.rooms.deploy.targets.kept import replace_file
from intermodal.rooms.deploy.targets.machine import Found, GatewayFiles, Machine
from intermodal.rooms.deploy.targets.reach import Here


class MachineGateway:
    """The gateway of a machine.

    Args:
        machine: where it runs.
        folder: where its plan is kept.
        store: where its image goes.
        host: this machine.
    """

    def __init__(self, machine: Machine, folder: Path, *, store: Store, host: Host) -> None:
        self._machine, self._folder = machine, folder
        self._store, self._host = store, host
        self._certificates: dict[str, str] = {}  # digest of what the gateway was given, by name

    def lock(self) -> Any:
        """Held while the plan, or what belongs to it, is changed."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return lock_file(self._folder / "plan.lock")

    def plan(self) -> GatewayPlan:
        """What it shall do."""
        try:
            return msgspec.json.decode((self._folder / "plan.json").read_bytes(), type=GatewayPlan)
        except (FileNotFoundError, msgspec.DecodeError):
            return GatewayPlan()

    def prepare(self, model: Digest, events: Events) -> None:
        """Give the engine the gateway's image, unless a gateway is there already.

        Args:
            model: the manifest of a model's image, whose base and platform it shares.
            events: told what is fetched and made.
        """
        if isinstance(self._machine.reach, Here):
            daemon.keep(self._folder, self._machine.reach.path)
        if self._machine.gateway() is not None and self._image() is not None:
            return
        made = gateway_image(model, store=self._store, host=self._host, events=events)
        self._machine.image(made.digest, events)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._folder / "gateway.image", str(made.digest).encode())

    def _image(self) -> Digest | None:
        try:
            return Digest.parse((self._folder / "gateway.image").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def follow(self, plan: GatewayPlan, exposure: Exposure) -> str:
        """Make the gateway follow a plan; what is wrong with it, or "" while it runs.

        Args:
            plan: of all models; without any there is no gateway.
            exposure: of the model that asks, for its certificates.
        """
        if plan != self.plan():
            replace_file(self._folder / "plan.json", msgspec.json.encode(plan))
        machine = self._machine
        found = machine.gateway()
        if not plan.sites:
            self._remove(found)
            return ""
        found = found or self._create()
        files = GatewayFiles(machine, found.id, running=found.state == "running")
        self._put_certificates(files, exposure)
        if found.state != "running":
            files.put(BOOTSTRAP, bootstrap(files.folder, pipe(bodies.ADMIN_SOCKET)))
        gateway.apply(plan, files, machine.ask, running=found.state == "running")
        if found.state in ("created", "exited"):
            machine.start(found.id)
        return self._problem(found)

    def _problem(self, found: Found) -> str:
        """Why the gateway does not serve; one that answers now does, however often it ended in its life."""
        if found.state == "running":
            with suppress(OSError, ValueError, HTTPException):
                self._machine.ask("/ready")
                return ""
        return self._machine.restarts([found], "the gateway")

    def _create(self) -> Found:
        machine, image = self._machine, self._image()
        if image is None:
            raise EngineError("there is no gateway, and no image of one", next="intermodal deploy makes it")
        body = bodies.gateway(machine.image(image, SILENT), machine.threads)
        self._certificates.clear()
        return Found(machine.create(bodies.GATEWAY, body), {}, "created")

    def _remove(self, found: Found | None) -> None:
        if found is not None:
            self._machine.remove(found.id)
        self._machine.remove_volume(bodies.VOLUME)
        self._machine.remove_network()
        daemon.forget(self._folder)

    def _put_certificates(self, files: GatewayFiles, exposure: Exposure) -> None:
        inside = in_gateway(exposure)
        for source, target in ((exposure.certificate, inside.certificate), (exposure.key, inside.key)):
            if source:
                content = Path(source).read_bytes()
                known = hashlib.sha256(content).hexdigest()
                if self._certificates.get(target) != known:
                    files.put(target.rpartition("/")[2], content)
                    self._certificates[target] = known


def in_gateway(exposure: Exposure) -> Exposure:
    """The exposure with certificates where the gateway has them."""
    if not exposure.certificate:
        return exposure
    key = hashlib.sha256(f"{exposure.certificate}\n{exposure.key}".encode()).hexdigest()[:16]
    base = f"{bodies.FILES_DIR}/tls-{key}"
    return replace(exposure, certificate=f"{base}.crt", key=f"{base}.key")
