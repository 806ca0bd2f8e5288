"""The base of an image from Debian packages: which ones, for which Python.

Takes the project's `base = "deb:<suite>"`, platforms and extra system packages; hands on a `BaseLock`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

_REBUILT = re.compile(r"\+b\d+\Z")
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
    compiler: str = "",
) -> BaseLock:
    """The Debian packages of a base, for every platform.

    Args:
        reference: "deb:bookworm".
        platforms: "linux/amd64", "linux/arm64".
        system: names of further Debian packages.
        host: whose mirrors and cache count.
        events: told while indexes are read.
        keyring: for tests; None takes the shipped Debian keyring.
        compiler: the platform whose interpreter compiles byte code, when it is none of `platforms`.

    Raises:
        RequirementError: unknown suite or package, unsatisfiable dependency.
        IndexUnreachableError, DownloadError, StoreError: the mirror or this machine.
    """
    suite = suite_of(reference)
    architectures = tuple(platform.partition("/")[2] for platform in (*platforms, *([compiler] if compiler else [])))
    foreign = compiler.partition("/")[2]
    interpreter = f"python{suite.python}"
    roots = [*ROOTS, interpreter, f"{interpreter}-minimal", f"libpython{suite.python}-stdlib"]
    with events.task(f"read the package indexes of Debian {suite.name}"):
        archives, date = open_archives(host, suite.name, architectures, keyring=keyring)
        try:
            base = {name: closure(archive, roots) for name, archive in archives.items()}
            own = {name: archive for name, archive in archives.items() if name != foreign}
            more = [deb for name, archive in own.items() for deb in closure(archive, system, base[name])]
        finally:
            for archive in archives.values():
                archive.close()
    chosen = [deb for debs in base.values() for deb in debs]
    rows = {(deb.architecture, deb.name): _row(deb, "system") for deb in more}
    rows |= {(deb.architecture, deb.name): _row(deb, "compiler") for deb in base.get(foreign, ())}
    rows |= {(d.architecture, d.name): _row(d, "base") for name, debs in base.items() if name != foreign for d in debs}
    minimal = [deb for deb in chosen if deb.name == f"{interpreter}-minimal"]
    pythons = {upstream(deb.version) for deb in minimal}
    if len(pythons) != 1 or not same_interpreter(rows.values(), interpreter):
        raise RequirementError(
            f"the platforms of deb:{suite.name} have different Python versions",
            found=", ".join(f"{deb.architecture} {deb.version}" for deb in minimal),
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


def same_interpreter(rows: Iterable[DebRow], interpreter: str) -> bool:
    """Whether all architectures have the same version of Debian's interpreter, so that one may compile for the other.

    Byte code does not depend on the architecture, but on the version. What Debian rebuilds unchanged (`+b1`) counts as
    the same.
    """
    names = (f"{interpreter}-minimal", f"lib{interpreter}-minimal")
    versions = {(row.name, _REBUILT.sub("", row.version)) for row in rows if row.name in names}
    return len(versions) == len({name for name, _ in versions})


def _row(deb: Deb, layer: Literal["base", "system", "compiler"]) -> DebRow:
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
