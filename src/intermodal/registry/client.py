"""What a repository can do: manifests, tags, blobs, deletes.

Takes a reference, hands on verified documents or puts ours there. One `Registries` serves a whole run: its
connections, tokens and decisions about addresses are shared by every repository of it.

Spec: OCI distribution-spec 1.1, "Endpoints".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

from msgspec import Struct

from intermodal.errors import ImageRefusedError, InputError, RegistryError, UnknownImageError
from intermodal.fetch.transfer import shown
from intermodal.host import Host
from intermodal.oci import reference as local
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.manifest import MAX_BYTES
from intermodal.registry.auth import Scopes, scopes_for
from intermodal.registry.documents import ACCEPT, read_document
from intermodal.registry.patience import Manner
from intermodal.registry.reference import RemoteReference, parse_remote
from intermodal.registry.settings import read_settings
from intermodal.registry.transport import Ask, Transport
from intermodal.registry.wire import Answer, Wire

BELIEFS = 2
PAGES = 1000
PAGE_BYTES = 16 << 20

Found = TypeVar("Found")
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')


class Document(Struct, frozen=True):
    """A manifest or index as the registry has it, verified against the digest that was asked for."""

    descriptor: Descriptor
    data: bytes


class Registries:
    """The registries of one run; close it, or use it in a `with` block."""

    def __init__(self, host: Host, manner: Manner | None = None) -> None:
        self.host = host
        self.manner = manner or Manner()
        self._wire = Wire(host, self.manner)
        self._transports: dict[tuple[str, bool], Transport] = {}

    def __enter__(self) -> Registries:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._wire.close()

    def shut(self) -> None:
        """End every transfer that is going on, also of other threads."""
        self._wire.shut()

    def repository(self, reference: RemoteReference, *, plain_http: bool = False) -> Repository:
        """The repository of `reference`, in its own registry."""
        key = (reference.registry, plain_http)
        if key not in self._transports:
            settings = read_settings(self.host, reference.registry, plain_http=plain_http)
            self._transports[key] = Transport(settings, self.host, self._wire, self.manner.patience)
        return Repository(self._transports[key], reference.repository)

    def sources(self, reference: RemoteReference, *, plain_http: bool = False) -> tuple[Repository, ...]:
        """Where to pull `reference` from, in order: its mirrors, then its own registry."""
        own = self.repository(reference, plain_http=plain_http)
        found = []
        for mirror in own.transport.settings.mirrors:
            place = parse_remote(f"{mirror.rstrip('/')}/{reference.repository}")
            found.append(self.repository(place))
        return (*found, own)


class Repository:
    """One repository of one registry."""

    def __init__(self, transport: Transport, name: str) -> None:
        self.transport = transport
        self.name = name

    def __str__(self) -> str:
        return f"{self.transport.settings.name}/{self.name}"

    def scopes(self, *, write: bool = False) -> Scopes:
        """What a request to this repository needs."""
        return scopes_for(self.name, "pull", *(("push",) if write else ()))

    def path(self, rest: str) -> str:
        """The path of something in this repository."""
        return f"/v2/{self.name}/{rest}"

    # --- manifests -----------------------------------------------------------------------------------------------
    def find_manifest(self, target: str, *, write: bool = False) -> Descriptor | None:
        """What the registry has under a tag or digest, without fetching it; None when it has nothing there.

        The registry's word only: `write` asks with the scopes of a push, so that one token serves both.
        """
        ask = self._ask("HEAD", f"manifests/{_target(target)}", f"look for {target}", (200, 404), write=write)
        with self.transport.request(_with(ask, Accept=ACCEPT)) as answer:
            digest, size = _stated(answer), answer.headers.get("Content-Length", "")
            if answer.status == 404 or digest is None or not size.isdigit():
                return None
            return Descriptor(answer.headers.get("Content-Type", "").partition(";")[0], digest, int(size))

    def manifest(self, target: str, expected: Descriptor | None = None) -> Document:
        """The manifest or index under a tag or digest.

        Args:
            target: tag or digest.
            expected: the descriptor that led here; its digest, size and media type must be right.

        Raises:
            UnknownImageError: there is none.
            ImageRefusedError: it is not the one that was asked for, or larger than it may be.
        """
        what = f"pull {self}{_joined(target)}"
        ask = self._ask("GET", f"manifests/{_target(target)}", what, (200,), limit=MAX_BYTES)
        ask = _with(ask, Accept=expected.media_type if expected else ACCEPT)
        return _believe(lambda: self._manifest(ask, target, expected))

    def _manifest(self, ask: Ask, target: str, expected: Descriptor | None) -> Document:
        with self.transport.request(ask) as answer:
            data = answer.read(MAX_BYTES)
            kind = answer.headers.get("Content-Type", "")
        digest = expected.digest if expected else Digest.parse(target) if ":" in target else None
        if digest is None:
            digest = _stated(answer)  # a registry that contradicts itself is not believed
        found = read_document(data, kind, expected=digest, size=expected.size_bytes if expected else None)
        if expected is not None and found.media_type != expected.media_type:
            raise ImageRefusedError(
                "the image is refused: its manifest is of two kinds at once",
                found=(f"the index says {expected.media_type!r}", f"the registry says {found.media_type!r}"),
                next="ask whoever published it; nothing of it was kept",
            )
        return Document(found, data)

    def put_manifest(self, target: str, data: bytes, media_type: str) -> Answer:
        """The registry's answer, after which `target` (tag or digest) stands for these bytes.

        Raises:
            RegistryError: refused, or the registry says that it has stored something else.
        """
        what = f"push {self}{_joined(target)}"
        ask = self._ask("PUT", f"manifests/{_target(target)}", what, (200, 201, 202), write=True, body=data)
        ask, own = _with(ask, **{"Content-Type": media_type}), str(Digest.of(data))
        for _ in range(BELIEFS):
            with self.transport.request(ask) as answer:
                stated = answer.headers.get("Docker-Content-Digest", "")
                if not stated.startswith("sha256:") or stated == own:
                    return answer
        raise RegistryError(
            f"cannot {what}: the registry says that it has stored something else",
            found=(f"sent {own}", f"stored {self.transport.authority.scrub(stated)}"),
            next="nothing may be pulled from there under that name until its operator has looked",
        )

    def delete_manifest(self, target: str) -> bool:
        """Whether there was such a tag or manifest; it is gone.

        Raises:
            RegistryError: the registry does not delete.
        """
        ask = self._ask("DELETE", f"manifests/{_target(target)}", f"delete {self}{_joined(target)}", (202, 200, 404))
        with self.transport.request(self._deleting(ask)) as answer:
            return answer.status != 404

    # --- blobs ---------------------------------------------------------------------------------------------------
    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the registry says that it holds these bytes in this repository."""
        ask = self._ask("HEAD", f"blobs/{blob.digest}", f"look for blob {blob.digest.short}", (200, 404), write=True)
        with self.transport.request(ask) as answer:
            size = answer.headers.get("Content-Length", "")
            return answer.status == 200 and (not size.isdigit() or int(size) == blob.size_bytes)

    def small_blob(self, blob: Descriptor) -> bytes:
        """The bytes of a config or another small blob, verified.

        Raises:
            ImageRefusedError: they are others.
        """
        what = f"pull blob {blob.digest.short} of {self}"
        ask = self._ask("GET", f"blobs/{blob.digest}", what, (200,), limit=MAX_BYTES)

        def fetch() -> bytes:
            with self.transport.request(ask) as answer:
                data = answer.read(MAX_BYTES)
            read_document(data, blob.media_type, expected=blob.digest, size=blob.size_bytes)
            return data

        return _believe(fetch)

    def delete_blob(self, digest: Digest) -> bool:
        """Whether there was such a blob; it is gone."""
        ask = self._ask("DELETE", f"blobs/{digest}", f"delete blob {digest.short} of {self}", (202, 200, 404))
        with self.transport.request(self._deleting(ask)) as answer:
            return answer.status != 404

    # --- tags ----------------------------------------------------------------------------------------------------
    def tags(self) -> Iterator[str]:
        """Every tag, page by page, in the registry's order.

        Raises:
            UnknownImageError: there is no such repository.
            RegistryError: the list is damaged, or does not end.
        """
        for page in self.pages("tags/list?n=1000", f"list the tags of {self}"):
            listed = page.get("tags")
            yield from (str(tag) for tag in (listed if isinstance(listed, list) else ()))

    def pages(
        self, rest: str, what: str, accept: str = "application/json", missing: bool = False
    ) -> Iterator[dict[str, object]]:
        """The JSON objects of a list, following its `Link` headers.

        Raises:
            UnknownImageError: there is no such list (with `missing`, also where the registry knows no such lists).
        """
        import json

        target, seen = self.path(rest), set[str]()
        while target:
            if target in seen or len(seen) >= PAGES:
                raise RegistryError(f"cannot {what}: the list does not end", found=f"{len(seen)} pages")
            seen.add(target)
            ask = Ask(
                "GET",
                target,
                what,
                self.name,
                self.scopes(),
                (200, 404) if missing else (200,),
                {"Accept": accept},
                limit=PAGE_BYTES,
            )
            with self.transport.request(ask) as answer:
                if answer.status == 404:
                    answer.read(PAGE_BYTES)
                    raise UnknownImageError(f"cannot {what}", found=f"{shown(answer.url)} answered 404")
                data = answer.read(PAGE_BYTES)
                link = _NEXT.search(answer.headers.get("Link", ""))
                target = self.transport.locate(answer, link[1]) if link else ""
            try:
                page = json.loads(data)
            except (ValueError, RecursionError) as error:
                raise RegistryError(f"cannot {what}: the answer is no JSON", found=f"{len(data)} bytes") from error
            if isinstance(page, dict):
                yield page

    # --- helpers -------------------------------------------------------------------------------------------------
    def _ask(
        self,
        method: str,
        rest: str,
        what: str,
        ok: tuple[int, ...],
        *,
        write: bool = False,
        body: bytes | None = None,
        limit: int = 0,
    ) -> Ask:
        scopes, writing = self.scopes(write=write), body is not None
        return Ask(method, self.path(rest), what, self.name, scopes, ok, {}, body, writing=writing, limit=limit)

    def _deleting(self, ask: Ask) -> Ask:
        from msgspec.structs import replace

        return replace(ask, scopes=scopes_for(self.name, "delete", "pull"))


def _believe(fetch: Callable[[], Found]) -> Found:
    """What `fetch` gives; wrong bytes are fetched once more, because a proxy between may have damaged them."""
    for _ in range(BELIEFS - 1):
        with suppress(ImageRefusedError):
            return fetch()
    return fetch()


def _stated(answer: Answer) -> Digest | None:
    """The digest that the registry says it answers with; None when it says none that we know."""
    with suppress(InputError):
        return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
    return None


def _with(ask: Ask, **headers: str) -> Ask:
    from msgspec.structs import replace

    return replace(ask, headers={**ask.headers, **headers})


def _target(target: str) -> str:
    """A tag or digest as part of a path; anything else would be another request than the one that is meant."""
    if ":" in target:
        return str(Digest.parse(target))
    local.parse_name(f"x:{target}")
    return quote(target, safe="")


def _joined(target: str) -> str:
    return f"@{target}" if ":" in target else f":{target}"
