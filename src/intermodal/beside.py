"""The commands beside the corridor: they look at what it made, or offer it to others.

Takes names as the user gave them, hands back values; like `pipeline` it prints nothing and does no I/O of its own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal import pipeline
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.image import Image
from intermodal.oci.layout import Store

if TYPE_CHECKING:
    from intermodal.diff import Report
    from intermodal.project.value import Project
    from intermodal.registry.loopback import StoreServer
    from intermodal.rooms.build.dockerfile import Context
    from intermodal.rooms.check.load import LoadReport
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal.rooms.inspect.stored import ImageCard
    from intermodal.rooms.lock.rows import Lock


def serve_store(*, host: Host, events: Events = SILENT, address: str = "127.0.0.1", port: int = 0) -> StoreServer:
    """The local store as a read-only registry that listens at `address`; its `serve` answers until interrupted.

    Raises:
        PortTakenError: somebody listens there.
        InputError: this machine has no such address.
    """
    from intermodal.registry.loopback import StoreServer

    return StoreServer(pipeline.open_store(host), address=address, port=port, events=events)


def diff(before: str, after: str, *, host: Host, events: Events = SILENT) -> Report:
    """What is different between two images: names, digests, `oci:DIR[:TAG]`, or projects, which are built.

    Raises:
        UnknownImageError: one of them is not there.
        StoreError: one of them is damaged.
    """
    from intermodal.diff import diff as compare
    from intermodal.diff import find

    store = pipeline.open_store(host)

    def named(reference: str) -> str:
        if not Path(reference).exists():
            return reference
        return str(pipeline.build(Path(reference), host=host, events=events).digest)

    sides = [find(named(reference), store) for reference in (before, after)]
    return compare(sides[0].called(before), sides[1].called(after), events)


def inspect_image(reference: str, *, host: Host, events: Events = SILENT, plain_http: bool = False) -> ImageCard:
    """What an image says of itself in its labels: one of the local store, else one of a registry; no layer is read."""
    from intermodal.rooms.inspect.stored import inspect_reference

    store = pipeline.open_store(host)
    return inspect_reference(reference, store=store, host=host, events=events, plain_http=plain_http)


def dockerfile(
    path: Path,
    folder: Path,
    *,
    host: Host,
    events: Events = SILENT,
    tag: str | None = None,
    lock_file: Path | None = None,
    wheels: bool = False,
    mounts: bool = True,
) -> Context:
    """The folder that now holds a Dockerfile for the project at `path`, and all that it copies.

    Args:
        path: project folder, project file, or bare model.
        folder: missing, empty, or one that this function wrote.
        host: this machine.
        events: where progress goes.
        tag: NAME[:TAG] of the image; default: the project's name and version.
        lock_file: where the lock is kept, if not where it usually is.
        wheels: put every wheel into it, so that building needs no network.
        mounts: use BuildKit's mounts.
    """
    store = pipeline.open_store(host)
    return _context(_locked(path, tag, lock_file, host, events), folder, store, host, events, wheels, mounts)


def build_with(
    builder: str,
    path: Path,
    *,
    host: Host,
    events: Events = SILENT,
    tag: str | None = None,
    output: str | None = None,
    lock_file: Path | None = None,
) -> Image:
    """The image of the project at `path`, built from its Dockerfile by docker, podman or buildah; also in the store.

    Raises:
        EngineError: the engine is missing, or a step failed.
    """
    from intermodal.engine.dockerfile import build_folder, knows_mounts
    from intermodal.engine.export import write_out
    from intermodal.host.held import scratch

    began = time.monotonic()
    store = pipeline.open_store(host)
    mounts = knows_mounts(builder, host)
    if not mounts:
        events.notice("this Docker has no BuildKit (docker buildx): building without its cache mounts")
    locked = _locked(path, tag, lock_file, host, events)
    name = f"{locked.project.name}:{locked.project.version}"
    before = {image.name for image in store.images()}
    with store.session(), scratch(host.temporary_dir) as temporary:  # `prune` waits until all of it has a name
        context = _context(locked, temporary / "context", store, host, events, wheels=True, mounts=mounts)
        base = context.base
        built = build_folder(
            context.folder, name, base.digest, base.name,
            builder=builder, mounts=mounts, store=store, host=host, events=events,
        )  # fmt: skip
        store.tag(name, built.manifest)
        if base.name not in before:  # only `dockerfile` promises that it stays
            store.change_index(lambda listed: [item for item in listed if item.digest != base.digest])
    image = Image(
        name=name,
        descriptor=built.manifest,
        manifests=(built.manifest,),
        layers=built.layers,
        lock_digest=context.lock_digest,
        platforms=(base.platform,),
        seconds=time.monotonic() - began,
    )
    if output is not None:
        write_out(image, output, store, host)
    return image


class _Locked(Struct, frozen=True):
    project: Project
    card: ModelCard
    lock: Lock


def _locked(path: Path, tag: str | None, lock_file: Path | None, host: Host, events: Events) -> _Locked:
    """A project, inspected and locked as `build` would."""
    from intermodal.rooms.lock.obtain import obtain

    project = pipeline.load(path, host=host, events=events, lock_file=lock_file)
    if tag is not None:
        project = pipeline.retag(project, tag)
    card = pipeline.safe_card(project, host, events)
    found, _ = obtain(card, project, host=host, events=events)
    return _Locked(project, card, found)


def _context(
    locked: _Locked, folder: Path, store: Store, host: Host, events: Events, wheels: bool, mounts: bool
) -> Context:
    from intermodal.rooms.build.dockerfile import local_base, write_context

    project, card, lock = locked.project, locked.card, locked.lock
    base = local_base(lock, card, project, store=store, host=host, events=events)
    return write_context(lock, card, project, base, folder, host=host, events=events, wheels=wheels, mounts=mounts)


def send_load(
    reference: str,
    *,
    rate_per_s: float,
    host: Host,
    url: str = "",
    deployed: Mapping[str, str] | None = None,
    seconds: float | None = None,
    api_key: str = "",
    events: Events = SILENT,
) -> LoadReport:
    """What came of sending an image's golden inputs at a steady rate, until interrupted or for `seconds`.

    Args:
        reference: the image, by name, digest or project.
        rate_per_s: requests a second.
        host: this machine.
        url: where to send them; "" is where the model is deployed.
        deployed: endpoints by model.
        seconds: how long; None until Ctrl-C.
        api_key: where the key that requests carry is, env:NAME or file:PATH; "" for none.
        events: told every second.

    Raises:
        InputError: no cases, no address, no such key, or the model is not deployed.
    """
    from intermodal.engine.image import read_image, unpacked_layers
    from intermodal.errors import InputError
    from intermodal.oci.folder_once import folders_in_use
    from intermodal.rooms.check.load import Load
    from intermodal.rooms.check.metadata import read_metadata
    from intermodal.rooms.deploy.secrets import resolve_secrets

    key = resolve_secrets([("api_key", api_key)], host)["api_key"].decode("latin-1").strip() if api_key else ""
    store = pipeline.open_store(host)
    manifest = pipeline.manifest_of(reference, store, host, events)
    with folders_in_use(host.cache_dir):
        found = read_metadata(unpacked_layers(store, read_image(store, manifest), host, events))
    model = found.settings.name
    if not url:
        url = (deployed or {}).get(model, "")
        if not url:
            raise InputError(
                f"there is nobody to send requests to: {model} is not deployed",
                next=(f"intermodal deploy {reference}", "or name a server: --url http://127.0.0.1:8080"),
            )
    cases = found.golden.cases if found.golden is not None else ()
    return Load(cases, url, model, rate_per_s=rate_per_s, api_key=key).run(seconds=seconds, events=events)
