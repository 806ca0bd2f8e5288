import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from intermodal.errors import DuplicatePathError, IntermodalError, PackageFileError, UnsafePathError
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.entry import Deflated, Entry
from intermodal.oci.layer import LayerWriter, write_layer


def deflated(data: bytes, **changes: object) -> Deflated:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    raw = packer.compress(data) + packer.flush()
    fields: dict[str, object] = {
        "raw": raw,
        "crc32": zlib.crc32(data),
        "size_bytes": len(data),
        "algorithm": "sha256",
        "expected": hashlib.sha256(data).digest(),
        "source": "demo-1.0-py3-none-any.whl",
    }
    return Deflated(**{**fields, **changes})  # type: ignore[arg-type]


def written(*entries: Entry) -> tuple[bytes, LayerInfo]:
    out = io.BytesIO()
    info = write_layer(entries, out)
    return out.getvalue(), info


def listed(stored: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(stored), mode="r:gz") as archive:
        members = archive.getmembers()
    assert len({m.name for m in members}) == len(members), "a path came twice"
    return {m.name: m for m in members}


def test_digest_and_diff_id_are_those_of_what_was_written() -> None:
    stored, info = written(Entry.file("app/a.txt", b"hello"), Entry.file("app/b.txt", b""))
    plain = gzip.decompress(stored)
    assert info.digest.hex == hashlib.sha256(stored).hexdigest()
    assert info.diff_id.hex == hashlib.sha256(plain).hexdigest()
    assert (info.size_bytes, info.tar_bytes) == (len(stored), len(plain))


def test_nothing_of_the_machine_shows_and_parents_are_explicit() -> None:
    found = listed(
        written(Entry.file("opt/venv/bin/tool", b"#!x", executable=True), Entry.directory("tmp", mode=0o1777))[0]
    )
    assert list(found) == ["opt", "opt/venv", "opt/venv/bin", "opt/venv/bin/tool", "tmp"]
    assert {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in found.values()} == {(0, 0, 0, "", "")}
    modes = {name: m.mode for name, m in found.items()}
    assert modes == {"opt": 0o755, "opt/venv": 0o755, "opt/venv/bin": 0o755, "opt/venv/bin/tool": 0o755, "tmp": 0o1777}


def test_the_order_of_entries_and_the_threads_change_nothing() -> None:
    dice = random.Random(3)
    entries = [Entry.file(f"d{i % 7}/f{i}", dice.randbytes(dice.randrange(300_000))) for i in range(60)]
    first, info = written(*entries)
    dice.shuffle(entries)
    with ThreadPoolExecutor(3) as pool:
        out = io.BytesIO()
        assert write_layer(entries, out, pool=pool) == info
    assert out.getvalue() == first


def test_setuid_and_odd_modes_cannot_be_expressed() -> None:
    assert Entry.file("a", b"", executable=True).mode == 0o755
    assert Entry.directory("a", mode=0o6777).mode == 0o755


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "./a", "a/", "a\0b", ".wh.a", "a/.wh..wh..opq", "x" * 256,
     "/".join(["abcdefgh"] * 500), "a\udce9"],
)  # fmt: skip
def test_unsafe_paths_are_refused_before_anything_is_written(path: str) -> None:
    out = io.BytesIO()
    with pytest.raises(UnsafePathError):
        write_layer([Entry.file("fine", b"1"), Entry.file(path, b"2")], out)
    assert out.getvalue() == b""


def test_a_path_twice_and_a_file_used_as_folder_are_refused() -> None:
    out = io.BytesIO()
    with pytest.raises(DuplicatePathError):
        write_layer([Entry.file("a/b", b"1"), Entry.file("a/b", b"1")], out)
    with pytest.raises(UnsafePathError, match="a/b/c"):
        write_layer([Entry.symlink("a/b", "/etc"), Entry.file("a/b/c", b"1")], out)
    writer = LayerWriter(out)
    writer.pack([Entry.file("a/b", b"1")])
    before = out.getvalue()
    with pytest.raises(DuplicatePathError):
        writer.pack([Entry.file("a/c", b"1"), Entry.file("a/b", b"2")])
    assert out.getvalue() == before


def test_long_and_foreign_names_come_back() -> None:
    names = [
        "x" * 100,
        "d" * 90 + "/" + "f" * 90,
        "/".join(["abcdefghij"] * 30),
        "größe/数据.txt",
        "a" * 200,
        "p" * 156 + "/f",
    ]
    entries = [Entry.file(name, name.encode()) for name in names]
    links = [Entry.symlink("link", "t" * 150), Entry.symlink("ü", "ß"), Entry.hardlink("zz", names[2])]
    stored, _ = written(*entries, *links)
    found = listed(stored)
    assert set(names) <= set(found)
    assert found["link"].linkname == "t" * 150 and found["ü"].linkname == "ß" and found["zz"].linkname == names[2]
    assert list(found)[-1] == "zz", "a hard link follows the file it names"


