"""A base in a registry: resolved to digests, its layers in the local store, its Python found.

Takes the project's `base` and the platforms; hands on a `BaseLock`. Later rooms ask `fetch_layers` for layers that the
store has lost, and `lock --check` asks `moved` whether the name stands for another image by now.

Rules, in order:
1. A name is resolved once, to the digest of what it stands for; everything after that goes by digest.
2. Documents and layers keep the rules of `registry.documents` and `oci.verify`, as with `pull`.
3. Every platform has the same Python, in the same place: the environments above it are the same files for all.
4. The image that only compiles byte code (for this host, when it builds for others) has the very same version.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import (
    ImageRefusedError,
    InputError,
    IntermodalError,
    RegistryError,
    RequirementError,
    StoreError,
    UnknownImageError,
)
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import LAYER_COMPRESSION, Descriptor
from intermodal.oci.layout import Store
from intermodal.oci.partial import PartialBlob
from intermodal.oci.verify import verify_layer
from intermodal.registry.client import Document, Registries, Repository
from intermodal.registry.crowd import StoppableTask, each, stoppable
from intermodal.registry.documents import Index, Manifest, parse_config, parse_manifest
from intermodal.registry.download import download
from intermodal.registry.reference import RemoteReference, parse_remote
from intermodal.rooms.lock.reading import VARIABLE
from intermodal.rooms.lock.registry_base.python import Found, find_python
from intermodal.rooms.lock.registry_base.tree import Stored, Tree
from intermodal.rooms.lock.rows import BaseImageRow, BaseLayerRow, BaseLock

Answer = TypeVar("Answer")


def is_registry_base(reference: str) -> bool:
    """Whether a project's `base` is an image of a registry."""
    return not reference.startswith("deb:")


def remote(reference: str) -> RemoteReference:
    """The image that a project's `base` names.

    Raises:
        InputError: it is no image in a registry; the message names the other kind of base.
    """
    try:
        return parse_remote(reference, "latest")
    except InputError as error:
        bases = 'base = "deb:bookworm", "deb:trixie", or an image such as "docker.io/library/python:3.12-slim"'
        raise RequirementError(f"not a base: {reference!r}", found=error.found, next=bases) from error


def resolve_image(
    reference: str,
    platforms: Sequence[str],
    *,
    host: Host,
    events: Events = SILENT,
    compiler: str = "",
    wanted: str = "",
) -> BaseLock:
    """The base that `reference` stands for now, for every platform; its layers are in the local store.

    Args:
        reference: as the project writes it.
        platforms: "linux/amd64", "linux/arm64".
        host: this machine: its registries, credentials and store.
        events: told while layers are fetched and read.
        compiler: the platform whose interpreter compiles byte code, when it is none of `platforms`.
        wanted: the Python asked for, "3.12"; "" takes the base's first.

    Raises:
        RequirementError: no image for a platform, or no Python in it that can be used.
        RegistryError, DownloadError: the registry, or what lies between.
        ImageRefusedError: the image breaks its format.
    """
    place = remote(reference)
    store = Store(host.data_dir / "store").open_or_create()
    rows, pythons = [], {}
    with store.session(), _bases(place, host) as bases:
        sources = bases.sources
        top = _first(sources, lambda source: source.manifest(place.target))
        for platform in (*platforms, *([compiler] if compiler else [])):
            manifest, config = _image(sources, top, place, platform, compiler=platform == compiler)
            layers = _layer_rows(manifest, config)
            _fetch(layers, bases, store, events)
            variables = _variables(config)
            with events.task(f"look for Python in {place} for {platform}"):
                tree = Tree([Stored(store.path(row.digest), row) for row in layers])
                found = pythons[platform] = find_python(tree, variables, str(place), wanted)
            rows.append(
                BaseImageRow(
                    platform=platform,
                    manifest=manifest.descriptor.digest,
                    layers=tuple(replace(row, tar_bytes=n) for row, n in zip(layers, tree.tar_bytes, strict=True)),
                    environment=tuple(f"{name}={value}" for name, value in sorted(variables.items())),
                    library=found.library,
                )
            )
    one = _same(pythons, reference)
    return BaseLock(
        reference=reference,
        suite="",
        python=one.minor,
        python_version=one.version,
        date="",
        packages=(),
        digest=top.descriptor.digest,
        images=tuple(rows),
        interpreter=one.interpreter,
        glibc=min(found.glibc for found in pythons.values()),
    )


def fetch_layers(base: BaseLock, platform: str, *, store: Store, host: Host, events: Events = SILENT) -> None:
    """Let the store hold every layer of a locked base; the caller has a session.

    Raises:
        RegistryError, DownloadError, UnknownImageError: a missing one cannot be had.
    """
    rows = base.image(platform).layers
    if not all(_held(row, store) for row in rows):
        with _bases(remote(base.reference), host) as bases:
            _fetch(rows, bases, store, events)


def moved(base: BaseLock, host: Host) -> str:
    """What a locked base's name stands for by now, in a sentence; "" while it is what was locked.

    Raises:
        RegistryError: the registry cannot be asked, so nobody knows.
    """
    place = remote(base.reference)
    if place.digest is not None or base.digest is None:
        return ""
    with Registries(host) as registries:
        now = registries.repository(place).find_manifest(place.target)
    if now is None:
        return f"base {base.reference} is gone from its registry"
    if now.digest == base.digest:
        return ""
    return (
        f"base {base.reference} has moved: locked is {base.digest.short}, now it is {now.digest.short}; "
        f"intermodal lock PATH --upgrade {base.reference} takes that one"
    )


