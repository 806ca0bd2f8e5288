"""Whatever is put into a layer, Python's own tarfile reads it back, and the bytes depend on the entries alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.oci.entry import Deflated, Entry
from intermodal.oci.huffman import fixed_block
from intermodal.oci.layer import LayerWriter, write_layer

name = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=40).filter(
    lambda text: text not in (".", "..") and not text.startswith(".wh.") and len(text.encode()) < 200
)
path = st.lists(name, min_size=1, max_size=5).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, tuple[str, bytes | str, bool]]:
    """Paths with (kind, content or target, executable); no path lies below a file."""
    found: dict[str, tuple[str, bytes | str, bool]] = {}
    for candidate in draw(st.lists(path, max_size=12, unique=True)):
        above = {candidate[:i] for i, c in enumerate(candidate) if c == "/"}
        if above & set(found) or any(other.startswith(f"{candidate}/") for other in found):
            continue
        kind = draw(st.sampled_from(["file", "symlink", "directory"]))
        content: bytes | str = draw(st.binary(max_size=2000)) if kind == "file" else draw(path)
        found[candidate] = (kind, content, draw(st.booleans()))
    return found


def entries(tree: dict[str, tuple[str, bytes | str, bool]]) -> list[Entry]:
    made = []
    for where, (kind, content, executable) in tree.items():
        if kind == "file":
            assert isinstance(content, bytes)
            made.append(Entry.file(where, content, executable=executable))
        elif kind == "symlink":
            assert isinstance(content, str)
            made.append(Entry.symlink(where, content))
        else:
            made.append(Entry.directory(where))
    return made


@settings(max_examples=150, deadline=None)
@given(trees(), st.randoms())
def test_tarfile_reads_back_what_was_stored(tree, dice) -> None:
    out = io.BytesIO()
    info = write_layer(entries(tree), out)
    shuffled = entries(tree)
    dice.shuffle(shuffled)
    again = io.BytesIO()
    assert write_layer(shuffled, again) == info
    assert again.getvalue() == out.getvalue()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(out.getvalue()))) as archive:
        members = {m.name: m for m in archive}
        for where, (kind, content, executable) in tree.items():
            member = members[where]
            if kind == "file":
                assert archive.extractfile(member).read() == content
                assert member.mode == (0o755 if executable else 0o644)
            elif kind == "symlink":
                assert member.issym() and member.linkname == content
            else:
                assert member.isdir()
    parents = {where[:i] for where in tree for i, c in enumerate(where) if c == "/"}
    assert set(members) == set(tree) | parents


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(name, st.tuples(st.binary(max_size=5000), st.integers(0, 9)), max_size=6))
def test_spliced_contents_come_back_whatever_compressed_them(files) -> None:
    out = io.BytesIO()
    writer = LayerWriter(out)
    streams = []
    for where, (data, level) in files.items():
        packer = zlib.compressobj(level, zlib.DEFLATED, -15)
        raw = packer.compress(data) + packer.flush()
        streams.append(
            Entry.file(where, Deflated(raw, zlib.crc32(data), len(data), "sha256", hashlib.sha256(data).digest()))
        )
    writer.splice(streams)
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(out.getvalue()))) as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == {k: v[0] for k, v in files.items()}


@given(st.lists(st.one_of(st.binary(max_size=300), st.integers(0, 2000).map(bytes)), max_size=8).map(b"".join))
def test_the_header_encoder_is_a_deflate_encoder(data) -> None:
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(fixed_block(data)) == data
    assert inflater.eof and not inflater.unused_data
