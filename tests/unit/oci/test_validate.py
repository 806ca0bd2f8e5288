import gzip
import io
import json
from pathlib import Path

import pytest

from intermodal.errors import InputError
from intermodal.oci.config import config_bytes, environment
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import write_layer
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, layer_descriptor, manifest_bytes, parse_descriptor
from intermodal.oci.reference import Reference, parse, parse_name
from intermodal.oci.validate import validate


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


def put_layer(store: Store, text: str) -> LayerInfo:
    with store.writer() as writer:
        info = write_layer([Entry.file("app/a.txt", text.encode())], writer)
        writer.commit(info.digest)
    return info


def put_image(
    store: Store, *layers: LayerInfo, listed: tuple[LayerInfo, ...] = (), platform: str = "linux/amd64"
) -> Descriptor:
    config = config_bytes(layers=listed or layers, architecture="amd64", python="3.11", labels={})
    described = Descriptor(CONFIG, *store.put_bytes(config))
    manifest = manifest_bytes(described, [layer_descriptor(layer) for layer in layers])
    return Descriptor(MANIFEST, *store.put_bytes(manifest), platform=platform)


def test_a_sound_image_has_no_faults(store: Store) -> None:
    image = put_image(store, put_layer(store, "one"), put_layer(store, "two"))
    assert validate(store, image) == ()
    index = Descriptor(INDEX, *store.put_bytes(index_bytes([image])))
    assert validate(store, index) == ()


def test_every_fault_is_listed_at_once(store: Store) -> None:
    one, two, three = (put_layer(store, text) for text in ("one", "two", "three"))
    image = put_image(store, one, two, three, platform="linux/arm64")
    store.path(one.digest).write_bytes(gzip.compress(b"something else"))
    store.path(two.digest).unlink()
    store.path(three.digest).write_bytes(store.path(three.digest).read_bytes()[:-9])
    faults = "\n".join(validate(store, image))
    assert "listed for linux/arm64" in faults
    assert f"layer {one.digest.short}: its bytes are" in faults and f"layer {one.digest.short}: unpacked" in faults
    assert f"layer {two.digest.short}: No such file" in faults
    assert f"layer {three.digest.short}: it does not inflate" in faults


def test_a_config_that_lies_about_layers(store: Store) -> None:
    one, two = put_layer(store, "one"), put_layer(store, "two")
    assert "unpacked it is" in validate(store, put_image(store, one, listed=(two,)))[0]
    assert "1 layers, but 2 diff ids" in "\n".join(validate(store, put_image(store, one, listed=(one, two))))


def test_documents_that_are_none(store: Store) -> None:
    foreign = b'{"config":{"mediaType":"x","digest":"md5:1","size":1},"layers":[]}'
    for data in (b"[]", b"{}", b"not json", b'{"config": {}, "layers": 3}', foreign):
        assert validate(store, Descriptor(MANIFEST, *store.put_bytes(data)))
        assert validate(store, Descriptor(INDEX, *store.put_bytes(data)))
    image = put_image(store, put_layer(store, "one"))
    document = json.loads(store.path(image.digest).read_bytes())
    document["manifests"] = []
    both = Descriptor(MANIFEST, *store.put_bytes(json.dumps(document).encode()))
    assert any("manifest and an index" in fault for fault in validate(store, both))
    short = Descriptor(MANIFEST, image.digest, image.size_bytes - 1)
    assert "its descriptor says" in validate(store, short)[0]


def test_descriptors_survive_their_json(store: Store) -> None:
    one = Descriptor(LAYER_GZIP, Digest.of(b"x"), 1, {"b": "2", "a": "1"}, "linux/arm64")
    assert parse_descriptor(one.as_json()) == one


def test_the_config_is_canonical_and_tells_nothing_of_the_machine() -> None:
    layer = LayerInfo(Digest.of(b"a"), Digest.of(b"b"), 1, 2, "app", "application")
    one = config_bytes(layers=[layer], architecture="arm64", python="3.13", labels={"b": "1", "a": "2"})
    assert one == config_bytes(layers=[layer], architecture="arm64", python="3.13", labels={"a": "2", "b": "1"})
    document = json.loads(one)
    assert document["variant"] == "v8" and document["config"]["Entrypoint"][0] == "/usr/bin/python3.13"
    assert document["history"] == [{"created": "1970-01-01T00:00:00Z", "created_by": "application"}]
    variables = environment()
    writable = [value for name, value in variables.items() if name.endswith(("_DIR", "HOME", "DIR", "FOLDER"))]
    assert all(value.startswith(("/tmp", "/dev/shm")) for value in writable) and len(writable) >= 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Reference("digits")),
        ("team/digits:1.0.0", Reference("team/digits", "1.0.0")),
        ("a__b.c-d", Reference("a__b.c-d")),
        ("deadbeef", Reference("deadbeef", prefix="deadbeef")),
        ("sha256:deadbeef", Reference(prefix="deadbeef")),
        ("sha256:" + "a" * 64, Reference(digest=Digest("a" * 64))),
        ("digits@sha256:" + "a" * 64, Reference("digits", digest=Digest("a" * 64))),
    ],
)
def test_references_are_read(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected or expected.prefix


@pytest.mark.parametrize(
    "text", ["", "A", "a:", "a:b/c", "a/", "/a", "a//b", "a..b", "a@b", "-a", "a:" + "x" * 129, "a" * 300]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_names_split_into_name_and_tag() -> None:
    assert parse_name("digits") == ("digits", "") and parse_name("digits:2") == ("digits", "2")
    with pytest.raises(InputError, match="tag"):
        parse_name("digits:bad tag")


def test_a_layer_that_is_stored_is_what_was_written(store: Store) -> None:
    info = put_layer(store, "text")
    out = io.BytesIO()
    assert write_layer([Entry.file("app/a.txt", b"text")], out) == info
    assert store.path(info.digest).read_bytes() == out.getvalue()
