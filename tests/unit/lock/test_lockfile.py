"""The lock as text: valid PEP 751, deterministic, quick to read, and believed in nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.lockfile import lock_digest, lock_text, parse_lock, read_lock, write_lock
from intermodal.rooms.lock.reading import safe_path
from intermodal.rooms.lock.rows import BaseLock, DebRow, Lock, PackageRow, Policy, ServerLock, WheelRow


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def wheel(name: str, version: str, platform: str = "any", url: str = "https://files.example/x") -> WheelRow:
    tag = "py3-none-any" if platform == "any" else f"cp311-cp311-manylinux_2_28_{platform}"
    filename = f"{name}-{version}-{tag}.whl"
    return WheelRow(filename, 1000, digest(filename), f"{url}/{filename}" if url else "")


def sample(packages: int = 3) -> Lock:
    rows = [PackageRow("numpy", "2.4.6", (wheel("numpy", "2.4.6", "x86_64"), wheel("numpy", "2.4.6", "aarch64")))]
    rows += [PackageRow(f"p{i}", f"1.{i}", (wheel(f"p{i}", f"1.{i}"),), ("numpy",)) for i in range(packages - 1)]
    debs = tuple(
        DebRow(
            f"lib{i}", f"1:2.{i}~rc1-1+deb12u1", architecture, f"pool/main/l/lib{i}/lib{i}_2.{i}~rc1-1_amd64.deb",
            100 + i, digest(f"{architecture}{i}"),
            f"http://deb.example/debian/pool/main/l/lib{i}/lib{i}_2.{i}~rc1-1_amd64.deb",
            "source" if i % 2 else "", "system" if i == 3 else "base",
        )
        for architecture in ("all", "amd64") for i in range(5)
    )  # fmt: skip
    return Lock(
        name="digits",
        version="1.0.0",
        python="3.11",
        platforms=("linux/amd64", "linux/arm64"),
        requirements=('scikit-learn==1.9.1; python_version < "4"', "numpy"),
        packages=tuple(rows),
        base=BaseLock("deb:bookworm", "bookworm", "3.11", "3.11.2", "Sat, 21 Nov 2026 02:10:46 UTC", debs, ("lib1",)),
        server=ServerLock(
            "0.1.0", digest("tree"), (PackageRow("h11", "0.16.0", (wheel("h11", "0.16.0"),), ("click",)),)
        ),
        model=(FileRow("a b/modèle.joblib", 5, digest("m"), Path("a b/modèle.joblib")),),
        app=(FileRow("run.sh", 7, digest("a"), Path("run.sh"), True),),
        golden=FileRow("golden.json", 9, digest("g"), Path("golden.json")),
        policy=Policy(keep=("torch",)),
        inputs=digest("inputs"),
        exclude_newer="2026-11-02T00:00:00Z",
    )


def test_there_and_back() -> None:
    lock = sample()
    again = parse_lock(lock_text(lock).encode())
    assert replace(again, environment_digest=None) == lock
    assert lock_text(again) == lock_text(lock)
    assert lock_digest(again) == lock_digest(lock)


def test_the_smallest_lock() -> None:
    lock = replace(
        sample(), packages=(), app=(), golden=None, requirements=(), exclude_newer="", policy=Policy(prune=False)
    )
    lock = replace(lock, base=replace(lock.base, packages=(), system=()), server=replace(lock.server, packages=()))
    assert replace(parse_lock(lock_text(lock).encode()), environment_digest=None) == lock


def test_it_is_valid_pep_751() -> None:
    from packaging.pylock import Pylock

    document = Pylock.from_dict(tomllib.loads(lock_text(sample())))
    assert str(document.lock_version) == "1.0"
    assert str(document.requires_python) == "==3.11.*"
    numpy = next(package for package in document.packages if package.name == "numpy")
    assert [item.name for item in numpy.wheels or ()] == [row.filename for row in sample().packages[0].wheels]
    assert document.environments and document.environments[0].evaluate(
        {"platform_machine": "x86_64", "sys_platform": "linux"}
    )


def test_without_addresses_it_is_valid_pep_751_too() -> None:
    from packaging.pylock import Pylock

    lock = sample()
    bare = tuple(replace(row, wheels=tuple(replace(w, url="") for w in row.wheels)) for row in lock.packages)
    text = lock_text(replace(lock, packages=bare))
    Pylock.from_dict(tomllib.loads(text))
    assert 'path = "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"' in text
    assert parse_lock(text.encode()).packages == bare


def test_sixty_rows_are_read_without_waiting() -> None:
    """No wall clock here: what costs time is the number of TOML values, so that is what is bounded."""
    text = lock_text(sample(25))
    assert text.count("=") < 400
    assert parse_lock(text.encode()).packages


def test_writing_is_atomic_and_leaves_equal_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pylock.intermodal.toml"
    write_lock(sample(), path)
    before = path.stat()
    write_lock(sample(), path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write_lock(replace(sample(), version="2"), path)
    assert path.stat().st_ino != before.st_ino
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert read_lock(path).version == "2"


def test_a_missing_lock_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the lock") as caught:
        read_lock(tmp_path / "pylock.intermodal.toml")
    assert "intermodal lock" in caught.value.next[0]


TEXT = lock_text(sample())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[tool.intermodal]", "[tool.other]"),
        ("format = 1", "format = 2"),
        ('name = "digits"', 'name = "../digits"'),
        ('version = "1.0.0"', 'version = "1/0"'),
        ('python = "3.11"', 'python = "3.11; rm"'),
        ('"linux/amd64",', '"windows/amd64",'),
        ('inputs = "sha256:', 'inputs = "md5:'),
        ('name = "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"', 'name = "../../numpy-2.4.6-py3-none-any.whl"'),
        ('name = "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"', 'name = "scipy-2.4.6-py3-none-any.whl"'),
        ('name = "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"', 'name = "numpy-2.4.7-py3-none-any.whl"'),
        ('name = "numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"', 'name = "numpy-2.4.6.tar.gz"'),
        ("size = 1000", "size = -1"),
        ("size = 1000", "size = true"),
        ("size = 1000", "size = 99999999999999999999"),
        ('url = "https://files.example', 'url = "https://me:hunter2@files.example'),
        ('url = "https://files.example', 'url = "ftp://files.example'),
        ('url = "https://files.example', 'url = "javascript:alert(1)//'),
        ('url = "http://deb.example', 'url = "http://me:hunter2@deb.example'),
        ("pool/main/l/lib0/", "pool/../../"),
        ("pool/main/l/lib0/lib0_2.0~rc1-1_amd64.deb", "/etc/passwd.deb"),
        (" all 100 ", " sparc 100 "),
        (" all 100 ", " all ten "),
        (" all 100 ", " all "),
        ("- a b/modèle.joblib", "- ../modèle.joblib"),
        ("- a b/modèle.joblib", "- /modèle.joblib"),
        ("- a b/modèle.joblib", "- a//b"),
        ("- a b/modèle.joblib", "- a\\\\b"),
        ("x run.sh", "s run.sh"),
        ("prune = true", 'prune = "yes"'),
        ('bytecode = "all"', 'bytecode = "some"'),
        ("layout = 1", 'layout = "one"'),
        ('tree = "sha256:', 'tree = "sha512:'),
        ('"h11 0.16.0', '"h12 0.16.0'),
        ("wheels = [", "wheels = 5\nother = ["),
        ('sha256 = "', 'sha256 = "0'),
        ('name = "numpy"\nversion', 'name = "Num_Py"\nversion'),
        ("[tool.intermodal.base]", "<<<<<<< HEAD\n[tool.intermodal.base]"),
    ],
)
def test_nothing_is_believed(old: str, new: str) -> None:
    assert old in TEXT, old
    with pytest.raises(InputError, match="is not a lock we can use") as caught:
        parse_lock(TEXT.replace(old, new, 1).encode())
    assert caught.value.exit_code == 2
    assert caught.value.found and caught.value.next
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[[[[", b"x = " + b"[" * 5000, b'tool = "x"', b"[tool]\nintermodal = []"]
)
def test_rubbish(data: bytes) -> None:
    with pytest.raises(InputError, match="is not a lock we can use"):
        parse_lock(data)


def test_two_rows_for_one_file() -> None:
    row = sample().model[0]
    with pytest.raises(InputError, match="not a lock"):
        parse_lock(lock_text(replace(sample(), model=(row, row))).encode())


def test_two_spellings_of_one_version_are_one() -> None:
    row = PackageRow("p1", "1.1", (replace(wheel("p1", "1.1"), filename="p1-1.1.0-py3-none-any.whl"),))
    assert parse_lock(lock_text(replace(sample(), packages=(row,))).encode()).packages == (row,)


def test_a_file_as_large_as_a_disk_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pylock.intermodal.toml"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="too large for a lock"):
        read_lock(path)


@pytest.mark.parametrize("path", ["a", "a/b c/ü", "..a/b..", "a/.hidden"])
def test_good_paths(path: str) -> None:
    assert safe_path(path) == path


def test_a_name_that_cannot_be_written_is_refused_when_writing() -> None:
    row = FileRow("a\nb", 1, digest("x"), Path("a"))
    with pytest.raises(InputError, match="not a text that a lock can hold"):
        lock_text(replace(sample(), model=(row,)))


def test_a_package_of_one_platform_has_its_marker() -> None:
    from packaging.pylock import Pylock

    lock = replace(sample(), platforms=("linux/amd64", "linux/arm64"))
    rows = tuple(replace(row, platforms=("linux/arm64",)) for row in lock.packages[:1]) + lock.packages[1:]
    one = replace(lock, packages=rows)
    text = lock_text(one)
    assert parse_lock(text.encode()).packages == rows
    assert lock_digest(one) != lock_digest(lock)
    first = Pylock.from_dict(tomllib.loads(text)).packages[0]
    assert first.marker is not None
    assert first.marker.evaluate({"platform_machine": "aarch64", "sys_platform": "linux"})
    assert not first.marker.evaluate({"platform_machine": "x86_64", "sys_platform": "linux"})
    for other in ("platform_machine == 'aarch64'", "python_version < '3'", " or "):
        marker = "sys_platform == 'linux' and platform_machine == 'aarch64'"
        assert f'marker = "{marker}"' in text
        with pytest.raises(InputError, match="the marker of"):
            parse_lock(text.replace(f'marker = "{marker}"', f'marker = "{other}"').encode())
