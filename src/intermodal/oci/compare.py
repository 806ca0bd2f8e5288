"""Where two images differ: which layer, which entry, which field.

Takes two listings, hands on differences, in the order of the image; none exactly when both digests are equal.

Rules, in order:
1. Layers are paired by title (the n-th of a title with the n-th), so a layer that is new or gone moves no other.
2. Within a pair, entries are paired by path: new, gone, or the fields that differ.
3. A layer whose tar is the same but whose stored bytes are not was compressed otherwise; the gzip members that differ
   are named by the entries they hold.
4. Documents are compared value by value. Digests and sizes that only repeat what the layers say are left out.
5. What no rule explains is still a difference, and says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from intermodal.oci.listing import ImageListing, LayerListing, ListedEntry, Member

FIELDS = ("kind", "mode", "owner", "names", "mtime", "size", "target", "content")
ABSENT = "(none)"
_REPEATED = ("layers", "config.digest", "config.size", "rootfs.diff_ids")  # said by the layers, or follows from them


class Difference(Struct, frozen=True):
    """One fact in two versions; `before` or `after` is `ABSENT` where one side has nothing."""

    where: str  # "layer 3 (alpha 1.0), entry opt/venv/pyvenv.cfg", "config"
    field: str  # "mtime", "Env[2]"; "" when the whole of it came or went
    before: str
    after: str

    def __str__(self) -> str:
        what = f", field {self.field}" if self.field else ""
        return f"{self.where}{what}: {self.before} -> {self.after}"


def compare(before: ImageListing, after: ImageListing) -> tuple[Difference, ...]:
    """Every difference between two images; empty when their digests are equal.

    >>> compare(ImageListing("sha256:a", {}, {}), ImageListing("sha256:b", {"x": 1}, {}))[0].field
    'x'
    """
    if before.digest == after.digest:
        return ()
    found = [
        *_layers(before.layers, after.layers),
        *_documents("manifest", before.manifest, after.manifest),
        *_documents("config", before.config, after.config),
    ]
    return tuple(found) or (Difference("image", "digest, though all it names is equal", before.digest, after.digest),)


def _layers(before: Sequence[LayerListing], after: Sequence[LayerListing]) -> Iterator[Difference]:
    old, new = _by_title(before), _by_title(after)
    for key, (number, layer) in old.items():
        if key not in new:
            yield Difference(_name(number, layer), "", layer.digest, ABSENT)
            continue
        yield from _layer(_name(new[key][0], layer), layer, new[key][1])
    for key, (number, layer) in new.items():
        if key not in old:
            yield Difference(_name(number, layer), "", ABSENT, layer.digest)
    order = [key for key in old if key in new], [key for key in new if key in old]
    if order[0] != order[1]:
        yield Difference("layers", "order", *(", ".join(title for title, _ in keys) for keys in order))


def _by_title(layers: Sequence[LayerListing]) -> dict[tuple[str, int], tuple[int, LayerListing]]:
    """Layers by title and how many of that title stand below; with their number, which counts from 1."""
    seen: Counter[str] = Counter()
    found = {}
    for number, layer in enumerate(layers, 1):
        found[layer.title, seen[layer.title]] = (number, layer)
        seen[layer.title] += 1
    return found


def _name(number: int, layer: LayerListing) -> str:
    return f"layer {number} ({layer.title})" if layer.title else f"layer {number}"


def _layer(where: str, before: LayerListing, after: LayerListing) -> Iterator[Difference]:
    if before.digest == after.digest:
        return
    if before.diff_id == after.diff_id:
        yield Difference(where, "stored bytes of the same tar", f"{before.size} bytes", f"{after.size} bytes")
        yield from _members(where, before, after)
        return
    explained = list(_entries(where, before.entries, after.entries))
    yield from explained or [Difference(where, "tar bytes outside all entries", before.diff_id, after.diff_id)]


def _entries(where: str, before: Sequence[ListedEntry], after: Sequence[ListedEntry]) -> Iterator[Difference]:
    old, new = ({entry.path: entry for entry in entries} for entries in (before, after))
    for path, entry in old.items():
        other = new.get(path)
        if other is None:
            yield Difference(f"{where}, entry {path}", "", _summary(entry), ABSENT)
            continue
        named = [name for name in FIELDS if getattr(entry, name) != getattr(other, name)]
        if not named and entry.header != other.header:
            named = ["header"]
        for name in named:
            yield Difference(f"{where}, entry {path}", name, str(getattr(entry, name)), str(getattr(other, name)))
    for path, entry in new.items():
        if path not in old:
            yield Difference(f"{where}, entry {path}", "", ABSENT, _summary(entry))
    order = [path for path in old if path in new], [path for path in new if path in old]
    if order[0] != order[1]:
        first = next(i for i, pair in enumerate(zip(*order, strict=True)) if pair[0] != pair[1])
        yield Difference(where, f"order, from entry {first + 1}", order[0][first], order[1][first])
    for entries, words in ((before, "before"), (after, "after")):
        for path, times in Counter(entry.path for entry in entries).items():
            if times > 1:
                yield Difference(f"{where}, entry {path}", f"times it is stored {words}", "1", str(times))


def _summary(entry: ListedEntry) -> str:
    return f"{entry.kind} {entry.mode}" + (f" of {entry.size} bytes" if entry.kind == "file" else "")


def _members(where: str, before: LayerListing, after: LayerListing) -> Iterator[Difference]:
    """The gzip members that differ, by the entries whose bytes they hold."""
    starts = [entry.tar_offset for entry in before.entries]

    def words(member: Member) -> str:
        first = before.entries[max(0, bisect_right(starts, member.tar_offset) - 1)].path if starts else "?"
        return f"{where}, gzip member at tar byte {member.tar_offset} (from {first} on)"

    old, new = ({member.tar_offset: member for member in layer.members} for layer in (before, after))
    for offset in sorted(old.keys() | new.keys()):
        one, other = old.get(offset), new.get(offset)
        if one != other:
            known = one or other
            assert known is not None
            yield Difference(words(known), "stored", _stored(one), _stored(other))


def _stored(member: Member | None) -> str:
    return ABSENT if member is None else f"{member.stored} bytes, sha256 {member.digest}…"


def _documents(where: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    old, new = (dict(_flat("", document)) for document in (before, after))
    for key in [*old, *(key for key in new if key not in old)]:
        if key.startswith(_REPEATED) and not key.endswith("mediaType"):
            continue
        if old.get(key, ABSENT) != new.get(key, ABSENT):
            yield Difference(where, key, old.get(key, ABSENT), new.get(key, ABSENT))


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """Every value inside a document, with the way to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        pairs = [str(item).partition("=") for item in value]
        if pairs and all(name and equals for name, equals, _ in pairs):  # variables: one more must not move the rest
            yield from ((f"{prefix}[{name}]", repr(inner)) for name, _, inner in pairs)
            return
        for number, inner in enumerate(value):
            yield from _flat(f"{prefix}[{number}]", inner)
    else:
        yield prefix, repr(value)
