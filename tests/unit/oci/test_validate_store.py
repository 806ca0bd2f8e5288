"""A store damaged in every way: each way is told, all of them at once, and the validator always answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support.cli import intermodal

from intermodal.errors import StoreError
from intermodal.events import Events, Task
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Entry
from intermodal.oci.layer import write_layer
from intermodal.oci.layout import NAME, Store
from intermodal.oci.manifest import MAX_BYTES, index_bytes, layer_descriptor, manifest_bytes
from intermodal.oci.measure import measure
from intermodal.oci.validate import validate_store


class Built:
    """A store with one image of two layers, "demo:1", to be damaged."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root).open_or_create()
        self.layers = [self.put_layer(text) for text in ("one", "two")]
        self.config = Descriptor(CONFIG, *self.store.put_bytes(self.config_of(self.layers)))
        self.manifest = self.put_manifest(self.config, [layer_descriptor(layer) for layer in self.layers])
        self.store.tag("demo:1", self.manifest)

    def put_layer(self, text: str) -> LayerInfo:
        with self.store.writer() as writer:
            info = write_layer([Entry.file("app/a.txt", text.encode() * 99)], writer)
            writer.commit(info.digest)
        return info

    def config_of(self, layers: list[LayerInfo]) -> bytes:
        return config_bytes(layers=layers, architecture="amd64", python="3.11", labels={})

    def put_manifest(self, config: Descriptor, layers: list[Descriptor]) -> Descriptor:
        return Descriptor(MANIFEST, *self.store.put_bytes(manifest_bytes(config, layers)), platform="linux/amd64")

    def path(self, item: Descriptor | LayerInfo) -> Path:
        return self.store.path(item.digest)

    def edit(self, item: Descriptor, change: Callable[[dict[str, Any]], object]) -> Descriptor:
        """A new document with another content and its right digest."""
        document = json.loads(self.path(item).read_bytes())
        change(document)
        return Descriptor(item.media_type, *self.store.put_bytes(json.dumps(document).encode()), platform=item.platform)

    def retag(self, manifest: Descriptor) -> None:
        self.store.change_index(lambda _: [replace(manifest, annotations={NAME: "demo:1"})])

    def with_config(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.retag(
            self.put_manifest(self.edit(self.config, change), [layer_descriptor(layer) for layer in self.layers])
        )

    def with_manifest(self, change: Callable[[dict[str, Any]], object]) -> None:
        self.retag(self.edit(self.manifest, change))

    def listing(self, change: Callable[[dict[str, Any]], object]) -> None:
        document = json.loads((self.store.root / "index.json").read_bytes())
        change(document)
        (self.store.root / "index.json").write_text(json.dumps(document))

    def faults(self) -> list[str]:
        return [str(fault) for fault in validate_store(self.store).faults]


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "store")


def flip(path: Path, at: int | bytes = -20) -> None:
    """Change one bit, at a place or at the first of some bytes."""
    data = bytearray(path.read_bytes())
    data[data.index(at) if isinstance(at, bytes) else at] ^= 1
    path.write_bytes(data)


