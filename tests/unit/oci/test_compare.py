"""Two images side by side: every kind of difference is named by layer, entry and field, and nothing else is."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import pytest

from intermodal.errors import InputError, StoreError
from intermodal.oci import member, tarheader
from intermodal.oci.canonical import canonical_json
from intermodal.oci.compare import Difference, compare
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.entry import Deflated, Entry
from intermodal.oci.layer import LayerWriter
from intermodal.oci.layout import Store
from intermodal.oci.listing import ImageListing, list_image
from intermodal.oci.manifest import layer_descriptor, manifest_bytes

ZEROS = b"\0" * (member.PIECE_BYTES + 700)  # two pieces, so two gzip members
FILES = {"app/a.py": b"A = 1\n", "app/zeros.bin": ZEROS}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


def packed(store: Store, entries: list[Entry], title: str) -> LayerInfo:
    with store.writer() as sink:
        writer = LayerWriter(sink)
        writer.pack(entries)
        info = writer.finish()
        sink.commit(info.digest)
    return LayerInfo(info.digest, info.diff_id, info.size_bytes, info.tar_bytes, "app", title)


def layer(store: Store, files: dict[str, bytes], title: str, *more: Entry) -> LayerInfo:
    return packed(store, [*(Entry.file(path, data) for path, data in files.items()), *more], title)


def raw(store: Store, tar: bytes, title: str) -> LayerInfo:
    """A layer of any tar bytes."""
    data = member.packed(tar)
    digest, size_bytes = store.put_bytes(data)
    return LayerInfo(digest, Digest.of(tar), size_bytes, len(tar), "app", title)


def image(store: Store, *layers: LayerInfo, labels: dict[str, str] | None = None, indent: bool = False) -> ImageListing:
    config = config_bytes(layers=layers, architecture="amd64", python="3.11", labels=labels or {})
    described = Descriptor(CONFIG, *store.put_bytes(config))
    data = manifest_bytes(described, [layer_descriptor(one) for one in layers])
    if indent:
        data += b"\n"
    return list_image(store, Descriptor(MANIFEST, *store.put_bytes(data)))


def words(before: ImageListing, after: ImageListing) -> list[str]:
    return [str(difference) for difference in compare(before, after)]


def test_equal_images(store: Store) -> None:
    one = image(store, layer(store, FILES, "application"))
    assert words(one, image(store, layer(store, FILES, "application"))) == []
    (listed,) = one.layers
    assert [entry.path.rstrip("/") for entry in listed.entries] == ["app", "app/a.py", "app/zeros.bin"]
    assert listed.entries[1].content == hashlib.sha256(b"A = 1\n").hexdigest()
    assert [entry.tar_offset for entry in listed.entries] == [0, 512, 1536]
    assert [one.tar_offset for one in listed.members] == [0, member.PIECE_BYTES]


def test_every_field_of_an_entry(store: Store) -> None:
    def tar(at: int, digits: bytes, **more: object) -> bytes:
        block = bytearray(tarheader.header("app/RECORD", kind=tarheader.FILE, mode=0o644, size_bytes=0))
        block[at : at + len(digits)] = digits
        block[148:156] = b"        "
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block) + bytes(1024)

    plain = image(store, raw(store, tar(136, b"00000000000"), "wheels"))
    where = "layer 1 (wheels), entry app/RECORD, field"
    for at, digits, told in (
        (136, b"00000000001", "mtime: 0 -> 1"),
        (100, b"0000755", "mode: 0644 -> 0755"),
        (108, b"0001750", "owner: 0:0 -> 1000:0"),
        (116, b"0000012", "owner: 0:0 -> 0:10"),
        (265, b"root", "names: : -> root:"),
        (297, b"wheel", "names: : -> :wheel"),
    ):
        assert words(plain, image(store, raw(store, tar(at, digits), "wheels"))) == [f"{where} {told}"]
    (told,) = compare(plain, image(store, raw(store, tar(329, b"0000001"), "wheels")))
    assert (told.where, told.field) == ("layer 1 (wheels), entry app/RECORD", "header")


def test_contents_links_and_what_comes_and_goes(store: Store) -> None:
    link = Entry.symlink("app/link", "a.py")
    before = image(store, layer(store, FILES, "application", link))
    after = image(
        store,
        layer(store, {"app/a.py": b"A = 22\n", "app/new": b"x"}, "application", Entry.symlink("app/link", "b.py")),
    )
    where = "layer 1 (application), entry app/"
    assert words(before, after) == [
        f"{where}a.py, field size: 6 -> 7",
        f"{where}a.py, field content: {hashlib.sha256(b'A = 1' + bytes([10])).hexdigest()} -> "
        f"{hashlib.sha256(b'A = 22' + bytes([10])).hexdigest()}",
        f"{where}link, field target: a.py -> b.py",
        f"{where}zeros.bin: file 0644 of {len(ZEROS)} bytes -> (none)",
        f"{where}new: (none) -> file 0644 of 1 bytes",
    ]


def test_the_order_of_entries_and_bytes_between_them(store: Store) -> None:
    one, two = (tarheader.header(name, kind=tarheader.FILE, mode=0o644) for name in ("a", "b"))
    plain = image(store, raw(store, one + two + bytes(1024), "t"))
    assert words(plain, image(store, raw(store, two + one + bytes(1024), "t"))) == [
        "layer 1 (t), field order, from entry 1: a -> b"
    ]
    (told,) = compare(plain, image(store, raw(store, one + two + bytes(2048), "t")))
    assert told.field == "tar bytes outside all entries"
    (told,) = compare(plain, image(store, raw(store, one + two + two + bytes(1024), "t")))
    assert (told.field, told.after) == ("times it is stored after", "2")


def test_the_same_tar_compressed_otherwise(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = image(store, layer(store, FILES, "application"))
    monkeypatch.setattr(member, "LEVEL", 1)
    assert image(store, layer(store, FILES, "application")).layers[0].diff_id == before.layers[0].diff_id
    told = compare(before, image(store, layer(store, FILES, "application")))
    assert told[0].where == "layer 1 (application)" and told[0].field == "stored bytes of the same tar"
    assert told[1].where == "layer 1 (application), gzip member at tar byte 0 (from app/ on)"


def test_a_spliced_stream_that_was_packed_anew(store: Store) -> None:
    plain = bytes(range(256)) * 64

    def spliced(level: int) -> LayerInfo:
        packer = zlib.compressobj(level, zlib.DEFLATED, -15)
        data = packer.compress(plain) + packer.flush()
        with store.writer() as sink:
            writer = LayerWriter(sink)
            writer.splice(
                [Entry.file("lib/a", b""), Entry.file("lib/b", Deflated(data, zlib.crc32(plain), len(plain)))]
            )
            info = writer.finish()
            sink.commit(info.digest)
        return LayerInfo(info.digest, info.diff_id, info.size_bytes, info.tar_bytes, "wheel", "b 1.0")

    told = compare(image(store, spliced(9)), image(store, spliced(1)))
    assert [item.where.rpartition(", ")[2] for item in told[1:]] == ["gzip member at tar byte 1536 (from lib/b on)"]


def test_layers_are_paired_by_title(store: Store) -> None:
    one, two = layer(store, {"one": b"1"}, "one"), layer(store, {"two": b"2"}, "two")
    extra = layer(store, {"extra": b"3"}, "extra")
    before, after = image(store, one, two), image(store, extra, one, two)
    assert str(compare(before, after)[0]) == f"layer 1 (extra): (none) -> {extra.digest}"
    assert not [item for item in compare(before, after) if item.where.startswith(("layer 2", "layer 3"))]
    assert f"layer 1 (extra): {extra.digest} -> (none)" in words(after, before)
    assert words(before, image(store, two, one))[0] == "layers, field order: one, two -> two, one"


def test_documents(store: Store) -> None:
    made = layer(store, FILES, "application")
    before = image(store, made, labels={"a.b": "1", "same": "x"})
    assert words(before, image(store, made, labels={"a.b": "2", "same": "x"})) == [
        "config, field config.Labels.a.b: '1' -> '2'"
    ]
    (told,) = compare(before, image(store, made, labels={"a.b": "1", "same": "x"}, indent=True))
    assert told.where == "image" and told.before == before.digest


def test_one_variable_more_moves_no_other(store: Store) -> None:
    made = layer(store, FILES, "application")
    before = image(store, made)
    config = dict(before.config, config=dict(before.config["config"]))
    config["config"]["Env"] = ["FIRST=1", *config["config"]["Env"]]
    described = Descriptor(CONFIG, *store.put_bytes(canonical_json(config)))
    data = manifest_bytes(described, [layer_descriptor(made)])
    after = list_image(store, Descriptor(MANIFEST, *store.put_bytes(data)))
    assert compare(before, after) == (Difference("config", "config.Env[FIRST]", "(none)", "'1'"),)


def test_known_layers_are_not_read(store: Store) -> None:
    made, other = layer(store, FILES, "one"), layer(store, {"x": b""}, "two")
    manifest = image(store, made, other)
    store.path(made.digest).unlink()
    descriptor = Descriptor(MANIFEST, Digest.parse(manifest.digest), 0)
    descriptor = Descriptor(MANIFEST, descriptor.digest, store.path(descriptor.digest).stat().st_size)
    found = list_image(store, descriptor, known={made.digest})
    assert found.layers[0].entries == () and found.layers[1].entries
    with pytest.raises(StoreError):
        list_image(store, descriptor)


def test_damaged_layers_are_not_listed(store: Store) -> None:
    made = layer(store, FILES, "one")
    listed = image(store, made)
    path = store.path(made.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    digest = Digest.parse(listed.digest)
    with pytest.raises((StoreError, InputError)):
        list_image(store, Descriptor(MANIFEST, digest, store.path(digest).stat().st_size))
