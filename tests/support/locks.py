"""Whole locks for tests without network: a signed archive, an index with the server's packages, a small model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.project.schema import Environment, Model, ProjectFile
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import Evidence, FileRow, ModelCard
from intermodal_server.contract import Signature
from support.debian_archive import DebianArchive, keyring, use
from support.hosts import empty_host
from support.loopback import Site, serving
from support.simple_index import publish, pure_wheels

SERVER = (
    "httptools==0.9.0", "uvloop==0.23.0",
    "msgspec==0.22.0", "orjson==3.13.0",
)  # fmt: skip
SCIENCE = (
    "scikit_learn==1.9.1 numpy>=1.24, joblib", "scikit_learn==1.3.2 numpy>=1.17, joblib",
    "numpy==2.4.6", "numpy==2.0.0", "numpy==1.26.4", "joblib==1.6.0",
)  # fmt: skip


@dataclass
class World:
    """A machine, its mirror and index, and a project in which tests change things."""

    folder: Path
    host: Host
    archive: DebianArchive
    site: Site

    @property
    def keyring(self) -> bytes:
        """What the archive's signatures are checked against."""
        return keyring()

    def publish(self, *specs: str) -> None:
        """Put more wheels into the index."""
        publish(self.folder / "index", pure_wheels(self.folder / "wheels", *specs))

    def project(self, *requirements: str, bare: bool = False, **environment: Any) -> Project:
        """A project around `model.joblib`; keywords are those of `[environment]`."""
        root = self.folder / "project"
        root.mkdir(exist_ok=True)
        artifact = root / "model.joblib"
        if not artifact.exists():
            artifact.write_bytes(b"model one")
        settings = ProjectFile(environment=Environment(**environment))
        return Project(
            root=root,
            file=None if bare else root / "intermodal.toml",
            name="digits",
            version="1.0.0",
            artifact=artifact,
            golden=root / "golden.json" if (root / "golden.json").exists() else None,
            lock_path=(self.host.data_dir / "locks" / "one.toml") if bare else root / "pylock.intermodal.toml",
            requirements=requirements,
            platforms=("linux/amd64",),
            model=Model(),
            settings=settings,
        )

    def card(self, versions: Mapping[str, Evidence] | None = None, **more: Any) -> ModelCard:
        """The card of `model.joblib` as it is now."""
        path = self.folder / "project" / "model.joblib"
        digest, size_bytes = Digest.of_file(path)
        card = ModelCard(
            path=path, digest=digest, format="joblib", framework="scikit-learn", backend="sklearn", loader="joblib",
            call="predict", signature=Signature((), ()), size_bytes=size_bytes,
            files=(FileRow("model.joblib", size_bytes, digest, path),), versions=versions or {}, requires=(),
            python="", imports=(), findings=(), safe=True,
        )  # fmt: skip
        return replace(card, **more)


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """A `World` below `folder`, served for the length of a `with` block."""
    archive = DebianArchive(folder / "debian")
    archive.whole()
    (folder / "served").mkdir()
    (folder / "served" / "debian").symlink_to(folder / "debian")
    index = publish(folder / "index", pure_wheels(folder / "wheels", *SERVER, *SCIENCE))
    with serving(folder / "served") as site:
        host = empty_host(folder, {"PIP_INDEX_URL": index.as_uri()})
        use(folder / "etc" / "apt", f"{site.url}/debian")
        yield World(folder, host, archive, site)
