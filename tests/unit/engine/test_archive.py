"""The archive that every engine reads: whole, partial, and honest about its sizes."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from support.tiny_image import tiny_image

from intermodal import host as hosts
from intermodal.engine.archive import CONTAINERD_NAME, Parts, archive, common, familiar, feed, image_name, read_parts
from intermodal.errors import EngineError, StoreError
from intermodal.oci.descriptor import MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Store, Parts]:
    store = Store(tmp_path / "store").open_or_create()
    return store, read_parts(store, tiny_image(store))


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar if item.isfile()}  # type: ignore[union-attr]


def test_the_archive_is_a_layout_and_a_docker_archive_at_once(stored: tuple[Store, Parts]) -> None:
    store, parts = stored
    found = members(b"".join(archive(parts, store, "tiny:1")))
    assert json.loads(found["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    listed = json.loads(found["index.json"])["manifests"][0]
    assert listed["digest"] == str(parts.manifest.digest)
    assert listed["annotations"][CONTAINERD_NAME] == "docker.io/library/tiny:1"
    docker = json.loads(found["manifest.json"])[0]
    assert docker["RepoTags"] == ["tiny:1"]
    blobs = {name: data for name, data in found.items() if name.startswith("blobs/")}
    assert {docker["Config"], *docker["Layers"]} < set(blobs)
    assert all(Digest.of(data).hex == name.rpartition("/")[2] for name, data in blobs.items())


def test_a_partial_archive_names_the_layers_it_leaves_out(stored: tuple[Store, Parts]) -> None:
    store, parts = stored
    data = b"".join(archive(parts, store, "tiny:1", without=[parts.layers[0].digest]))
    found = members(data)
    assert len(data) < 20_000 < parts.layers[0].size_bytes
    left_out = f"blobs/sha256/{parts.layers[0].digest.hex}"
    assert left_out not in found
    assert left_out in json.loads(found["manifest.json"])[0]["Layers"]


def test_pieces_are_small_whatever_the_layer(stored: tuple[Store, Parts]) -> None:
    store, parts = stored
    assert max(len(piece) for piece in archive(parts, store, "tiny:1")) <= 1 << 20


@pytest.mark.parametrize("change", [b"more", b""])
def test_a_blob_of_another_size_stops_the_archive(stored: tuple[Store, Parts], change: bytes) -> None:
    store, parts = stored
    path = store.path(parts.layers[1].digest)
    path.write_bytes(path.read_bytes() + change if change else b"short")
    with pytest.raises(StoreError, match="another size"):
        list(archive(parts, store, "tiny:1"))


def test_a_manifest_that_contradicts_its_config_is_refused(stored: tuple[Store, Parts]) -> None:
    store, parts = stored
    document = json.loads(store.read_bytes(parts.manifest.digest))
    document["layers"].pop()
    digest, _ = store.put_bytes(json.dumps(document).encode())
    with pytest.raises(StoreError, match="not an image manifest"):
        read_parts(store, digest)


def test_an_image_without_a_name_gets_one_of_its_digest(stored: tuple[Store, Parts]) -> None:
    store, parts = stored
    assert image_name(store, parts.manifest.digest) == "tiny:1"
    data = store.read_bytes(parts.manifest.digest).replace(b"}", b"} ", 1)
    digest, size_bytes = store.put_bytes(data)
    assert image_name(store, digest) == f"image:{digest.short}"
    store.tag("tiny:1", Descriptor(MANIFEST, digest, size_bytes))
    assert image_name(store, parts.manifest.digest) == f"image:{parts.manifest.digest.short}"


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("digits:1", "docker.io/library/digits:1"),
        ("team/digits:1", "docker.io/team/digits:1"),
        ("registry.example.com/digits:1", "registry.example.com/digits:1"),
        ("registry:5000/digits:1", "registry:5000/digits:1"),
        ("localhost/digits:1", "localhost/digits:1"),
    ],
)
def test_short_names_in_full(short: str, full: str) -> None:
    assert familiar(short) == full


def test_common_prefix_stops_at_the_first_difference() -> None:
    assert common("abc", "abd") == 2
    assert common("abc", "xbc") == 0
    assert common("abc", "abcd") == 3


def test_feeding_a_command_counts_and_reports() -> None:
    host = hosts.read()
    swallow = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
    assert feed(swallow, [b"ab", b"cde"], host) == 5
    refuse = [sys.executable, "-c", "import sys; sys.stderr.write('no room\\n'); sys.exit(3)"]
    with pytest.raises(EngineError) as caught:
        feed(refuse, (bytes(1 << 20) for _ in range(8)), host)
    assert caught.value.found == ("no room",)
