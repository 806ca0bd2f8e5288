"""The folder that a Dockerfile is built in: everything it copies, from the lock, each file hashed on the way.

Takes lock, card, project and base; writes the folder, hands on a `Context`.

Rules, in order:
1. A folder that holds something else is left alone; one of ours is written anew as a whole.
2. Model, application and golden files are those of the lock, byte for byte, and none looks like a secret.
3. Wheels are put in only when asked for; without them pip fetches them, and refuses other bytes all the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from intermodal.errors import DriftError, InputError
from intermodal.events import Events
from intermodal.fetch import Request, fetch_all
from intermodal.host import Host
from intermodal.host.files import failure
from intermodal.oci.config import config_bytes
from intermodal.oci.digest import Digest
from intermodal.project.value import Project
from intermodal.rooms.build.content import labels, model_settings, ports, read_row
from intermodal.rooms.build.dockerfile.local_base import LocalBase
from intermodal.rooms.build.dockerfile.text import HEADER, Pin, Plan, dockerfile, requirements
from intermodal.rooms.build.secrets import refuse_secrets
from intermodal.rooms.build.wheels.prune import rules
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock.platforms import best_wheel, fits
from intermodal.rooms.lock.requests import wheel_request
from intermodal.rooms.lock.rows import Lock, PackageRow
from intermodal_server import contract

# pip is a tool of the first stage alone and in no lock: this very wheel installs what every lock names
PIP = Request(
    Digest("9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"),
    1778622,
    "pip-25.3-py3-none-any.whl",
    (),
    "pip",
    "put that wheel into the index that pip is configured for",
)
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_OURS = ("Dockerfile", "requirements.txt", "server-requirements.txt")
_FOLDERS = ("tools", "wheels", "server", "model", "metadata", "app")
_WHEELS = "Wheels in this folder are taken before those of the index; only bytes that the requirements name.\n"


class Context(Struct, frozen=True):
    """A written folder."""

    folder: Path
    name: str  # "digits:1.0.0"
    base: LocalBase
    lock_digest: Digest
    files: int
    size_bytes: int
    wheels: bool  # whether they are in it


def write_context(
    lock: Lock,
    card: ModelCard,
    project: Project,
    base: LocalBase,
    folder: Path,
    *,
    host: Host,
    events: Events,
    wheels: bool = False,
    mounts: bool = True,
) -> Context:
    """The folder, written.

    Args:
        lock: what goes in.
        card: what the model is.
        project: its name and settings.
        base: the image to begin with.
        folder: missing, empty, or written by this function before.
        host: this machine.
        events: told what is fetched.
        wheels: put every wheel into it, so that the build needs no network.
        mounts: use BuildKit's mounts; podman and buildah know them, too.

    Raises:
        InputError: the folder holds something else.
        DriftError, SecretFoundError: a file is another than the locked one, or looks like a secret.
        DownloadError: pip or a wheel cannot be had.
    """
    _same_server(lock)
    _own(folder)
    refuse_secrets([*lock.model, *lock.app, *([lock.golden] if lock.golden else [])])
    pins = {name: _pins(packages, lock) for name, packages in _environments(lock).items()}
    wanted = _requests(lock) if wheels else []
    fetched = fetch_all([PIP, *wanted], host=host, events=events)
    try:
        _write_files(lock, folder, model_settings(lock, card, project).to_json())
        for name, found in pins.items():
            (folder / name).write_text(requirements(found, _TITLES[name]))
        for request, where in [(PIP, "tools"), *((each, "wheels") for each in wanted)]:
            shutil.copyfile(fetched[request.digest], folder / where / request.filename)
        plan = _plan(lock, card, project, base, bool(pins["requirements.txt"]), mounts)
        (folder / "Dockerfile").write_text(dockerfile(plan))
        files = [path for path in folder.rglob("*") if path.is_file()]
        return Context(
            folder,
            f"{project.name}:{project.version}",
            base,
            plan.lock_digest,
            len(files),
            sum(path.stat().st_size for path in files),
            wheels,
        )
    except OSError as error:
        raise failure("cannot write the Dockerfile's folder", folder, error) from error


def _plan(lock: Lock, card: ModelCard, project: Project, base: LocalBase, requirements: bool, mounts: bool) -> Plan:
    """What the Dockerfile says."""
    from intermodal.rooms.lock.lockfile import lock_digest

    digest = lock_digest(lock)
    return Plan(
        name=project.name,
        version=project.version,
        base=base.name,
        base_digest=base.digest,
        lock_digest=digest,
        python=lock.python,
        pip=PIP.filename,
        config=_config(lock, labels(lock, card, project, digest), ports(project)),
        model=bool(lock.model),
        app=bool(lock.app),
        requirements=requirements,
        bytecode=lock.policy.bytecode != "none",
        mounts=mounts,
    )


_TITLES = {
    "requirements.txt": "What the model needs",
    "server-requirements.txt": "What the inference server needs",
}


def _same_server(lock: Lock) -> None:
    from intermodal.rooms.lock.servertree import server_tree

    tree, _ = server_tree()
    if tree != lock.server.tree:
        raise DriftError(
            "the lock is for another version of the server",
            found=f"server {lock.server.version}, tree {lock.server.tree.short}; this program has {tree.short}",
            next="intermodal lock PATH takes the server of this version",
        )


def _environments(lock: Lock) -> dict[str, Sequence[PackageRow]]:
    kept = [
        package
        for package in lock.packages
        if not (lock.policy.prune and rules().drops_all_of(package.name, lock.policy.keep))
    ]
    return {"requirements.txt": kept, "server-requirements.txt": lock.server.packages}


def _pins(packages: Sequence[PackageRow], lock: Lock) -> list[Pin]:
    """One requirement for each version and set of machines."""
    found = []
    for package in packages:
        platforms = [platform for platform in lock.platforms if fits(package, platform, lock.python)]
        hashes = dict.fromkeys(best_wheel(package, platform, lock.python).digest for platform in platforms)
        machines = [""] if len(platforms) == len(lock.platforms) else [_MACHINES[each] for each in platforms]
        found += [Pin(package.name, package.version, tuple(hashes), machine) for machine in machines]
    return found


def _requests(lock: Lock) -> list[Request]:
    found = {}
    for package in (each for packages in _environments(lock).values() for each in packages):
        for platform in lock.platforms:
            if fits(package, platform, lock.python):
                wheel = best_wheel(package, platform, lock.python)
                found[wheel.digest] = wheel_request(package, wheel)
    return list(found.values())


def _config(lock: Lock, named: Mapping[str, str], listens: Sequence[int]) -> Mapping[str, object]:
    """What our own image's config says, so that both roads end in the same."""
    document = json.loads(
        config_bytes(layers=(), architecture="amd64", python=lock.python, labels=named, ports=listens)
    )
    config: Mapping[str, object] = document["config"]
    return config


