from __future__ import annotations

import sys

import pytest

from intermodal.errors import RequirementError
from intermodal.oci.digest import Digest
from intermodal.rooms.lock.platforms import best_of, best_wheel, fits, marker_environment, rank, tag_ranks, uv_platform
from intermodal.rooms.lock.rows import PackageRow, WheelRow


def wheel(filename: str) -> WheelRow:
    return WheelRow(filename, 1, Digest.of(filename.encode()))


def chosen(
    *tags: str, platform: str = "linux/amd64", python: str = "3.11", glibc: tuple[int, int] = (2, 36)
) -> str | None:
    found = best_of([wheel(f"x-1-{tag}.whl") for tag in tags], platform, python, glibc)
    return found.filename[4:-4] if found else None


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (("py3-none-any", "cp311-cp311-manylinux_2_17_x86_64"), "cp311-cp311-manylinux_2_17_x86_64"),
        (("cp39-abi3-manylinux_2_17_x86_64", "cp311-abi3-manylinux_2_17_x86_64"), "cp311-abi3-manylinux_2_17_x86_64"),
        (("cp311-cp311-manylinux_2_37_x86_64", "py3-none-any"), "py3-none-any"),
        (("cp311-cp311-manylinux_2_4_x86_64.manylinux1_x86_64",), "cp311-cp311-manylinux_2_4_x86_64.manylinux1_x86_64"),
        (("cp311-cp311-manylinux1_x86_64",), "cp311-cp311-manylinux1_x86_64"),
        (("cp310-abi3-manylinux_2_5_x86_64.manylinux1_x86_64",), "cp310-abi3-manylinux_2_5_x86_64.manylinux1_x86_64"),
        (("cp312-cp312-manylinux_2_17_x86_64",), None),
        (("cp312-abi3-manylinux_2_17_x86_64",), None),
        (("cp311-cp311-musllinux_1_2_x86_64", "cp311-cp311-win_amd64", "cp311-cp311-macosx_11_0_arm64"), None),
        (("cp311-cp311-manylinux_2_17_aarch64",), None),
        (("py2-none-any",), None),
        (("nonsense",), None),
    ],
)  # fmt: skip
def test_the_best_tag(tags: tuple[str, ...], expected: str | None) -> None:
    assert chosen(*tags) == expected


def test_arm_starts_at_its_own_oldest_glibc() -> None:
    assert chosen("cp311-cp311-manylinux_2_17_aarch64", platform="linux/arm64")
    assert chosen("cp311-cp311-manylinux_2_5_aarch64", platform="linux/arm64") is None


def test_a_newer_base_takes_newer_wheels() -> None:
    assert chosen("cp313-cp313-manylinux_2_39_x86_64", python="3.13", glibc=(2, 41))
    assert chosen("cp313-cp313-manylinux_2_39_x86_64", python="3.13", glibc=(2, 36)) is None


def test_the_higher_build_number_wins() -> None:
    wheels = [wheel(f"x-1-{build}py3-none-any.whl") for build in ("", "2-", "10-", "1a-")]
    found = best_of(wheels, "linux/amd64", "3.11")
    assert found is not None and found.filename == "x-1-10-py3-none-any.whl"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11) or sys.platform != "linux", reason="compares with this interpreter")
def test_the_same_order_as_packaging_has_for_this_machine() -> None:
    import os

    from packaging.tags import sys_tags

    platform = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]
    glibc = tuple(int(part) for part in os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))  # type: ignore[union-attr]
    ranks = tag_ranks(platform, "3.11", glibc)  # type: ignore[arg-type]
    theirs = list(dict.fromkeys(str(tag) for tag in sys_tags()))
    assert set(ranks) == set(theirs)

    def portable(tags: list[str]) -> list[str]:
        """Without `linux_*`, which releases of packaging put first or last."""
        return [tag for tag in tags if "-linux_" not in tag]

    assert portable(sorted(ranks, key=ranks.__getitem__)) == portable(theirs)


def test_rows_of_a_lock_are_picked_by_machine() -> None:
    row = PackageRow(
        "x",
        "1",
        (wheel("x-1-cp311-cp311-manylinux_2_28_x86_64.whl"), wheel("x-1-cp311-cp311-manylinux_2_17_aarch64.whl")),
    )
    assert best_wheel(row, "linux/amd64", "3.11").filename.endswith("x86_64.whl")
    assert best_wheel(row, "linux/arm64", "3.11").filename.endswith("aarch64.whl")
    pure = PackageRow("x", "1", (wheel("x-1-py3-none-any.whl"),))
    assert best_wheel(pure, "linux/arm64", "3.11") == pure.wheels[0]


def test_a_row_for_another_platform_alone() -> None:
    row = PackageRow("x", "1", (wheel("x-1-cp311-cp311-manylinux_2_17_aarch64.whl"),))
    assert not fits(row, "linux/amd64", "3.11")
    with pytest.raises(RequirementError, match="x 1 is not locked for linux/amd64"):
        best_wheel(row, "linux/amd64", "3.11")


def test_names_for_uv_and_markers() -> None:
    assert uv_platform("linux/amd64", (2, 36)) == "x86_64-manylinux_2_36"
    assert uv_platform("linux/arm64", (2, 41)) == "aarch64-manylinux_2_40"
    environment = marker_environment("linux/arm64", "3.13.5")
    assert (environment["platform_machine"], environment["python_version"]) == ("aarch64", "3.13")
    from packaging.markers import Marker

    assert Marker("platform_machine == 'aarch64' and python_full_version >= '3.13.1'").evaluate(dict(environment))


def test_rank_prefers_lower() -> None:
    good, worse = (
        rank("x-1-cp311-cp311-manylinux_2_28_x86_64.whl", "linux/amd64", "3.11"),
        rank("x-1-py3-none-any.whl", "linux/amd64", "3.11"),
    )
    assert good is not None and worse is not None and good < worse