WAYS: dict[str, tuple[Callable[[Built], object], tuple[str, ...]]] = {
    "a byte of a layer flipped": (
        lambda b: flip(b.path(b.layers[0]), 60),
        ("layer {layer}: its bytes are ", "layer {layer}: "),
    ),
    "a layer truncated": (
        lambda b: b.path(b.layers[0]).write_bytes(b.path(b.layers[0]).read_bytes()[:-9]),
        ("layer {layer}: its bytes are ", "bytes, its descriptor says ", "layer {layer}: it does not inflate"),
    ),
    "a layer emptied": (
        lambda b: b.path(b.layers[0]).write_bytes(b""),
        ("layer {layer}: 0 bytes, its descriptor says", "layer {layer}: it does not inflate (it is empty)"),
    ),
    "a layer with bytes behind it": (
        lambda b: b.path(b.layers[0]).write_bytes(b.path(b.layers[0]).read_bytes() + b"x"),
        ("layer {layer}: its bytes are ", "layer {layer}: it does not inflate"),
    ),
    "a layer that is another": (
        lambda b: b.path(b.layers[0]).write_bytes(b.path(b.layers[1]).read_bytes()),
        ("layer {layer}: its bytes are ", "layer {layer}: unpacked it is "),
    ),
    "a layer missing": (lambda b: b.path(b.layers[0]).unlink(), ("layer {layer}: No such file",)),
    "a layer that is a folder": (
        lambda b: (b.path(b.layers[0]).unlink(), b.path(b.layers[0]).mkdir()),
        ("layer {layer}: Is a directory",),
    ),
    "a config missing": (lambda b: b.path(b.config).unlink(), ("config {config}: No such file",)),
    "a byte of a config flipped": (lambda b: flip(b.path(b.config), b"nonroot"), ("config {config}: its bytes are",)),
    "a config truncated": (
        lambda b: b.path(b.config).write_bytes(b.path(b.config).read_bytes()[:-3]),
        ("config {config}: its bytes are", "config {config}: it is not JSON"),
    ),
    "a byte of a manifest flipped": (lambda b: flip(b.path(b.manifest), -2), ("manifest {manifest}: its bytes are",)),
    "a manifest missing": (lambda b: b.path(b.manifest).unlink(), ("manifest {manifest}: No such file",)),
    "a wrong layer size": (
        lambda b: b.with_manifest(lambda d: d["layers"][0].update(size=7)),
        ("layer {layer}: ", "bytes, its descriptor says 7"),
    ),
    "a wrong config size": (
        lambda b: b.with_manifest(lambda d: d["config"].update(size=7)),
        ("config {config}: ", "bytes, its descriptor says 7"),
    ),
    "a wrong manifest size": (
        lambda b: b.listing(lambda d: d["manifests"][0].update(size=7)),
        ("manifest {manifest}: ", "bytes, its descriptor says 7"),
    ),
    "a wrong diff id": (
        lambda b: b.with_config(lambda d: d["rootfs"]["diff_ids"].__setitem__(0, "sha256:" + "0" * 64)),
        ("layer {layer}: unpacked it is ", "the config says sha256:000000"),
    ),
    "a diff id too many": (
        lambda b: b.with_config(lambda d: d["rootfs"]["diff_ids"].append("sha256:" + "0" * 64)),
        ("2 layers, but 3 diff ids", "its history has another number of layers"),
    ),
    "a config without layers": (
        lambda b: b.with_config(lambda d: d.pop("rootfs")),
        ("it has no root file system of layers", "2 layers, but 0 diff ids"),
    ),
    "a config without a platform": (lambda b: b.with_config(lambda d: d.pop("os")), ("it names no platform",)),
    "a config of another platform": (
        lambda b: b.with_config(lambda d: d.update(architecture="arm64")),
        ("listed for linux/amd64, its config says linux/arm64",),
    ),
    "a config of another media type": (
        lambda b: b.with_manifest(lambda d: d["config"].update(mediaType="text/plain")),
        ("its config has media type text/plain",),
    ),
    "a layer of another media type": (
        lambda b: b.with_manifest(lambda d: d["layers"][0].update(mediaType="text/\x1b[2Jplain")),
        ("media type text/?[2Jplain",),
    ),
    "a layer by another algorithm": (
        lambda b: b.with_manifest(lambda d: d["layers"][0].update(digest="md5:1")),
        ("layers[0]: cannot use digest 'md5:1'",),
    ),
    "a negative size": (
        lambda b: b.with_manifest(lambda d: d["layers"][1].update(size=-1)),
        ("layers[1]: ", "size -1"),
    ),
    "a manifest without layers": (lambda b: b.with_manifest(lambda d: d.pop("layers")), ("it has no list of layers",)),
    "a manifest that is an index too": (
        lambda b: b.with_manifest(lambda d: d.update(manifests=[])),
        ("it is a manifest and an index",),
    ),
    "a manifest of another version": (
        lambda b: b.with_manifest(lambda d: d.update(schemaVersion=1)),
        ("its media type or schema version is wrong",),
    ),
    "an unlisted blob damaged": (
        lambda b: flip(b.store.path(b.store.put_bytes(b"nobody lists these bytes")[0])),
        ("blob ", ": its bytes are "),
    ),
    "a file that is no blob": (
        lambda b: (b.store.blobs / "notes.txt").write_text("x"),
        ("file 'notes.txt': no blob has such a name",),
    ),
    "index.json cut short": (
        lambda b: (b.store.root / "index.json").write_text('{"manifests": ['),
        ("index.json: it is not JSON",),
    ),
    "index.json of another shape": (
        lambda b: (b.store.root / "index.json").write_text("[]"),
        ("index.json: it is not a JSON object",),
    ),
    "index.json missing": (lambda b: (b.store.root / "index.json").unlink(), ("index.json: No such file",)),
    "index.json with one bad entry": (
        lambda b: b.listing(lambda d: d["manifests"].insert(0, {"size": 1})),
        ("index.json: manifests[0]: a document holds something that is no descriptor",),
    ),
    "index.json with one name twice": (
        lambda b: b.listing(lambda d: d["manifests"].append(d["manifests"][0])),
        ("index.json: 2 images are called demo:1",),
    ),
    "index.json of another version": (
        lambda b: b.listing(lambda d: d.update(schemaVersion=3)),
        ("index.json: its media type or schema version is wrong",),
    ),
    "oci-layout missing": (lambda b: (b.store.root / "oci-layout").unlink(), ("oci-layout: No such file",)),
    "oci-layout of another version": (
        lambda b: (b.store.root / "oci-layout").write_text('{"imageLayoutVersion": "9"}'),
        ("oci-layout: version '9'",),
    ),
}  # fmt: skip


