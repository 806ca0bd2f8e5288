"""The golden listing as text: one line per entry and gzip member, so that a change is a readable diff.

Takes an `ImageListing`, hands on JSON; and back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from intermodal.oci.compare import Difference, compare
from intermodal.oci.listing import ImageListing, LayerListing, ListedEntry, Member

RECORD = Path(__file__).with_name("recorded.json")
REGENERATE = "python -m tests.golden_digest --regenerate"
SHOWN = 40


def text(listing: ImageListing) -> str:
    """The listing as JSON text, ended by a line feed."""
    lines = ["{", f' "digest": {json.dumps(listing.digest)},']
    lines += [f' "{name}": {_pretty(getattr(listing, name))},' for name in ("manifest", "config")]
    lines += [' "layers": [', ",\n".join(_layer(layer) for layer in listing.layers), " ]", "}"]
    return "\n".join(lines) + "\n"


def _pretty(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1).replace("\n", "\n ")


def _layer(layer: LayerListing) -> str:
    fields = {"title": layer.title, "digest": layer.digest, "diff_id": layer.diff_id, "size": layer.size}
    head = "".join(f'   "{key}": {json.dumps(value)},\n' for key, value in fields.items())
    return "  {\n" + head + f"{_rows('entries', layer.entries)},\n{_rows('members', layer.members)}\n" + "  }"


def _rows(name: str, rows: tuple[Any, ...]) -> str:
    body = ",\n".join(f"    {json.dumps(astuple(row), ensure_ascii=False)}" for row in rows)
    return f'   "{name}": [\n{body}\n   ]'


def parse(data: str) -> ImageListing:
    """The listing that `text` wrote."""
    document = json.loads(data)
    layers = tuple(
        LayerListing(
            **{
                **layer,
                "entries": tuple(ListedEntry(*row) for row in layer["entries"]),
                "members": tuple(Member(*row) for row in layer["members"]),
            }
        )
        for layer in document["layers"]
    )
    return ImageListing(document["digest"], document["manifest"], document["config"], layers)


def explain(before: ImageListing, after: ImageListing) -> str:
    """Why the digest is another than the recorded one, and what to do; "" when it is the same."""
    found: tuple[Difference, ...] = compare(before, after)
    if not found:
        return ""
    lines = [f"the frozen project's digest was {before.digest}, is {after.digest}"]
    lines += [f"  {difference}" for difference in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  … and {len(found) - SHOWN} more")
    lines += [
        "not meant? then images stop being reproducible across versions: undo it, or pin what moved",
        "meant? raise LAYOUT_VERSION (rooms/lock/rows.py) when bytes of layers changed, say so in CHANGELOG.md, and",
        f"  {REGENERATE}",
    ]
    return "\n".join(lines)
