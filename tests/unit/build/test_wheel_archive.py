"""Hostile and broken wheels: each is refused by name, and nothing of it is written."""

import base64
import hashlib
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.wheels import make_wheel

from intermodal.errors import IntermodalError, PackageFileError
from intermodal.oci.layer import LayerWriter
from intermodal.rooms.build.wheels.archive import Wheel
from intermodal.rooms.build.wheels.install import install
from intermodal.rooms.build.wheels.scheme import Scheme

NAME = "demo-1.0-py3-none-any.whl"
INFO = "demo-1.0.dist-info"
METADATA = {
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
CODE = b"VALUE = 1\n" * 200


def row(name: str, data: bytes, size: int | None = None) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data) if size is None else size}\n"


def wheel(folder: Path, files: dict[str, bytes], *, record: str | None = None, filename: str = NAME) -> Path:
    """A wheel of `files` with their metadata; `record` replaces the right RECORD."""
    members = {**METADATA, **files}
    if record is None:
        record = "".join(row(name, data) for name, data in members.items()) + f"{INFO}/RECORD,,\n"
    path = folder / filename
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, f"{INFO}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def lay_down(path: Path) -> bytes:
    """Everything that a build does with a wheel; the stored layer."""
    out = io.BytesIO()
    with Wheel(path) as opened:
        done = install(opened, Scheme("opt/venv", "3.11"), None)
        writer = LayerWriter(out)
        writer.splice(done.spliced)
        writer.pack(done.packed)
        writer.finish()
    return out.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(IntermodalError) as caught:
        lay_down(path)
    assert isinstance(caught.value, PackageFileError) and caught.value.exit_code == 2
    assert path.name in caught.value.message
    return "\n".join(caught.value.found)


def test_a_sound_wheel_is_read(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo/__init__.py": CODE})
    with Wheel(path) as opened:
        assert opened.dist_info == INFO and opened.members["demo/__init__.py"].read() == CODE
        assert opened.text("entry_points.txt") is None
    assert lay_down(path)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/cron.d/evil", "demo/../../evil.py", "demo//x.py", "./demo.py", "demo\\..\\evil.py",
     "C:/evil.py", "demo/\x1b[2J.py", "demo/line\nbreak.py", "a" * 1100],
)  # fmt: skip
def test_names_that_leave_the_root_or_read_two_ways(tmp_path: Path, name: str) -> None:
    assert "name" in refusal(wheel(tmp_path, {name: CODE}))


def test_a_whiteout_name_cannot_delete_files_of_other_layers(tmp_path: Path) -> None:
    with pytest.raises(IntermodalError, match="whiteout"):
        lay_down(wheel(tmp_path, {"demo/.wh.os.py": CODE}))


def patch(path: Path, change: Callable[[bytearray, int, int], None], name: bytes = b"demo/__init__.py") -> Path:
    """Change the headers of one member in place; `change` is told where its local and central headers start."""
    data = bytearray(path.read_bytes())
    local = data.index(name) - 30
    central = data.rindex(name) - 46
    assert data[local : local + 4] == b"PK\3\4" and data[central : central + 4] == b"PK\1\2"
    change(data, local, central)
    path.write_bytes(data)
    return path


def both(offset_local: int, offset_central: int, form: str, value: int) -> Callable[[bytearray, int, int], None]:
    def change(data: bytearray, local: int, central: int) -> None:
        struct.pack_into(form, data, local + offset_local, value)
        struct.pack_into(form, data, central + offset_central, value)

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (both(6, 8, "<H", 1), "encrypted"),
        (both(8, 10, "<H", 12), "method 12"),
        (both(14, 16, "<I", 7), "CRC-32"),
        (both(22, 24, "<I", 1999), "1999 bytes"),
        (lambda data, local, _: struct.pack_into("<H", data, local + 8, 0), "headers disagree"),
        (lambda data, local, _: struct.pack_into("<I", data, local + 22, 5), "headers disagree"),
        (lambda data, local, _: data.__setitem__(slice(local + 30, local + 34), b"evil"), "headers disagree"),
        (lambda data, _, central: struct.pack_into("<I", data, central + 38, 0o120777 << 16), "no plain file"),
        (lambda data, _, central: struct.pack_into("<I", data, central + 42, 10**8), "damaged"),
        (both(18, 20, "<I", 10**8), "cut off"),
    ],
)  # fmt: skip
def test_headers_that_lie(tmp_path: Path, change: Callable[[bytearray, int, int], None], why: str) -> None:
    assert why in refusal(patch(wheel(tmp_path, {"demo/__init__.py": CODE}), change))


def test_bytes_after_the_end_of_a_stream(tmp_path: Path) -> None:
    # The trap of splicing: inside compressed_size, behind the stream's end, every unzip ignores them, gzip does not.
    path = wheel(tmp_path, {"demo/__init__.py": CODE})
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("demo/__init__.py")
    data = bytearray(path.read_bytes())
    end = info.header_offset + 30 + len(info.filename) + info.compress_size
    data[end:end] = b"JUNK"
    for found in range(len(data) - 46):
        if data[found : found + 4] == b"PK\1\2":
            offset = struct.unpack_from("<I", data, found + 42)[0]
            if offset > info.header_offset:
                struct.pack_into("<I", data, found + 42, offset + 4)
            elif offset == info.header_offset:
                struct.pack_into("<I", data, found + 20, info.compress_size + 4)
    struct.pack_into("<I", data, info.header_offset + 18, info.compress_size + 4)
    tail = data.rindex(b"PK\5\6")
    struct.pack_into("<I", data, tail + 16, struct.unpack_from("<I", data, tail + 16)[0] + 4)
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("demo/__init__.py") == CODE, "other readers accept it"
    assert "bytes follow" in refusal(path)


