"""What is attached to an image: signatures, SBOMs, test results; found and added.

Takes a repository and the digest of an image, hands on descriptors. A registry of version 1.1 keeps the list itself;
for an older one it is an index under a tag made of the digest, which whoever attaches something has to keep up.

Spec: OCI distribution-spec 1.1, "Listing Referrers", "Referrers Tag Schema", "Pushing Manifests with Subject".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import Struct, field

from intermodal.errors import ImageRefusedError, IntermodalError, RegistryError, UnknownImageError
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import INDEX, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.manifest import parse_descriptor
from intermodal.registry.client import Repository

MOST = 10_000
ATTEMPTS = 4


class Referrer(Struct, frozen=True):
    """A manifest that points at an image."""

    descriptor: Descriptor
    artifact_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """The entry of a list of referrers."""
        own = {**self.descriptor.as_json(), "artifactType": self.artifact_type}
        return {**own, "annotations": dict(sorted(self.annotations.items()))} if self.annotations else own


def list_referrers(repository: Repository, subject: Digest, artifact_type: str = "") -> tuple[Referrer, ...]:
    """What points at `subject`, of one type or of all; empty when nothing does.

    Raises:
        RegistryError, ImageRefusedError: the list is damaged or endless.
    """
    query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
    what = f"list what is attached to {subject.short} in {repository}"
    try:
        pages = list(repository.pages(f"referrers/{subject}{query}", what, accept=INDEX, missing=True))
    except UnknownImageError:
        pages = [_by_tag(repository, subject)[0]]
    found = [entry for page in pages for entry in _entries(page)]
    return tuple(r for r in found if not artifact_type or r.artifact_type == artifact_type)


def put_referrer(repository: Repository, data: bytes, referrer: Referrer, subject: Digest) -> None:
    """Put a manifest with a subject, and let it be found from there on.

    Args:
        repository: where the subject is, too.
        data: the manifest; its blobs are there already.
        referrer: its descriptor, type and annotations.
        subject: what it points at.

    Raises:
        RegistryError: refused, or others keep changing the list at the same time.
    """
    answer = repository.put_manifest(str(referrer.descriptor.digest), data, referrer.descriptor.media_type)
    if answer.headers.get("OCI-Subject"):
        return
    for _ in range(ATTEMPTS):
        document, _known = _by_tag(repository, subject)
        if any(entry.descriptor.digest == referrer.descriptor.digest for entry in _entries(document)):
            return
        listed = document.get("manifests")
        merged = [*(listed if isinstance(listed, list) else ()), referrer.as_json()]
        made = canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": merged})
        repository.put_manifest(_tag(subject), made, INDEX)
    # the tag has no compare-and-swap: after each write it is read again, and ours must still be in it
    if referrer.descriptor.digest not in {r.descriptor.digest for r in list_referrers(repository, subject)}:
        raise RegistryError(
            f"cannot attach {referrer.artifact_type} to {repository}@{subject.short}",
            found="somebody else keeps replacing the list at the same time",
            next="run it again",
        )


def _by_tag(repository: Repository, subject: Digest) -> tuple[dict[str, Any], bool]:
    try:
        document = json.loads(repository.manifest(_tag(subject)).data)
    except UnknownImageError:
        return {"manifests": []}, False
    except (ValueError, RecursionError) as error:
        raise ImageRefusedError(f"the list of what is attached to {subject.short} is no JSON") from error
    return (document if isinstance(document, dict) else {}), True


def _tag(subject: Digest) -> str:
    return f"sha256-{subject.hex}"


def _entries(page: Mapping[str, Any]) -> list[Referrer]:
    listed = page.get("manifests")
    if not isinstance(listed, list) or len(listed) > MOST:
        return []
    found = []
    for item in listed:
        try:
            descriptor = parse_descriptor(item)
        except IntermodalError:
            continue  # a damaged entry hides itself, not the others
        found.append(Referrer(descriptor, str(item.get("artifactType", "")), descriptor.annotations))
    return found
