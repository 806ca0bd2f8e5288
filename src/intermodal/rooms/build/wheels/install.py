"""Where each file of a wheel goes, and the files an installer adds: by the book, as layer entries.

Takes an open `Wheel` and a `Scheme`, hands on `Installed`.

Rules, in order:
1. Files lie below site-packages; those of `NAME.data/{purelib,platlib,scripts,data,headers}` go to their own places.
2. Scripts get the interpreter of their environment in `#!python` lines and are executable; console and gui scripts are
   made from entry_points.txt. A name there that is no plain file name is refused. Where a wheel brings a script for
   the name of an entry point as well, older tools made it for that; the entry point counts, as it does for pip.
3. A .pth file may run code, as the specification has it, but may not add folders outside site-packages.
4. INSTALLER says "intermodal"; RECORD lists what was really laid down, byte code excepted (its owner is the source's).
   Signatures of RECORD, REQUESTED, direct_url.json and byte code that came along are left out.
5. What the prune rules name is left out and counted.
6. Untouched deflated files are spliced; everything else is packed.

Spec: PyPA "Binary distribution format"; "Entry points specification"; "Recording installed projects".
"""

from __future__ import annotations

import configparser
import hashlib
import posixpath
import re
from collections.abc import Iterator

from msgspec import Struct, field

from intermodal.errors import DuplicatePathError, UnsafePathError
from intermodal.oci.entry import Deflated, Entry
from intermodal.rooms.build.wheels.archive import Member, Wheel
from intermodal.rooms.build.wheels.directory import refused
from intermodal.rooms.build.wheels.prune import PruneRules
from intermodal.rooms.build.wheels.record import Promise, write_record
from intermodal.rooms.build.wheels.scheme import Scheme

INSTALLER = b"intermodal\n"
MAX_SCRIPT_BYTES = 16 << 20
MAX_PTH_BYTES = 1 << 20
_REPLACED = frozenset(("RECORD", "RECORD.jws", "RECORD.p7s", "INSTALLER", "REQUESTED", "direct_url.json"))
_SCRIPT_NAME = re.compile(r"[\w+-][\w.+ -]*", re.ASCII)
_OBJECT = re.compile(r"(?P<module>[\w.]+)\s*:\s*(?P<attribute>[\w.]+)\s*(?:\[[^\]]*\])?\s*")
_SCRIPT = """\
#!{python}
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({attribute}())
"""


class Installed(Struct):
    """The entries of one wheel; deflate streams in them are valid while the wheel is open."""

    spliced: list[Entry] = field(default_factory=list)
    packed: list[Entry] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=dict)  # path -> what its content is, for comparing two wheels
    pruned_bytes: int = 0


