"""Any bytes into the readers of packages: either what went in comes out, or one of our errors."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import PurePosixPath
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import debs

from intermodal.errors import InputError
from intermodal.oci.digest import Digest
from intermodal.rooms.build.debs import link_text, open_deb
from intermodal.rooms.build.debs_ar import read_ar

WORDS = st.text("abcxyz019-_.+", min_size=1, max_size=12).filter(lambda w: w not in (".", ".."))
PATHS = st.lists(WORDS, min_size=1, max_size=5).map("/".join)
FILES = st.dictionaries(PATHS, st.binary(max_size=2000), max_size=6)
NAMES = st.from_regex(rb"[a-z][a-z0-9.-]{0,14}", fullmatch=True)


def read(data: bytes) -> dict[str, bytes]:
    with TemporaryDirectory() as folder:
        path = PurePosixPath(folder) / "x.deb"
        with open(path, "wb") as stream:
            stream.write(data)
        from pathlib import Path

        with open_deb(Path(path), Digest.of(data)) as deb:
            return {entry.path: b"".join(pieces) for entry, pieces in deb.entries() if entry.kind == "file"}


@given(st.lists(st.tuples(NAMES, st.binary(max_size=300)), max_size=8))
def test_ar_members_come_back(members: list[tuple[bytes, bytes]]) -> None:
    data = debs.ar(members)
    found = read_ar(io.BytesIO(data), len(data), "x")
    assert [(m.name.encode(), data[m.offset : m.offset + m.size_bytes]) for m in found] == members


@given(st.binary(max_size=400), st.booleans())
def test_ar_of_any_bytes_stays_inside(noise: bytes, with_magic: bool) -> None:
    data = b"!<arch>\n" + noise if with_magic else noise
    try:
        found = read_ar(io.BytesIO(data), len(data), "x")
    except InputError:
        return
    assert all(m.offset >= 0 and m.offset + m.size_bytes <= len(data) for m in found)


@given(FILES, st.sampled_from([".xz", ".gz", ""]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_packages_come_back(files: dict[str, bytes], suffix: str) -> None:
    assert read(debs.deb([(f"./{path}", data) for path, data in files.items()], suffix=suffix)) == files


@given(FILES, st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_flipped_byte_gives_an_error_or_a_package(files: dict[str, bytes], data: st.DataObject) -> None:
    package = bytearray(debs.deb([(f"./{path}", content) for path, content in files.items()], suffix=""))
    position = data.draw(st.integers(0, len(package) - 1))
    package[position] ^= data.draw(st.integers(1, 255))
    with suppress(InputError):
        read(bytes(package))


@given(PATHS, st.one_of(st.just(""), PATHS))
def test_link_text_means_its_target(path: str, target: str) -> None:
    where = path.split("/")[:-1]
    for part in link_text(path, target).split("/"):
        if part == "..":
            where.pop()  # an IndexError here would be a link out of the root
        elif part != ".":
            where.append(part)
    assert "/".join(where) == target
