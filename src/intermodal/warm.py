"""What the last build of a project looked at and gave, so that an unchanged project costs no more than a few stats.

Takes the project's path, tag, lock file and platforms as the user gave them; hands back the `Image` of last time when

1. every file that decided it is still the same file (path, inode, size, mtime, ctime), and every file that was
   looked for and absent still is;
2. this is the same version of the tool, with the same sources;
3. the store still has the manifest, and the tag still names it.

It is a memory, not an authority: whatever it says, push and sign hash everything again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from intermodal import __version__
from intermodal.errors import IntermodalError
from intermodal.host import Host
from intermodal.host.files import identities, read_json, unchanged, write_atomically
from intermodal.oci.descriptor import Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image
from intermodal.oci.layout import Store

FORMAT = 1
PACKAGE = Path(__file__).parent


def _own_sources() -> list[str]:
    # An edited checkout has an unchanged version number: the sources themselves are part of who the tool is.
    return [
        f"{folder}/{name}"
        for top in (PACKAGE, PACKAGE.with_name("intermodal_server"))
        for folder, _, names in os.walk(top)
        for name in names
        if name.endswith(".py")
    ]


def _memory(host: Host, path: Path, tag: str | None, lock: Path | None, platforms: Sequence[str]) -> Path:
    words = (str(path.absolute()), tag or "", str(lock and lock.absolute()), *platforms)
    name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]
    return host.cache_dir / "warm" / f"{name}.json"


class Watch:
    """The files that decide a result, each as it was when first looked at.

    Look before reading: a file that changes while it is being used then differs from what was remembered.
    """

    def __init__(self) -> None:
        self.seen: dict[str, list[int] | None] = {}
        self._names: dict[str, set[str]] = {}

    def look(self, paths: Iterable[Path | str]) -> None:
        """Note who each path is now, unless it was noted before; absent files count too."""
        for path, who in identities(paths).items():
            self.seen.setdefault(path, who)

    def enter(self, folder: Path) -> None:
        """Note which names a folder holds, for `wrote`; nothing when it cannot be read."""
        real = os.path.realpath(folder)
        with suppress(OSError):
            self._names[real] = set(os.listdir(real))

    def wrote(self, file: Path) -> None:
        """This walk itself wrote `file`: its folder counts as it is now, unless other names came or went as well."""
        real = os.path.realpath(file.parent)
        now = identities([real])[real]
        if real in self._names and self._names[real] - {file.name} == set(os.listdir(real)) - {file.name}:
            self.seen.update({path: now for path in self.seen if os.path.realpath(path) == real})


def remember(
    path: Path,
    tag: str | None,
    lock: Path | None,
    image: Image,
    watch: Watch,
    host: Host,
    platforms: Sequence[str] = (),
) -> None:
    """Keep what was looked at and what came out."""
    watch.look(_own_sources())
    document = {
        "format": FORMAT,
        "tool": __version__,
        "inputs": watch.seen,
        "image": _image_json(image),
    }
    write_atomically(_memory(host, path, tag, lock, platforms), json.dumps(document).encode(), host.temporary_dir)


def recall(
    path: Path, tag: str | None, lock: Path | None, store: Store, host: Host, platforms: Sequence[str] = ()
) -> Image | None:
    """The image of last time if nothing at all has changed, else None."""
    document = read_json(_memory(host, path, tag, lock, platforms))
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("tool") != __version__:
        return None
    try:
        if not unchanged(document["inputs"]):
            return None
        image = _image_from_json(document["image"])
        if store.resolve(image.name).digest != image.digest or not all(store.has(m.digest) for m in image.manifests):
            return None
    except (KeyError, TypeError, IntermodalError):
        return None
    return replace(image, unchanged=True)


def _descriptor_json(descriptor: Descriptor) -> list[Any]:
    return [descriptor.media_type, str(descriptor.digest), descriptor.size_bytes, descriptor.platform]


def _descriptor(fields: list[Any]) -> Descriptor:
    return Descriptor(fields[0], Digest.parse(fields[1]), fields[2], {}, fields[3])


def _image_json(image: Image) -> dict[str, Any]:
    return {
        "name": image.name,
        "descriptor": _descriptor_json(image.descriptor),
        "manifests": [_descriptor_json(m) for m in image.manifests],
        "layers": [
            [str(la.digest), str(la.diff_id), la.size_bytes, la.tar_bytes, la.kind, la.title, True, la.pruned_bytes]
            for la in image.layers
        ],
        "lock_digest": str(image.lock_digest),
        "platforms": list(image.platforms),
        "pruned_bytes": image.pruned_bytes,
    }


def _image_from_json(document: dict[str, Any]) -> Image:
    return Image(
        name=document["name"],
        descriptor=_descriptor(document["descriptor"]),
        manifests=tuple(_descriptor(m) for m in document["manifests"]),
        layers=tuple(
            LayerInfo(Digest.parse(fields[0]), Digest.parse(fields[1]), *fields[2:]) for fields in document["layers"]
        ),
        lock_digest=Digest.parse(document["lock_digest"]),
        platforms=tuple(document["platforms"]),
        pruned_bytes=document["pruned_bytes"],
    )
