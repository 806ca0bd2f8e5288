"""What the Docker target asks an engine for: replicas, the gateway, their network and volumes, as API bodies.

Takes revisions and addresses, hands on JSON documents; no I/O.

Rules, in order:
1. Everything that is ours carries labels, and everything is found again by them alone.
2. A replica gets the hardened policy of `engine.driver`, a network without a way out, an address of its own that stays
   when it is started again, and no published port.
3. The gateway is as confined, but for the network: it stands in the machine's own, because its ports come and go.
4. Both come back after a reboot, until somebody stops them (`unless-stopped`).
5. What podman needs otherwise is told in `podman.py`.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intermodal.engine.docker import request
from intermodal.engine.driver import HARDENED, Policy, Spec
from intermodal.errors import InputError
from intermodal.rooms.deploy.envoy.image import CONFIG_DIR
from intermodal.rooms.deploy.envoy.render import BOOTSTRAP
from intermodal.rooms.deploy.revision import Revision
from intermodal.rooms.deploy.secrets import SECRETS_DIR
from intermodal_server.contract import USER_ID

LABEL = "dev.intermodal.deploy"  # "replica" or "gateway"
MODEL, REVISION, REPLICA, ADDRESS, SETTINGS = (
    f"{LABEL}.{name}" for name in ("model", "revision", "replica", "address", "settings")
)
NETWORK = GATEWAY = VOLUME = "intermodal"
LIVE = "live"  # folder in the gateway's volume; its own user owns it
FILES_DIR = f"{CONFIG_DIR}/{LIVE}"
ADMIN_SOCKET = "/tmp/admin.sock"  # noqa: S108 - in the container
METRICS_PORT = 9090
ENV_MODE = "INTERMODAL_MODE"
_RESTART = {"Name": "unless-stopped"}
_SUFFIXES = {"": 1, "k": 10**3, "ki": 1 << 10, "m": 10**6, "mi": 1 << 20, "g": 10**9, "gi": 1 << 30, "ti": 1 << 40}


def size_bytes(text: str) -> int | None:
    """A size as Kubernetes writes it ("512Mi", "2G"), in bytes; None for "".

    Raises:
        InputError: it is none.
    """
    if not text:
        return None
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :].lower()
    try:
        return int(float(digits) * _SUFFIXES[unit])
    except (KeyError, ValueError) as error:
        raise InputError(f"{text!r} is no size", next='memory = "512Mi" under [deploy.resources]') from error


def cores(text: str) -> float | None:
    """Cores as Kubernetes writes them ("2", "0.5", "500m"); None for "".

    Raises:
        InputError: it is none.
    """
    if not text:
        return None
    try:
        return int(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no number of cores", next='cpu = "1" or "500m"') from error


def replica_name(model: str, revision: int, index: int) -> str:
    """The name of a replica's container."""
    return f"intermodal-{model}-r{revision}-{index}"


def secrets_volume(model: str, revision: int) -> str:
    """The volume with a revision's secrets."""
    return f"intermodal-{model}-r{revision}-secrets"


def replica(model: str, revision: Revision, index: int, *, image: str, address: str) -> dict[str, Any]:
    """The body of a replica's container."""
    settings = revision.settings
    policy: Policy = Policy(
        **{
            **{name: getattr(HARDENED, name) for name in HARDENED.__struct_fields__},
            "memory_bytes": size_bytes(settings.memory),
            "cpus": cores(settings.cpu),
        }
    )
    environment = dict(settings.environment)
    if settings.mode:
        environment.setdefault(ENV_MODE, settings.mode)
    name = replica_name(model, revision.number, index)
    labels = {
        LABEL: "replica",
        MODEL: model,
        REVISION: str(revision.number),
        REPLICA: str(index),
        ADDRESS: address,
        SETTINGS: settings_digest(revision),
    }
    body: dict[str, Any] = dict(request(Spec(image, name, policy, environment, labels, Path("/"), {}, True, None)))
    host = body["HostConfig"]
    host |= {"NetworkMode": NETWORK, "RestartPolicy": _RESTART}
    if settings.secrets:
        volume = secrets_volume(model, revision.number)
        host["Mounts"] = [{"Type": "volume", "Source": volume, "Target": SECRETS_DIR, "ReadOnly": False}]
    if settings.gpu:
        host["DeviceRequests"] = [{"Count": settings.gpu, "Capabilities": [["gpu"]]}]
    body["NetworkingConfig"] = {"EndpointsConfig": {NETWORK: {"IPAMConfig": {"IPv4Address": address}}}}
    return body


def gateway(image: str, threads: int) -> dict[str, Any]:
    """The body of the gateway's container."""
    labels = {LABEL: "gateway"}
    body: dict[str, Any] = dict(request(Spec(image, GATEWAY, HARDENED, {}, labels, Path("/"), {}, True, None)))
    body["Cmd"] = [
        *("-c", f"{CONFIG_DIR}/{LIVE}/{BOOTSTRAP}", "--disable-hot-restart", "--concurrency", str(threads)),
        *("--log-level", "warning", "--drain-time-s", "5"),
    ]
    body["HostConfig"] |= {
        "NetworkMode": "host",
        "RestartPolicy": _RESTART,
        "Mounts": [{"Type": "volume", "Source": VOLUME, "Target": CONFIG_DIR, "ReadOnly": False}],
    }
    body.pop("ExposedPorts", None)
    return body


def network(subnet: str = "") -> dict[str, Any]:
    """The body of the network of all replicas: they reach nothing outside, and the machine reaches them.

    Without a subnet it is one for a moment, from which only the subnet that the engine chose is taken.
    """
    body: dict[str, Any] = {
        "Name": NETWORK if subnet else f"{NETWORK}-trial",
        "Driver": "bridge",
        "Internal": True,
        "CheckDuplicate": True,
        "Labels": {LABEL: "network"},
    }
    return {**body, "IPAM": {"Config": [{"Subnet": subnet}]}} if subnet else body


def settings_digest(revision: Revision) -> str:
    """What tells a container of this revision from one of an earlier life with the same number."""
    return hashlib.sha256(f"{revision.manifest} {revision.settings!r}".encode()).hexdigest()[:16]


def packed(files: Mapping[str, bytes], *, folder: str = "", mode: int = 0o600) -> bytes:
    """A tar of files that belong to the container's user, inside a folder of theirs when one is named."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        if folder:
            own = _member(f"{folder}/", 0o755)
            own.type = tarfile.DIRTYPE
            archive.addfile(own)
        for name, content in sorted(files.items()):
            member = _member(f"{folder}/{name}" if folder else name, mode)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _member(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = mode, USER_ID, USER_ID
    return member


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a tar as an engine gives it, by their last name."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is not None:
                found[member.name.rpartition("/")[2]] = stream.read()
    return found
