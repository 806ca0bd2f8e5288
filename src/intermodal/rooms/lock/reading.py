"""A lock's document as values, every one checked.

Takes the tables of a parsed `pylock.intermodal.toml`; hands on a `Lock`, or raises at the first value that cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from intermodal.errors import InputError
from intermodal.oci.descriptor import LAYER_COMPRESSION
from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.platforms import MARKERS
from intermodal.rooms.lock.rows import (
    BaseImageRow,
    BaseLayerRow,
    BaseLock,
    DebRow,
    Lock,
    PackageRow,
    Policy,
    ServerLock,
    WheelRow,
)

FORMAT = 1
PLATFORMS = ("linux/amd64", "linux/arm64")
MAX_SIZE = 1 << 44
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\Z")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_~:-]*\Z")
_WHEEL = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)(?:-\d[^-/]*)?-[\w.]+-[\w.]+-[\w.]+\.whl\Z", re.ASCII)
_DEB_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*\Z")
_DEB_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~%-]*(?:/[A-Za-z0-9][A-Za-z0-9._+~%-]*)*\.deb\Z")
_URL = re.compile(r"(?:https?://[A-Za-z0-9.:\[\]_-]+|file://)/[^\s?#\\]*(?:\?[^\s#\\]*)?(?:#[^\s\\]*)?\Z")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
INTERPRETER = re.compile(r"(?:/[A-Za-z0-9._+-]+)+/python3\.\d{1,2}\Z")
_GLIBC = re.compile(r"\d{1,2}\.\d{1,3}\Z", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=[^\x00-\x1f\x7f]*\Z")
_PYTHON = re.compile(r"3\.\d{1,2}\Z")


def lock_of(document: Mapping[str, Any]) -> Lock:
    """The lock in a parsed document.

    Raises:
        InputError, KeyError, TypeError, ValueError: a value that cannot be; `lockfile` words it.
    """
    ours = document["tool"]["intermodal"]
    if ours.get("format") != FORMAT:
        raise InputError(f"its format is {ours.get('format')!r}, this version reads {FORMAT}")
    python = _match(_PYTHON, ours["python"], "python")
    base = _base(ours["base"])
    golden = _files(ours.get("golden", []))
    return Lock(
        name=_match(_LABEL, ours["name"], "name"),
        version=_match(_TAG, ours["version"], "version"),
        python=python,
        platforms=_platforms(ours["platforms"]),
        requirements=tuple(_text(item) for item in ours.get("requirements", [])),
        packages=tuple(_package(entry) for entry in document.get("packages", [])),
        base=base,
        server=_server(ours["server"]),
        model=_files(ours.get("model", [])),
        app=_files(ours.get("app", [])),
        golden=golden[0] if golden else None,
        policy=_policy(ours["policy"]),
        inputs=Digest.parse(ours["inputs"]),
        exclude_newer=_text(ours.get("exclude-newer", "")),
    )


def _match(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise InputError(f"{what} cannot be {str(value)[:80]!r}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise InputError(f"not a text: {str(value)[:80]!r}")
    return value


def _size(value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MAX_SIZE:
        raise InputError(f"a size cannot be {str(value)[:40]!r}")
    return number


def _platforms(values: Sequence[str]) -> tuple[str, ...]:
    unknown = [value for value in values if value not in PLATFORMS]
    if unknown or not values or len(set(values)) != len(values):
        raise InputError(f"platforms cannot be {list(values)!r}")
    return tuple(values)


def _package(entry: Mapping[str, Any]) -> PackageRow:
    name = _match(_NAME, entry["name"], "a package's name")
    version = _match(_VERSION, entry["version"], f"the version of {name}")
    wheels = tuple(
        _wheel(
            name,
            version,
            wheel.get("name") or wheel["path"],
            wheel.get("size", 0),
            wheel["hashes"]["sha256"],
            wheel.get("url", ""),
        )
        for wheel in entry["wheels"]
    )
    if not wheels:
        raise InputError(f"{name} has no wheel")
    dependencies = tuple(_match(_NAME, item["name"], "a dependency") for item in entry.get("dependencies", []))
    marker = entry.get("marker", "")
    platforms = tuple(p for p, text in MARKERS.items() if marker and text in marker.split(" or "))
    if marker and " or ".join(MARKERS[platform] for platform in platforms) != marker:
        raise InputError(f"the marker of {name} cannot be {str(marker)[:80]!r}")
    return PackageRow(name, version, wheels, dependencies, platforms)


def _wheel(name: str, version: str, filename: str, size: object, sha256: str, url: str) -> WheelRow:
    match = _WHEEL.match(_text(filename))
    if match is None or re.sub(r"[-_.]+", "-", match[1]).lower() != name:
        raise InputError(f"a wheel of {name} cannot be called {filename[:120]!r}")
    if match[2].replace("_", "-") != version.replace("_", "-"):
        _same_version(name, match[2], version)
    if url and not _URL.match(url):
        raise InputError(f"not an address, or one with credentials, for {filename[:120]}")
    return WheelRow(filename, _size(size), Digest(sha256), url)


def _same_version(name: str, written: str, version: str) -> None:
    """Accept two spellings of one version (`1.0.0` and `1.0`), which only the full rules can tell."""
    from packaging.version import InvalidVersion, Version

    try:
        if Version(written.replace("_", "-")) == Version(version):
            return
    except InvalidVersion:
        pass
    raise InputError(f"{name} is {version}, but its wheel says {written[:40]}")


def _base(table: Mapping[str, Any]) -> BaseLock:
    rows = []
    for archive in table.get("archives", []):
        url = archive.get("url", "")
        if url and not _URL.match(url + "/"):
            raise InputError("not an archive's address, or one with credentials")
        rows += [_deb(line, url, "base") for line in archive.get("packages", [])]
        rows += [_deb(line, url, "system") for line in archive.get("system", [])]
        rows += [_deb(line, url, "compiler") for line in archive.get("compiler", [])]
    images = tuple(_image(image) for image in table.get("images", []))
    glibc = _match(_GLIBC, table["glibc"], "the base's C library").split(".") if images else ("0", "0")
    return BaseLock(
        reference=_text(table["reference"]),
        suite=_match(_LABEL, table["suite"], "the suite") if not images else "",
        python=_match(_PYTHON, table["python"], "the base's Python"),
        python_version=_match(_VERSION, table["python-version"], "the base's Python"),
        date=_text(table["date"]) if not images else "",
        packages=tuple(sorted(rows, key=lambda row: (row.architecture, row.name))),
        system=tuple(_match(_DEB_NAME, name, "a Debian package") for name in table.get("system", [])),
        digest=Digest.parse(table["digest"]) if images else None,
        images=images,
        interpreter=_match(INTERPRETER, table["interpreter"], "the base's interpreter") if images else "",
        glibc=(int(glibc[0]), int(glibc[1])),
    )


def _image(table: Mapping[str, Any]) -> BaseImageRow:
    layers = []
    for line in table["layers"]:
        digest, diff_id, size, tar_size, media_type = line.split(" ")
        if media_type not in LAYER_COMPRESSION:
            raise InputError(f"a layer of the base cannot be of type {media_type[:80]!r}")
        layers.append(BaseLayerRow(Digest(digest), Digest(diff_id), _size(size), media_type, _size(tar_size)))
    return BaseImageRow(
        platform=_platforms([table["platform"]])[0],
        manifest=Digest.parse(table["manifest"]),
        layers=tuple(layers),
        environment=tuple(_match(VARIABLE, line, "a variable of the base") for line in table.get("environment", [])),
        library=safe_path(table["library"]),
    )


def _deb(line: str, archive: str, layer: Literal["base", "system", "compiler"]) -> DebRow:
    words = line.split(" ")
    if len(words) not in (6, 7):
        raise InputError(f"not a row of a Debian package: {line[:80]!r}")
    name, version, architecture, size, sha256, filename = words[:6]
    _match(_DEB_NAME, name, "a Debian package")
    _match(_VERSION, version, f"the version of {name}")
    _match(_DEB_FILE, filename, f"the file of {name}")
    if architecture not in ("all", "amd64", "arm64"):
        raise InputError(f"the architecture of {name} cannot be {architecture[:40]!r}")
    source = _match(_DEB_NAME, words[6], f"the source of {name}") if len(words) == 7 else ""
    url = f"{archive}/{filename}" if archive else ""
    return DebRow(name, version, architecture, filename, _size(size), Digest(sha256), url, source, layer)


def _server(table: Mapping[str, Any]) -> ServerLock:
    rows: dict[tuple[str, str], list[WheelRow]] = {}
    for line in table.get("packages", []):
        words = line.split(" ")
        if len(words) not in (5, 6):
            raise InputError(f"not a row of a server package: {line[:80]!r}")
        name = _match(_NAME, words[0], "a package's name")
        version = _match(_VERSION, words[1], f"the version of {name}")
        wheel = _wheel(name, version, words[4], words[2], words[3], words[5] if len(words) == 6 else "")
        rows.setdefault((name, version), []).append(wheel)
    needs = {}
    for line in table.get("dependencies", []):
        name, *others = (_match(_NAME, word, "a dependency") for word in line.split(" "))
        needs[name] = tuple(others)
    packages = tuple(
        PackageRow(name, version, tuple(wheels), needs.get(name, ())) for (name, version), wheels in rows.items()
    )
    return ServerLock(_match(_VERSION, table["version"], "the server's version"), Digest.parse(table["tree"]), packages)


def _files(lines: Sequence[str]) -> tuple[FileRow, ...]:
    rows = []
    for line in lines:
        sha256, size, mark, path = line.split(" ", 3)
        if mark not in ("x", "-"):
            raise InputError(f"not a row of a file: {line[:80]!r}")
        rows.append(FileRow(safe_path(path), _size(size), Digest(sha256), Path(path), mark == "x"))
    if len({row.path for row in rows}) != len(rows):
        raise InputError("two rows name the same file")
    return tuple(rows)


def safe_path(path: str) -> str:
    """`path` itself when it is relative, normal, and stays below its root.

    Raises:
        InputError: absolute, `..`, an empty segment, a backslash or control character.
    """
    segments = _text(path).split("/")
    if path.startswith("/") or "\\" in path or any(segment in ("", ".", "..") for segment in segments):
        raise InputError(f"not a path below its root: {path[:120]!r}")
    return path


def _policy(table: Mapping[str, Any]) -> Policy:
    prune, layout = table["prune"], table["layout"]
    if not isinstance(prune, bool) or not isinstance(layout, int):
        raise InputError("the policy is malformed")
    if table["bytecode"] not in ("all", "none") or table["compression"] not in ("gzip", "zstd"):
        raise InputError("the policy is malformed")
    keep = tuple(_match(_NAME, name, "a package to keep") for name in table.get("keep", []))
    return Policy(prune, keep, table["bytecode"], table["compression"], layout, _text(table["codec"]))
