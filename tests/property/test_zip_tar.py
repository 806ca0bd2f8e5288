"""What the readers of wheels and layers accept, Python's own readers read the same; what goes in comes out."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz.campaign import corpus_of
from fuzz.mutate import mutate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.wheels import make_wheel

from intermodal.errors import IntermodalError
from intermodal.oci.digest import Digest
from intermodal.oci.unpack import unpack_layer
from intermodal.rooms.build.wheels.archive import Wheel

WORDS = st.text("abcxyzé019-_+", min_size=1, max_size=12)
FILES = st.dictionaries(st.lists(WORDS, min_size=1, max_size=4).map("/".join), st.binary(max_size=3000), max_size=6)
NAME = "demo-1.0-py3-none-any.whl"
several = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CHANCES = st.integers(0, 1 << 40).map(Random)


def read(data: bytes) -> dict[str, bytes] | None:
    """The files of a wheel, or None when it is refused."""
    with TemporaryDirectory() as place:
        path = Path(place) / NAME
        path.write_bytes(data)
        try:
            with Wheel(path) as wheel:
                return {name: member.read() for name, member in wheel.members.items()}
        except IntermodalError:
            return None


@several
@given(files=FILES)
def test_wheels_come_back(files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as place:
        data = make_wheel(Path(place), "demo", "1.0", files).read_bytes()
    found = read(data)
    folders = {name.rpartition("/")[0] for name in files}
    if found is None:  # only where one name is also a folder
        assert any(name in folder for name in files for folder in folders)
        return
    assert {name: content for name, content in found.items() if ".dist-info/" not in name} == files


def _name(info: zipfile.ZipInfo) -> str:
    """The name as UTF-8, also where the flag that says so is missing."""
    return info.filename if info.flag_bits & 0x800 else info.filename.encode("cp437").decode()


def test_wheels_that_are_accepted_hold_what_zipfile_finds() -> None:
    accepted = 0

    @several
    @given(chance=CHANCES)
    def check(chance: Random) -> None:
        nonlocal accepted
        data = mutate("zip", chance.choice(WHEELS), chance)
        found = read(data)
        if found is None:
            return
        accepted += 1
        with suppress(NotImplementedError), zipfile.ZipFile(io.BytesIO(data)) as archive:  # "made by version 25.5"
            assert found == {_name(info): archive.read(info) for info in archive.infolist() if not info.is_dir()}

    check()
    assert accepted > 10, "nothing was compared"


WHEELS = [data for data in corpus_of("zip") if read(data) is not None]


class Blobs:
    """One stored layer."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def path(self, _digest: Digest) -> Path:
        return self._place


def unpacked(data: bytes) -> dict[str, str] | None:
    """The tree of a layer, or None when it is refused."""
    stored = gzip.compress(data, 1)
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "blob").write_bytes(stored)
        diff_id = Digest(hashlib.sha256(data).hexdigest())
        try:
            root = unpack_layer(Blobs(folder / "blob"), Digest.of(stored), diff_id, folder / "rootfs")
        except IntermodalError:
            return None
        return {path.relative_to(root).as_posix(): described(path) for path in root.rglob("*")}


def described(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def listed(data: bytes) -> dict[str, str]:
    """The same as Python's tar reader tells it, parents included."""
    found: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=False) as archive:
        for entry in archive:
            name = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
            if not name:
                continue
            for end in range(1, name.count("/") + 1):
                found.setdefault("/".join(name.split("/")[:end]), "folder")
            if entry.isdir():
                found[name] = "folder"
            elif entry.issym():
                found[name] = f"-> {Path(entry.linkname)}"
            elif entry.islnk():
                found[name] = found["/".join(part for part in entry.linkname.split("/") if part not in ("", "."))]
            else:
                stream = archive.extractfile(entry)
                assert stream is not None
                found[name] = hashlib.sha256(stream.read()).hexdigest()
    return found


LAYERS = [data for data in corpus_of("tar") if not data.startswith(b"\x1f\x8b") and unpacked(data) is not None]


def _old_gnu_prefix(data: bytes) -> bool:
    """Whether a GNU header holds times where ustar has its prefix: `tarfile` alone takes them for part of the name."""
    headers = (data[at : at + 512] for at in range(0, len(data), 512))
    return any(header[257:265] == b"ustar  \0" and header[345:500].strip(b"\0") for header in headers)


def test_layers_that_are_unpacked_hold_what_tarfile_finds() -> None:
    accepted = 0

    @several
    @given(chance=CHANCES)
    def check(chance: Random) -> None:
        nonlocal accepted
        data = mutate("tar", chance.choice(LAYERS), chance)
        found = unpacked(data)
        if found is None:
            return
        accepted += 1
        if not _old_gnu_prefix(data):
            with suppress(tarfile.ReadError):  # a global header behind the last entry, which we pass over
                assert found == listed(data)

    check()
    assert accepted > 10, "nothing was compared"