def test_a_sound_store_has_no_faults(built: Built) -> None:
    found = validate_store(built.store)
    assert found.faults == ()
    assert (found.images, found.blobs) == (1, 4)
    assert found.size_bytes == sum(path.stat().st_size for path in built.store.blobs.iterdir())


@pytest.mark.parametrize("way", WAYS)
def test_every_damage_is_told(built: Built, way: str) -> None:
    damage, expected = WAYS[way]
    names = {"layer": built.layers[0].digest.short, "config": built.config.digest.short}
    names["manifest"] = built.manifest.digest.short
    damage(built)
    told = "\n".join(built.faults())
    for words in expected:
        assert words.format(**names) in told
    assert built.layers[1].digest.short not in told or way == "a layer that is another"


def test_all_faults_of_a_store_are_told_at_once(built: Built) -> None:
    (built.store.blobs / "notes.txt").write_text("x")
    flip(built.path(built.config), b"nonroot")
    built.path(built.layers[0]).unlink()
    flip(built.path(built.layers[1]), 60)
    flip(built.path(built.manifest), -2)
    (built.store.root / "oci-layout").unlink()
    built.listing(lambda d: d["manifests"].append({"size": 1}))
    told = validate_store(built.store).faults
    kinds = [fault.where.split()[0] for fault in told]
    assert {"oci-layout", "index.json", "manifest", "config", "layer", "file"} <= set(kinds)
    assert len({fault.where for fault in told if fault.where.startswith("layer")}) == 2
    assert {fault.images for fault in told} == {(), ("demo:1",)}


def test_a_damaged_list_hides_no_damaged_blob(built: Built) -> None:
    (built.store.root / "index.json").write_text("?")
    flip(built.path(built.layers[1]))
    told = "\n".join(built.faults())
    assert "index.json: it is not JSON" in told
    assert f"blob {built.layers[1].digest.short}: its bytes are" in told


def test_one_damaged_layer_of_two_images_is_one_fault_of_both(built: Built) -> None:
    other = built.put_manifest(
        Descriptor(CONFIG, *built.store.put_bytes(built.config_of(built.layers[:1]))),
        [layer_descriptor(built.layers[0])],
    )
    built.store.tag("other:2", Descriptor(INDEX, *built.store.put_bytes(index_bytes([other]))))
    built.path(built.layers[0]).unlink()
    (fault,) = validate_store(built.store).faults
    assert fault.images == ("demo:1", "other:2")


