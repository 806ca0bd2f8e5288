"""Debian archives: which mirror serves a suite, and its verified indexes.

Takes the suite and architectures; hands on an open `Archive` per architecture and the date of the newest InRelease.

Rules, in order:
1. A mirror of the machine's own apt configuration that serves the suite is taken, also for a suite that this machine
   does not run itself; third-party archives are passed over, since their InRelease is not Debian's.
2. Only where there is none: snapshot.debian.org at this moment's time stamp.
3. `<suite>`, `<suite>-updates` and `<suite>-security` are all required: a base without the security suite would ship
   known holes.
4. Indexes are fetched by hash where the archive offers that, and verified by size and SHA-256 always.
5. An InRelease more than a day older than one this machine has seen for the same suite is a replay, and refused; the
   nodes of one content network differ by hours.
"""

from __future__ import annotations

import json
import time
from urllib.parse import urlsplit

from msgspec import Struct

from intermodal.errors import DownloadError, HostError, IndexUnreachableError
from intermodal.fetch import NotThereError
from intermodal.fetch.transfer import Transfers, read_limited, shown
from intermodal.host import Host
from intermodal.host.files import write_atomically
from intermodal.host.pip import without_credentials
from intermodal.oci.digest import Digest
from intermodal.rooms.lock.debian import packages, release
from intermodal.rooms.lock.debian.closure import Archive
from intermodal.rooms.lock.debian.packages import PackageIndex
from intermodal.rooms.lock.debian.release import IndexFile, Release

SNAPSHOT = "https://snapshot.debian.org/archive"
COMPONENT = "main"
REPLAY_SLACK_S = 86_400
FAMILY = frozenset({"bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing"})


class Served(Struct, frozen=True):
    """One suite at one mirror, verified."""

    archive: str  # address, maybe with credentials
    suite: str
    release: Release


def suites_of(suite: str) -> tuple[str, ...]:
    """The suites a base of `suite` is resolved from."""
    return suite, f"{suite}-updates", f"{suite}-security"


def is_security(suite: str) -> bool:
    """Whether a suite lives in the security archive."""
    return suite.endswith(("-security", "/updates"))


def mirrors(host: Host, suite: str) -> list[str]:
    """Addresses to try for `suite`: those configured for it first, then this machine's other Debian archives."""
    exact, other = [], []
    for source in host.apt_sources:
        names = [name for name in source.suites if name.split("-")[0].split("/")[0] in FAMILY]
        if not names or COMPONENT not in source.components:
            continue
        if suite in names:
            exact.append(source.uri)
        elif any(is_security(name) for name in names) == is_security(suite):
            other.append(source.uri)
    return list(dict.fromkeys([*exact, *other]))


