"""The frozen project: everything that enters its image lies in `frozen/` or is computed here, and needs no network.

It holds what the builder treats in its own way each: Debian packages with links and a split /usr, a wheel in a layer of
its own and small ones together, spliced, stored and generated files, scripts and entry points, pruned folders, names
that a plain tar header cannot hold, a model file of several pieces of which one cannot be compressed, settings and
golden cases. No byte code: that is for the image's own interpreter to compile (see tests/e2e/test_one_digest.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.oci.listing import ImageListing, list_image
from intermodal.project.schema import Check, Model, ProjectFile, Serve
from intermodal.project.value import Project
from intermodal.rooms.build import Image, build
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock import servertree
from intermodal.rooms.lock.lockfile import read_lock
from intermodal.rooms.lock.rows import Lock, PackageRow
from intermodal_server import openapi
from intermodal_server.contract import Signature, TensorSpec

FROZEN = Path(__file__).with_name("frozen")
PLATFORM = "linux/amd64"
NOW_S = 1_795_000_000.0
BIG_WHEEL = "golden_big-1.0-py3-none-any.whl"  # larger than 1 MiB, so not kept in the repository
WEIGHTS = "net/weights.bin"


def big_wheel() -> bytes:
    """A wheel that gets a layer of its own; stored, so no compressor has a say in its bytes."""
    import io

    info = "golden_big-1.0.dist-info"
    members = {
        "golden_big/__init__.py": b"B = 2\n",
        "golden_big/table.bin": b"".join(b"%08d\n" % number for number in range(120_000)),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: golden-big\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: frozen\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = "".join(f"{name},sha256={_record_hash(data)},{len(data)}\n" for name, data in members.items())
    members[f"{info}/RECORD"] = (rows + f"{info}/RECORD,,\n").encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return out.getvalue()


def _record_hash(data: bytes) -> str:
    import base64

    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def weights() -> bytes:
    """A model file above 8 MiB: one piece that cannot be compressed, then pieces that can."""
    noise = hashlib.shake_256(b"golden").digest(4 << 20)
    return noise + b"".join(b"%012d" % (number * number) for number in range(380_000))


def inputs(folder: Path) -> dict[str, Path]:
    """Every file by the name that the lock gives it; what is computed is written into `folder` first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((BIG_WHEEL, big_wheel()), ("weights.bin", weights())):
        (folder / name).write_bytes(data)
    found = {path.name: path for kind in ("wheels", "debs") for path in (FROZEN / kind).iterdir()}
    return found | {
        BIG_WHEEL: folder / BIG_WHEEL,
        WEIGHTS: folder / "weights.bin",
        "net/config.json": FROZEN / "project/model/config.json",
        "predictor.py": FROZEN / "project/predictor.py",
        "golden.json": FROZEN / "project/golden.json",
    }


def project(folder: Path) -> Project:
    """The project; its files lie in `frozen/project`, what it writes would lie in `folder`."""
    settings = ProjectFile(serve=Serve(workers=2, drain_s=1.5), check=Check(rtol=0.5))
    return Project(
        root=FROZEN / "project", file=None, name="golden", version="1.0.0", artifact=FROZEN / "project/model",
        golden=FROZEN / "project/golden.json", lock_path=folder / "pylock.intermodal.toml", requirements=(),
        platforms=(PLATFORM,), model=Model(predictor="predictor:Predictor"), settings=settings,
    )  # fmt: skip


def card(root: Path) -> ModelCard:
    """What `inspect` would have found."""
    from intermodal.oci.digest import Digest

    return ModelCard(
        path=root, digest=Digest.of(b"golden"), format="predictor", framework="", backend="predictor",
        loader="predictor", call="named", signature=Signature((TensorSpec("X", "FP64", (-1, 4)),), ()),
        size_bytes=1, files=(), versions={}, requires=(), python="", imports=(), findings=(), safe=True,
    )  # fmt: skip


def located(lock: Lock, files: dict[str, Path]) -> Lock:
    """The frozen lock with the places of its files on this machine."""

    def packages(rows: tuple[PackageRow, ...]) -> tuple[PackageRow, ...]:
        return tuple(
            replace(row, wheels=tuple(replace(w, url=files[w.filename].as_uri()) for w in row.wheels)) for row in rows
        )

    def rows(listed: tuple[FileRow, ...]) -> tuple[FileRow, ...]:
        return tuple(replace(row, source=files[row.path]) for row in listed)

    debs = tuple(replace(row, url=files[Path(row.filename).name].as_uri()) for row in lock.base.packages)
    return replace(
        lock,
        packages=packages(lock.packages),
        server=replace(lock.server, packages=packages(lock.server.packages)),
        base=replace(lock.base, packages=debs),
        model=rows(lock.model),
        app=rows(lock.app),
        golden=rows((lock.golden,))[0] if lock.golden else None,
    )


@contextmanager
def frozen_server() -> Iterator[None]:
    """Build with the frozen server instead of this checkout's, and with a description that no server has."""
    real = servertree.server_tree, openapi.text
    servertree.server_tree = lambda: servertree.tree_of(FROZEN / "server/intermodal_server")
    described = {"info": {"title": "golden"}, "paths": {"/é": "€" * 1500}}
    openapi.text = lambda settings: json.dumps(described, ensure_ascii=False)
    try:
        yield
    finally:
        servertree.server_tree, openapi.text = real


def host(folder: Path, cores: int) -> Host:
    """This machine, with nothing configured and everything it writes below `folder`."""
    real = read()
    variables = {"PATH": os.defpath, "HOME": str(folder), "PIP_CONFIG_FILE": "/dev/null"}
    variables |= {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "data")}
    return Host(variables, folder, "linux", real.architecture, cores, real.uid, NOW_S)


def built(folder: Path, *, cores: int = 2) -> tuple[Store, Image]:
    """The frozen project, built below an empty `folder`."""
    files = inputs(folder / "inputs")
    lock = located(read_lock(FROZEN / "pylock.intermodal.toml"), files)
    made = project(folder)
    store = Store(folder / "store").open_or_create()
    with frozen_server():
        return store, build(lock, card(made.artifact), made, store=store, host=host(folder, cores))


def listing(folder: Path, *, cores: int = 2) -> ImageListing:
    """What the frozen project's image holds when it is built here and now."""
    store, image = built(folder, cores=cores)
    return list_image(store, image.manifests[0])
