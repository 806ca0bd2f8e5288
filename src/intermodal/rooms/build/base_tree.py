"""The packages of a base merged into one tree, held as paths and never unpacked.

Takes open packages one after another; hands on sorted `Node` values.

Rules, in order:
1. Everything below bin, sbin, lib, lib32, lib64 and libx32 moves below usr/, in names and in link targets;
   the top names become links. So bookworm (whose packages still ship lib/…) and trixie (whose base-files
   ships the links) give the same shape.
2. What `base_rules` prunes is counted and dropped; folders that are left empty by it go too.
3. Two packages may share folders, nothing else: a path that two of them write is an error.
4. Nothing lies below a link or a file: the check is made when all packages are in, so it does not depend on
   order.
5. Contents wait in memory up to `SPOOL_BYTES`, beyond that in one temporary file that has no name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from intermodal.errors import DuplicatePathError, UnsafePathError
from intermodal.host.files import failure
from intermodal.oci.tar_reader import Kind
from intermodal.rooms.build.base_rules import is_pruned
from intermodal.rooms.build.debs import Deb, DebEntry, link_text

SPOOL_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
CERTIFICATES = "usr/share/ca-certificates/"
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")


class Node(Struct, frozen=True):
    """One path of the tree; `offset` and `size_bytes` say where a file's content waits in the spool."""

    path: str
    kind: Kind  # file | directory | symlink
    mode: int = 0o755
    target: str = ""  # of a symbolic link, as stored
    offset: int = 0
    size_bytes: int = 0
    owner: str = ""  # the package it came from


class Tree:
    """The merged packages; a context manager, because contents may wait in a temporary file."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where the temporary file goes when memory does not do; None takes the system's."""
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=None if folder is None else str(folder))  # noqa: SIM115 - see __exit__
        self._folder = folder or Path(tempfile.gettempdir())
        self._end = 0
        self._nodes: dict[str, Node] = {}
        self._folders: dict[str, bool] = {}  # path -> something in it was pruned
        self.pruned_bytes = 0
        self.certificates: list[tuple[str, bytes]] = []  # of certificate authorities, set aside before pruning

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    def add_package(self, deb: Deb, owner: str, *, prune: bool = True) -> tuple[Node, ...]:
        """Merge a package; its files and links that stay, as nodes.

        Raises:
            DuplicatePathError: another package has one of its paths.
            UnsafePathError, PackageFileError: see `debs`.
        """
        added: list[Node] = []
        for entry, pieces in deb.entries():
            path = merged_path(entry.path)
            if path in MERGED or path == "var/run":
                continue
            if entry.kind == "file" and path.startswith(CERTIFICATES) and path.endswith(".crt"):
                data = b"".join(pieces)
                self.certificates.append((path, data))
                pieces = iter([data])
            if prune and is_pruned(path):
                if entry.kind == "file":
                    self.pruned_bytes += sum(len(piece) for piece in pieces)
                self._folders[path.rpartition("/")[0]] = True
                continue
            if entry.kind == "directory":
                self._folders.setdefault(path, False)
                continue
            added.append(self._add(path, entry, pieces, owner))
        return tuple(added)

    def add_file(self, path: str, data: bytes, *, owner: str = "") -> None:
        """A file made by hand; replaces one that a package brought."""
        self._nodes[path] = Node(path, "file", 0o644, "", *self._store([data]), owner)

    def add_link(self, path: str, target: str, *, replace: bool = True) -> None:
        """A symbolic link made by hand; `target` is relative to the root."""
        if replace or path not in self._nodes:
            self._nodes[path] = Node(path, "symlink", 0o777, link_text(path, target))

    def add_folder(self, path: str, mode: int = 0o755) -> None:
        """A folder made by hand; stays although nothing is in it."""
        self._nodes[path] = Node(path, "directory", mode)

    def get(self, path: str) -> Node | None:
        """The node at `path`, which must not be a package's folder."""
        return self._nodes.get(path)

    def below(self, folder: str) -> Iterator[Node]:
        """Files and links below `folder`, sorted by path."""
        prefix = folder + "/"
        return (self._nodes[path] for path in sorted(self._nodes) if path.startswith(prefix))

    def content(self, node: Node) -> Iterator[bytes]:
        """A file's content in pieces."""
        offset, left = node.offset, node.size_bytes
        while left:
            self._spool.seek(offset)
            piece = self._spool.read(min(left, PIECE_BYTES))
            offset, left = offset + len(piece), left - len(piece)
            yield piece

    def nodes(self) -> list[Node]:
        """Everything, parents included, sorted by path.

        Raises:
            UnsafePathError: something lies below a link or a file.
        """
        nodes = dict(self._nodes)
        for folder, was_pruned in self._folders.items():
            if folder and not was_pruned and folder not in nodes and not is_pruned(folder):
                nodes[folder] = Node(folder, "directory")
        for path in list(nodes):
            parent = path.rpartition("/")[0]
            while parent:
                above = nodes.setdefault(parent, Node(parent, "directory"))
                if above.kind != "directory":
                    raise UnsafePathError(
                        "a Debian package would write through a link of another",
                        found=f"{path} ({nodes[path].owner}) below {parent} ({above.owner}, {above.kind})",
                        next="it is damaged or hostile: remove it from [environment] system",
                    )
                parent = parent.rpartition("/")[0]
        return [nodes[path] for path in sorted(nodes)]

    def _add(self, path: str, entry: DebEntry, pieces: Iterable[bytes], owner: str) -> Node:
        if (other := self._nodes.get(path)) is not None:
            raise DuplicatePathError(
                f"two Debian packages write {path}",
                found=f"{other.owner or 'the base'} and {owner}",
                next="remove one of them from [environment] system",
            )
        if entry.kind == "symlink":
            node = Node(path, "symlink", 0o777, link_text(path, merged_path(entry.target)), owner=owner)
        elif entry.kind == "hardlink":
            node = self._hard_link(path, entry, owner)
        else:
            mode = 0o755 if entry.executable else 0o644
            node = Node(path, "file", mode, "", *self._store(pieces), owner)
        self._nodes[path] = node
        return node

    def _hard_link(self, path: str, entry: DebEntry, owner: str) -> Node:
        """The same content under a second name; a copy in the layer, because few packages have any."""
        target = merged_path(entry.target)
        first = self._nodes.get(target)
        if first is None or first.kind != "file":
            raise UnsafePathError(
                "a Debian package has a hard link to a file that stays out of the image",
                found=f"{path} -> {target} ({owner})",
                next='keep it whole: prune = { keep = ["' + owner + '"] }',
            )
        return Node(path, "file", first.mode, "", first.offset, first.size_bytes, owner)

    def _store(self, pieces: Iterable[bytes]) -> tuple[int, int]:
        start = self._end
        for piece in pieces:
            try:
                self._spool.seek(self._end)
                self._spool.write(piece)
            except OSError as error:
                raise failure("cannot hold the files of Debian packages", self._folder, error) from error
            self._end += len(piece)
        return start, self._end - start


def merged_path(path: str) -> str:
    """Where a path lies once bin, sbin and lib… are links into usr/; the top names themselves stay.

    >>> merged_path("lib/x86_64-linux-gnu/libc.so.6"), merged_path("lib"), merged_path("library/x")
    ('usr/lib/x86_64-linux-gnu/libc.so.6', 'lib', 'library/x')
    """
    if path.startswith("var/run/"):
        return path[4:]
    top, slash, _ = path.partition("/")
    return f"usr/{path}" if slash and top in MERGED else path
