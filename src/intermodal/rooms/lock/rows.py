"""The lock as a value: a hash for every byte that will enter the image.

`lockfile.py` reads and writes it as `pylock.intermodal.toml`; `build` takes it from here.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow

LAYOUT_VERSION = 1  # changes whenever the same rows would give other layer bytes
CODEC = "deflate-0.9.0/6"  # libdeflate as pinned in pyproject.toml, level 6


class WheelRow(Struct, frozen=True):
    """One wheel: found again by (name, file name, sha256) in whatever indexes are configured."""

    filename: str
    size_bytes: int  # 0 when the index does not say
    digest: Digest
    url: str = ""  # http(s) or file, without credentials; "" in a lock written with --no-urls


class PackageRow(Struct, frozen=True):
    """One distribution of the model's or the server's environment; one wheel per platform that needs its own."""

    name: str  # normalised (PEP 503)
    version: str
    wheels: tuple[WheelRow, ...]
    dependencies: tuple[str, ...] = ()  # names, for SBOM and messages
    platforms: tuple[str, ...] = ()  # that install it, where not all of the lock's do


class DebRow(Struct, frozen=True):
    """One Debian package of the base or of `system`."""

    name: str
    version: str
    architecture: str  # amd64 | arm64 | all
    filename: str  # pool/… path in the archive
    size_bytes: int
    digest: Digest
    url: str = ""  # full address it was found at; "" in a lock written with --no-urls
    source: str = ""  # source package, when its name differs
    # base: the closure of the base's own roots, the same in every image; compiler: not in any image, but the same base
    # for the machine that builds, whose interpreter compiles byte code where no platform of the image runs on it
    layer: Literal["base", "system", "compiler"] = "base"


class BaseLayerRow(Struct, frozen=True):
    """One layer of a base in a registry."""

    digest: Digest
    diff_id: Digest
    size_bytes: int  # as stored
    media_type: str
    tar_bytes: int = 0  # unpacked


class BaseImageRow(Struct, frozen=True):
    """A base in a registry, for one platform; of a platform that the lock is not for, it only compiles byte code."""

    platform: str
    manifest: Digest
    layers: tuple[BaseLayerRow, ...]  # lowest first
    environment: tuple[str, ...]  # variables of its config that go on to the image, "NAME=value", sorted
    library: str  # its standard library, "usr/local/lib/python3.12"


class BaseLock(Struct, frozen=True):
    """Where the operating system and Python come from: Debian packages, or an image of a registry."""

    reference: str  # as in the project: "deb:bookworm", "docker.io/library/python:3.12-slim"
    suite: str  # "bookworm"; "" for an image of a registry
    python: str  # "3.11"
    python_version: str  # "3.11.2", of the interpreter that compiles byte code
    date: str  # Date of the newest InRelease used, RFC 2822 as signed; "" for an image of a registry
    packages: tuple[DebRow, ...]  # every platform's, sorted by (architecture, name); "system" packages included
    system: tuple[str, ...] = ()  # names asked for in [environment] system
    digest: Digest | None = None  # of a registry base: what its name stood for, an index or a manifest
    images: tuple[BaseImageRow, ...] = ()  # of a registry base: one per platform
    interpreter: str = ""  # of a registry base: "/usr/local/bin/python3.12"
    glibc: tuple[int, int] = (0, 0)  # of a registry base: its C library's version

    @property
    def executable(self) -> str:
        """The interpreter's path in the image."""
        return self.interpreter or f"/usr/bin/python{self.python}"

    def image(self, platform: str) -> BaseImageRow:
        """The registry image for a platform.

        Raises:
            RequirementError: the lock has none.
        """
        for row in self.images:
            if row.platform == platform:
                return row
        from intermodal.errors import RequirementError

        raise RequirementError(f"the lock has no base for {platform}", next="intermodal lock PATH --upgrade")


class ServerLock(Struct, frozen=True):
    """The inference server: our code by tree hash, its packages by wheel."""

    version: str
    tree: Digest  # over the sorted (path, sha256) list of intermodal_server's sources
    packages: tuple[PackageRow, ...]


class Policy(Struct, frozen=True):
    """The choices that change layer bytes."""

    prune: bool = True
    keep: tuple[str, ...] = ()  # distributions exempt from pruning
    bytecode: str = "all"  # all | none
    compression: str = "gzip"
    layout: int = LAYOUT_VERSION
    codec: str = CODEC


class Lock(Struct, frozen=True):
    """Everything `build` needs by hash, plus what `lock --check` compares.

    `inputs` is the digest of what the user asked for (requirements, system, python, base, platforms, policy): when the
    project's differs, the dependency rows have drifted.
    """

    name: str
    version: str
    python: str  # "3.11"
    platforms: tuple[str, ...]
    requirements: tuple[str, ...]  # as resolved: the project's plus those from evidence
    packages: tuple[PackageRow, ...]
    base: BaseLock
    server: ServerLock
    model: tuple[FileRow, ...]
    app: tuple[FileRow, ...]
    golden: FileRow | None
    policy: Policy
    inputs: Digest
    exclude_newer: str = ""  # RFC 3339
    environment_digest: Digest | None = None  # canonical digest of all rows but model, app and golden; set by lockfile

    def wheel_for(self, package: PackageRow, platform: str) -> WheelRow:
        """The wheel of `package` that a platform installs, best tag first (rows are stored in that order)."""
        from intermodal.rooms.lock.platforms import best_wheel

        return best_wheel(package, platform, self.python)
