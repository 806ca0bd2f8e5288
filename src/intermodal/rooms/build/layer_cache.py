"""Layers remembered by what they are made of, so that a warm build reads no package.

Takes the identity of a layer (every hash and rule version that decides its bytes) and a function that writes
it; hands on its `LayerInfo`, from the cache when the store still holds the bytes.

Rules: an identity must name everything that decides bytes, and nothing else; an entry counts only while the
store has the blob, in the size it had; a damaged entry is no entry; entries are replaced by rename.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.host import Host
from intermodal.host.files import write_atomically
from intermodal.oci.blob import BlobWriter
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store


def layer_key(identity: Mapping[str, object]) -> str:
    """The name of a layer's cache entry: a hash over its identity, which must be JSON."""
    return Digest.of(canonical_json(identity)).hex


def cached_layer(
    identity: Mapping[str, object],
    write: Callable[[BlobWriter], LayerInfo],
    *,
    store: Store,
    host: Host,
) -> LayerInfo:
    """The layer of this identity: `reused` when it was there, else written into the store now.

    Args:
        identity: everything that decides the layer's bytes, as JSON values.
        write: writes the layer into the sink it is given and returns what it wrote, with kind and title.
        store: where the bytes go; the caller holds a session.
        host: whose cache remembers the entry.
    """
    key = layer_key(identity)
    if (known := recall_layer(key, store=store, host=host)) is not None:
        return known
    with store.writer() as sink:
        info = write(sink)
        sink.commit(info.digest)
    _remember(key, info, host)
    return info


def recall_layer(key: str, *, store: Store, host: Host) -> LayerInfo | None:
    """The remembered layer, when the store still holds its bytes."""
    try:
        document = json.loads((host.cache_dir / "layers" / f"{key}.json").read_bytes())
        info = LayerInfo(
            Digest.parse(document["digest"]),
            Digest.parse(document["diff_id"]),
            int(document["size_bytes"]),
            int(document["tar_bytes"]),
            str(document["kind"]),
            str(document["title"]),
            reused=True,
            pruned_bytes=int(document["pruned_bytes"]),
        )
        stored_bytes = store.path(info.digest).stat().st_size
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return None
    return info if stored_bytes == info.size_bytes else None


def _remember(key: str, info: LayerInfo, host: Host) -> None:
    info = replace(info, reused=False)
    folder = host.cache_dir / "layers"
    document = {
        "digest": str(info.digest),
        "diff_id": str(info.diff_id),
        "size_bytes": info.size_bytes,
        "tar_bytes": info.tar_bytes,
        "kind": info.kind,
        "title": info.title,
        "pruned_bytes": info.pruned_bytes,
    }
    write_atomically(folder / f"{key}.json", canonical_json(document), host.temporary_dir)
