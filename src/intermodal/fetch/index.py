"""Files in package indexes: what they offer for a distribution, and where a file of known hash lies.

Takes a distribution name and the machine's `IndexConfig`; hands on links. Understands the JSON form of the simple
index, its HTML form, folders of wheels and pages of links (find-links), over http(s) and `file:`.

Spec: packaging.python.org, "Simple repository API".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

from msgspec import Struct

from intermodal.errors import DownloadError, HostError
from intermodal.fetch.names import normalise
from intermodal.fetch.transfer import NotThereError, Transfers, file_path, read_limited, shown
from intermodal.host.pip import without_credentials
from intermodal.oci.digest import Digest

PAGE_BYTES = 64 << 20
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


class Link(Struct, frozen=True):
    """One offered file; `digest` is None and `size_bytes` 0 where the index does not say."""

    filename: str
    url: str
    digest: Digest | None = None
    size_bytes: int = 0


def offered(transfers: Transfers, name: str) -> Iterator[Link]:
    """Every file that the configured places offer for `name`, find-links first, then indexes in order.

    Raises:
        IndexUnreachableError, DownloadError: an index did not answer; one that does not know `name` is skipped.
    """
    config = transfers.host.indexes
    for link in config.find_links:
        for found in _links_of(transfers, link):
            if normalise(found.filename.partition("-")[0]) == normalise(name):
                yield found
    for index in config.indexes:
        page = f"{index}/{quote(normalise(name))}/"
        try:
            yield from _page(transfers, page)
        except NotThereError:
            continue


def find_file(transfers: Transfers, name: str, filename: str, digest: Digest) -> str:
    """The address of a file with that name and hash in the configured places, or "".

    An index that does not answer is passed over as long as another has the file.

    Raises:
        HostError: nothing was found, and this index could not be asked.
    """
    failure: HostError | None = None
    config = transfers.host.indexes
    places = [(link, False) for link in config.find_links] + [(index, True) for index in config.indexes]
    for place, is_index in places:
        url = f"{place}/{quote(normalise(name))}/" if is_index else place
        try:
            found = _page(transfers, url) if is_index else _links_of(transfers, url)
            for link in found:
                if link.filename == filename and link.digest in (digest, None):
                    return link.url
        except NotThereError:
            continue
        except HostError as error:
            failure = failure or error
    if failure:
        raise failure
    return ""


def _links_of(transfers: Transfers, link: str) -> Iterator[Link]:
    """The files of a find-links place: a local folder, a local page, or a remote page."""
    path = file_path(link) if link.startswith("file:") else None if "://" in link else Path(link)
    if path is not None and path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.suffix == ".whl":
                yield Link(entry.name, entry.absolute().as_uri(), None, entry.stat().st_size)
        return
    yield from _page(transfers, path.absolute().as_uri() if path is not None else link)


def _page(transfers: Transfers, url: str) -> Iterator[Link]:
    if url.startswith("file:") and file_path(url).is_dir():
        url = f"{url.rstrip('/')}/index.html"
    with transfers.open(url, accept=ACCEPT) as (pieces, _):
        data = read_limited(pieces, PAGE_BYTES, shown(url))
    base = without_credentials(url)
    return parse_json(data, base) if data.lstrip()[:1] == b"{" else parse_html(data, base)


def parse_json(data: bytes, base: str) -> Iterator[Link]:
    """The links of a JSON page.

    Raises:
        DownloadError: it is not JSON, or not a project page.
    """
    try:
        files = json.loads(data)["files"]
        for entry in files:
            sha256 = entry.get("hashes", {}).get("sha256")
            yield Link(
                str(entry["filename"]),
                urljoin(base, str(entry["url"])),
                Digest(sha256) if sha256 else None,
                int(entry.get("size") or 0),
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(f"{shown(base)} is not an index page", found=repr(error)[:200]) from error


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href"):
            self.hrefs.append(str(values["href"]))
        elif tag == "base" and values.get("href"):
            self.base = str(values["href"])


def parse_html(data: bytes, base: str) -> Iterator[Link]:
    """The links of an HTML page."""
    parser = _Anchors()
    parser.feed(data.decode("utf-8", "replace"))
    for href in parser.hrefs:
        url, fragment = urldefrag(urljoin(urljoin(base, parser.base), href))
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        match = re.search(r"sha256=([0-9a-f]{64})", fragment)
        yield Link(filename, url, Digest(match[1]) if match else None)