def test_a_hard_link_carries_the_mode_of_its_file_and_needs_one() -> None:
    stored, _ = written(Entry.file("b", b"1", executable=True), Entry.hardlink("a", "b"))
    assert listed(stored)["a"].mode == 0o755
    with pytest.raises(UnsafePathError, match="no file of the same layer"):
        written(Entry.hardlink("a", "missing"))


def test_a_spliced_stream_is_copied_byte_by_byte() -> None:
    data = b"import this\n" * 9000
    stream = deflated(data)
    out = io.BytesIO()
    writer = LayerWriter(out)
    seen: list[tuple[str, bytes]] = []
    writer.splice(
        [
            Entry.file("s/a.py", stream, tapped=True),
            Entry.file("s/b.py", deflated(b"")),
            Entry.file("s/c.so", deflated(data)),
        ],
        tap=lambda entry, plain: seen.append((entry.path, plain)),
    )
    writer.pack([Entry.file("s/RECORD", b"rows")])
    info = writer.finish()
    assert out.getvalue().count(bytes(stream.raw)) == 2
    assert seen == [("s/a.py", data)]
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        contents = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    assert contents == {"s/a.py": data, "s/b.py": b"", "s/c.so": data, "s/RECORD": b"rows"}
    assert info.diff_id.hex == hashlib.sha256(gzip.decompress(out.getvalue())).hexdigest()


def test_other_tools_read_both_ways_of_storing(tmp_path: Path) -> None:
    noise = random.Random(5).randbytes(5 << 20)
    path = tmp_path / "layer.tar.gz"
    with path.open("wb") as out:
        writer = LayerWriter(out)
        writer.splice([Entry.file(f"lib/m{i}.py", deflated(f"x = {i}\n".encode() * i)) for i in range(200)])
        writer.pack([Entry.file("model/weights", noise), Entry.file("model/text", b"word " * 2_000_000)])
        writer.finish()
    subprocess.run(["gzip", "-t", str(path)], check=True)
    target = tmp_path / "out"
    target.mkdir()
    subprocess.run(["tar", "-xzf", str(path), "-C", str(target)], check=True)
    assert (target / "model/weights").read_bytes() == noise
    assert (target / "model/text").read_bytes() == b"word " * 2_000_000
    assert (target / "lib/m199.py").read_text() == "x = 199\n" * 199


DATA = b"def f():\n    return 1\n" * 700


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"raw": deflated(DATA).raw + b"\0"}, "bytes follow"),
        ({"raw": deflated(DATA).raw + deflated(DATA).raw}, "bytes follow"),
        ({"raw": deflated(DATA).raw[:-1]}, "ends"),
        ({"raw": b""}, "ends"),
        ({"raw": b"\xff" * 40}, "damaged"),
        ({"size_bytes": len(DATA) - 1}, "longer"),
        ({"size_bytes": len(DATA) + 1}, "ends 1 bytes early"),
        ({"size_bytes": 10**9}, "early"),
        ({"crc32": 1}, "CRC-32"),
        ({"expected": bytes(32)}, "sha256"),
    ],
)
def test_a_stream_that_is_not_what_it_promises_is_refused(changes: dict[str, object], why: str) -> None:
    for store in ("splice", "pack"):
        writer = LayerWriter(io.BytesIO())
        with pytest.raises(PackageFileError) as caught:
            getattr(writer, store)([Entry.file("a.py", deflated(DATA, **changes))])
        assert why in str(caught.value) and "demo-1.0" in caught.value.message


def test_a_bomb_is_stopped_at_the_size_it_announces() -> None:
    bomb = deflated(bytes(64 << 20), size_bytes=1000, expected=bytes(32))
    tracemalloc.start()
    with pytest.raises(PackageFileError, match="demo"):
        LayerWriter(io.BytesIO()).splice([Entry.file("a", bomb)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


class Nowhere:
    """A sink that only counts."""

    size = 0

    def write(self, data: bytes | memoryview, /) -> None:
        self.size += len(data)


def test_memory_does_not_grow_with_a_file() -> None:
    block = os.urandom(1 << 20)

    def chunks() -> Iterator[bytes]:
        for _ in range(80):
            yield block

    sink = Nowhere()
    tracemalloc.start()
    info = write_layer([Entry.stream("model/w", 80 << 20, chunks)], sink)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert info.tar_bytes > 80 << 20 and sink.size == info.size_bytes
    assert peak < 40 << 20


@pytest.mark.parametrize("size", [9, 11])
def test_a_content_of_another_length_than_announced_is_an_error(size: int) -> None:
    with pytest.raises(IntermodalError, match="changed while"):
        write_layer([Entry.stream("m", size, lambda: [b"0123456789"])], io.BytesIO())


def test_a_file_above_eight_gigabytes_gets_a_pax_size() -> None:
    from intermodal.oci import tarheader

    blocks = tarheader.header("m", kind=tarheader.FILE, mode=0o644, size_bytes=9 << 30)
    info = tarfile.TarInfo.frombuf(blocks[:512], "utf-8", "strict")
    assert info.type == tarfile.XHDTYPE
    assert b"19 size=9663676416\n" in blocks
