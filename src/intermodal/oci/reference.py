"""How people name images in the local store: `name[:tag]`, `name@sha256:…`, or the beginning of a digest.

Takes text as typed, hands on a `Reference`; whether such an image exists is `layout.Store.resolve`'s business.

Spec: OCI distribution-spec 1.1, "Pulling manifests" (grammar of name and tag).
"""

from __future__ import annotations

import re

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.oci.digest import Digest

_PORT = r"(?:[a-z0-9][a-z0-9.-]*:[0-9]{1,5}/)?"  # of a registry, in the name of what was pulled from there
_NAME = re.compile(_PORT + r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_NEXT = "NAME, NAME:TAG, NAME@sha256:… or at least six digits of a digest; intermodal images lists them"


class Reference(Struct, frozen=True):
    """An image as typed: a name with tag or digest, or (name empty) the first digits of a digest."""

    name: str = ""
    tag: str = ""
    digest: Digest | None = None
    prefix: str = ""  # hex digits; also set beside `name` when the text could be either

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.name}@{self.digest}" if self.name else str(self.digest)
        return f"{self.name}:{self.tag}" if self.tag else self.name or self.prefix


def parse(text: str) -> Reference:
    """The reference that `text` stands for.

    >>> parse("digits:1.0.0")
    Reference(name='digits', tag='1.0.0', digest=None, prefix='')

    Raises:
        InputError: it is none of the forms above.
    """
    name, at, digest = text.partition("@")
    if at:
        return Reference(name=_named(name), digest=Digest.parse(digest))
    if text.startswith("sha256:"):
        digits = text.removeprefix("sha256:")
        if len(digits) == 64:
            return Reference(digest=Digest.parse(text))
        if not _PREFIX.fullmatch(digits):
            raise InputError(f"not an image: {text[:80]!r}", next=_NEXT)
        return Reference(prefix=digits)
    name, tag = parse_name(text)
    return Reference(name=name, tag=tag, prefix=text if not tag and _PREFIX.fullmatch(text) else "")


def parse_name(text: str) -> tuple[str, str]:
    """Name and tag of `NAME[:TAG]`; the tag is "" when there is none.

    Raises:
        InputError: name or tag has characters that the specification does not allow.
    """
    name = name_of(text)
    colon, tag = text[len(name) : len(name) + 1], text[len(name) + 1 :]
    if colon and not _TAG.fullmatch(tag):
        raise InputError(
            f"not an image tag: {tag[:80]!r}", found="letters, digits, _ . - are allowed, at most 128", next=_NEXT
        )
    return _named(name), tag


def name_of(text: str) -> str:
    """`NAME[:TAG]` without its tag; the colon before a port is part of the name.

    >>> name_of("localhost:5000/team/digits:1")
    'localhost:5000/team/digits'
    """
    folder, slash, last = text.rpartition("/")
    return folder + slash + last.partition(":")[0]


def _named(name: str) -> str:
    if len(name) > 255 or not _NAME.fullmatch(name):
        raise InputError(
            f"not an image name: {name[:80]!r}",
            found="lower-case letters and digits, separated by . _ - / ",
            next=_NEXT,
        )
    return name
