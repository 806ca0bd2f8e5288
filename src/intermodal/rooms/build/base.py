"""The operating system and Python of an image, as layers made of Debian packages.

Takes a `Lock` and the .deb files that it names; hands on `LayerInfo` values of layers in the store.

Rules, in order:
1. `base_layer`: the packages of the base's own closure. The same lock rows give the same bytes, so all images
   of one base share it, with or without byte code and whatever `system` asks for.
2. `bytecode_layer`: the standard library's byte code, in a layer of its own: compiling needs the very
   interpreter that the base layer brings, and images without byte code still share that layer.
3. `system_layer`: the packages that only `system` asked for. They may add to the base, never replace a path
   of it.
4. Every layer is remembered by its identity (package hashes, rules, layout, codec, prune policy);
   `needed_debs` names the packages that must be fetched, which are none on a warm build.
5. A package that is to be had nowhere any more is an error of the surroundings that names `intermodal lock
   --upgrade`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from intermodal.errors import DuplicatePathError, HostError, PackageFileError, UnsafePathError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.host.files import failure
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import write_layer
from intermodal.oci.layout import Store
from intermodal.rooms.build.base_rules import RULES_VERSION
from intermodal.rooms.build.bytecode import POLICY_VERSION, pyc_path
from intermodal.rooms.build.layer_cache import cached_layer, layer_key, recall_layer
from intermodal.rooms.lock.rows import DebRow, Lock

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from intermodal.oci.blob import BlobWriter
    from intermodal.oci.tar_reader import TarEntry
    from intermodal.rooms.build.base_tree import Node, Tree
    from intermodal.rooms.build.debs import Deb
    from intermodal.rooms.build.part import Compile

_STDLIB = re.compile(r"usr/lib/python3(?:\.\d+)?/.*\.py|etc/python3\.\d+/.*\.py")


def base_layer(
    lock: Lock, platform: str, *, store: Store, host: Host, events: Events, debs: Mapping[Digest, Path]
) -> LayerInfo:
    """The base of every image with these packages; kind "base".

    Args:
        lock: whose `base.packages` of layer "base" are merged.
        platform: "linux/amd64" or "linux/arm64".
        store: where the layer goes; the caller holds a session.
        host: whose cache remembers it.
        events: told how far it is.
        debs: the package files by digest; may be empty when the layer is remembered.

    Raises:
        HostError: a package is missing; it is to be had nowhere.
        PackageFileError, UnsafePathError, DuplicatePathError: a package is damaged or hostile.
    """

    def write(sink: BlobWriter) -> LayerInfo:
        from intermodal.rooms.build.base_files import add_system_files, certificate_bundle

        with _tree(host) as tree:
            _add_packages(tree, rows, lock, debs, events)
            add_system_files(tree, lock.base.python, certificate_bundle(tree.certificates))
            return replace(
                _write(tree, tree.nodes(), sink, host),
                kind="base",
                title=f"Debian {lock.base.suite}, Python {lock.base.python_version}",
                pruned_bytes=tree.pruned_bytes,
            )

    rows = _rows(lock, platform, "base")
    return cached_layer(_identity(lock, rows, "base"), write, store=store, host=host)


def system_layer(
    lock: Lock,
    platform: str,
    *,
    base: LayerInfo,
    store: Store,
    host: Host,
    events: Events,
    debs: Mapping[Digest, Path],
) -> LayerInfo | None:
    """What `[environment] system` adds to `base`, kind "debian"; None when it adds nothing.

    Raises:
        DuplicatePathError: a package would replace a path of the base.
        HostError, PackageFileError, UnsafePathError: as for `base_layer`.
    """
    rows = _rows(lock, platform, "system")
    if not rows:
        return None

    def write(sink: BlobWriter) -> LayerInfo:
        from intermodal.rooms.build.base_tree import MERGED

        with _tree(host) as tree:
            _add_packages(tree, rows, lock, debs, events)
            below = {entry.path.rstrip("/"): entry for entry, _ in _stored_entries(base, store, bodies=None)}
            for top in MERGED:
                if top not in below and next(iter(tree.below(f"usr/{top}")), None) is not None:
                    tree.add_link(top, f"usr/{top}")
            info = _write(tree, _beyond(tree.nodes(), below), sink, host)
            names = ", ".join(lock.base.system) or ", ".join(row.name for row in rows)
            return replace(info, kind="debian", title=names, pruned_bytes=tree.pruned_bytes)

    identity = {**_identity(lock, rows, "system"), "base": str(base.diff_id)}
    return cached_layer(identity, write, store=store, host=host)


def bytecode_layer(
    lock: Lock, *, base: LayerInfo, store: Store, host: Host, compile_sources: Compile
) -> LayerInfo | None:
    """The byte code of the base's standard library, kind "base"; None when the lock wants none.

    Args:
        lock: its policy says whether byte code is wanted, its base which Python it is for.
        base: the layer from `base_layer`; sources are read from it.
        store: where the layer goes; the caller holds a session.
        host: whose cache remembers it.
        compile_sources: given (path, source) pairs, paths relative to the image's root, gives (path, .pyc
            content) pairs with the same paths in any order; None as content where a source is not valid
            Python.
    """
    if lock.policy.bytecode == "none":
        return None

    def write(sink: BlobWriter) -> LayerInfo:
        entries = []
        for path, code in compile_sources(_sources(base, store)):
            if code is not None:
                entries.append(Entry.file(pyc_path(path, lock.base.python), code))
        with _pool(host) as pool:
            info = write_layer(entries, sink, pool=pool)
        return replace(info, kind="base", title=f"byte code of Python {lock.base.python_version}")

    identity = {
        "kind": "stdlib-bytecode",
        "policy": POLICY_VERSION,
        "base": str(base.diff_id),
        "python": lock.base.python_version,
        "layout": lock.policy.layout,
        "codec": lock.policy.codec,
        "compression": lock.policy.compression,
    }
    return cached_layer(identity, write, store=store, host=host)


def needed_debs(lock: Lock, platform: str, *, store: Store, host: Host) -> tuple[DebRow, ...]:
    """The packages that must be at hand before the layers of `platform` can be had; none when all are
    remembered.
    """
    base = _rows(lock, platform, "base")
    known = recall_layer(layer_key(_identity(lock, base, "base")), store=store, host=host)
    system = _rows(lock, platform, "system")
    if known is None:
        return base + system
    identity = {**_identity(lock, system, "system"), "base": str(known.diff_id)}
    if not system or recall_layer(layer_key(identity), store=store, host=host) is not None:
        return ()
    return system


def base_platforms(lock: Lock) -> set[str]:
    """The platforms that the lock holds a base for: the image's, and the one that only compiles."""
    debs = {f"linux/{row.architecture}" for row in lock.base.packages if row.architecture != "all"}
    return debs | {row.platform for row in lock.base.images}


