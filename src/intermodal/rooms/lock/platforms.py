"""Target platforms: their wheel tags, and which wheel of several is the best.

Takes "linux/amd64" or "linux/arm64", a Python version and the base's glibc; hands on tags in pip's order. The host
takes no part: everything is computed for the target.

Spec: packaging.python.org, "Platform compatibility tags".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from intermodal.errors import RequirementError
from intermodal.rooms.lock.rows import PackageRow, WheelRow

MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
MARKERS = {
    platform: f"sys_platform == 'linux' and platform_machine == '{machine}'" for platform, machine in MACHINES.items()
}
LEGACY = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
OLDEST = {"x86_64": 5, "aarch64": 17}  # glibc 2.x, of the first manylinux for that machine
NEWEST_GLIBC = (2, 41)  # of the newest base; used to choose among rows that already fit
UV_NEWEST = 40  # uv knows manylinux_2_40 at most


def uv_platform(platform: str, glibc: tuple[int, int]) -> str:
    """The name uv has for a target: "x86_64-manylinux_2_36"."""
    return f"{MACHINES[platform]}-manylinux_{glibc[0]}_{min(glibc[1], UV_NEWEST)}"


@lru_cache(maxsize=16)
def tag_ranks(platform: str, python: str, glibc: tuple[int, int] = NEWEST_GLIBC) -> dict[str, int]:
    """Every wheel tag a target accepts ("cp311-cp311-manylinux_2_28_x86_64"), with its rank, 0 the best."""
    from packaging.tags import compatible_tags, cpython_tags

    machine = MACHINES[platform]
    names = []
    for minor in range(glibc[1], OLDEST[machine] - 1, -1):
        names.append(f"manylinux_2_{minor}_{machine}")
        if (2, minor) in LEGACY:
            names.append(f"{LEGACY[2, minor]}_{machine}")
    names.append(f"linux_{machine}")
    major, _, minor_text = python.partition(".")
    version = (int(major), int(minor_text.partition(".")[0]))
    interpreter = f"cp{version[0]}{version[1]}"
    found = [*cpython_tags(version, [interpreter], names), *compatible_tags(version, interpreter, names)]
    return {str(tag): rank for rank, tag in reversed(list(enumerate(found)))}


def wheel_tags(filename: str) -> Iterable[str]:
    """The tags in a wheel's file name, expanded; nothing when it is no wheel name.

    >>> sorted(wheel_tags("six-1.17.0-py2.py3-none-any.whl"))
    ['py2-none-any', 'py3-none-any']
    """
    parts = filename.removesuffix(".whl").split("-")
    if len(parts) not in (5, 6):
        return
    for interpreter in parts[-3].split("."):
        for abi in parts[-2].split("."):
            for platform in parts[-1].split("."):
                yield f"{interpreter}-{abi}-{platform}".lower()


def rank(filename: str, platform: str, python: str, glibc: tuple[int, int] = NEWEST_GLIBC) -> int | None:
    """How well a wheel fits a target, 0 the best; None when it does not fit."""
    ranks = tag_ranks(platform, python, glibc)
    return min((ranks[tag] for tag in wheel_tags(filename) if tag in ranks), default=None)


def best_of(
    wheels: Sequence[WheelRow], platform: str, python: str, glibc: tuple[int, int] = NEWEST_GLIBC
) -> WheelRow | None:
    """The wheel a target would install, as pip chooses: best tag, then the highest build number; None without one."""
    fitting = []
    for wheel in wheels:
        found = rank(wheel.filename, platform, python, glibc)
        if found is not None:
            fitting.append((found, _reversed_build(wheel.filename), wheel.filename, wheel))
    return min(fitting)[3] if fitting else None


def _reversed_build(filename: str) -> tuple[int, str]:
    parts = filename.split("-")
    if len(parts) != 6:
        return 0, ""
    digits = "".join(character for character in parts[2] if character.isdigit())
    return -int(digits or 0), parts[2]


def best_wheel(package: PackageRow, platform: str, python: str) -> WheelRow:
    """The wheel of a locked package that a platform installs.

    Rows of a lock fit their base already, so when only one names the platform's machine (or any) no tag is computed.

    Raises:
        RequirementError: no row fits the platform.
    """
    machine = MACHINES[platform]
    near = [wheel for wheel in package.wheels if wheel.filename.endswith((f"{machine}.whl", "-any.whl"))]
    if len(near) == 1:
        return near[0]
    found = best_of(package.wheels, platform, python)
    if found is None:
        raise RequirementError(
            f"{package.name} {package.version} is not locked for {platform}",
            found=f"wheels: {', '.join(wheel.filename for wheel in package.wheels) or 'none'}",
            next="intermodal lock makes the lock again for the project's platforms",
        )
    return found


def fits(package: PackageRow, platform: str, python: str) -> bool:
    """Whether a locked package has a wheel for a platform; one that has none is not installed there."""
    if package.platforms and platform not in package.platforms:
        return False
    try:
        best_wheel(package, platform, python)
    except RequirementError:
        return False
    return True


def marker_environment(platform: str, python_version: str) -> dict[str, str]:
    """The environment markers of a target, for `packaging.markers`.

    Args:
        platform: "linux/amd64".
        python_version: full version of the base's interpreter, "3.11.2".
    """
    return {
        "implementation_name": "cpython",
        "implementation_version": python_version,
        "os_name": "posix",
        "platform_machine": MACHINES[platform],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": python_version,
        "python_version": ".".join(python_version.split(".")[:2]),
        "sys_platform": "linux",
        "extra": "",
    }