def _first(sources: Sequence[Repository], ask: Callable[[Repository], Answer]) -> Answer:
    """The answer of the first source that has one; the registry itself has the last word."""
    for source in sources[:-1]:
        with suppress(RegistryError, UnknownImageError, ImageRefusedError):
            return ask(source)
    return ask(sources[-1])


def _image(
    sources: Sequence[Repository], top: Document, place: RemoteReference, platform: str, *, compiler: bool
) -> tuple[Manifest, bytes]:
    """The manifest and the config of one platform."""
    parsed = parse_manifest(top.data, top.descriptor)
    stated = None
    if isinstance(parsed, Index):
        member = next((item for item in parsed.manifests if item.platform == platform), None)
        if member is None:
            raise _not_for(place, platform, [item.platform or "?" for item in parsed.manifests], compiler)
        stated = platform
        document = _first(sources, lambda source: source.manifest(str(member.digest), _bare(member)))
        parsed = parse_manifest(document.data, document.descriptor)
    if not isinstance(parsed, Manifest) or not parsed.is_image:
        raise RequirementError(f"the base {place} is no image", found="an artifact, or an index inside an index")
    manifest = parsed
    data = _first(sources, lambda source: source.small_blob(manifest.config))
    config = parse_config(data, manifest, stated)
    if config.platform != platform:
        raise _not_for(place, platform, [config.platform], compiler)
    return manifest, data


def _bare(item: Descriptor) -> Descriptor:
    return Descriptor(item.media_type, item.digest, item.size_bytes)


def _not_for(place: RemoteReference, platform: str, there: Sequence[str], compiler: bool) -> RequirementError:
    return RequirementError(
        f"the base {place} has nothing for {platform}" + (", which would compile byte code here" if compiler else ""),
        found=f"platforms {', '.join(dict.fromkeys(there))}",
        next='bytecode = "none" under [environment] goes without'
        if compiler
        else "take a base that has it, or leave that platform out under [environment]",
    )


def _layer_rows(manifest: Manifest, config: bytes) -> list[BaseLayerRow]:
    diff_ids = parse_config(config, manifest).diff_ids
    return [
        BaseLayerRow(item.digest, diff_id, item.size_bytes, item.media_type)
        for item, diff_id in zip(manifest.layers, diff_ids, strict=True)
    ]


def _variables(config: bytes) -> Mapping[str, str]:
    """The variables of a config that go on to the image: not Python's own, which would change what the model sees."""
    listed = (json.loads(config).get("config") or {}).get("Env") or ()
    pairs = [str(item).partition("=") for item in listed if VARIABLE.match(str(item)) and str(item).isprintable()]
    return {name: value for name, _, value in pairs if not name.startswith(("PYTHON", "LD_PRELOAD"))}


class _Bases(Struct, frozen=True):
    """Where a base is fetched from, and how that ends."""

    registries: Registries
    sources: tuple[Repository, ...]
    stop: threading.Event


@contextmanager
def _bases(place: RemoteReference, host: Host) -> Iterator[_Bases]:
    stop = threading.Event()
    with Registries(host, stoppable(None, stop)) as registries:
        yield _Bases(registries, tuple(registries.sources(place)), stop)


def _fetch(rows: Sequence[BaseLayerRow], bases: _Bases, store: Store, events: Events) -> None:
    """Let the store hold these layers, each read through before it gets its name."""
    missing = list({row.digest: row for row in rows if not _held(row, store)}.values())
    if not missing:
        return
    total = sum(row.size_bytes for row in missing)
    with events.task(f"pull the base from {bases.sources[-1]}", total=total, unit="bytes") as task:
        stoppable_task = StoppableTask(task, bases.stop)
        largest_first = sorted(missing, key=lambda row: -row.size_bytes)
        each(lambda row: _fetch_one(row, bases, store, stoppable_task), largest_first, bases.stop, bases.registries)


def _fetch_one(row: BaseLayerRow, bases: _Bases, store: Store, task: StoppableTask) -> None:
    blob = Descriptor(row.media_type, row.digest, row.size_bytes)
    with PartialBlob(store.root, blob) as part:
        if part.present:
            return
        task.advance(part.have)
        download(bases.sources, blob, part, task)
        try:
            verify_layer(part.settled(), row.digest, row.diff_id, LAYER_COMPRESSION[row.media_type])
        except (InputError, StoreError) as error:
            part.restart()
            raise ImageRefusedError(
                f"the base is refused: {error.message}",
                found=(f"layer {row.digest}", *error.found),
                next="ask whoever published it; nothing of that layer was kept",
            ) from error
        except IntermodalError:
            part.restart()
            raise
        part.commit()


def _held(row: BaseLayerRow, store: Store) -> bool:
    path = store.path(row.digest)
    return path.is_file() and path.stat().st_size == row.size_bytes


def _same(pythons: Mapping[str, Found], reference: str) -> Found:
    found = list(pythons.values())
    if len({(one.interpreter, one.version) for one in found}) > 1:
        raise RequirementError(
            f"the platforms of the base {reference} have different Pythons",
            found=[f"{platform}: {one.interpreter}, {one.version}" for platform, one in pythons.items()],
            next="take a base whose images were made together, or make one image per platform",
        )
    return found[0]