def _rows(lock: Lock, platform: str, layer: str) -> tuple[DebRow, ...]:
    """The packages of one layer; the base of a platform that the image is not for is the one that compiles."""
    architecture = platform.partition("/")[2]
    layers = {layer, "compiler"} if layer == "base" and platform not in lock.platforms else {layer}
    rows = [row for row in lock.base.packages if row.layer in layers and row.architecture in (architecture, "all")]
    return tuple(sorted(rows, key=lambda row: row.name))


def _identity(lock: Lock, rows: Iterable[DebRow], kind: str) -> dict[str, object]:
    policy = lock.policy
    return {
        "kind": kind,
        "python": lock.base.python,
        "packages": [[row.name, str(row.digest)] for row in rows],
        "keep": sorted({row.name for row in rows} & set(policy.keep)),
        "prune": policy.prune,
        "rules": RULES_VERSION,
        "layout": policy.layout,
        "codec": policy.codec,
        "compression": policy.compression,
    }


def _add_packages(
    tree: Tree, rows: tuple[DebRow, ...], lock: Lock, debs: Mapping[Digest, Path], events: Events
) -> None:
    from intermodal.rooms.build.base_files import add_package_record
    from intermodal.rooms.build.debs import open_deb

    policy = lock.policy
    with events.task("unpack Debian packages", total=len(rows)) as task:
        for row in rows:
            with open_deb(_path(row, debs), row.digest) as deb:
                _check_control(deb, row)
                nodes = tree.add_package(deb, row.name, prune=policy.prune and row.name not in policy.keep)
                add_package_record(tree, deb, row.name, nodes)
                if deb.dropped:
                    events.notice(f"{row.name}: setuid and setgid bits dropped from {', '.join(deb.dropped)}")
            task.advance()