def _write_files(lock: Lock, folder: Path, settings: bytes) -> None:
    from intermodal.rooms.lock.servertree import server_tree

    for name in _FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "wheels" / "README").write_text(_WHEELS)
    for name, source in server_tree()[1]:
        _put(folder / "server" / name, [source.read_bytes()])
    for kind, rows in (("model", lock.model), ("app", lock.app)):
        for row in rows:
            _put_row(folder / kind / row.path, row)
    _put(folder / "metadata" / Path(contract.SETTINGS_PATH).name, [settings])
    if lock.golden is not None:
        _put_row(folder / "metadata" / Path(contract.GOLDEN_PATH).name, lock.golden)


def _put_row(path: Path, row: FileRow) -> None:
    _put(path, read_row(row))
    path.chmod(0o755 if row.executable else 0o644)


def _put(path: Path, pieces: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        for piece in pieces:
            out.write(piece)
    path.chmod(0o644)


def _own(folder: Path) -> None:
    """Make the folder empty, when what is in it came from here."""
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            return
        held = {path.name for path in folder.iterdir()}
        head = (folder / "Dockerfile").read_text()[: len(HEADER)] if "Dockerfile" in held else ""
        strange = sorted(held - {*_OURS, *_FOLDERS})
        if held and (strange or head != HEADER):
            raise InputError(
                f"{folder} holds something else than a Dockerfile of ours",
                found=", ".join(strange[:5]) or "a Dockerfile that somebody else wrote",
                next="-o FOLDER takes one that is missing or empty",
            )
        for name in held:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            raise failure("cannot write the Dockerfile's folder", folder, error) from error
        raise InputError(f"{folder} holds a Dockerfile that is no text", next="-o FOLDER takes another") from error