class _EntryPoints(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr  # names keep their case


def install(wheel: Wheel, scheme: Scheme, rules: PruneRules | None) -> Installed:
    """What `wheel` puts into the image; `rules` is None when it is exempt from pruning.

    Raises:
        PackageFileError: an unknown data folder, a damaged script or entry point.
        UnsafePathError: a script or .pth name or content that leaves its folder.
        DuplicatePathError: two of its files want one path.
    """
    done = Installed()
    rows: list[tuple[str, Promise | None]] = []

    def add(entry: Entry, promise: Promise, *, splice: bool) -> None:
        if entry.path in done.identities:
            raise DuplicatePathError(f"{wheel.source} wants {entry.path} twice", next="take another version of it")
        if entry.path in scheme.reserved:
            raise UnsafePathError(f"cannot use {wheel.source}", found=f"it would replace {entry.path}")
        done.identities[entry.path] = f"{promise.algorithm}:{promise.digest.hex()}"
        (done.spliced if splice else done.packed).append(entry)
        rows.append((scheme.relative(entry.path), promise))

    generated = dict(_generated(wheel, scheme))
    for member in wheel.members.values():
        path, script = _place(wheel, member, scheme)
        if not path or (script and _of_entry_point(path) in generated):
            continue
        if rules is not None and _is_pruned(path, wheel, scheme, rules):
            done.pruned_bytes += member.slot.size_bytes
            continue
        _check_pth(member, path, scheme)
        rewritten = _script(member, scheme) if script else None
        if rewritten is not None:
            add(Entry.file(path, rewritten, executable=True), _promise(rewritten), splice=False)
            continue
        assert member.promise is not None, "only RECORD and its signatures have none, and they are replaced"
        add(_entry(path, member, script, scheme), member.promise, splice=member.deflated or not member.slot.size_bytes)
    for path, data in generated.items():
        add(Entry.file(path, data, executable=True), _promise(data), splice=False)
    info = f"{scheme.site}/{wheel.dist_info}"
    add(Entry.file(f"{info}/INSTALLER", INSTALLER), _promise(INSTALLER), splice=False)
    record = write_record([*rows, (f"{wheel.dist_info}/RECORD", None)])
    done.identities[f"{info}/RECORD"] = _promise(record).digest.hex()
    done.packed.append(Entry.file(f"{info}/RECORD", record))
    return done


def _place(wheel: Wheel, member: Member, scheme: Scheme) -> tuple[str, bool]:
    """The path in the image ("" for none), and whether it is a script."""
    name = member.name
    if name.startswith(f"{wheel.dist_info}/") and name[len(wheel.dist_info) + 1 :] in _REPLACED:
        return "", False
    if name.endswith(".pyc") and "/__pycache__/" in f"/{name}":
        return "", False
    if not name.startswith(f"{wheel.data_dir}/"):
        return f"{scheme.site}/{name}", False
    kind, _, rest = name[len(wheel.data_dir) + 1 :].partition("/")
    distribution = wheel.dist_info.removesuffix(".dist-info").partition("-")[0]
    folders = {
        "purelib": scheme.site,
        "platlib": scheme.site,
        "scripts": f"{scheme.prefix}/bin",
        "data": scheme.prefix,
        "headers": f"{scheme.prefix}/include/site/python{scheme.python}/{distribution}",
    }
    if kind not in folders or not rest:
        raise refused(wheel.source, f"{name} is in no data folder that the specification knows")
    return f"{folders[kind]}/{rest}", kind == "scripts"


def _is_pruned(path: str, wheel: Wheel, scheme: Scheme, rules: PruneRules) -> bool:
    if path.startswith(f"{scheme.site}/"):
        below = path[len(scheme.site) + 1 :]
        return not below.startswith(f"{wheel.dist_info}/") and rules.drops(below)
    return path.startswith(f"{scheme.prefix}/include/")


def _entry(path: str, member: Member, script: bool, scheme: Scheme) -> Entry:
    executable = member.slot.executable or script
    tapped = path.endswith(".py") and path.startswith(f"{scheme.site}/")
    content: Deflated | bytes = member.stream() if member.slot.size_bytes else b""
    return Entry.file(path, content, executable=executable, tapped=tapped)


def _script(member: Member, scheme: Scheme) -> bytes | None:
    """The script with its interpreter filled in; None when it can stay as it is."""
    if not member.begins_with(b"#!python"):
        return None
    _, newline, rest = member.read(MAX_SCRIPT_BYTES).partition(b"\n")
    return b"#!" + scheme.interpreter.encode() + (newline or b"\n") + rest


def _check_pth(member: Member, path: str, scheme: Scheme) -> None:
    if not path.endswith(".pth") or posixpath.dirname(path) != scheme.site:
        return
    for line in member.read(MAX_PTH_BYTES).decode("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith(("#", "import ", "import\t")):
            continue
        if text.startswith("/") or ".." in text.replace("\\", "/").split("/"):
            raise UnsafePathError(
                f"cannot use {member.source}", found=f"{member.name} adds {text[:80]!r}, which is outside site-packages"
            )


def _generated(wheel: Wheel, scheme: Scheme) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of every console and gui script."""
    text = wheel.text("entry_points.txt")
    if text is None:
        return
    parser = _EntryPoints(delimiters=("=",), strict=True)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise refused(wheel.source, f"entry_points.txt cannot be read: {str(error).splitlines()[0]}") from error
    for section in ("console_scripts", "gui_scripts"):
        if not parser.has_section(section):
            continue
        for name, value in parser.items(section):
            if not _SCRIPT_NAME.fullmatch(name):
                raise UnsafePathError(f"cannot use {wheel.source}", found=f"an entry point is named {name[:80]!r}")
            match = _OBJECT.fullmatch(value)
            if match is None:
                raise refused(wheel.source, f"entry point {name} stands for {value[:80]!r}")
            attribute = match["attribute"]
            script = _SCRIPT.format(
                python=scheme.interpreter,
                module=match["module"],
                first=attribute.partition(".")[0],
                attribute=attribute,
            )
            yield f"{scheme.prefix}/bin/{name}", script.encode()


def _of_entry_point(path: str) -> str:
    """The script that older tools would have made this one for; on Windows they made two of other names."""
    return path.removesuffix(".exe") if path.endswith(".exe") else path.removesuffix("-script.py")


def _promise(data: bytes) -> Promise:
    return Promise("sha256", hashlib.sha256(data).digest(), len(data))
