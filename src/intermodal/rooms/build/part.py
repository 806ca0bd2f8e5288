"""One layer to be: what decides it, and how it is written when the cache does not have it.

`environment.py` and `content.py` plan parts; `assemble.py` recalls or writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from intermodal.oci.blob import BlobWriter
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.rooms.build.wheels.groups import LockedWheel

Compile = Callable[[Iterable[tuple[str, bytes]]], Iterator[tuple[str, bytes | None]]]


class Tools(Struct):
    """What writing a layer needs besides its plan."""

    files: Mapping[Digest, Path] = field(default_factory=dict)  # wheels that were fetched
    compile_sources: Compile | None = None  # None when the lock wants no byte code


class Part(Struct, frozen=True):
    """One layer, in the order of the image."""

    kind: str  # as in LayerInfo
    title: str
    identity: Mapping[str, object]
    write: Callable[[BlobWriter, Tools], LayerInfo]
    wheels: tuple[LockedWheel, ...] = ()
    paths_file: Path | None = None  # what the wheels brought, for comparing; must exist beside the cached layer
    compiles: bool = False
