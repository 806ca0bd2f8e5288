"""Debian mirrors as this machine's apt configuration says.

Takes a `Host`; hands on one `AptSource` per address. Both forms are read: deb822 `.sources` and one-line `.list`.
What they say about trust (`trusted=yes`, `Signed-By`) is ignored on purpose: bases are verified with the archive
keyring that this package ships.

Spec: sources.list(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal.host.etc import etc

if TYPE_CHECKING:
    from intermodal.host import Host

SCHEMES = ("http://", "https://", "file:/", "copy:/")
_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)\s*$")


class AptSource(Struct, frozen=True):
    """One archive address with the suites and components that this machine takes from it."""

    uri: str  # without a trailing slash; may hold credentials, so not for messages
    suites: tuple[str, ...]
    components: tuple[str, ...]


def read_apt_sources(host: Host) -> tuple[AptSource, ...]:
    """Every binary archive of this machine in apt's order; empty off Debian."""
    folder = etc(host.environment) / "apt"
    files = [folder / "sources.list"]
    parts = folder / "sources.list.d"
    if parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.suffix in {".list", ".sources"})
    found: list[AptSource] = []
    for path in files:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        found += parse_deb822(text) if path.suffix == ".sources" else parse_lines(text)
    return tuple(dict.fromkeys(found))


def parse_lines(text: str) -> Iterator[AptSource]:
    """The sources of a one-line style file."""
    for line in text.splitlines():
        match = _LINE.match(line.partition("#")[0].strip())
        if match and match[1].startswith(SCHEMES):
            yield AptSource(_clean(match[1]), (match[2],), tuple(match[3].split()))


def parse_deb822(text: str) -> Iterator[AptSource]:
    """The sources of a deb822 style file; disabled stanzas and source packages are left out."""
    kept = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(kept)):
        fields = _fields(stanza.splitlines())
        if fields.get("enabled", "yes").strip().lower() in {"no", "false", "0", "off"}:
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            if uri.startswith(SCHEMES):
                suites, components = fields.get("suites", "").split(), fields.get("components", "").split()
                yield AptSource(_clean(uri), tuple(suites), tuple(components))


def _fields(lines: Iterable[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in " \t":
            if name:
                fields[name] += " " + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _clean(uri: str) -> str:
    uri = uri.rstrip("/")
    return "file:///" + uri[5:].lstrip("/") if uri.startswith(("file:/", "copy:/")) else uri
