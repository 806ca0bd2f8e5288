"""Images out of the archives that engines write: hashed, shared with what is there, and refused when they lie."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.layered import layer

from intermodal.errors import IntermodalError
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.docker_archive import import_archive
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate_store

TARS = [layer({"base": b"b" * 5000}), layer({"app": b"a"})]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


def config(*tars: bytes) -> bytes:
    layers = [LayerInfo(Digest.of(tar), Digest.of(tar), 1, 1, "app", f"title {n}") for n, tar in enumerate(tars)]
    return config_bytes(layers=layers, architecture="amd64", python="3.11", labels={})


def archive(path: Path, members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            out.addfile(entry)
    return path


def saved(path: Path, *tars: bytes, links: Mapping[str, str] | None = None, **changes: Any) -> Path:
    """As `docker save` writes it."""
    names = [f"{n}/layer.tar" for n in range(len(tars))]
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": [*names, *(links or {})], **changes}]
    members = {
        "c.json": config(*TARS),
        **dict(zip(names, tars, strict=True)),
        "manifest.json": json.dumps(manifest).encode(),
    }
    return archive(path, members, links)


def test_layers_are_packed_once_and_the_config_stays(store: Store, tmp_path: Path) -> None:
    found = import_archive(saved(tmp_path / "a.tar", *TARS), store)
    assert [info.diff_id for info in found.layers] == [Digest.of(tar) for tar in TARS]
    assert [info.tar_bytes for info in found.layers] == [len(tar) for tar in TARS]
    assert [info.title for info in found.layers] == ["title 0", "title 1"]
    assert store.manifest(found.manifest)["config"]["digest"] == str(Digest.of(config(*TARS)))
    assert found.manifest.platform == "linux/amd64"
    store.tag("x:1", found.manifest)
    assert validate_store(store).faults == ()
    again = import_archive(saved(tmp_path / "b.tar", *TARS), store)
    assert again.manifest.digest == found.manifest.digest
    assert all(info.reused for info in again.layers)
    assert not any(info.reused for info in found.layers)


def test_compressed_layers_and_links_to_a_layer_stored_once(store: Store, tmp_path: Path) -> None:
    packed = [gzip.compress(tar) for tar in TARS]
    plain = import_archive(saved(tmp_path / "a.tar", *TARS), store)
    assert import_archive(saved(tmp_path / "b.tar", *packed), store).manifest.digest == plain.manifest.digest
    linked = saved(
        tmp_path / "c.tar", TARS[0], Layers=["0/layer.tar", "1/layer.tar"], links={"1/layer.tar": "../0/layer.tar"}
    )
    with pytest.raises(IntermodalError, match="another layer"):
        import_archive(linked, Store(tmp_path / "other").open_or_create())


@pytest.mark.parametrize(
    "case",
    ["empty", "truncated", "no manifest", "two images", "no layer", "lies", "few", "outside", "not json", "folder"],
)
def test_what_is_no_sound_archive_leaves_nothing(store: Store, tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.tar"
    (tmp_path / "secret").write_bytes(TARS[1])
    if case == "empty":
        path.write_bytes(b"")
    elif case == "no manifest":
        archive(path, {"x": b""})
    elif case == "two images":
        archive(path, {"manifest.json": json.dumps([{}, {}]).encode()})
    elif case == "not json":
        archive(path, {"manifest.json": b"[" * 100_000})
    elif case == "no layer":
        saved(path, *TARS, Layers=["0/layer.tar", "gone"])
    elif case == "lies":
        saved(path, TARS[0], layer({"other": b"x"}))
    elif case == "few":
        saved(path, TARS[0])
    elif case == "outside":
        saved(path, TARS[0], links={"1/layer.tar": str(tmp_path / "secret")})
    elif case == "folder":
        saved(path, *TARS, Config="..")
    else:
        saved(path, *TARS)
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(IntermodalError):
        import_archive(path, store)
    assert store.listed() == []
    assert not [blob for blob in store.blobs.iterdir() if blob.read_bytes() == TARS[1]]
    assert list((store.root / "tmp").iterdir()) == []
