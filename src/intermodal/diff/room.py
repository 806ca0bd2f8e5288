"""From two images to a report of what is different between them.

Rules, in order:
1. Platforms are compared one by one; what only one side has is named.
2. Layers that both images have are equal, whatever their place, and are not read. All others are read once and
   verified.
3. Files are compared by path across layers, the topmost entry of a path counting, so one that only moved into another
   layer is no difference. Labels and history that merely repeat what packages, settings or golden cases say are left to
   `differences`, which holds everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from intermodal.diff.contents import Contents, flat, is_of_a_package, wanted
from intermodal.diff.predictions import predictions
from intermodal.diff.report import Change, FileChange, ImageDiff, LayerChange, Report
from intermodal.diff.sides import Side
from intermodal.events import SILENT, Events
from intermodal.oci.compare import FIELDS, compare
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.labels import belongs
from intermodal.oci.listing import ImageListing, LayerListing, ListedEntry, list_image
from intermodal.oci.manifest import parse_descriptor
from intermodal_server import contract

_DERIVED_LABELS = (
    contract.LABEL_LOCK_DIGEST,
    contract.LABEL_GOLDEN_DIGEST,
    contract.LABEL_OPENAPI,
    contract.LABEL_SIGNATURE,
)
_UNTOLD = ("Labels", "Env", "Hostname", "Image")
_SILENT_FIELDS = ("mtime", "names", "size")  # the size follows from the content; the others are how it was packed


def diff(before: Side, after: Side, events: Events = SILENT) -> Report:
    """What is different between two images.

    Raises:
        StoreError, InputError: a document or layer of one is damaged or missing.
    """
    shared = [platform for platform in before.manifests if platform in after.manifests]
    return Report(
        before=before.reference,
        after=after.reference,
        before_digest=str(before.digest),
        after_digest=str(after.digest),
        images=tuple(_images(platform, before, after, events) for platform in shared),
        only_before=tuple(each for each in before.manifests if each not in shared),
        only_after=tuple(each for each in after.manifests if each not in shared),
    )


def _images(platform: str, before: Side, after: Side, events: Events) -> ImageDiff:
    one, other = before.manifests[platform], after.manifests[platform]
    if one.digest == other.digest:
        sizes = sum(_sizes(before, one).values())
        return ImageDiff(platform, str(one.digest), str(other.digest), before_bytes=sizes, after_bytes=sizes)
    both = _sizes(before, one).keys() & _sizes(after, other).keys()
    contents = Contents(), Contents()
    with events.task("read the layers that differ"):
        listings = [
            list_image(side.store, item, known=both, wanted=wanted, keep=found.keep)
            for side, item, found in zip((before, after), (one, other), contents, strict=True)
        ]
    return _compared(platform, listings[0], listings[1], *contents, both)


def _compared(
    platform: str, old: ImageListing, new: ImageListing, was: Contents, now: Contents, both: set[Digest]
) -> ImageDiff:
    shared = {str(digest) for digest in both}
    left, right = ([layer for layer in each.layers if layer.digest not in shared] for each in (old, new))
    before_bytes, after_bytes = (sum(layer.size for layer in each.layers) for each in (old, new))
    golden = predictions(was.golden, now.golden)
    return ImageDiff(
        platform=platform,
        before=old.digest,
        after=new.digest,
        packages=tuple(_packages(was, now)),
        layers=tuple(_layers(left, right)),
        equal_layers=len(new.layers) - len(right),
        equal_bytes=after_bytes - sum(layer.size for layer in right),
        before_bytes=before_bytes,
        after_bytes=after_bytes,
        new_bytes=sum(layer.size for layer in right),
        settings=tuple(_changes(_settings(old, was), _settings(new, now))),
        files=tuple(_files(_tree(left), _tree(right))),
        golden=golden,
        same_golden=was.golden == now.golden,
        differences=compare(old, new),
        notes=tuple(f"{word}: {note}" for word, each in (("before", was), ("after", now)) for note in each.notes),
    )


def _sizes(side: Side, item: Descriptor) -> dict[Digest, int]:
    layers = [parse_descriptor(each) for each in side.store.manifest(item)["layers"]]
    return {layer.digest: layer.size_bytes for layer in layers}


def _packages(was: Contents, now: Contents) -> list[Change]:
    keys = sorted(was.packages.keys() | now.packages.keys())
    return [
        Change(name, was.packages.get((owner, name)), now.packages.get((owner, name)), owner)
        for owner, name in keys
        if was.packages.get((owner, name)) != now.packages.get((owner, name))
    ]


def _layers(left: list[LayerListing], right: list[LayerListing]) -> list[LayerChange]:
    """Layers by title and how many of that title stand below, as `oci.compare` pairs them."""

    def titled(layers: list[LayerListing]) -> dict[tuple[str, int], LayerListing]:
        seen: Counter[str] = Counter()
        found = {}
        for layer in layers:
            found[layer.title, seen[layer.title]] = layer
            seen[layer.title] += 1
        return found

    old, new = titled(left), titled(right)
    keys = [*old, *(key for key in new if key not in old)]
    return [
        LayerChange(key[0], old[key].size if key in old else None, new[key].size if key in new else None)
        for key in keys
    ]


def _settings(listing: ImageListing, contents: Contents) -> dict[str, Any]:
    """What decides how an image runs: the settings of its model, and the config's own."""
    config = listing.config.get("config")
    found = dict(contents.settings)
    if isinstance(config, Mapping):
        labels = config.get("Labels")
        variables = [str(each).partition("=") for each in config.get("Env") or ()]
        found |= {f"Env.{name}": value for name, _, value in variables}
        found |= {
            f"label {name}": value
            for name, value in (labels if isinstance(labels, Mapping) else {}).items()
            if not any(belongs(name, derived) for derived in _DERIVED_LABELS)
        }
        # Docker writes what is not set as "", false or null, and the name of the machine that built it
        stated = {name: value for name, value in config.items() if value and name not in _UNTOLD}
        found |= flat(stated)
    found |= {name: listing.config.get(name) for name in ("architecture", "os", "variant") if name in listing.config}
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    keys = [*old, *(key for key in new if key not in old)]
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _tree(layers: list[LayerListing]) -> dict[str, ListedEntry]:
    return {
        entry.path.removeprefix("./").strip("/"): entry
        for layer in layers
        for entry in layer.entries
        if entry.kind != "directory"
    }


def _files(old: Mapping[str, ListedEntry], new: Mapping[str, ListedEntry]) -> list[FileChange]:
    found = []
    for path in sorted(old.keys() | new.keys()):
        one, other = old.get(path), new.get(path)
        fields: tuple[str, ...] = ()
        if one is not None and other is not None:
            fields = tuple(
                name for name in FIELDS if name not in _SILENT_FIELDS and getattr(one, name) != getattr(other, name)
            )
            if not fields:
                continue
        found.append(
            FileChange(path, one.size if one else None, other.size if other else None, fields, is_of_a_package(path))
        )
    return found
