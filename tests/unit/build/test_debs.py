"""Well-formed packages: what `open_deb` gives, and what it makes of links, modes and compressions."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
from support import debs

from intermodal.errors import DownloadError, PackageFileError
from intermodal.oci.digest import Digest
from intermodal.rooms.build.debs import DebEntry, link_text, open_deb


def read(tmp_path: Path, data: bytes) -> tuple[dict[str, tuple[DebEntry, bytes]], list[str], str]:
    path = tmp_path / "hello.deb"
    path.write_bytes(data)
    with open_deb(path, Digest.of(data)) as deb:
        found = {entry.path: (entry, b"".join(pieces)) for entry, pieces in deb.entries()}
        return found, deb.dropped, deb.control


@pytest.mark.parametrize("suffix", [".xz", ".gz", ""])
def test_files_and_folders_with_their_bytes(tmp_path: Path, suffix: str) -> None:
    content = bytes(range(256)) * 9000  # more than one piece
    entries = [debs.folder("./"), debs.folder("./usr/"), ("./usr/bin/tool", content), ("./etc/conf", b"")]
    found, _, control = read(tmp_path, debs.deb(entries, suffix=suffix))
    assert set(found) == {"usr", "usr/bin/tool", "etc/conf"}
    assert found["usr/bin/tool"] == (DebEntry("usr/bin/tool", "file", True), content)
    assert found["etc/conf"] == (DebEntry("etc/conf", "file", False), b"")
    assert "Package: hello" in control and control.endswith("second line\n")


def test_maintainer_scripts_are_neither_run_nor_listed(tmp_path: Path) -> None:
    found, _, _ = read(tmp_path, debs.deb([("./usr/x", b"1")]))
    assert set(found) == {"usr/x"}


def test_several_xz_streams_and_padding_between_them(tmp_path: Path) -> None:
    plain = debs.tar([("./a", b"1" * 3000), ("./b", b"2" * 3000)])
    packed = lzma.compress(plain[:2000]) + bytes(8) + lzma.compress(plain[2000:]) + bytes(4)
    members = [(b"debian-binary", b"2.0\n"), (b"control.tar", debs.tar([("./control", b"Package: x\n")]))]
    found, _, _ = read(tmp_path, debs.ar([*members, (b"data.tar.xz", packed)]))
    assert {path: content for path, (_, content) in found.items()} == {"a": b"1" * 3000, "b": b"2" * 3000}


def test_long_names_of_gnu_tar(tmp_path: Path) -> None:
    name = "./usr/share/" + "n" * 150 + "/" + "m" * 120
    found, _, _ = read(tmp_path, debs.deb([(name, b"x"), debs.symlink("./l", "/usr/" + "t" * 180)]))
    assert set(found) == {name[2:], "l"}
    assert found["l"][0].target == "usr/" + "t" * 180


def test_setuid_is_dropped_and_named(tmp_path: Path) -> None:
    found, dropped, _ = read(tmp_path, debs.deb([debs.header("./usr/bin/su", mode=0o4755)]))
    assert found["usr/bin/su"][0] == DebEntry("usr/bin/su", "file", True)
    assert dropped == ["usr/bin/su"]


@pytest.mark.parametrize(
    ("target", "resolved"),
    [("/lib/x/ld.so", "lib/x/ld.so"), ("../../etc/x", "etc/x"), ("./y", "usr/lib/y"), ("/", ""), ("..", "usr")],
)
def test_links_are_resolved_from_the_root(tmp_path: Path, target: str, resolved: str) -> None:
    found, _, _ = read(tmp_path, debs.deb([debs.symlink("./usr/lib/link", target)]))
    assert found["usr/lib/link"][0].target == resolved
    text = link_text("usr/lib/link", resolved)
    assert not text.startswith("/")


def test_hard_links_name_a_file_before_them(tmp_path: Path) -> None:
    found, _, _ = read(tmp_path, debs.deb([("./bin/a", b"1"), debs.hardlink("./bin/b", "./bin/a")]))
    assert found["bin/b"][0].target == "bin/a"
    with pytest.raises(PackageFileError, match="hard link to nothing"):
        read(tmp_path, debs.deb([debs.hardlink("./bin/b", "./bin/a"), ("./bin/a", b"1")]))


def test_content_may_be_skipped(tmp_path: Path) -> None:
    data = debs.deb([("./a", b"1" * 5000), ("./b", b"2")])
    path = tmp_path / "x.deb"
    path.write_bytes(data)
    with open_deb(path, Digest.of(data)) as deb:
        assert [entry.path for entry, _ in deb.entries()] == ["a", "b"]


def test_other_bytes_than_the_lock_names_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(b"not even an archive")
    with (
        pytest.raises(DownloadError, match="not the package that the lock names") as caught,
        open_deb(path, Digest.of(b"")),
    ):
        pass
    assert caught.value.exit_code == 3


def test_zstd_is_named_as_not_known(tmp_path: Path) -> None:
    data = debs.ar([(b"debian-binary", b"2.0\n"), (b"control.tar.zst", b""), (b"data.tar.zst", b"")])
    with pytest.raises(PackageFileError, match="compressed in a way"):
        read(tmp_path, data)
