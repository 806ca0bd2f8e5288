"""What a lock needs fetched: one request per wheel and Debian package, with every address it may lie at.

Takes a `Lock` and the `Host`; hands on `fetch.Request`s, which `build` gives to `fetch_all`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from intermodal.fetch import Request
from intermodal.host import Host
from intermodal.rooms.lock.debian.sources import deb_addresses
from intermodal.rooms.lock.platforms import best_wheel, fits
from intermodal.rooms.lock.rows import DebRow, Lock, PackageRow, WheelRow

VANISHED = "intermodal lock PATH --upgrade takes what the mirror has now"


def wheel_request(package: PackageRow, wheel: WheelRow) -> Request:
    """The request for one locked wheel; without an address the configured indexes are searched for it."""
    return Request(
        wheel.digest,
        wheel.size_bytes,
        wheel.filename,
        (wheel.url,) if wheel.url else (),
        package.name,
        f"intermodal lock PATH --upgrade {package.name} takes what the index has now",
    )


def deb_request(row: DebRow, lock: Lock, host: Host) -> Request:
    """The request for one locked .deb: where it was found, this machine's mirrors, the snapshot of the lock's day."""
    urls = deb_addresses(host, row.url, row.filename, lock.base.suite, lock.base.date)
    return Request(row.digest, row.size_bytes, PurePosixPath(row.filename).name, urls, "", VANISHED)


def wheels_of(packages: Iterable[PackageRow], lock: Lock, platform: str) -> list[tuple[PackageRow, WheelRow]]:
    """The wheels that one platform installs; packages that another platform alone needs are left out."""
    return [
        (package, best_wheel(package, platform, lock.python))
        for package in packages
        if fits(package, platform, lock.python)
    ]


def requests(lock: Lock, platform: str, *, host: Host) -> list[Request]:
    """Everything that must be fetched to build one platform: Debian packages, the model's wheels, the server's."""
    architecture = platform.partition("/")[2]
    debs = [row for row in lock.base.packages if row.architecture in (architecture, "all") and row.layer != "compiler"]
    wheels = [*wheels_of(lock.packages, lock, platform), *wheels_of(lock.server.packages, lock, platform)]
    return [deb_request(row, lock, host) for row in debs] + [wheel_request(*pair) for pair in wheels]
