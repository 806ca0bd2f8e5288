"""What a `diff` found, as values; `as_json` gives the document that `diff --json` promises."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct

from intermodal.diff.predictions import Predictions
from intermodal.oci.compare import Difference


class Change(Struct, frozen=True):
    """One named thing in two versions; None where one side does not have it."""

    name: str
    before: object
    after: object
    owner: str = ""  # of a package: model, server, base, debian


class LayerChange(Struct, frozen=True):
    """One layer, paired by its title; sizes in bytes as stored, None where one side does not have it."""

    title: str
    before_bytes: int | None
    after_bytes: int | None


class FileChange(Struct, frozen=True):
    """One file that differs; sizes in bytes, None where one side does not have it."""

    path: str
    before_bytes: int | None
    after_bytes: int | None
    fields: tuple[str, ...] = ()  # what differs, of a file in both: content, mode, …
    packaged: bool = False  # it belongs to the base or to a package


class ImageDiff(Struct, frozen=True):
    """Two images of one platform."""

    platform: str
    before: str  # digests of the manifests
    after: str
    packages: tuple[Change, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    equal_layers: int = 0
    equal_bytes: int = 0  # of these, as stored
    before_bytes: int = 0  # all layers as stored
    after_bytes: int = 0
    new_bytes: int = 0  # layers of the second that the first does not have: what an update moves
    settings: tuple[Change, ...] = ()
    files: tuple[FileChange, ...] = ()
    golden: Predictions | None = None
    same_golden: bool = False  # both carry the very same cases, or neither any
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both are the very same image."""
        return self.before == self.after


class Report(Struct, frozen=True):
    """Two images; the same only when every platform is."""

    before: str  # as typed
    after: str
    before_digest: str
    after_digest: str
    images: tuple[ImageDiff, ...]
    only_before: tuple[str, ...] = ()  # platforms
    only_after: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return all(each.same for each in self.images) and not self.only_before and not self.only_after

    def as_json(self) -> dict[str, object]:
        """The whole as one document; numbers that JSON has no word for are null."""
        return {
            "same": self.same,
            "before": {"reference": self.before, "digest": self.before_digest},
            "after": {"reference": self.after, "digest": self.after_digest},
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
            "images": [{**_finite(msgspec.to_builtins(each)), "same": each.same} for each in self.images],
        }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
