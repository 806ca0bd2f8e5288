"""A layer read to its end without writing any of it: both digests, and every entry against the rules.

Takes a file with the stored bytes, hands on what was noticed. For layers that somebody else made, before they may be
seen: whoever unpacks them later keeps the same rules again.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.host.files import failure
from intermodal.oci.descriptor import Compression
from intermodal.oci.digest import Digest
from intermodal.oci.layer_rules import LayerRules
from intermodal.oci.layer_stream import LIMITS, LayerStream, Limits
from intermodal.oci.tar_reader import read_entries


class LayerFacts(Struct, frozen=True):
    """What a verified layer holds."""

    entries: int
    setuid: tuple[str, ...]  # files that would lend their owner's rights; unpacking strips that


def verify_layer(
    path: Path, digest: Digest, diff_id: Digest, compression: Compression, *, limits: Limits = LIMITS
) -> LayerFacts:
    """What the layer at `path` holds, once all of it is known to be right and harmless to unpack.

    Raises:
        StoreError: it is damaged, or one of its digests is another.
        UnsafePathError, DuplicatePathError, InputError: an entry breaks a rule of `layer_rules`, or it is a bomb.
    """
    rules, setuid, count = LayerRules(limits), [], 0
    try:
        with path.open("rb", buffering=0) as stored:
            stream = LayerStream(stored, limits, compression)
            for entry in read_entries(stream):
                place = rules.admit(entry)
                count += 1
                if entry.mode & 0o6000 and entry.kind == "file":
                    setuid.append(place)
                left = entry.size_bytes
                for piece in stream.pieces(left):
                    left -= len(piece)
                if left:
                    raise InputError("the layer's tar ends in the middle of a file", found=entry.path)
            stream.finish(digest, diff_id)
    except OSError as error:
        raise failure(f"cannot read layer {digest.short}", path, error) from error
    return LayerFacts(count, tuple(setuid))
