"""What the files of an image mean: its packages, its settings, its golden cases.

Takes contents of files as layers are read, hands on a `Contents`. Names decide, as they do for pip and for dpkg:

* `…/site-packages/NAME-VERSION.dist-info/METADATA` is a Python package of the model (/opt/venv), of the server
  (/opt/intermodal), or of the base.
* `var/lib/dpkg/status.d/NAME` and the paragraphs of `var/lib/dpkg/status` are Debian packages.
* `/etc/intermodal/model.json` and `golden.json` are the settings and the golden cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct, field

from intermodal.errors import ArtifactError
from intermodal.golden.cases import GoldenFile, parse_golden
from intermodal.oci.tar_reader import TarEntry
from intermodal_server import contract

_DIST_INFO = re.compile(
    r"(?P<root>.*?)/?(?:site|dist)-packages/(?P<name>[^/]+?)-(?P<version>[^/-]+)\.dist-info/METADATA"
)
_OWNERS = {contract.VENV_DIR: "model", contract.SERVER_DIR: "server"}
_DPKG_FOLDER, _DPKG_FILE = "var/lib/dpkg/status.d/", "var/lib/dpkg/status"
_SETTINGS, _GOLDEN = contract.SETTINGS_PATH.strip("/"), contract.GOLDEN_PATH.strip("/")


class Contents(Struct):
    """What one image was seen to hold, in the layers that were read."""

    packages: dict[tuple[str, str], str] = field(default_factory=dict)  # (model | server | base | debian, name)
    settings: dict[str, Any] = field(default_factory=dict)
    golden: GoldenFile | None = None
    notes: list[str] = field(default_factory=list)  # what could not be understood

    def keep(self, entry: TarEntry, data: bytes) -> None:
        """Understand one file."""
        path = _plain(entry.path)
        if found := _DIST_INFO.fullmatch(path):
            owner = next((word for root, word in _OWNERS.items() if path.startswith(root.strip("/") + "/")), "base")
            self.packages[owner, _normal(found["name"])] = found["version"]
        elif path == _DPKG_FILE or path.startswith(_DPKG_FOLDER):
            self.packages |= {("debian", name): version for name, version in _paragraphs(data)}
        elif path == _SETTINGS:
            self.settings = _settings(data)
        elif path == _GOLDEN:
            try:
                self.golden = parse_golden(data, "the image's golden.json")
            except ArtifactError as error:
                self.notes.append(f"{error.message}: {'; '.join(error.found)}")


def wanted(path: str) -> bool:
    """Whether `Contents.keep` wants to see the file."""
    path = _plain(path)
    return (
        path in (_SETTINGS, _GOLDEN, _DPKG_FILE)
        or (path.startswith(_DPKG_FOLDER) and not path.endswith(".md5sums"))
        or _DIST_INFO.fullmatch(path) is not None
    )


def is_of_a_package(path: str) -> bool:
    """Whether a file came with a package, so that the package's version says more than its name."""
    path = _plain(path)
    return not path.startswith(("app/", "model/", "etc/intermodal/"))


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a document by the way to it; lists are values.

    >>> flat({"serve": {"workers": 1}, "trust": []})
    {'serve.workers': 1, 'trust': []}
    """
    found: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        found |= flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def _settings(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    document.pop("files", None)  # of the model, by hash: those that differ are listed as files
    return flat(document)


def _paragraphs(data: bytes) -> Iterator[tuple[str, str]]:
    """Name and version of every package that a dpkg status file calls installed; ours say nothing else."""
    for paragraph in data.decode("utf-8", "replace").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): *(.*)$", paragraph, re.MULTILINE))
        if {"Package", "Version"} <= fields.keys() and "deinstall" not in fields.get("Status", ""):
            yield fields["Package"], fields["Version"]


def _plain(path: str) -> str:
    return path.removeprefix("./").lstrip("/")


def _normal(name: str) -> str:
    """A distribution's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
