"""An exported image is a layout that stands on its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from intermodal.errors import InputError, StoreError
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.export import export
from intermodal.oci.layout import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


def image(store: Store, layer: bytes = b"layer") -> Descriptor:
    blobs = []
    for media_type, data in ((CONFIG, b'{"os":"linux","architecture":"amd64"}'), (LAYER_GZIP, layer)):
        digest, size = store.put_bytes(data)
        blobs.append(Descriptor(media_type, digest, size).as_json())
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blobs[0], "layers": blobs[1:]}
    digest, size = store.put_bytes(canonical_json(document))
    return Descriptor(MANIFEST, digest, size)


def test_everything_travels(store: Store, tmp_path: Path) -> None:
    found = image(store)
    folder = export(store, found, f"oci:{tmp_path / 'out'}:v1", name="m:latest")
    index = json.loads((folder / "index.json").read_bytes())
    assert [m["digest"] for m in index["manifests"]] == [str(found.digest)]
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "v1"
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    blobs = {path.name for path in (folder / "blobs" / "sha256").iterdir()}
    assert blobs == {path.name for path in store.blobs.iterdir()}


def test_two_images_share_a_folder(store: Store, tmp_path: Path) -> None:
    one, two = image(store), image(store, b"another")
    export(store, one, f"oci:{tmp_path / 'out'}", name="a:1")
    export(store, two, f"oci:{tmp_path / 'out'}", name="b:1")
    there = Store(tmp_path / "out")
    assert there.resolve("a:1").digest == one.digest
    assert there.resolve("b:1").digest == two.digest


def test_a_damaged_blob_is_not_passed_on(store: Store, tmp_path: Path) -> None:
    found = image(store)
    store.path(Digest.of(b"layer")).write_bytes(b"lawyer")
    with pytest.raises(StoreError):
        export(store, found, f"oci:{tmp_path / 'out'}", name="a:1")
    assert Store(tmp_path / "out").listed() == []


def test_other_kinds_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="docker-archive"):
        export(store, image(store), "docker-archive:x.tar", name="a:1")