def snapshot(suite: str, at_s: float) -> str:
    """The archive that holds `suite` as it was at a moment (seconds since the epoch)."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at_s))
    return f"{SNAPSHOT}/{'debian-security' if is_security(suite) else 'debian'}/{stamp}"


def locate(transfers: Transfers, suite: str, keyring: bytes) -> Served:
    """The first mirror that serves a suite, with its verified InRelease.

    Raises:
        IndexUnreachableError: no mirror could be reached, or all are stale.
        DownloadError: a mirror serves something that Debian did not sign.
    """
    host = transfers.host
    failures: list[HostError] = []
    for mirror in mirrors(host, suite):
        try:
            served = _released(transfers, mirror, suite, keyring, live=True)
            _remember(host, served.release)
            return served
        except NotThereError as error:
            failures.append(error)
        except IndexUnreachableError as error:
            failures.append(error)
    configured = [error for error in failures if not isinstance(error, NotThereError)]
    if configured:
        raise configured[0]
    try:
        return _released(transfers, snapshot(suite, host.now_s), suite, keyring, live=False)
    except HostError as error:
        raise IndexUnreachableError(
            f"no Debian mirror serves {suite}",
            found=[line for failure in [*failures, error] for line in failure.found],
            next=f"add a mirror with {suite} to /etc/apt/sources.list.d, or take a registry base",
        ) from error


def _released(transfers: Transfers, archive: str, suite: str, keyring: bytes, *, live: bool) -> Served:
    url = f"{archive}/dists/{suite}/InRelease"
    with transfers.open(url) as (pieces, _):
        data = read_limited(pieces, release.MAX_BYTES, shown(url))
    found = release.read_release(data, suite, keyring=keyring, now_s=transfers.host.now_s, live=live)
    return Served(archive, suite, found)


def _remember(host: Host, found: Release) -> None:
    """Refuse an InRelease much older than the newest seen on this machine, else note its date."""
    path = host.cache_dir / "indexes" / f"seen-{found.codename}.json"
    try:
        seen = json.loads(path.read_bytes())
        newest = int(seen["date_s"])
    except (OSError, ValueError, KeyError, TypeError):
        newest = 0
    if found.date_s < newest - REPLAY_SLACK_S:
        raise IndexUnreachableError(
            f"the mirror serves an old state of {found.codename}",
            found=f"Date: {found.date}, already seen: {time.strftime('%F', time.gmtime(newest))}",
            next="the mirror is behind, or somebody replays an old index: choose another mirror",
        )
    if found.date_s > newest:
        write_atomically(path, json.dumps({"date_s": found.date_s}).encode(), host.temporary_dir)


def open_index(transfers: Transfers, served: Served, architecture: str) -> PackageIndex:
    """The parsed package index of one suite and architecture, from the cache or the mirror.

    Raises:
        DownloadError: the release does not list it, or the mirror brings other bytes.
    """
    entry, name = _listed(served.release, architecture)
    path = packages.database_path(transfers.host.cache_dir / "indexes", entry.digest)
    archive = without_credentials(served.archive)
    found = packages.load(path, archive)
    if found is None:
        packages.store(_index_bytes(transfers, served, entry), name, path)
        found = packages.load(path, archive)
        if found is None:
            raise DownloadError(f"cannot read back the parsed index of {served.suite}", found=str(path))
    return found


def _listed(found: Release, architecture: str) -> tuple[IndexFile, str]:
    for suffix in (".xz", ".gz", ""):
        name = f"{COMPONENT}/binary-{architecture}/Packages{suffix}"
        if name in found.files:
            return found.files[name], name
    raise DownloadError(f"{found.codename} has no packages for {architecture}", found="not listed in InRelease")


def _index_bytes(transfers: Transfers, served: Served, entry: IndexFile) -> bytes:
    folder = f"{served.archive}/dists/{served.suite}"
    urls = [f"{folder}/{entry.name}"]
    if served.release.by_hash:
        urls.insert(0, f"{folder}/{entry.name.rpartition('/')[0]}/by-hash/SHA256/{entry.digest.hex}")
    for url in urls:
        try:
            with transfers.open(url) as (pieces, _):
                data = read_limited(pieces, entry.size_bytes, shown(url))
        except NotThereError:
            continue
        if Digest.of(data) != entry.digest:
            raise DownloadError(
                f"{entry.name} of {served.suite} is not the file that Debian signed",
                found=f"{shown(url)}: sha256 {Digest.of(data).short}…, signed {entry.digest.short}…",
                next="the mirror may be halfway through an update: try again later, or choose another mirror",
            )
        return data
    raise NotThereError(f"{served.suite} has lost its package index", found=shown(urls[-1]))


def open_archives(
    host: Host, suite: str, architectures: tuple[str, ...], *, keyring: bytes | None = None
) -> tuple[dict[str, Archive], str]:
    """An open `Archive` per architecture, and the date of the newest InRelease among its suites.

    Args:
        host: whose apt configuration, cache and clock count.
        suite: "bookworm" or "trixie".
        architectures: "amd64", "arm64".
        keyring: what signatures are checked against; None takes the shipped Debian keyring. For tests only: no
            project or machine setting leads here.

    Raises:
        IndexUnreachableError, DownloadError, StoreError: as `locate` and `open_index` say.
    """
    from concurrent.futures import ThreadPoolExecutor

    ring = keyring or release.shipped_keyring()
    with Transfers(host) as transfers, ThreadPoolExecutor(3) as pool:
        served = list(pool.map(lambda name: locate(transfers, name, ring), suites_of(suite)))
        jobs = [(item, architecture) for architecture in architectures for item in served]
        opened = list(pool.map(lambda job: _fetched(transfers, *job), jobs))
        indexes = [open_index(transfers, *job) for job in jobs] if opened else []
    archives = {
        architecture: Archive(
            [index for index, job in zip(indexes, jobs, strict=True) if job[1] == architecture],
            suite,
            f"linux/{architecture}",
        )
        for architecture in architectures
    }
    newest = max(served, key=lambda item: item.release.date_s)
    return archives, newest.release.date


def _fetched(transfers: Transfers, served: Served, architecture: str) -> bool:
    """Make sure that an index is in the cache; its handle is closed again, SQLite handles belong to one thread."""
    open_index(transfers, served, architecture).close()
    return True


def deb_addresses(host: Host, url: str, filename: str, suite: str, date: str) -> tuple[str, ...]:
    """Where a locked .deb may lie: where it was found, this machine's mirrors, the snapshot of the lock's day.

    Debian's security archive keeps its packages below `pool/updates/`. The snapshot is asked a day after the lock's
    InRelease, when the service has taken it in.
    """
    found = [url] if url else []
    names = [suite, f"{suite}-security"]
    security = filename.startswith("pool/updates/") or "debian-security" in urlsplit(url).path
    if security:
        names.reverse()
    asked = names if security or not url else names[:1]
    found += [f"{mirror}/{filename}" for name in asked for mirror in mirrors(host, name)]
    try:
        at_s = min(release.parse_date(date) + 86_400.0, host.now_s)
        found += [f"{snapshot(name, at_s)}/{filename}" for name in names]
    except ValueError:
        pass
    return tuple(dict.fromkeys(found))


__all__ = ["Served", "deb_addresses", "locate", "mirrors", "open_archives", "open_index"]
