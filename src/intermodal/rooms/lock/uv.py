"""uv, run as a program: one resolution for one target.

Takes requirements and a target; hands on the packages uv chose, each with its wheels. What uv says when it fails is
put into our words by `explain`.

Rules, in order:
1. uv never downloads an interpreter: it is given an existing one and told the target's version and platform.
2. No source distribution is built: `--no-build`.
3. Indexes reach uv through its environment, so that no credential stands in a process list.
4. The user's own uv settings count (uv reads them itself); settings that would change the form of the answer do not.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from intermodal.errors import EngineError, RequirementError
from intermodal.fetch import cache
from intermodal.fetch.transfer import file_path
from intermodal.host import Host
from intermodal.host.held import scratch
from intermodal.host.pip import without_credentials
from intermodal.oci.digest import Digest
from intermodal.rooms.lock.rows import WheelRow

TIMEOUT_S = 900
RETRIES = "2"  # uv's own three take ten seconds to say that nobody listens
# settings of the user's environment that would change what uv answers, or for whom
FOREIGN = ("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_NO_BINARY", "UV_PROJECT", "UV_PYTHON_PLATFORM", "VIRTUAL_ENV")


class Target(Struct, frozen=True):
    """What is resolved for."""

    platform: str  # "linux/amd64"
    uv_platform: str  # "x86_64-manylinux_2_36"
    python: str  # "3.11.2"


class Resolution(Struct, frozen=True):
    """What uv chose: version and wheels by normalised name."""

    versions: Mapping[str, str]
    wheels: Mapping[str, tuple[WheelRow, ...]]
    dependencies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@functools.cache
def binary() -> str:
    """The path of the uv program.

    Ask for it before threads start: on a first call from two of them, Python's `sysconfig` may hand out half-made
    values.

    Raises:
        EngineError: the uv package is not installed beside us.
    """
    import uv

    try:
        return str(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise EngineError("uv is not installed", found=str(error), next="pip install uv") from error


class Question(Struct, frozen=True):
    """One resolution to be made."""

    requirements: tuple[str, ...]
    target: Target
    root: Path  # folder that relative paths and [tool.uv] are taken from
    constraints: tuple[str, ...] = ()
    preferences: Mapping[str, str] = field(default_factory=dict)  # versions to keep where they still fit
    excludes: tuple[str, ...] = ()  # distributions to leave out of the answer
    exclude_newer: str = ""


def environment(host: Host) -> dict[str, str]:
    """The environment uv runs in."""
    found = {key: value for key, value in host.environment.items() if key not in FOREIGN}
    found |= {"UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "HOME": str(host.home)}
    found.setdefault("UV_HTTP_RETRIES", RETRIES)
    return found | host.indexes.uv_environment()


def compile_lock(question: Question, host: Host) -> Resolution:
    """The packages uv chooses for one target.

    Raises:
        RequirementError: unsatisfiable, unknown, or source only.
        IndexUnreachableError: an index did not answer.
    """
    with cache.storing(host.temporary_dir), scratch(host.temporary_dir) as folder:
        output = folder / "pylock.toml"
        if question.preferences:
            output.write_text(_preferences(question.preferences), "utf-8")
        arguments = _arguments(question, folder, host)
        done = _run([*arguments, "--format", "pylock.toml", "--output-file", str(output)], question, host)
        if done.returncode != 0:
            from intermodal.rooms.lock.explain import explain

            raise explain(done.stderr, question, host)
        return parse(output.read_text("utf-8"))


def _arguments(question: Question, folder: Path, host: Host) -> list[str]:
    arguments = [binary(), "pip", "compile", "-", "--no-header", "--no-build", "--quiet", "--color", "never"]
    arguments += ["--python", sys.executable, "--python-version", question.target.python]
    arguments += ["--python-platform", question.target.uv_platform, "--generate-hashes", "--no-sources"]
    arguments += host.indexes.uv_arguments()
    if question.exclude_newer:
        arguments += ["--exclude-newer", question.exclude_newer]
    for flag, lines in (("--constraint", question.constraints), ("--excludes", question.excludes)):
        if lines:
            path = folder / f"{flag[2:]}.txt"
            path.write_text("\n".join(lines) + "\n", "utf-8")
            arguments += [flag, str(path)]
    return arguments


def _run(arguments: Sequence[str], question: Question, host: Host) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            arguments,
            input="\n".join(question.requirements) + "\n",
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            cwd=question.root,
            env=environment(host),
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise EngineError(
            "cannot start uv to resolve the requirements", found=f"{arguments[0]}: {error}", next="try again"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RequirementError(
            "resolving the requirements takes too long",
            found=f"no answer after {TIMEOUT_S} s",
            next="pin more of them to narrow the search",
        ) from error
    if done.returncode < 0:
        raise EngineError(
            "uv was killed while it resolved the requirements",
            found=f"signal {-done.returncode}",
            next="try again; when memory is short, give this machine or its container more",
        )
    return done


def _preferences(versions: Mapping[str, str]) -> str:
    head = 'lock-version = "1.0"\ncreated-by = "intermodal"\n'
    return head + "".join(
        f'[[packages]]\nname = "{name}"\nversion = "{version}"\nwheels = []\n' for name, version in versions.items()
    )


def parse(text: str) -> Resolution:
    """The resolution in a pylock document that uv wrote.

    Raises:
        RequirementError: a package comes from somewhere that cannot be locked (a folder, a repository).
    """
    versions: dict[str, str] = {}
    wheels: dict[str, tuple[WheelRow, ...]] = {}
    for package in tomllib.loads(text).get("packages", []):
        name = str(package["name"])
        if "version" not in package or "wheels" not in package:
            if "archive" in package:
                versions[name], row = _from_archive(name, package["archive"])
                wheels[name] = (row,)
                continue
            origin = next((kind for kind in ("directory", "vcs", "sdist") if kind in package), "unknown")
            raise RequirementError(
                f"{name} cannot be locked",
                found=f"it comes from a {origin}, not from a wheel",
                next=f"build a wheel of it (pip wheel {name}) and put its folder into find-links",
            )
        versions[name] = str(package["version"])
        wheels[name] = tuple(_wheel(entry) for entry in package["wheels"])
    return Resolution(versions, wheels)


def _wheel(entry: Mapping[str, Any]) -> WheelRow:
    url = str(entry.get("url") or "")
    if not url and entry.get("path"):
        url = Path(str(entry["path"])).absolute().as_uri()
    filename = str(entry.get("name") or unquote(urlsplit(url).path.rpartition("/")[2]))
    size_bytes = int(entry.get("size") or 0)
    if not size_bytes and url.startswith("file:") and file_path(url).is_file():
        size_bytes = file_path(url).stat().st_size
    hashes = entry.get("hashes", {})
    if "sha256" in hashes:
        digest = Digest(str(hashes["sha256"]))
    elif url.startswith("file:") and file_path(url).is_file():
        digest = Digest.of_file(file_path(url))[0]  # a folder of wheels states no hashes
    else:
        raise RequirementError(
            f"the index gives no sha256 for {filename}",
            found=without_credentials(url),
            next="use an index that states hashes, or a folder of wheels in find-links",
        )
    return WheelRow(filename, size_bytes, digest, without_credentials(url))


def _from_archive(name: str, entry: Mapping[str, Any]) -> tuple[str, WheelRow]:
    """A requirement given as the address of a wheel (`name @ https://…/name-1.0-py3-none-any.whl`)."""
    row = _wheel(entry)
    parts = row.filename.split("-")
    if not row.filename.endswith(".whl") or len(parts) not in (5, 6):
        raise RequirementError(
            f"{name} has no wheel",
            found=f"{row.filename} is a source archive",
            next=f"build a wheel of it (pip wheel {name}) and require that",
        )
    return parts[1], row


def dependencies_of(question: Question, resolution: Resolution, host: Host) -> dict[str, tuple[str, ...]]:
    """Who needs whom in a resolution: names of the chosen packages by the name of the one that requires them.

    uv states this only in its other output form, so it is asked once more, with every version pinned.
    """
    pins = tuple(f"{name}=={version}" for name, version in resolution.versions.items())
    with cache.storing(host.temporary_dir), scratch(host.temporary_dir) as folder:
        pinned = replace(question, constraints=pins, preferences={})
        arguments = [*_arguments(pinned, folder, host), "--annotation-style", "line", "--no-strip-extras"]
        done = _run([item for item in arguments if item != "--generate-hashes"], pinned, host)
    found: dict[str, list[str]] = {name: [] for name in resolution.versions}
    for line in done.stdout.splitlines():
        left, _, via = line.partition("# via ")
        package = left.partition("==")[0].partition(" @ ")[0].partition("[")[0].strip()
        for parent in via.split(","):
            if package in found and parent.strip() in found:
                found[parent.strip()].append(package)
    return {name: tuple(sorted(needs)) for name, needs in found.items() if needs}
