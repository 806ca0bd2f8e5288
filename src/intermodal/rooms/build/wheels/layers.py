"""One layer of wheels: opened, verified, laid out, spliced, their byte code behind them.

Takes a group and the wheel files, writes the layer into a sink, hands on its `LayerInfo` and the paths in it.

Rules, in order:
1. A file is the wheel that the lock names, by sha256, or it is refused.
2. Two wheels may bring one path only with equal bytes; the first by name counts, and it is told.
3. First what is spliced, then what is packed: generated files, stored members, byte code. So the first part depends
   on the wheels and the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from intermodal.errors import DownloadError, DuplicatePathError
from intermodal.events import Events
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Deflated, Entry
from intermodal.oci.inflate import verified
from intermodal.oci.layer import LayerWriter, Sink
from intermodal.rooms.build.bytecode import pyc_path
from intermodal.rooms.build.wheels.archive import Wheel
from intermodal.rooms.build.wheels.groups import Group, LockedWheel
from intermodal.rooms.build.wheels.install import Installed, install
from intermodal.rooms.build.wheels.prune import PruneRules
from intermodal.rooms.build.wheels.scheme import Scheme

Compile = Callable[[Iterable[tuple[str, bytes]]], Iterator[tuple[str, bytes | None]]]
Paths = Mapping[str, Mapping[str, str]]  # wheel -> path -> what its content is


def write_group(
    group: Group,
    files: Mapping[Digest, Path],
    scheme: Scheme,
    sink: Sink,
    *,
    rules: Callable[[str], PruneRules | None],
    compile_sources: Compile | None,
    events: Events,
) -> tuple[LayerInfo, Paths]:
    """The layer of `group`, written into `sink`, and the paths that each wheel brought.

    Args:
        group: whose wheels are installed.
        files: where each wheel lies, by digest.
        scheme: the environment they are installed into.
        sink: takes the stored bytes.
        rules: the prune rules for a distribution, or None when it is exempt.
        compile_sources: makes byte code; None for a layer without.
        events: told of paths that two wheels share.

    Raises:
        PackageFileError, UnsafePathError, DuplicatePathError: a wheel is damaged or hostile; the sink's bytes are void.
        DownloadError: a file is not the wheel that the lock names.
    """
    with ExitStack() as stack:
        found: list[tuple[LockedWheel, Installed]] = []
        for wheel in group.wheels:
            opened = stack.enter_context(Wheel(files[wheel.digest], wheel.filename))
            if opened.digest() != wheel.digest:
                raise DownloadError(
                    f"{wheel.filename} is not the file that was locked",
                    found=f"other bytes than {wheel.digest.short} in {files[wheel.digest]}",
                    next="remove that file and run the same command again",
                )
            found.append((wheel, install(opened, scheme, rules(wheel.name))))
        paths: Paths = {wheel.filename: done.identities for wheel, done in found}
        twice = shared_paths([paths], events)
        spliced = [entry for _, done in found for entry in done.spliced]
        packed = [entry for _, done in found for entry in done.packed]
        if twice:
            spliced, packed = _first_of_each(spliced, packed)
        writer = LayerWriter(sink)
        sources: list[tuple[str, bytes]] = []
        writer.splice(
            spliced, tap=(lambda entry, data: sources.append((entry.path, data))) if compile_sources else None
        )
        if compile_sources is not None:
            packed = [_readable(entry, sources) for entry in packed]
            packed += _byte_code(compile_sources(sources), scheme)
        sources.clear()
        writer.pack(packed)
        info = writer.finish()
    pruned_bytes = sum(done.pruned_bytes for _, done in found)
    return replace(info, title=group.title, pruned_bytes=pruned_bytes), paths


def shared_paths(layers: Iterable[Paths], events: Events) -> set[str]:
    """Paths that more than one wheel brings, each time with equal content.

    Raises:
        DuplicatePathError: two wheels bring one path with different content.
    """
    owners: dict[str, tuple[str, str]] = {}
    shared: dict[str, tuple[str, str]] = {}
    for layer in layers:
        for wheel, paths in layer.items():
            for path, content in paths.items():
                first = owners.setdefault(path, (wheel, content))
                if first[0] == wheel:
                    continue
                if first[1] != content:
                    raise DuplicatePathError(
                        f"two wheels want /{path} in the image",
                        found=(f"{first[0]} and", f"{wheel}, with other content"),
                        next="leave one of them out of the requirements, or take versions that do not collide",
                    )
                shared[path] = (first[0], wheel)
    for path, (one, other) in sorted(shared.items())[:5]:
        events.notice(f"/{path} comes with {one} and with {other}, equal in both")
    if len(shared) > 5:
        events.notice(f"{len(shared) - 5} more paths come with two wheels, equal in both")
    return set(shared)


def _first_of_each(spliced: Sequence[Entry], packed: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    seen: set[str] = set()

    def new(entry: Entry) -> bool:
        if entry.path in seen:
            return False
        seen.add(entry.path)
        return True

    return [entry for entry in spliced if new(entry)], [entry for entry in packed if new(entry)]


def _readable(entry: Entry, sources: list[tuple[str, bytes]]) -> Entry:
    """A packed entry; if it is a source, with its bytes read, since they are needed twice."""
    if not entry.tapped or not isinstance(entry.content, Deflated):
        return entry
    data = b"".join(verified(entry.content, entry.path))
    sources.append((entry.path, data))
    return replace(entry, content=data)


def _byte_code(compiled: Iterable[tuple[str, bytes | None]], scheme: Scheme) -> list[Entry]:
    return [Entry.file(pyc_path(path, scheme.python), content) for path, content in compiled if content is not None]
