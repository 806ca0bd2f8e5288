"""What an engine must know of a stored image: its layers, and what to run in them.

Takes a manifest's digest, hands on `RunnableImage` and unpacked layers. Everything is checked here, because an image
may have been made by anybody: the engine after this believes what it holds.

Spec: OCI image-spec 1.1, "OCI Image Manifest"; "OCI Image Configuration".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from intermodal.engine.doors import serves_grpc
from intermodal.errors import EngineError, StoreError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import LAYER_COMPRESSION, Compression
from intermodal.oci.digest import Digest
from intermodal.oci.unpack import unpack_layer
from intermodal_server.contract import USER_ID

MAX_LAYERS = 500  # what the kernel stacks, roughly; engines stop at 127


class ImageStore(Protocol):
    """The part of the store that engines need."""

    def path(self, digest: Digest) -> Path:
        """Where the bytes of `digest` lie."""
        ...

    def read_bytes(self, digest: Digest) -> bytes:
        """A small document, verified."""
        ...


class LayerRef(Struct, frozen=True):
    """One layer, as stored and as tar."""

    digest: Digest
    diff_id: Digest
    size_bytes: int
    compression: Compression = "gzip"


class RunnableImage(Struct, frozen=True):
    """An image as an engine sees it."""

    digest: Digest  # of the manifest
    layers: tuple[LayerRef, ...]  # lowest first
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str  # working directory
    uid: int
    gid: int
    platform: str
    labels: Mapping[str, str]
    grpc: bool = False  # serves it


def read_image(store: ImageStore, digest: Digest) -> RunnableImage:
    """The image behind a manifest.

    Raises:
        StoreError: a document is missing, damaged, or contradicts another.
        EngineError: a layer is of a kind the sandbox cannot unpack, or nothing says what to run.
    """
    try:
        manifest = _document(store, digest)
        config = _document(store, Digest.parse(manifest["config"]["digest"]))
        diff_ids = [Digest.parse(text) for text in config["rootfs"]["diff_ids"]]
        stored = manifest["layers"]
        if len(diff_ids) != len(stored) or not 0 < len(stored) <= MAX_LAYERS:
            raise StoreError(
                f"image {digest.short} contradicts itself",
                found=f"{len(stored)} layers in the manifest, {len(diff_ids)} in the config",
            )
        for layer in stored:
            if layer["mediaType"] not in LAYER_COMPRESSION:
                raise EngineError(
                    "the sandbox cannot unpack this image",
                    found=f"a layer of type {layer['mediaType']}",
                    next="run it with another engine",
                )
        settings = config.get("config") or {}
        argv = (*(settings.get("Entrypoint") or ()), *(settings.get("Cmd") or ()))
        if not argv:
            raise EngineError(f"image {digest.short} does not say what to run", found="no Entrypoint and no Cmd")
        uid, gid = _user(str(settings.get("User") or ""))
        return RunnableImage(
            digest=digest,
            layers=tuple(
                LayerRef(
                    Digest.parse(layer["digest"]),
                    diff_id,
                    int(layer["size"]),
                    LAYER_COMPRESSION[layer["mediaType"]],
                )
                for layer, diff_id in zip(stored, diff_ids, strict=True)
            ),
            argv=tuple(str(part) for part in argv),
            environment=dict(str(item).split("=", 1) for item in settings.get("Env") or () if "=" in str(item)),
            folder=str(settings.get("WorkingDir") or "/"),
            uid=uid,
            gid=gid,
            platform=f"{config.get('os')}/{config.get('architecture')}",
            labels={str(k): str(v) for k, v in (settings.get("Labels") or {}).items()},
            grpc=serves_grpc(settings),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"image {digest.short} has a damaged manifest or config", found=repr(error)) from error


def _document(store: ImageStore, digest: Digest) -> dict[str, Any]:
    """A JSON object of the store."""
    document = json.loads(store.read_bytes(digest))
    if not isinstance(document, dict):
        raise TypeError(f"{digest.short} is no JSON object")
    return document


def _user(text: str) -> tuple[int, int]:
    """The numeric user and group; ours for root, for nobody in particular, and for a bare name."""
    user, _, group = text.partition(":")
    if not user.isdigit() or not 0 < int(user) < 1 << 31:
        return USER_ID, USER_ID
    return int(user), int(group) if group.isdigit() and 0 < int(group) < 1 << 31 else int(user)


def unpacked_layers(store: ImageStore, image: RunnableImage, host: Host, events: Events = SILENT) -> tuple[Path, ...]:
    """The folders of all layers, lowest first, unpacked where they are not yet.

    Raises:
        StoreError, InputError: a layer is damaged or hostile (see `oci.unpack`).
    """
    root = host.cache_dir / "rootfs"
    missing = [layer for layer in image.layers if not (root / layer.diff_id.hex).is_dir()]
    if missing:
        from concurrent.futures import ThreadPoolExecutor

        total = sum(layer.size_bytes for layer in missing)
        with (
            events.task("unpack layers", total=total, unit="bytes") as task,
            ThreadPoolExecutor(max(1, min(4, host.cores))) as pool,
        ):

            def unpack(layer: LayerRef) -> None:
                unpack_layer(store, layer.digest, layer.diff_id, root, layer.compression)
                task.advance(layer.size_bytes)

            for _ in pool.map(unpack, sorted(set(missing), key=lambda layer: -layer.size_bytes)):
                pass
    return tuple(unpack_layer(store, layer.digest, layer.diff_id, root, layer.compression) for layer in image.layers)
