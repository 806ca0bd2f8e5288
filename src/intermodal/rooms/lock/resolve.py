"""Resolution for every platform, merged into one list of packages.

Takes requirements, the base and the platforms; hands on `PackageRow`s: one wheel per platform, the best by tag.

Rules, in order:
1. Each platform is resolved by itself; the versions of the first are preferred by the others.
2. One version of a distribution per lock: where platforms disagree, that is an error.
3. With accelerator "cpu" no CUDA package enters (see `accelerator`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import RequirementError
from intermodal.host import Host
from intermodal.rooms.lock import accelerator
from intermodal.rooms.lock.access import check_access
from intermodal.rooms.lock.inputs import requirement_name
from intermodal.rooms.lock.platforms import best_of, uv_platform
from intermodal.rooms.lock.rows import PackageRow, WheelRow
from intermodal.rooms.lock.uv import Question, Resolution, Target, compile_lock, dependencies_of

# of the image's server; its versions are locked like the model's, beside them
SERVER_REQUIREMENTS = (
    "httptools>=0.6,<1",
    "uvloop>=0.20,<1",
    "msgspec>=0.19,<1",
    "orjson>=3.10,<4",
)
GRPC_REQUIREMENTS = ("grpcio>=1.60,<2", "protobuf>=4.25,<8")  # of it, too, with `[serve] grpc = true`


def server_requirements(grpc: bool) -> tuple[str, ...]:
    """What the server's environment is resolved from."""
    return (*SERVER_REQUIREMENTS, *GRPC_REQUIREMENTS) if grpc else SERVER_REQUIREMENTS


class Wanted(Struct, frozen=True):
    """What one environment of the image is to hold."""

    requirements: tuple[str, ...]
    platforms: tuple[str, ...]
    python_version: str  # full, of the base: "3.11.2"
    glibc: tuple[int, int]
    root: Path
    accelerator: str = "cpu"
    exclude_newer: str = ""


def resolve(wanted: Wanted, *, host: Host, preferences: Mapping[str, str] | None = None) -> tuple[PackageRow, ...]:
    """The packages of one environment, sorted by name.

    Args:
        wanted: requirements and targets.
        host: whose indexes count.
        preferences: versions to keep where they still satisfy everything, by name.

    Raises:
        RequirementError: unsatisfiable, source only, CUDA in a CPU image, platforms that disagree.
        IndexUnreachableError: an index did not answer.
    """
    if not wanted.requirements:
        return ()
    check_access(host, requirement_name(wanted.requirements[0]))
    found: dict[str, Resolution] = {}
    preferred = dict(preferences or {})
    for platform in wanted.platforms:
        question = Question(
            requirements=wanted.requirements,
            target=Target(platform, uv_platform(platform, wanted.glibc), wanted.python_version),
            root=wanted.root,
            preferences=dict(preferred),
            exclude_newer=wanted.exclude_newer,
            excludes=accelerator.EXCLUDED if wanted.accelerator == "cpu" else (),
        )
        resolution = compile_lock(question, host)
        if wanted.accelerator == "cpu":
            resolution = accelerator.without_cuda(resolution, question, host)
        found[platform] = replace(resolution, dependencies=dependencies_of(question, resolution, host))
        preferred |= resolution.versions
    return merge(found, wanted)


def merge(found: Mapping[str, Resolution], wanted: Wanted) -> tuple[PackageRow, ...]:
    """One row per distribution, with the best wheel for every platform that needs it.

    Raises:
        RequirementError: platforms want different versions, or a platform has no fitting wheel.
    """
    names = sorted({name for resolution in found.values() for name in resolution.versions})
    return tuple(_merged(name, found, wanted) for name in names)


def _merged(name: str, found: Mapping[str, Resolution], wanted: Wanted) -> PackageRow:
    versions = {platform: r.versions[name] for platform, r in found.items() if name in r.versions}
    if len(set(versions.values())) > 1:
        raise RequirementError(
            f"the platforms need different versions of {name}",
            found=[f"{platform}: {version}" for platform, version in versions.items()],
            next=f"pin {name} to a version that has wheels for all of them, or make one image per platform",
        )
    rows: dict[str, WheelRow] = {}
    for platform, version in versions.items():
        wheel = best_of(found[platform].wheels[name], platform, wanted.python_version, wanted.glibc)
        if wheel is None:
            raise RequirementError(
                f"{name} {version} has no wheel for {platform} and Python {wanted.python_version}",
                found=_offered(found[platform].wheels[name]),
                next=f"require a version of {name} that has one, or build it (pip wheel {name})",
            )
        rows[wheel.filename] = wheel
    dependencies = {item for r in found.values() for item in r.dependencies.get(name, ())}
    platforms = tuple(versions) if len(versions) < len(found) else ()
    return PackageRow(name, next(iter(versions.values())), tuple(rows.values()), tuple(sorted(dependencies)), platforms)


def _offered(wheels: Sequence[WheelRow]) -> str:
    names = [wheel.filename for wheel in wheels]
    return f"offered: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}" if names else "no wheel is offered"


def kept_versions(rows: Sequence[PackageRow], upgrade: Collection[str] | None) -> dict[str, str]:
    """The versions an earlier lock asks to keep: all, none (`upgrade` empty), or all but those named."""
    if upgrade is not None and not upgrade:
        return {}
    return {row.name: row.version for row in rows if row.name not in (upgrade or ())}