def test_members_that_share_bytes(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo/__init__.py": CODE, "demo/a.py": CODE})

    def overlap(data: bytearray, *_: int) -> None:
        first = data.index(b"demo/__init__.py") - 30
        size = struct.unpack_from("<I", data, first + 18)[0]
        for at in (first + 18, data.rindex(b"demo/__init__.py") - 46 + 20):
            struct.pack_into("<I", data, at, size + 60)

    assert "overlap" in refusal(patch(path, overlap))


def test_a_name_twice(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo/__init__.py": CODE, "demo/__INIT__.py": CODE})
    path.write_bytes(path.read_bytes().replace(b"__INIT__", b"__init__"))
    assert "twice" in refusal(path)


def test_a_file_that_is_also_a_folder(tmp_path: Path) -> None:
    assert "a file and a folder" in refusal(wheel(tmp_path, {"demo": CODE, "demo/a.py": CODE}))


@pytest.mark.parametrize("keep", [0, 10, 100, -30, -5])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = wheel(tmp_path, {"demo/__init__.py": CODE})
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(path)


def test_prepended_and_appended_data(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo/__init__.py": CODE})
    good = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + good)
    assert refusal(path)
    path.write_bytes(good + b"x")
    assert "follows its end" in refusal(path)


def test_a_bomb_is_refused_by_its_directory(tmp_path: Path) -> None:
    path = wheel(tmp_path, {"demo/zeros": bytes(90 << 20)})
    assert "expands from" in refusal(path)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("", "does not vouch"),
        (f"{INFO}/RECORD,,\n", "does not vouch"),
        ('"unclosed', "RECORD"),
        ("a,b\n", "2 fields"),
        ("demo/__init__.py,md5=abc,4\n", "sha256 or better"),
        ("demo/__init__.py,sha256=####,4\n", "damaged hash"),
        ("demo/__init__.py,sha256=YWJj,4\n", "damaged hash"),
        (row("demo/__init__.py", CODE)[:-1] + "x\n", "damaged size"),
        (row("demo/__init__.py", CODE) + row("demo/__init__.py", b"other"), "two rows"),
    ],
)
def test_records_that_do_not_vouch(tmp_path: Path, record: str, why: str) -> None:
    rest = "".join(row(name, data) for name, data in METADATA.items()) if "demo/" in record else ""
    assert why in refusal(wheel(tmp_path, {"demo/__init__.py": CODE}, record=rest + record))


def test_a_file_that_record_describes_otherwise(tmp_path: Path) -> None:
    rest = "".join(row(name, data) for name, data in METADATA.items())
    other = CODE.replace(b"1", b"2")
    assert "sha256" in refusal(
        wheel(tmp_path, {"demo/__init__.py": CODE}, record=rest + row("demo/__init__.py", other))
    )
    record = rest + row("demo/__init__.py", CODE, 5)
    assert "RECORD says 5" in refusal(wheel(tmp_path, {"demo/__init__.py": CODE}, record=record))


def test_a_foreign_missing_or_second_dist_info(tmp_path: Path) -> None:
    assert "another distribution" in refusal(wheel(tmp_path, {}, filename="other-1.0-py3-none-any.whl"))
    assert "another distribution" in refusal(wheel(tmp_path, {}, filename="demo-1.1-py3-none-any.whl"))
    assert "2 dist-info" in refusal(wheel(tmp_path, {"evil-1.0.dist-info/METADATA": b"x"}))
    assert "not that of a wheel" in refusal(wheel(tmp_path, {}, filename="demo.whl"))
    bad = wheel(tmp_path, {f"{INFO}/WHEEL": b"Wheel-Version: 2.0\nRoot-Is-Purelib: true\n"})
    assert "wheel format 2.0" in refusal(bad)


def test_stored_members_are_verified_too(tmp_path: Path) -> None:
    path = tmp_path / NAME
    members = {**METADATA, "demo/a.py": CODE}
    record = "".join(row(name, data) for name, data in members.items())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**members, f"{INFO}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_STORED)
    assert lay_down(path)
    data = bytearray(path.read_bytes())
    data[data.index(CODE) + 8] ^= 1
    path.write_bytes(data)
    assert "CRC-32" in refusal(path)


def test_sizes_after_the_data_and_zip64_fields_are_understood(tmp_path: Path) -> None:
    members = {**METADATA, "demo/a.py": CODE}
    record = "".join(row(name, data) for name, data in members.items())
    path = tmp_path / NAME

    class Pipe(io.RawIOBase):  # not seekable: sizes go behind the data
        def __init__(self) -> None:
            self.stream = path.open("wb")

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:  # type: ignore[no-untyped-def, override]
            return self.stream.write(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        for name, data in {**members, f"{INFO}/RECORD": record.encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    pipe.stream.close()
    assert lay_down(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**members, f"{INFO}/RECORD": record.encode()}.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as out:
                out.write(data)
    assert lay_down(path)


def test_wheels_of_the_test_helper_are_sound(tmp_path: Path) -> None:
    path = make_wheel(
        tmp_path, "tiny", "0.1", {"tiny.py": "X = 1\n"}, entry_points="[console_scripts]\ntiny = tiny:X\n"
    )
    assert lay_down(path)
