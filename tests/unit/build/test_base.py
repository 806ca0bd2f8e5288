"""Base, byte code and system layers of small packages made by hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from isal import igzip
from msgspec.structs import replace
from support import debs

from intermodal.errors import DownloadError, DuplicatePathError, HostError, PackageFileError, UnsafePathError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.build.base import base_layer, bytecode_layer, needed_debs, system_layer
from intermodal.rooms.lock.rows import DebRow, Lock, Policy

PLATFORM = "linux/amd64"
Machine = tuple[Store, Host]


def machine(folder: Path, cores: int = 1) -> Machine:
    host = Host({}, folder, "linux", "amd64", cores, 1000, 0.0)
    return Store(folder / "store").open_or_create(), host


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return machine(tmp_path / "here")


def base(here: Machine, lock: Lock, files: dict[Digest, Path], events: Events = SILENT) -> LayerInfo:
    return base_layer(lock, PLATFORM, store=here[0], host=here[1], events=events, debs=files)


def system(here: Machine, lock: Lock, below: LayerInfo, files: dict[Digest, Path]) -> LayerInfo | None:
    return system_layer(lock, PLATFORM, base=below, store=here[0], host=here[1], events=SILENT, debs=files)


def members(store: Store, info: LayerInfo) -> dict[str, tarfile.TarInfo]:
    with igzip.open(store.path(info.digest), "rb") as plain:
        data = plain.read()
    assert Digest.of(data) == info.diff_id and len(data) == info.tar_bytes
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def demo(tmp_path: Path, extra: dict[str, bytes] | None = None) -> tuple[Lock, dict[Digest, Path]]:
    packages = {**debs.python_base(), **(extra or {})}
    rows = debs.deb_rows(packages, system=tuple(extra or ()))
    return debs.lock_of(rows), debs.lay_out(tmp_path / "debs", packages)


def test_base_layer_holds_the_merged_packages(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    info = base(here, lock, files)
    assert (info.kind, info.title, info.reused) == ("base", "Debian bookworm, Python 3.11.2", False)
    assert info.pruned_bytes == 1000 + 500 + len(b"pass\n") + 2 * len(debs.CERTIFICATE % b"Alpha") - 1
    found = members(here[0], info)
    assert list(found) == sorted(found)
    assert found["lib"].linkname == "usr/lib" and found["usr/bin/python3.11"].mode == 0o755
    assert {(m.uid, m.gid, m.mtime) for m in found.values()} == {(0, 0, 0)}
    assert not any(m.mode & 0o6000 for m in found.values())


def test_same_bytes_elsewhere_with_other_cores_and_order(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    shuffled = replace(lock, base=replace(lock.base, packages=lock.base.packages[::-1]))
    first = base(here, lock, files)
    second = base(machine(tmp_path / "there", cores=4), shuffled, files)
    assert first == second


def test_a_warm_build_needs_no_packages(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path, {"extra": debs.deb([("./usr/lib/extra.so", b"e")], name="extra")})
    names = [row.name for row in needed_debs(lock, PLATFORM, store=here[0], host=here[1])]
    assert names == ["base-files", "ca-certificates", "libc6", "python3.11", "extra"]
    cold = base(here, lock, files)
    assert [row.name for row in needed_debs(lock, PLATFORM, store=here[0], host=here[1])] == ["extra"]
    system(here, lock, cold, files)
    assert needed_debs(lock, PLATFORM, store=here[0], host=here[1]) == ()
    warm = base(here, lock, {})
    assert warm.reused and replace(warm, reused=False) == cold


def test_a_lost_blob_or_entry_is_made_again(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    cold = base(here, lock, files)
    here[0].path(cold.digest).unlink()
    assert base(here, lock, files) == cold
    for entry in (here[1].cache_dir / "layers").glob("*.json"):
        entry.write_bytes(b'{"digest":')
    assert base(here, lock, files) == cold


@pytest.mark.parametrize(
    "policy", [Policy(prune=False), Policy(keep=("libc6",)), Policy(layout=2), Policy(codec="other")]
)
def test_policies_are_part_of_the_identity(tmp_path: Path, here: Machine, policy: Policy) -> None:
    lock, files = demo(tmp_path)
    base(here, lock, files)
    other = replace(lock, policy=policy)
    assert needed_debs(other, PLATFORM, store=here[0], host=here[1]) != ()
    kept = "usr/lib/x86_64-linux-gnu/gconv/BIG5.so" in members(here[0], base(here, other, files))
    assert kept is (not policy.prune or policy.keep != ())


def test_byte_code_policy_shares_the_base(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    base(here, lock, files)
    none = replace(lock, policy=Policy(bytecode="none"))
    assert base(here, none, {}).reused
    assert bytecode_layer(none, base=base(here, none, {}), store=here[0], host=here[1], compile_sources=upper) is None


def test_rows_of_other_architectures_stay_out(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    foreign = DebRow("libc6", "1.0-1", "arm64", "pool/x.deb", 1, Digest.of(b"arm"))
    mixed = replace(lock, base=replace(lock.base, packages=(*lock.base.packages, foreign)))
    assert base(here, mixed, files) == base(machine(here[1].home / "2"), lock, files)


def test_a_package_that_vanished_names_the_way_out(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    gone = next(row for row in lock.base.packages if row.name == "libc6")
    del files[gone.digest]
    with pytest.raises(HostError, match=r"libc6 1\.0-1 can no longer be had") as caught:
        base(here, lock, files)
    assert caught.value.exit_code == 3 and "intermodal lock PATH --upgrade" in str(caught.value)
    assert list((here[0].root / "tmp").iterdir()) == []


def test_other_bytes_are_refused(tmp_path: Path, here: Machine) -> None:
    lock, files = demo(tmp_path)
    path = next(path for path in files.values() if path.name.startswith("libc6"))
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DownloadError):
        base(here, lock, files)


@pytest.mark.parametrize(("field", "value"), [("name", "other"), ("version", "9"), ("architecture", "all")])
def test_a_package_that_says_it_is_another(tmp_path: Path, here: Machine, field: str, value: str) -> None:
    odd = debs.deb([("./usr/x", b"")], name="odd")
    lock, files = demo(tmp_path, {"odd": odd})
    rows = tuple(replace(row, **{field: value}) if row.name == "odd" else row for row in lock.base.packages)
    below = base(here, lock, files)
    with pytest.raises(PackageFileError, match="another package than the lock says"):
        system(here, replace(lock, base=replace(lock.base, packages=rows)), below, files)


def test_setuid_is_dropped_with_a_notice(tmp_path: Path, here: Machine) -> None:
    class Told(Events):
        notices: list[str] = []

        def notice(self, message: str) -> None:
            self.notices.append(message)

    packages = {**debs.python_base(), "su": debs.deb([debs.header("./usr/bin/su", mode=0o4755)], name="su")}
    lock = debs.lock_of(debs.deb_rows(packages))
    info = base(here, lock, debs.lay_out(tmp_path / "debs", packages), Told())
    assert members(here[0], info)["usr/bin/su"].mode == 0o755
    assert Told.notices == ["su: setuid and setgid bits dropped from usr/bin/su"]


def test_system_layer_adds_and_leaves_the_base_alone(tmp_path: Path, here: Machine) -> None:
    extra = debs.deb(
        [debs.folder("./usr/lib/"), ("./lib32/x.so", b"x"), ("./usr/share/doc/extra/copyright", b"")], name="extra"
    )
    plain_lock, _ = demo(tmp_path)
    lock, files = demo(tmp_path, {"extra": extra})
    below = base(here, lock, files)
    assert base(here, plain_lock, {}).digest == below.digest
    assert system(here, plain_lock, below, {}) is None
    info = system(here, lock, below, files)
    assert info is not None and info.kind == "debian"
    added = {name for name, member in members(here[0], info).items() if not member.isdir()}
    assert added == {
        "lib32",
        "usr/lib32/x.so",
        "usr/share/doc/extra/copyright",
        "var/lib/dpkg/status.d/extra",
        "var/lib/dpkg/status.d/extra.md5sums",
    }


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (("./lib/x86_64-linux-gnu/ld.so.2", b"evil"), DuplicatePathError),
        (("./usr/lib/ssl/certs/evil.pem", b"evil"), UnsafePathError),
        (("./etc/passwd", b"root::0:0\n"), DuplicatePathError),
        (debs.symlink("./usr/bin/python3.11", "/tmp/x"), DuplicatePathError),
        (debs.symlink("./usr/lib", "/tmp"), DuplicatePathError),
    ],
)
def test_system_packages_may_not_replace_the_base(
    tmp_path: Path, here: Machine, entry: tarfile.TarInfo | tuple[str, bytes], error: type[Exception]
) -> None:
    lock, files = demo(tmp_path, {"evil": debs.deb([entry], name="evil")})
    below = base(here, lock, files)
    with pytest.raises(error):
        system(here, lock, below, files)


def upper(sources: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | None]]:
    for path, source in sources:
        yield path, None if b"bad" in source else source.upper()


def test_byte_code_layer_beside_the_sources(tmp_path: Path, here: Machine) -> None:
    packages = debs.python_base()
    bad = debs.deb([("./usr/lib/python3.11/broken.py", b"bad"), ("./usr/share/tool/x.py", b"no")], name="lib")
    lock = debs.lock_of(debs.deb_rows({**packages, "lib": bad}))
    below = base(here, lock, debs.lay_out(tmp_path / "debs", {**packages, "lib": bad}))
    info = bytecode_layer(lock, base=below, store=here[0], host=here[1], compile_sources=upper)
    assert info is not None and (info.kind, info.title) == ("base", "byte code of Python 3.11.2")
    files = {name: member.size for name, member in members(here[0], info).items() if member.isfile()}
    assert files == {
        "usr/lib/python3.11/__pycache__/os.cpython-311.pyc": len(b"name = 'posix'\n"),
        "usr/lib/python3.11/__pycache__/sitecustomize.cpython-311.pyc": len(b"hook = 1\n"),  # found through its link
    }
    again = bytecode_layer(lock, base=below, store=here[0], host=here[1], compile_sources=lambda _: iter(()))
    assert again is not None and again.reused
