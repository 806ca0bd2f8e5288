import io
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.wheels import make_wheel

from intermodal.errors import DownloadError, DuplicatePathError
from intermodal.events import Events
from intermodal.oci.digest import Digest
from intermodal.rooms.build.wheels.groups import BUCKETS, Group, LockedWheel, bucket, group
from intermodal.rooms.build.wheels.layers import shared_paths, write_group
from intermodal.rooms.build.wheels.scheme import Scheme

SCHEME = Scheme("opt/venv", "3.11")


class Heard(Events):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def locked(name: str, size_bytes: int) -> LockedWheel:
    return LockedWheel(name, "1.0", f"{name}-1.0-py3-none-any.whl", Digest.of(name.encode()), size_bytes)


def names(groups: list[Group]) -> list[list[str]]:
    return [[wheel.name for wheel in each.wheels] for each in groups]


def test_big_wheels_stand_alone_and_small_ones_share_buckets() -> None:
    wheels = [locked("scipy", 35 << 20), locked("numpy", 1 << 20), locked("six", 9000), locked("almost", (1 << 20) - 1)]
    groups = group(wheels)
    assert names(groups)[:2] == [["numpy"], ["scipy"]]
    assert sorted(name for each in names(groups)[2:] for name in each) == ["almost", "six"]
    assert [each.single for each in groups][:2] == [True, True] and not any(each.single for each in groups[2:])
    assert names(group(wheels[::-1])) == names(groups)


def test_adding_a_small_wheel_touches_one_bucket() -> None:
    wheels = [locked(f"package-{i}", 5000) for i in range(40)]
    before, after = names(group(wheels)), names(group([*wheels, locked("newcomer", 5000)]))
    changed = [each for each in after if each not in before]
    assert len(changed) == 1 and "newcomer" in changed[0]


def test_buckets_never_move() -> None:
    assert {name: bucket(name) for name in ("six", "joblib", "threadpoolctl", "packaging")} == {
        "six": 4, "joblib": 6, "threadpoolctl": 14, "packaging": 6,
    }  # fmt: skip
    assert {bucket(f"p{i}") for i in range(500)} == set(range(BUCKETS))


def test_more_than_sixty_layers_fold_the_smallest() -> None:
    wheels = [locked(f"big-{i:03}", (1 << 20) + i) for i in range(90)]
    groups = group(wheels)
    assert len(groups) <= 60
    single = [each.wheels[0].name for each in groups if each.single]
    folded = {wheel.name for each in groups if not each.single for wheel in each.wheels}
    assert max(folded) < min(single) and len(folded) + len(single) == 90


def write(*paths: Path, events: Events) -> tuple[bytes, object]:
    wheels = []
    files = {}
    for path in sorted(paths):
        digest, size = Digest.of_file(path)
        wheels.append(LockedWheel(path.name.split("-")[0], "1.0", path.name, digest, size))
        files[digest] = path
    out = io.BytesIO()
    _, found = write_group(
        Group(tuple(wheels), single=False),
        files,
        SCHEME,
        out,
        rules=lambda _: None,
        compile_sources=None,
        events=events,
    )
    return out.getvalue(), found


def test_two_wheels_with_one_path_are_an_error_naming_both(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", "1.0", {"shared/__init__.py": "A = 1\n"})
    two = make_wheel(tmp_path, "two", "1.0", {"shared/__init__.py": "A = 2\n"})
    with pytest.raises(DuplicatePathError) as caught:
        write(one, two, events=Heard())
    assert one.name in str(caught.value) and two.name in str(caught.value) and "shared/__init__.py" in str(caught.value)


def test_equal_files_of_two_wheels_are_stored_once_and_told(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", "1.0", {"shared/__init__.py": "", "shared/a.py": "A = 1\n", "one.py": "1"})
    two = make_wheel(tmp_path, "two", "1.0", {"shared/__init__.py": "", "shared/a.py": "A = 1\n"})
    heard = Heard()
    write(one, two, events=heard)
    assert len(heard.notices) == 2 and all(one.name in n and two.name in n for n in heard.notices)
    heard = Heard()
    layers = [write(path, events=heard)[1] for path in (one, two)]
    assert shared_paths(layers, heard) == {  # type: ignore[arg-type]
        f"{SCHEME.site}/shared/__init__.py",
        f"{SCHEME.site}/shared/a.py",
    }


def test_a_file_that_is_not_the_locked_wheel_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "one", "1.0", {"one.py": "A = 1\n"})
    wheel = replace(locked("one", 0), filename=path.name)
    out = io.BytesIO()
    with pytest.raises(DownloadError, match="not the file that was locked"):
        write_group(
            Group((wheel,), single=True), {wheel.digest: path}, SCHEME, out,
            rules=lambda _: None, compile_sources=None, events=Heard(),
        )  # fmt: skip
    assert out.getvalue() == b""
