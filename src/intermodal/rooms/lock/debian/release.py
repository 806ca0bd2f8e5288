"""InRelease: the signed list of an archive's indexes.

Takes the bytes of `dists/<suite>/InRelease`; hands on a `Release` in which every value was covered by a good
signature of the Debian archive keyring that this package ships.

Rules, in order:
1. Only what the signature covers is read; text around the signed message does not exist for us.
2. The machine's own trust settings (`trusted=yes`, `Signed-By`, apt's keyrings) are never consulted.
3. `Codename` must be the suite that was asked for: a good signature of another suite is a mix-and-match attack.
4. On a live resolve `Valid-Until` must lie ahead, the `Date` must not lie more than a day ahead, and it must not be
   older than one that this machine has already seen for the suite (replay).
5. Index files are known by SHA-256 and size alone.

Spec: Debian wiki, "DebianRepository/Format"; RFC 9580, "Cleartext Signature Framework".
"""

from __future__ import annotations

import calendar
import functools
import re
from pathlib import Path

from msgspec import Struct

from intermodal.errors import DownloadError, IndexUnreachableError
from intermodal.oci.digest import Digest

MAX_BYTES = 8 << 20
CLOCK_SLACK_S = 86_400
KEYRING = Path(__file__).with_name("keyring.pgp")
_DATE = re.compile(r"^\w{3}, (\d{1,2}) (\w{3}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) (?:UTC|\+0000|GMT)$")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class IndexFile(Struct, frozen=True):
    """One index of the archive: name below `dists/<suite>/`, size and hash."""

    name: str
    size_bytes: int
    digest: Digest


class Release(Struct, frozen=True):
    """What a verified InRelease says."""

    codename: str
    date: str  # as signed
    date_s: int  # seconds since the epoch
    by_hash: bool
    files: dict[str, IndexFile]


def shipped_keyring() -> bytes:
    """The Debian archive keyring that comes with this package."""
    return KEYRING.read_bytes()


def verified_text(data: bytes, keyring: bytes, name: str) -> str:
    """The signed text of an InRelease file.

    Raises:
        DownloadError: no good signature by a key of `keyring`.
    """
    import pysequoia

    certificates = _certificates(keyring)
    asked: list[str] = []

    def store(key_ids: list[str]) -> list[object]:
        asked.extend(key_ids)
        return certificates

    try:
        result = pysequoia.verify(bytes=data, store=store)
    except Exception as error:  # the library raises bare RuntimeError and ValueError, with a stack trace in the text
        raise DownloadError(
            f"{name} is not signed by Debian",
            found=f"{str(error).splitlines()[0][:160]}; keys named: {', '.join(asked) or 'none'}",
            next="choose another mirror: what this one serves cannot be trusted",
        ) from error
    if not result.valid_sigs or result.bytes is None:
        raise DownloadError(f"{name} is not signed by Debian", found="no valid signature over its text")
    return bytes(result.bytes).decode("utf-8", "replace")


@functools.lru_cache(maxsize=4)
def _certificates(keyring: bytes) -> list[object]:
    import pysequoia

    return list(pysequoia.Cert.split_bytes(keyring))


def parse_date(text: str) -> int:
    """Seconds since the epoch of a date as InRelease writes it.

    >>> parse_date("Sat, 11 Jul 2026 10:16:37 UTC")
    1783764997
    """
    match = _DATE.match(text.strip())
    if match is None or match[2] not in _MONTHS:
        raise ValueError(f"not a date: {text[:60]!r}")
    day, year, hour, minute, second = (int(match[i]) for i in (1, 3, 4, 5, 6))
    return calendar.timegm((year, _MONTHS.index(match[2]) + 1, day, hour, minute, second, 0, 0, 0))


def read_release(data: bytes, suite: str, *, keyring: bytes, now_s: float, live: bool = True) -> Release:
    """The verified content of an InRelease file.

    Args:
        data: the file.
        suite: the code name it must be for ("bookworm", "bookworm-security").
        keyring: OpenPGP certificates that count.
        now_s: the host's clock.
        live: False for a snapshot of the past, whose Valid-Until has always gone by.

    Raises:
        DownloadError: not signed, of another suite, malformed, or from the future.
        IndexUnreachableError: expired; the mirror is stale or somebody replays an old state.
    """
    name = f"InRelease of {suite}"
    text = verified_text(data, keyring, name)
    fields, files = _parse(text, name)
    codename = fields.get("codename", "")
    if codename != suite:
        raise DownloadError(f"{name} is of another suite", found=f"Codename: {codename[:60]!r}")
    try:
        date_s = parse_date(fields["date"])
        until_s = parse_date(fields["valid-until"]) if "valid-until" in fields else None
    except (KeyError, ValueError) as error:
        raise DownloadError(f"{name} has no usable date", found=str(error)) from error
    if live and until_s is not None and until_s < now_s:
        raise IndexUnreachableError(
            f"{name} has expired",
            found=f"Valid-Until: {fields['valid-until']}",
            next="the mirror is stale, or this machine's clock is wrong: choose another mirror",
        )
    if live and date_s > now_s + CLOCK_SLACK_S:
        raise DownloadError(
            f"{name} comes from the future", found=f"Date: {fields['date']}", next="set this machine's clock"
        )
    return Release(codename, fields["date"], date_s, fields.get("acquire-by-hash") == "yes", files)


def _parse(text: str, name: str) -> tuple[dict[str, str], dict[str, IndexFile]]:
    fields: dict[str, str] = {}
    files: dict[str, IndexFile] = {}
    section = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            key, _, value = line.partition(":")
            section = key.lower()
            fields[section] = value.strip()
        elif section == "sha256":
            parts = line.split()
            if len(parts) != 3 or not parts[1].isdigit():
                raise DownloadError(f"{name} is malformed", found=line[:120])
            files[parts[2]] = IndexFile(parts[2], int(parts[1]), Digest(parts[0]))
    return fields, files
