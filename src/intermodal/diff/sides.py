"""The two images of a `diff`: found by what the user typed, in the local store or in an image layout.

Takes references, hands on `Side`s; a layout of somebody else is only read.

Rules: `oci:DIR` is the one image of that layout, `oci:DIR:TAG` the one of that tag; a folder whose name holds a colon
wins. An index is one image for each of its platforms; what carries no platform (attestations) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import StoreError, UnknownImageError
from intermodal.oci.descriptor import INDEXES, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import NAME, Store
from intermodal.oci.manifest import parse_descriptor


class Side(Struct, frozen=True):
    """One image: where it lies, and its manifest for each platform."""

    reference: str  # as typed
    store: Store
    digest: Digest
    manifests: Mapping[str, Descriptor]  # "linux/amd64" -> manifest

    def called(self, reference: str) -> Side:
        """This image under the name the user knows it by."""
        return replace(self, reference=reference)


def find(reference: str, store: Store) -> Side:
    """The image that `reference` names.

    Raises:
        UnknownImageError: there is none, or there are several.
        StoreError: what it names is damaged.
    """
    return _side(reference, *locate(reference, store))


def locate(reference: str, store: Store) -> tuple[Store, Descriptor]:
    """Where the image lies that `reference` names, and its manifest or index.

    Raises:
        UnknownImageError: there is none, or there are several.
    """
    if not reference.startswith("oci:"):
        return store, store.resolve(reference)
    folder, tag = _folder_and_tag(reference.removeprefix("oci:"))
    layout = Store(folder)
    if not (folder / "index.json").is_file():
        raise UnknownImageError(
            f"no image layout at {folder}", found="no index.json in it", next="oci:DIR or oci:DIR:TAG"
        )
    listed = layout.listed()
    names = sorted({item.annotations.get(NAME, "") for item in listed} - {""})
    chosen = list({item.digest: item for item in listed if not tag or tag in _tags(item)}.values())
    if len(chosen) != 1:
        raise UnknownImageError(
            f"{reference} is {len(chosen) or 'no'} image{'s' * (len(chosen) != 1)}",
            found=f"tags {', '.join(names)}" if names else f"{len(listed)} images without a tag",
            next="oci:DIR:TAG names one",
        )
    return layout, replace(chosen[0], annotations={})


def _tags(item: Descriptor) -> tuple[str, ...]:
    """The names a listed image goes by: "digits:1.0.0", and its tag alone."""
    name = item.annotations.get(NAME, "")
    return (name, name.rpartition(":")[2]) if name else ()


def _folder_and_tag(text: str) -> tuple[Path, str]:
    if Path(text).is_dir() or ":" not in text:
        return Path(text), ""
    parts = text.split(":")
    for cut in range(len(parts) - 1, 0, -1):  # the tag may be a whole name, with a colon of its own
        folder = Path(":".join(parts[:cut]))
        if folder.is_dir():
            return folder, ":".join(parts[cut:])
    return Path(text), ""


def _side(reference: str, store: Store, item: Descriptor) -> Side:
    if item.media_type not in INDEXES:
        return Side(reference, store, item.digest, {_platform(store, item): item})
    try:
        inner = [parse_descriptor(each) for each in store.document(item)["manifests"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{reference} is no index", found=f"no list of manifests: {error}") from error
    known = {each.platform: each for each in inner if each.platform and "unknown" not in each.platform}
    return Side(reference, store, item.digest, known)


def _platform(store: Store, item: Descriptor) -> str:
    config = store.config(item)
    return f"{config.get('os', 'linux')}/{config.get('architecture', '?')}"
