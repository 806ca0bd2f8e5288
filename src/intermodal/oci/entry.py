"""What a layer holds: one value per file, directory or link, and the rules for its name.

`layer.py` stores them; `rooms.build` makes them. A content is bytes, a file on this host, a function that gives pieces,
or a deflate stream out of somebody's archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from intermodal.errors import UnsafePathError

Kind = Literal["file", "directory", "symlink", "hardlink"]
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255


class Deflated(Struct, frozen=True):
    """A raw deflate stream as it lies in an archive, with everything its archive promises about the plain bytes."""

    raw: bytes | memoryview
    crc32: int
    size_bytes: int  # plain
    algorithm: str = ""  # "sha256" | "sha384" | "sha512", "" when no hash is promised
    expected: bytes = b""
    source: str = ""  # for messages: the archive's file name


Content = bytes | Path | Callable[[], Iterable[bytes]] | Deflated | None


class Entry(Struct, frozen=True):
    """One path in a layer; use the constructors below, they keep kind, mode and size in step."""

    path: str  # relative, forward slashes, no trailing slash
    kind: Kind
    mode: int
    size_bytes: int = 0
    content: Content = None
    target: str = ""  # of a link; a hard link's is a path in the same layer
    tapped: bool = False  # the writer hands its plain bytes to the tap while splicing

    @classmethod
    def directory(cls, path: str, *, mode: int = 0o755) -> Entry:
        """A directory; of `mode` only the difference between 0755 and 1777 is kept."""
        return cls(path, "directory", 0o1777 if mode & 0o1002 == 0o1002 else 0o755)

    @classmethod
    def file(
        cls, path: str, content: bytes | Path | Deflated, *, executable: bool = False, tapped: bool = False
    ) -> Entry:
        """A file whose size is that of its content, now."""
        if isinstance(content, bytes):
            size_bytes = len(content)
        else:
            size_bytes = content.size_bytes if isinstance(content, Deflated) else content.stat().st_size
        return cls(path, "file", 0o755 if executable else 0o644, size_bytes, content, tapped=tapped)

    @classmethod
    def stream(
        cls, path: str, size_bytes: int, chunks: Callable[[], Iterable[bytes]], *, executable: bool = False
    ) -> Entry:
        """A file whose `size_bytes` come from calling `chunks` while the layer is written."""
        return cls(path, "file", 0o755 if executable else 0o644, size_bytes, chunks)

    @classmethod
    def symlink(cls, path: str, target: str) -> Entry:
        """A symbolic link; its target is resolved inside the running container, so it may be absolute."""
        return cls(path, "symlink", 0o777, target=target)

    @classmethod
    def hardlink(cls, path: str, target: str) -> Entry:
        """Another name for a file of the same layer."""
        return cls(path, "hardlink", 0o644, target=target)


def check_path(entry: Entry) -> None:
    """Nothing, when the entry's names can be stored safely.

    Raises:
        UnsafePathError: absolute, climbing, empty or overlong parts, control bytes, a whiteout's name, an empty target.
    """
    _check_name(entry.path)
    if entry.kind == "hardlink":
        _check_name(entry.target)
    elif entry.kind == "symlink" and (not entry.target or "\0" in entry.target or not _is_text(entry.target)):
        raise UnsafePathError(f"cannot store {entry.path!r}", found=f"a link to {entry.target[:80]!r}")


def _check_name(path: str) -> None:
    parts = path.split("/")
    why = ""
    if not path or "" in parts:
        why = "it is absolute, empty or has empty parts"
    elif ".." in parts or "." in parts:
        why = "it climbs out of its root"
    elif "\0" in path or not _is_text(path):
        why = "it holds bytes that no archive can carry"
    elif ".wh." in path and any(part.startswith(".wh.") for part in parts):
        why = "the name would delete files of other layers (whiteout)"
    elif len(path) > MAX_NAME_BYTES // 4 and _too_long(path, parts):
        why = f"longer than {MAX_PATH_BYTES} bytes, or a part longer than {MAX_NAME_BYTES}"
    if why:
        raise UnsafePathError(f"cannot store {path[:120]!r}", found=why)


def _too_long(path: str, parts: list[str]) -> bool:
    return len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
