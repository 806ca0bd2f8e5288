"""The plug point of `inspect`: a format claims an artifact by its content and reads it without executing it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from intermodal.rooms.inspect.card import Evidence, Finding
from intermodal_server.contract import Signature

if TYPE_CHECKING:
    from intermodal.golden.cases import GoldenFile
    from intermodal.rooms.inspect.pickles.reader import Reading

HEAD_BYTES = 4096


class Opened(Struct, frozen=True, dict=True):
    """An artifact on its way through the formats; what one of them read, the next need not read again."""

    path: Path | None  # the file that holds the model; None for a predictor without files
    folder: Path  # which further files are looked for in
    trust: tuple[str, ...] = ()
    predictor: str = ""  # "module:Class"
    root: Path = Path()  # of the project
    golden: GoldenFile | None = None

    @cached_property
    def head(self) -> bytes:
        """The first bytes of the file."""
        if self.path is None:
            return b""
        with self.path.open("rb") as stream:
            return stream.read(HEAD_BYTES)

    @cached_property
    def reading(self) -> Reading:
        """The file read as a pickle; only for files that look like one."""
        from intermodal.rooms.inspect.pickles.reader import read_pickle

        assert self.path is not None
        return read_pickle(self.path, self.trust)


class Found(Struct, frozen=True):
    """What a format learned; the fields are those of `ModelCard`."""

    format: str
    framework: str
    backend: str
    loader: str
    call: str
    signature: Signature
    findings: tuple[Finding, ...] = ()
    safe: bool = True
    versions: dict[str, Evidence] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    python: str = ""
    imports: tuple[str, ...] = ()
    extra_files: tuple[Path, ...] = ()  # further files the model opens by itself


class Format(Protocol):
    """One model format."""

    name: str

    def claims(self, opened: Opened) -> bool:
        """Whether the artifact's content is of this format; never by executing it."""

    def read(self, opened: Opened) -> Found:
        """What the artifact says about itself.

        Raises:
            ArtifactError: it is of this format, but truncated or damaged.
        """