def test_an_index_must_hold_manifests(built: Built) -> None:
    inner = Descriptor(INDEX, *built.store.put_bytes(index_bytes([built.manifest])))
    built.store.tag("nested:1", Descriptor(INDEX, *built.store.put_bytes(index_bytes([inner]))))
    assert any("media type or schema version is wrong (nested:1)" in fault for fault in built.faults())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schemaVersion": 1}, "its media type or schema version is wrong (both:1)"),
        ({"layers": []}, "it is an index and a manifest (both:1)"),
        ({"mediaType": MANIFEST}, "its media type or schema version is wrong (both:1)"),
    ],
)
def test_an_index_that_is_none(built: Built, change: dict[str, object], words: str) -> None:
    document = json.loads(index_bytes([built.manifest])) | change
    built.store.tag("both:1", Descriptor(INDEX, *built.store.put_bytes(json.dumps(document).encode())))
    assert any(words in fault for fault in built.faults())


def test_a_document_that_is_too_large(built: Built) -> None:
    built.store.tag("large:1", Descriptor(MANIFEST, *built.store.put_bytes(b" " * (MAX_BYTES + 1))))
    assert any("are too many for a document (large:1)" in fault for fault in built.faults())


def test_a_list_that_was_moved_away_is_made_anew(built: Built) -> None:
    (built.store.root / "index.json").unlink()
    assert built.faults() == ["index.json: No such file or directory"]
    built.store.open_or_create().tag("demo:1", built.manifest)
    assert built.faults() == []


def test_a_layer_beyond_all_bounds_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    piece = gzip.compress(bytes(64 << 20), 9)
    path.write_bytes(piece * 6)
    measured = measure(path, Task(), inflate="gzip")
    assert measured.diff_id is None
    assert "far more than it should" in measured.why
    assert measured.digest == Digest.of_file(path)[0]


def test_progress_counts_every_byte_once(built: Built) -> None:
    class Counting(Events, Task):
        done = 0
        total = None

        def task(self, label: str, *, total: int | None = None, unit: str = "items") -> Any:
            self.total = total
            return nullcontext(self)

        def advance(self, amount: int = 1) -> None:
            self.done += amount

    events = Counting()
    validate_store(built.store, events)
    assert events.done == events.total > 0


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    assert validate_store(Store(tmp_path / "none")).faults == ()
    assert not (tmp_path / "none").exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from([MANIFEST, INDEX, LAYER_GZIP]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_whatever_lies_there_the_validator_answers(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    built = Built(tmp_path_factory.mktemp("any") / "store")

    def spoil(document: dict[str, Any]) -> None:
        node: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else 0
            inner = node[key]
            if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
                node[key] = data.draw(JSON)
                return
            node = inner

    which = data.draw(st.sampled_from(["config", "manifest", "list"]))
    {"config": built.with_config, "manifest": built.with_manifest, "list": built.listing}[which](spoil)
    for fault in validate_store(built.store).faults:
        assert str(fault).isprintable()
    with suppress(StoreError):
        built.store.prune()


def test_the_command_tells_and_exits(tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return intermodal("images", "--validate", *words, home=tmp_path)

    nothing = run()
    assert nothing.code == 0 and nothing.out.startswith("valid: 0 images, 0 blobs")
    built = Built(tmp_path / "data" / "intermodal" / "store")
    sound = run()
    assert sound.code == 0 and sound.out.startswith("valid: 1 image, 4 blobs")
    assert "recompute everything" in sound.err
    flip(built.path(built.config), b"nonroot")
    built.path(built.layers[0]).unlink()
    found = run()
    assert found.code == 1
    assert found.out.startswith("NOT VALID: 2 faults, 1 image spoiled (1 image, 3 blobs")
    assert f"  found   config {built.config.digest.short}: its bytes are" in found.out
    assert f"  found   layer {built.layers[0].digest.short}: No such file or directory (demo:1)" in found.out
    assert f"  next    rm {built.path(built.config)}\n" in found.out
    told = run("--json")
    assert told.code == 1
    assert not told.json["valid"]
    assert [fault["images"] for fault in told.json["faults"]] == [["demo:1"], ["demo:1"]]
    assert told.json["faults"][0]["path"] == str(built.path(built.config))
