"""What a push or a pull did, as values; `cli` words them."""

from __future__ import annotations

from msgspec import Struct

from intermodal.oci.digest import Digest


class PushReport(Struct, frozen=True):
    """An image that is in a registry now."""

    reference: str  # "ghcr.io/team/digits:1.0.0"
    digest: Digest
    uploaded_bytes: int  # bodies of requests, documents included
    uploaded: tuple[Digest, ...]
    mounted: tuple[Digest, ...]  # taken over from another repository of the registry
    skipped: tuple[Digest, ...]  # were there
    unchanged: bool  # the tag stood for this image already; nothing was sent
    seconds: float

    @property
    def pinned(self) -> str:
        """The reference that can never mean anything else."""
        from intermodal.oci.reference import name_of

        return f"{name_of(self.reference.partition('@')[0])}@{self.digest}"

    def summary(self) -> str:
        """One line: what had to be done."""
        if self.unchanged:
            return "nothing to do: the registry has it"
        moved = f"{len(self.uploaded)} blobs sent ({self.uploaded_bytes:,} bytes)".replace(",", " ")
        more = [f"{len(self.mounted)} mounted"] if self.mounted else []
        more += [f"{len(self.skipped)} there"] if self.skipped else []
        return ", ".join([moved, *more])

    def as_json(self) -> dict[str, object]:
        """The fields that `push --json` promises, and more."""
        return {
            "reference": self.reference,
            "digest": str(self.digest),
            "uploaded_bytes": self.uploaded_bytes,
            "uploaded": [str(digest) for digest in self.uploaded],
            "mounted": [str(digest) for digest in self.mounted],
            "skipped": [str(digest) for digest in self.skipped],
            "unchanged": self.unchanged,
            "seconds": round(self.seconds, 3),
        }


class PullReport(Struct, frozen=True):
    """An image of a registry that is in the store now."""

    reference: str
    name: str  # in the store
    digest: Digest  # what the store's name stands for
    top: Digest  # what the registry's name stands for: the index, when there is one
    platforms: tuple[str, ...]
    downloaded_bytes: int
    downloaded: tuple[Digest, ...]
    skipped: tuple[Digest, ...]
    unchanged: bool
    seconds: float

    def as_json(self) -> dict[str, object]:
        """All fields."""
        return {
            "reference": self.reference,
            "name": self.name,
            "digest": str(self.digest),
            "registry_digest": str(self.top),
            "platforms": list(self.platforms),
            "downloaded_bytes": self.downloaded_bytes,
            "downloaded": [str(digest) for digest in self.downloaded],
            "skipped": [str(digest) for digest in self.skipped],
            "unchanged": self.unchanged,
            "seconds": round(self.seconds, 3),
        }
