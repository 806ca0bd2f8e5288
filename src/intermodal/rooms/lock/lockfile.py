"""`pylock.intermodal.toml`: the lock as text, and back.

Takes a `Lock`, hands on deterministic text that is valid PEP 751 as a whole; takes such text, hands on a `Lock` whose
every value was checked: a lock is a file that people merge by hand and that strangers send.

Rules, in order:
1. The same lock gives the same text, byte for byte.
2. Rows that have no place in PEP 751 are one line of words each ("name version size sha256 …"): a change is one line
   of a diff, and sixty rows are read in milliseconds.
3. A wheel without address is written as `path = FILE NAME`; Debian packages without, under an archive without `url`.
4. Nothing in the text is trusted: names, sizes, digests, file names, paths and addresses are checked when read.

Spec: PEP 751 (packaging.python.org, "pylock.toml Specification").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.host.files import write_atomically
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.canonical import environment_digest, lock_digest
from intermodal.rooms.lock.platforms import MARKERS
from intermodal.rooms.lock.reading import FORMAT, lock_of
from intermodal.rooms.lock.rows import BaseLock, DebRow, Lock, PackageRow, WheelRow

MAX_BYTES = 32 << 20
HEAD = """\
# Made by `intermodal lock`: every byte that enters the image, by hash. Do not edit; change the project and lock again.
"""

__all__ = ["environment_digest", "lock_digest", "lock_text", "parse_lock", "read_lock", "write_lock"]


def read_lock(path: Path) -> Lock:
    """The lock in a file.

    The rows' `source` is their path in the image: `obtain` and `refresh` fill in where they lie on this host.

    Raises:
        InputError: missing, too large, not TOML, another format, or a value that cannot be.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path.name} is too large for a lock", found=f"more than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the lock {path.name}",
            found=error.strerror or str(error),
            next="intermodal lock PATH makes it",
        ) from error
    return parse_lock(data, path.name)


def parse_lock(data: bytes, name: str = "the lock") -> Lock:
    """The lock in `data`; `name` is used in messages.

    Raises:
        InputError: as `read_lock` says.
    """
    import tomllib

    try:
        lock = lock_of(tomllib.loads(data.decode("utf-8")))
    except InputError as error:
        raise InputError(f"{name} is not a lock we can use", found=str(error.message), next=_again()) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {error}" if not isinstance(error, KeyError) else f"{error} is missing"
        raise InputError(f"{name} is not a lock we can use", found=found[:300], next=_again()) from error
    return replace(lock, environment_digest=environment_digest(lock))


def _again() -> str:
    return "delete it and run intermodal lock PATH, or take it from version control again"


