"""The base of an image from Debian packages: which ones, for which Python.

Takes the project's `base = "deb:<suite>"`, platforms and extra system packages; hands on a `BaseLock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from intermodal.errors import RequirementError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.rooms.lock.debian.closure import closure
from intermodal.rooms.lock.debian.packages import Deb
from intermodal.rooms.lock.debian.sources import open_archives
from intermodal.rooms.lock.debian.suites import suite_of
from intermodal.rooms.lock.debian.versions import upstream
from intermodal.rooms.lock.rows import BaseLock, DebRow

# manylinux wheels expect libstdc++6 and libgcc-s1 from the system and bring the rest themselves
ROOTS = ("base-files", "ca-certificates", "libc6", "libstdc++6", "netbase", "tzdata")


def resolve_base(
    reference: str,
    platforms: Sequence[str],
    system: Sequence[str],
    *,
    host: Host,
    events: Events = SILENT,
    keyring: bytes | None = None,
) -> BaseLock:
    """The Debian packages of a base, for every platform.

    Args:
        reference: "deb:bookworm".
        platforms: "linux/amd64", "linux/arm64".
        system: names of further Debian packages.
        host: whose mirrors and cache count.
        events: told while indexes are read.
        keyring: for tests; None takes the shipped Debian keyring.

    Raises:
        RequirementError: unknown suite or package, unsatisfiable dependency.
        IndexUnreachableError, DownloadError, StoreError: the mirror or this machine.
    """
    suite = suite_of(reference)
    architectures = tuple(platform.partition("/")[2] for platform in platforms)
    interpreter = f"python{suite.python}"
    roots = [*ROOTS, interpreter, f"{interpreter}-minimal", f"libpython{suite.python}-stdlib"]
    with events.task(f"read the package indexes of Debian {suite.name}"):
        archives, date = open_archives(host, suite.name, architectures, keyring=keyring)
        try:
            base = {name: closure(archive, roots) for name, archive in archives.items()}
            more = [deb for name, archive in archives.items() for deb in closure(archive, system, base[name])]
        finally:
            for archive in archives.values():
                archive.close()
    chosen = [deb for debs in base.values() for deb in debs]
    rows = {(deb.architecture, deb.name): _row(deb, "system") for deb in more}
    rows |= {(deb.architecture, deb.name): _row(deb, "base") for deb in chosen}
    pythons = {upstream(deb.version) for deb in chosen if deb.name == f"{interpreter}-minimal"}
    if len(pythons) != 1:
        raise RequirementError(
            f"the platforms of deb:{suite.name} have different Python versions",
            found=", ".join(sorted(pythons)),
            next="the mirror may be halfway through an update: try again later",
        )
    return BaseLock(
        reference=reference,
        suite=suite.name,
        python=suite.python,
        python_version=pythons.pop(),
        date=date,
        packages=tuple(rows[key] for key in sorted(rows)),
        system=tuple(sorted(set(system))),
    )


def _row(deb: Deb, layer: Literal["base", "system"]) -> DebRow:
    return DebRow(
        name=deb.name,
        version=deb.version,
        architecture=deb.architecture,
        filename=deb.filename,
        size_bytes=deb.size_bytes,
        digest=deb.digest,
        url=deb.url,
        source=deb.source if deb.source != deb.name else "",
        layer=layer,
    )
