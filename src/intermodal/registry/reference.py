"""Where an image lives: registry, repository, and tag or digest, parsed from what people type.

Takes text, hands on a `RemoteReference`. Docker's rule decides what the first part is: it names a registry when it
holds a dot or a colon or is `localhost`; else the image is on Docker Hub, and one without a folder in `library/`.

Spec: OCI distribution-spec 1.1, "Pulling manifests" (grammar of name and tag).
"""

from __future__ import annotations

import re

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.oci import reference as local
from intermodal.oci.digest import Digest

DOCKER_HUB = "docker.io"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_NEXT = "HOST[:PORT]/REPOSITORY[:TAG] or HOST[:PORT]/REPOSITORY@sha256:…, such as ghcr.io/team/digits:1.0.0"


class RemoteReference(Struct, frozen=True):
    """An image in a registry. With neither tag nor digest it names the repository."""

    registry: str  # "ghcr.io", "localhost:5000"; Docker Hub is "docker.io"
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest when there is one, else the tag."""
        return str(self.digest) if self.digest else self.tag


def parse_remote(text: str, default_tag: str = "") -> RemoteReference:
    """The image in a registry that `text` stands for.

    >>> parse_remote("python:3.12-slim")
    RemoteReference(registry='docker.io', repository='library/python', tag='3.12-slim', digest=None)

    Args:
        text: as typed; an address ("https://…") or credentials in it are refused.
        default_tag: the tag when `text` has neither tag nor digest.

    Raises:
        InputError: it is no such reference.
    """
    rest, at, stated = text.partition("@")
    digest = None
    if at:
        if not stated.startswith("sha256:"):
            _refuse(text, "what follows the @ is no digest")
        digest = Digest.parse(stated)
    if "://" in rest:
        _refuse(text, "leave the scheme away; plain HTTP is an option of its own")
    registry, rest = _split_registry(rest)
    if not rest:
        _refuse(text, "it names a registry but no repository")
    repository, tag = local.parse_name(rest)
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return RemoteReference(registry, repository, tag or ("" if digest else default_tag), digest)


def names_registry(text: str) -> bool:
    """Whether `text` names its registry, so that it can be nothing else but an image there.

    >>> names_registry("ghcr.io/team/digits:1"), names_registry("digits:1")
    (True, False)
    """
    first, slash, rest = text.partition("/")
    return bool(slash and rest) and _is_registry(first) and bool(_HOST.fullmatch(first))


def _split_registry(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or not _is_registry(first):
        return DOCKER_HUB, text
    if not _HOST.fullmatch(first) or ".." in first:
        _refuse(text, f"{first[:80]!r} is no host")
    name = first.lower()
    return (DOCKER_HUB if name in _HUB_NAMES else name), rest


def _is_registry(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost"


def _refuse(text: str, why: str) -> None:
    shown = text.rpartition("@")[2]  # what stands before it may be a password
    raise InputError(f"not an image in a registry: {shown[:120]!r}", found=why, next=_NEXT)
