"""Merging packages: the shape of the tree, what is pruned, what scanners find."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import debs

from intermodal.errors import PackageFileError, StoreError
from intermodal.oci.digest import Digest
from intermodal.rooms.build import base_tree
from intermodal.rooms.build.base_files import add_package_record, add_system_files, certificate_bundle
from intermodal.rooms.build.base_rules import is_pruned
from intermodal.rooms.build.base_tree import Node, Tree
from intermodal.rooms.build.debs import open_deb

Entries = list[tarfile.TarInfo | tuple[str, bytes]]


@pytest.fixture
def tree() -> Iterator[Tree]:
    with Tree() as tree:
        yield tree


def add(tree: Tree, tmp_path: Path, data: bytes, owner: str = "pkg", *, prune: bool = True) -> tuple[Node, ...]:
    path = tmp_path / f"{owner}.deb"
    path.write_bytes(data)
    with open_deb(path, Digest.of(data)) as deb:
        nodes = tree.add_package(deb, owner, prune=prune)
        add_package_record(tree, deb, owner, nodes)
    return nodes


def content(tree: Tree, path: str) -> bytes:
    node = tree.get(path)
    assert node is not None and node.kind == "file", path
    return b"".join(tree.content(node))


def listing(tree: Tree) -> dict[str, str]:
    return {node.path: node.target or node.kind for node in tree.nodes()}


def test_bookworm_and_trixie_give_the_same_shape(tmp_path: Path) -> None:
    old: Entries = [
        ("./lib/x86/libc.so", b"c"),
        debs.symlink("./lib64/ld.so", "/lib/x86/libc.so"),
        debs.folder("./sbin/"),
    ]
    new: Entries = [
        debs.symlink("./lib", "usr/lib"),
        debs.symlink("./lib64", "usr/lib64"),
        ("./usr/lib/x86/libc.so", b"c"),
        debs.symlink("./usr/lib64/ld.so", "../lib/x86/libc.so"),
    ]
    found = []
    for number, entries in enumerate((old, new)):
        with Tree() as tree:
            add(tree, tmp_path, debs.deb([*entries, ("./usr/bin/python3.11", b"p")]), f"p{number}")
            add_system_files(tree, "3.11", b"")
            found.append({p: k for p, k in listing(tree).items() if "status.d" not in p})
    assert found[0] == found[1]
    assert found[0]["lib"] == "usr/lib" and found[0]["lib64"] == "usr/lib64" and found[0]["bin"] == "usr/bin"
    assert "sbin" not in found[0] and "lib32" not in found[0]
    assert found[0]["usr/lib64/ld.so"] == "../lib/x86/libc.so"


def test_links_are_stored_relative_and_through_usr(tree: Tree, tmp_path: Path) -> None:
    links = [
        debs.symlink("./lib/a/link", "/lib/b/file"),
        debs.symlink("./lib/c", "../etc/c"),
        debs.symlink("./etc/d", "/"),
    ]
    add(tree, tmp_path, debs.deb(links))
    found = listing(tree)
    assert found["usr/lib/a/link"] == "../b/file"
    assert found["usr/lib/c"] == "../../etc/c"  # one folder deeper than it was shipped
    assert found["etc/d"] == ".."


def test_var_run_is_run(tree: Tree, tmp_path: Path) -> None:
    add(
        tree,
        tmp_path,
        debs.deb([debs.folder("./var/run/"), ("./var/run/tool/pid", b""), ("./usr/bin/python3.11", b"")]),
    )
    add_system_files(tree, "3.11", b"")
    assert listing(tree)["var/run"] == "../run"
    assert "run/tool/pid" in listing(tree)


@pytest.mark.parametrize(
    ("path", "pruned"),
    [
        ("usr/share/doc/libc6/copyright", False),
        ("usr/share/doc/libc6/changelog.gz", True),
        ("usr/share/doc/python3.11", False),  # often a link to the folder that has the copyright
        ("usr/share/common-licenses/GPL-3", False),
        ("usr/lib/x86_64-linux-gnu/gconv/BIG5.so", True),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", False),
        ("usr/share/zoneinfo/right/UTC", True),
        ("usr/share/zoneinfo/UTC", False),
        ("usr/lib/python3.11/test/support/__init__.py", True),
        ("usr/lib/python3.11/unittest/mock.py", False),
        ("usr/lib/python3.13/idlelib/run.py", True),
        ("usr/lib/python3.11/testing.py", False),
        ("usr/lib/python3.11/lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so", True),
        ("usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", False),
        ("usr/lib/python3.11/__pycache__/os.cpython-311.pyc", True),
        ("usr/share/man/man1/x.1.gz", True),
        ("usr/share/manual/x", False),
        ("usr/lib/libfoo.a", True),
    ],
)
def test_prune_list(path: str, pruned: bool) -> None:
    assert is_pruned(path) is pruned


def test_pruned_bytes_are_counted_and_empty_folders_go(tree: Tree, tmp_path: Path) -> None:
    entries: Entries = [
        debs.folder("./usr/lib/x/"),
        debs.folder("./usr/lib/x/gconv/"),
        ("./usr/lib/gconv/A.so", b"1" * 700),
        debs.folder("./usr/share/doc/pkg/"),
        ("./usr/share/doc/pkg/README", b"2" * 50),
        debs.folder("./var/lib/pkg/"),
    ]
    add(tree, tmp_path, debs.deb(entries))
    assert tree.pruned_bytes == 750
    found = listing(tree)
    assert "usr/share/doc/pkg" not in found and "usr/lib/gconv" not in found
    assert found["var/lib/pkg"] == "directory"  # empty, but shipped so


def test_without_pruning_everything_stays(tree: Tree, tmp_path: Path) -> None:
    add(tree, tmp_path, debs.deb([("./usr/share/man/man1/x.gz", b"1")]), prune=False)
    assert content(tree, "usr/share/man/man1/x.gz") == b"1"
    assert tree.pruned_bytes == 0


def test_status_and_checksums_name_what_stayed(tree: Tree, tmp_path: Path) -> None:
    sums = b"a" * 32 + b"  lib/z\n" + b"b" * 32 + b"  usr/share/man/x\n" + b"c" * 32 + b"  usr/a\n"
    add(
        tree,
        tmp_path,
        debs.deb([("./lib/z", b""), ("./usr/share/man/x", b""), ("./usr/a", b"")], md5sums=sums),
        "hello",
    )
    assert content(tree, "var/lib/dpkg/status.d/hello").startswith(b"Package: hello\nVersion: 1.0-1\n")
    expected = b"a" * 32 + b"  usr/lib/z\n" + b"c" * 32 + b"  usr/a\n"
    assert content(tree, "var/lib/dpkg/status.d/hello.md5sums") == expected


def test_certificates_become_one_bundle(tree: Tree, tmp_path: Path) -> None:
    for name, data in debs.python_base().items():
        add(tree, tmp_path, data, name)
    add_system_files(tree, "3.11", certificate_bundle(tree.certificates))
    bundle = content(tree, "etc/ssl/certs/ca-certificates.crt")
    assert bundle == debs.CERTIFICATE % b"Alpha" + debs.CERTIFICATE % b"Beta"
    found = listing(tree)
    assert found["usr/lib/ssl/cert.pem"] == "../../../etc/ssl/certs/ca-certificates.crt"
    assert found["usr/lib/ssl/certs"] == "../../../etc/ssl/certs"
    assert not any(path.startswith("usr/share/ca-certificates") for path in found)


def test_bundle_takes_certificates_once_and_nothing_else() -> None:
    one, two = debs.CERTIFICATE % b"1", debs.CERTIFICATE % b"2"
    files = [("b", b"# comment\n" + one.replace(b"\n", b"\r\n")), ("a", two.rstrip(b"\n")), ("c", one + b"junk\n")]
    assert certificate_bundle(files) == two + one


def test_system_files(tree: Tree, tmp_path: Path) -> None:
    add(tree, tmp_path, debs.deb([("./usr/bin/python3.11", b"")]))
    add_system_files(tree, "3.11", b"")
    nodes = {node.path: node for node in tree.nodes()}
    assert nodes["tmp"].mode == nodes["var/tmp"].mode == 0o1777
    for place in ("proc", "sys", "dev", "dev/shm", "run", "opt", "app", "model", "etc/intermodal"):
        assert nodes[place].kind == "directory", place
    assert nodes["usr/bin/python3"].target == "python3.11" and nodes["usr/bin/python"].target == "python3"
    assert b"nonroot:x:65532:65532:nonroot:/tmp:" in content(tree, "etc/passwd")
    assert "etc/shadow" not in nodes
    assert {node.mode for node in nodes.values()} <= {0o644, 0o755, 0o777, 0o1777}


def test_a_base_without_its_python(tree: Tree, tmp_path: Path) -> None:
    add(tree, tmp_path, debs.deb([("./usr/bin/python3.13", b"")]))
    with pytest.raises(PackageFileError, match=r"no Python 3\.11"):
        add_system_files(tree, "3.11", b"")


def test_contents_beyond_the_memory_bound_wait_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_tree, "SPOOL_BYTES", 1000)
    files = {f"usr/f{i}": bytes([i]) * (400 * i) for i in range(1, 12)}
    with Tree(tmp_path) as tree:
        add(tree, tmp_path, debs.deb([(f"./{path}", data) for path, data in files.items()]))
        assert {path: content(tree, path) for path in files} == files
    assert [path.name for path in tmp_path.iterdir()] == ["pkg.deb"]


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_tree, "SPOOL_BYTES", 1000)
    with Tree(Path("/dev/full")) as tree, pytest.raises(StoreError, match="cannot hold the files"):
        tree.add_file("usr/x", b"1" * 2000)