def write_lock(lock: Lock, path: Path) -> None:
    """Put the lock's text under `path`, atomically; an equal file is left alone.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    data = lock_text(lock).encode()
    try:
        if path.read_bytes() == data:
            return
    except OSError:
        pass
    write_atomically(path, data)


def lock_text(lock: Lock) -> str:
    """The text of a lock; equal locks give equal text."""
    lines = [HEAD + 'lock-version = "1.0"']
    lines.append("environments = [")
    lines += [f"    {_quoted(MARKERS[platform])}," for platform in lock.platforms]
    lines += ["]", f'requires-python = "=={lock.python}.*"', 'created-by = "intermodal"', ""]
    for package in lock.packages:
        lines += _package(package)
    lines += ["[tool.intermodal]", f"format = {FORMAT}"]
    lines += [
        f"{key} = {_quoted(value)}"
        for key, value in {
            "name": lock.name,
            "version": lock.version,
            "python": lock.python,
            "exclude-newer": lock.exclude_newer,
            "inputs": str(lock.inputs),
        }.items()
        if value
    ]
    lines += _strings("platforms", lock.platforms)
    lines += _strings("requirements", lock.requirements)
    lines += _strings("model", map(_file, lock.model))
    lines += _strings("app", map(_file, lock.app))
    lines += _strings("golden", map(_file, [lock.golden] if lock.golden else []))
    lines += ["", *_policy(lock), "", *_base(lock), "", *_server(lock)]
    return "\n".join(lines) + "\n"


def _package(package: PackageRow) -> list[str]:
    lines = ["[[packages]]", f"name = {_quoted(package.name)}", f"version = {_quoted(package.version)}"]
    if package.platforms:
        lines.append(f"marker = {_quoted(' or '.join(MARKERS[platform] for platform in package.platforms))}")
    if package.dependencies:
        names = ", ".join(f"{{ name = {_quoted(name)} }}" for name in package.dependencies)
        lines.append(f"dependencies = [{names}]")
    lines.append("wheels = [")
    for wheel in package.wheels:
        place = f"url = {_quoted(wheel.url)}" if wheel.url else f"path = {_quoted(wheel.filename)}"
        size = f", size = {wheel.size_bytes}" if wheel.size_bytes else ""
        hashes = f'hashes = {{ sha256 = "{wheel.digest.hex}" }}'
        lines.append(f"    {{ name = {_quoted(wheel.filename)}, {place}{size}, {hashes} }},")
    return [*lines, "]", ""]


def _policy(lock: Lock) -> list[str]:
    policy = lock.policy
    return [
        "[tool.intermodal.policy]",
        f"prune = {str(policy.prune).lower()}",
        *_strings("keep", policy.keep),
        f"bytecode = {_quoted(policy.bytecode)}",
        f"compression = {_quoted(policy.compression)}",
        f"layout = {policy.layout}",
        f"codec = {_quoted(policy.codec)}",
    ]


def _base(lock: Lock) -> list[str]:
    base = lock.base
    lines = [
        "[tool.intermodal.base]",
        f"reference = {_quoted(base.reference)}",
        *([f"suite = {_quoted(base.suite)}"] if base.suite else []),
        f"python = {_quoted(base.python)}",
        f"python-version = {_quoted(base.python_version)}",
        *([f"date = {_quoted(base.date)}"] if base.suite else []),
        *_registry_base(base),
        *_strings("system", base.system),
    ]
    for archive in sorted({_archive(row) for row in base.packages}):
        rows = [row for row in base.packages if _archive(row) == archive]
        lines += ["", "[[tool.intermodal.base.archives]]", *([f"url = {_quoted(archive)}"] if archive else [])]
        lines += _strings("packages", [_deb(row) for row in rows if row.layer == "base"])
        lines += _strings("system", [_deb(row) for row in rows if row.layer == "system"])
        lines += _strings("compiler", [_deb(row) for row in rows if row.layer == "compiler"])
    return lines


def _registry_base(base: BaseLock) -> list[str]:
    if base.digest is None:
        return []
    lines = [
        f"digest = {_quoted(str(base.digest))}",
        f"interpreter = {_quoted(base.interpreter)}",
        f'glibc = "{base.glibc[0]}.{base.glibc[1]}"',
    ]
    for image in base.images:
        lines += ["", "[[tool.intermodal.base.images]]", f"platform = {_quoted(image.platform)}"]
        lines += [f"manifest = {_quoted(str(image.manifest))}", f"library = {_quoted(image.library)}"]
        layers = [
            f"{row.digest.hex} {row.diff_id.hex} {row.size_bytes} {row.tar_bytes} {row.media_type}"
            for row in image.layers
        ]
        lines += [*_strings("layers", layers), *_strings("environment", image.environment)]
    return lines


def _archive(row: DebRow) -> str:
    return row.url.removesuffix(row.filename).rstrip("/") if row.url.endswith("/" + row.filename) else ""


def _deb(row: DebRow) -> str:
    words = [row.name, row.version, row.architecture, str(row.size_bytes), row.digest.hex, row.filename]
    return " ".join([*words, row.source] if row.source else words)


def _server(lock: Lock) -> list[str]:
    server = lock.server
    rows = [_server_row(package, wheel) for package in server.packages for wheel in package.wheels]
    needs = [f"{p.name} {' '.join(p.dependencies)}" for p in server.packages if p.dependencies]
    return [
        "[tool.intermodal.server]",
        f"version = {_quoted(server.version)}",
        f"tree = {_quoted(str(server.tree))}",
        *_strings("packages", rows),
        *_strings("dependencies", needs),
    ]


def _server_row(package: PackageRow, wheel: WheelRow) -> str:
    words = [package.name, package.version, str(wheel.size_bytes), wheel.digest.hex, wheel.filename]
    return " ".join([*words, wheel.url] if wheel.url else words)


def _file(row: FileRow) -> str:
    """The path comes last, because it may hold spaces."""
    return f"{row.digest.hex} {row.size_bytes} {'x' if row.executable else '-'} {row.path}"


def _strings(key: str, values: Iterable[str]) -> Sequence[str]:
    found = list(values)
    if not found:
        return []
    return [f"{key} = [", *(f"    {_quoted(value)}," for value in found), "]"]


def _quoted(text: str) -> str:
    """A TOML basic string.

    Raises:
        InputError: a control character, which no name in a lock may hold.
    """
    if not text.isprintable():
        raise InputError(f"not a text that a lock can hold: {text[:80]!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
