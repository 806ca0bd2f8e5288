"""An image out of the archive that `docker save`, `podman save` and `buildah push` write, into the store.

Takes the archive's file, hands on the manifest's descriptor; everything is hashed on the way and compared with what
the image's config says.

Rules, in order:
1. `manifest.json` names one image: its config, and its layers as plain tars (a compressed one is inflated).
2. The config's bytes stay as they are: their digest is how the engine knows the image.
3. A layer whose diff id some image of the store has already is not stored again; any other is packed as ours are.
4. Names in the archive are looked up among its members, never on the disk.

Spec: Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from msgspec import Struct

from intermodal.errors import IntermodalError, StoreError
from intermodal.oci import member
from intermodal.oci.descriptor import (
    CONFIG,
    INDEXES,
    LAYER_COMPRESSION,
    LAYER_GZIP,
    MANIFEST,
    Descriptor,
    LayerInfo,
)
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import MAX_BYTES, manifest_bytes, parse_descriptor

_GZIP = b"\x1f\x8b"


class Imported(Struct, frozen=True):
    """An image of an archive, in the store; it has no name there yet."""

    manifest: Descriptor
    layers: tuple[LayerInfo, ...]


def import_archive(path: Path, store: Store) -> Imported:
    """The image in the archive, which the store now holds.

    Raises:
        StoreError: the file is no such archive, is damaged, or cannot be stored.
    """
    try:
        with tarfile.open(path) as archive, store.session():
            (image,) = json.loads(_read(archive, "manifest.json"))
            config = _read(archive, image["Config"])
            document = json.loads(config)
            diff_ids = [Digest.parse(text) for text in document["rootfs"]["diff_ids"]]
            names = [str(name) for name in image["Layers"]]
            known = _known(store)
            titles = _titles(document, len(names))
            stored = [
                _layer(archive, name, diff_id, title, known, store)
                for name, diff_id, title in zip(names, diff_ids, titles, strict=True)
            ]
            platform = f"{document.get('os', 'linux')}/{document['architecture']}"
            described = Descriptor(CONFIG, *store.put_bytes(config))
            manifest = manifest_bytes(described, [descriptor for descriptor, _ in stored])
            found = Descriptor(MANIFEST, *store.put_bytes(manifest), platform=platform)
            return Imported(found, tuple(info for _, info in stored))
    except (tarfile.TarError, KeyError, ValueError, TypeError, EOFError, RecursionError, OSError) as error:
        raise StoreError("an engine's archive of the image cannot be read", found=str(error) or repr(error)) from error


def _layer(
    archive: tarfile.TarFile, name: str, diff_id: Digest, title: str, known: Mapping[Digest, Descriptor], store: Store
) -> tuple[Descriptor, LayerInfo]:
    """The layer, stored."""
    with _open(archive, name) as raw, store.writer() as writer:
        packed = raw.read(2) == _GZIP
        if diff_id in known and not packed:
            found = known[diff_id]
            tar_bytes = raw.seek(0, io.SEEK_END)
            return found, LayerInfo(found.digest, diff_id, found.size_bytes, tar_bytes, title=title, reused=True)
        raw.seek(0)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
        hasher, tar_bytes = hashlib.sha256(), 0
        while piece := stream.read(member.PIECE_BYTES):
            hasher.update(piece)
            tar_bytes += len(piece)
            writer.write(member.packed(piece))
        if hasher.hexdigest() != diff_id.hex:
            raise StoreError(
                "an engine's archive holds another layer than its config says",
                found=(f"stated {diff_id}", f"actual sha256:{hasher.hexdigest()}"),
            )
        digest, size_bytes = writer.commit()
        return Descriptor(LAYER_GZIP, digest, size_bytes), LayerInfo(
            digest, diff_id, size_bytes, tar_bytes, title=title
        )


def _titles(config: Mapping[str, Any], count: int) -> list[str]:
    """What made each layer, as the config's history tells it."""
    steps = [step for step in config.get("history") or () if not step.get("empty_layer")]
    found = [str(step.get("created_by") or step.get("comment") or "") for step in steps]
    return found if len(found) == count else [""] * count


def _known(store: Store) -> dict[Digest, Descriptor]:
    """Every layer of the listed images by its diff id, when the store has it; damaged images are left out."""
    found: dict[Digest, Descriptor] = {}
    waiting = store.listed()
    while waiting:
        item = waiting.pop()
        with suppress(IntermodalError, KeyError, TypeError):
            document: Mapping[str, Any] = store.document(item)
            if item.media_type in INDEXES:
                waiting += [parse_descriptor(each) for each in document["manifests"]]
                continue
            layers = [parse_descriptor(each) for each in document["layers"]]
            diff_ids = [Digest.parse(text) for text in store.config(item)["rootfs"]["diff_ids"]]
            for diff_id, layer in zip(diff_ids, layers, strict=False):
                if layer.media_type in LAYER_COMPRESSION and store.has(layer.digest):
                    found[diff_id] = Descriptor(layer.media_type, layer.digest, layer.size_bytes)
    return found


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    with _open(archive, name) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES} bytes")
    return data


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A member's content; podman stores equal layers once and links to them."""
    stream = archive.extractfile(name)  # follows links inside the archive only
    if stream is None:
        raise ValueError(f"{name} is no file")
    return stream