def _path(row: DebRow, debs: Mapping[Digest, Path]) -> Path:
    path = debs.get(row.digest)
    if path is None or not path.is_file():
        raise HostError(
            f"the Debian package {row.name} {row.version} can no longer be had",
            found=f"{row.filename}, sha256 {row.digest.hex}: on none of the mirrors tried",
            next="intermodal lock PATH --upgrade takes the packages that the archive has now",
        )
    return path


def _check_control(deb: Deb, row: DebRow) -> None:
    """Refuse a package that says it is another than the lock's row."""
    stated = dict(line.split(": ", 1) for line in deb.control.splitlines() if ": " in line and line[0] not in " \t")
    for field, locked in (("Package", row.name), ("Version", row.version), ("Architecture", row.architecture)):
        if stated.get(field, "").strip() != locked:
            raise PackageFileError(
                f"{deb.title} is another package than the lock says",
                found=f"{field}: {stated.get(field, '(missing)')[:80]}, locked {locked}",
                next="intermodal lock PATH --upgrade",
            )


def _beyond(nodes: list[Node], below: Mapping[str, TarEntry]) -> list[Node]:
    """The nodes that a base lacks.

    Raises:
        DuplicatePathError: a node would replace something of the base.
        UnsafePathError: a node would lie below a link of the base.
    """
    kept = []
    for node in nodes:
        other = below.get(node.path)
        if other is None:
            kept.append(node)
        elif node.kind != "directory":
            raise DuplicatePathError(
                f"the Debian package {node.owner} would replace a file of the base",
                found=node.path,
                next=f"remove {node.owner} from [environment] system",
            )
        elif other.kind != "directory":
            raise UnsafePathError(
                "a Debian package would write through a link of the base",
                found=f"{node.path} ({other.kind})",
                next="remove it from [environment] system",
            )
    return kept


def _write(tree: Tree, nodes: Iterable[Node], sink: BlobWriter, host: Host) -> LayerInfo:
    with _pool(host) as pool:
        return write_layer((_entry(tree, node) for node in nodes), sink, pool=pool)


def _entry(tree: Tree, node: Node) -> Entry:
    if node.kind == "directory":
        return Entry.directory(node.path, mode=node.mode)
    if node.kind == "symlink":
        return Entry.symlink(node.path, node.target)
    executable = bool(node.mode & 0o111)
    return Entry.stream(node.path, node.size_bytes, partial(tree.content, node), executable=executable)


def _tree(host: Host) -> Tree:
    from intermodal.rooms.build.base_tree import Tree

    folder = host.cache_dir / "tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure("cannot write into the cache", folder, error) from error
    return Tree(folder)


@contextmanager
def _pool(host: Host) -> Iterator[Executor | None]:
    """Threads to compress with; the bytes do not depend on their number."""
    if host.cores < 2:
        yield None
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(host.cores, 8)) as pool:
        yield pool


def _stored_entries(
    layer: LayerInfo, store: Store, *, bodies: re.Pattern[str] | None
) -> Iterator[tuple[TarEntry, bytes]]:
    """Every entry of a stored layer, with content where the path matches `bodies`; both digests are verified."""
    from intermodal.oci.layer_stream import LayerStream
    from intermodal.oci.tar_reader import read_entries

    with store.path(layer.digest).open("rb") as stored:
        stream = LayerStream(stored)
        for entry in read_entries(stream):
            if bodies is not None and entry.kind == "file" and bodies.fullmatch(entry.path):
                yield entry, stream.take(entry.size_bytes)
            else:
                stream.skip(entry.size_bytes)
                yield entry, b""
        stream.finish(layer.digest, layer.diff_id)


def _sources(layer: LayerInfo, store: Store) -> list[tuple[str, bytes]]:
    """The standard library's sources, links among them under their own names too: imports cache by that
    name.
    """
    sources: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for entry, content in _stored_entries(layer, store, bodies=_STDLIB):
        if _STDLIB.fullmatch(entry.path):
            if entry.kind == "file":
                sources[entry.path] = content
            elif entry.kind == "symlink":
                links[entry.path] = entry.target
    for path, target in links.items():
        parts = path.split("/")[:-1]
        for part in target.split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        if (source := sources.get("/".join(parts))) is not None:
            sources[path] = source
    return [(path, sources[path]) for path in sorted(sources) if path.startswith("usr/")]
