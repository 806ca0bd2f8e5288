"""One root out of many unpacked layers, in the way this host permits.

Takes unpacked layers, lowest first; hands on a `Root`: arguments for bwrap, and for two of the three ways a merged
folder.

Rules, in order:
1. `overlay` mounts the layers over each other, without copying anything. The kernel takes one page of options, so a
   long list of layers is shortened by merging the lowest ones, which change most rarely.
2. Merging makes hard links and never copies: all lies in one cache folder, so on one disk.
3. Mount points must be real folders. A layer that puts a link or a file where one is wanted is refused: bwrap would
   follow it.
4. A layer that deletes something of those below is merged with them, because neither an overlay nor a link can say so
   without rights that not every host grants.
5. Reading a file out of layers sees what the container would see, and follows no link.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from intermodal.errors import EngineError, UnsafePathError
from intermodal.oci.folder_once import ALWAYS, folder_once, remove_tree
from intermodal.oci.layer_rules import OPAQUE, WHITEOUT
from intermodal.oci.unpack import WHITEOUTS

Way = Literal["overlay", "hardlink", "loader"]

_MAX_OPTIONS_BYTES = 3800  # of a page of 4096; the rest is for what bwrap adds
_PER_SOURCE_BYTES = len("/oldroot:")
_POINTS = "points-"


class Root(Struct, frozen=True):
    """A root in place, or ready to be put there."""

    arguments: tuple[str, ...]  # for bwrap; empty for `loader`
    merged: Path | None = None


def compose(layers: Sequence[Path], way: Way, cache: Path, mount_points: Sequence[str]) -> Root:
    """The root of `layers`.

    Args:
        layers: unpacked, lowest first, all below `cache` or at least on its disk.
        way: how.
        cache: the cache folder; merged roots are kept in `cache/merged`.
        mount_points: absolute folders that must exist inside.

    Raises:
        UnsafePathError: a layer has something else than a folder at a mount point.
        EngineError: the layers cannot be merged here.
    """
    _check_mount_points(layers, mount_points)
    if way == "overlay":
        sources = _shortened([_skeleton(cache, mount_points), *_without_whiteouts(layers, cache)], cache)
        pairs = [argument for source in sources for argument in ("--overlay-src", str(source))]
        return Root((*pairs, "--ro-overlay", "/"))
    merged = _merged(layers, cache, mount_points)
    return Root(("--ro-bind", str(merged), "/") if way == "hardlink" else (), merged)


def read_from_layers(layers: Sequence[Path], path: str, limit: int) -> bytes | None:
    """The content of a regular file as the container would see it; None when there is none, or a link leads to it.

    Args:
        layers: unpacked, lowest first.
        path: absolute, inside.
        limit: largest size in bytes that is read.
    """
    for layer in reversed(layers):
        found = _lookup(layer, path)
        if found is None:
            continue
        status = found.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        return found.read_bytes()
    return None


def _lookup(layer: Path, path: str) -> Path | None:
    """What lies at `path` in one layer: the thing itself, the link on the way to it, or None."""
    place = layer
    for part in path.strip("/").split("/"):
        place = place / part
        if not os.path.lexists(place):
            return None
        if place.is_symlink():
            return place
    return place


def _check_mount_points(layers: Sequence[Path], mount_points: Sequence[str]) -> None:
    """Refuse layers that would lead a mount somewhere else."""
    for point in mount_points:
        for layer in layers:
            found = _lookup(layer, point)
            if found is not None and (found.is_symlink() or not found.is_dir()):
                raise UnsafePathError(
                    f"the image has something else than a folder at {point}, where the sandbox mounts one",
                    found=f"/{found.relative_to(layer)} in layer {layer.name[:12]}",
                )


def _skeleton(cache: Path, mount_points: Sequence[str]) -> Path:
    """A lowest layer that holds nothing but the mount points."""
    key = hashlib.sha256("\n".join(mount_points).encode()).hexdigest()[:16]
    final = cache / "merged" / f"{_POINTS}{key}"
    return folder_once(final, lambda folder: _make_points(folder, mount_points), (ALWAYS,))


def _make_points(folder: Path, mount_points: Sequence[str]) -> None:
    """Make the mount points below `folder`."""
    for point in mount_points:
        (folder / point.strip("/")).mkdir(parents=True, exist_ok=True)


def _without_whiteouts(layers: Sequence[Path], cache: Path) -> list[Path]:
    """The same tree as layers of which none deletes anything."""
    last = max((n for n, layer in enumerate(layers, 1) if (layer / WHITEOUTS).exists()), default=0)
    return [*([_merged(layers[:last], cache, ())] if last else []), *layers[last:]]


def _shortened(sources: list[Path], cache: Path) -> list[Path]:
    """The same layers as fewer sources, so that the mount options fit."""

    def size(paths: Sequence[Path]) -> int:
        return sum(len(os.fsencode(path)) + _PER_SOURCE_BYTES for path in paths)

    if size(sources) <= _MAX_OPTIONS_BYTES:
        return sources
    merged_name = cache / "merged" / ("0" * 64)
    upper = len(sources) - 1
    while size([merged_name, *sources[-upper:]]) > _MAX_OPTIONS_BYTES // 2:  # room for layers to come: a stable prefix
        upper -= 1
    return [_merged(sources[:-upper], cache, ()), *sources[-upper:]]


def _merged(layers: Sequence[Path], cache: Path, mount_points: Sequence[str]) -> Path:
    """One folder with the content of all layers, made of hard links."""
    names = [layer.name for layer in layers] + list(mount_points)
    key = hashlib.sha256("\n".join(names).encode()).hexdigest()

    def fill(folder: Path) -> None:
        for layer in layers:
            _lay_over(layer, folder)
        _make_points(folder, mount_points)

    made_of = [layer.name for layer in layers if not layer.name.startswith(_POINTS)]
    try:
        return folder_once(cache / "merged" / key, fill, made_of)
    except OSError as error:
        raise EngineError(
            "cannot put the image's layers together",
            found=f"{error.strerror}: {error.filename or cache}",
            next="put the cache (XDG_CACHE_HOME) on a file system with hard links and free space",
        ) from error


def _lay_over(layer: Path, folder: Path) -> None:
    """Add the content of `layer` to `folder`; what both have is taken from `layer`."""
    for place, folders, files in os.walk(layer, followlinks=False):
        target = folder / os.path.relpath(place, layer)
        deleted = [name for name in files if name.startswith(WHITEOUT)]
        for name in os.listdir(target) if OPAQUE in deleted else [name.removeprefix(WHITEOUT) for name in deleted]:
            remove_tree(target / name)
        files = [name for name in files if not name.startswith(WHITEOUT)]
        for name in [n for n in folders if not os.path.islink(os.path.join(place, n))]:  # noqa: PTH114, PTH118
            made = target / name
            if made.is_symlink() or not made.is_dir():
                remove_tree(made)
                made.mkdir()
            made.chmod(stat.S_IMODE(os.lstat(os.path.join(place, name)).st_mode))  # noqa: PTH118
        for name in files + [n for n in folders if os.path.islink(os.path.join(place, n))]:  # noqa: PTH114, PTH118
            remove_tree(target / name)
            os.link(os.path.join(place, name), target / name, follow_symlinks=False)  # noqa: PTH118
