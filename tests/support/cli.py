"""Running the command line as a person would: own home, own caches, own user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.envs import CACHE, CHECKOUT

SHARED_CACHE = CACHE / "xdg-cache"  # wheels, packages and unpacked layers; tests about empty caches bring their own


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document it must be."""
        return json.loads(self.out)


def environment(home: Path, cache: Path | None = SHARED_CACHE, **more: str) -> dict[str, str]:
    """The variables of a user whose home is `home`; nothing of ours leaks in but what finding the network needs."""
    kept = (
        "PATH",
        "LANG",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "TMPDIR",
    )
    variables = {name: os.environ[name] for name in kept if name in os.environ}
    # The machine's own package configuration counts in tests as it does for users.
    variables |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_"))}
    variables |= {"HOME": str(home), "XDG_DATA_HOME": str(home / "data")}
    if cache is not None:
        variables["XDG_CACHE_HOME"] = str(cache)
    return variables | more


def intermodal(
    *arguments: str | Path,
    home: Path,
    cwd: Path | None = None,
    cache: Path | None = SHARED_CACHE,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 600,
) -> Result:
    """Run `intermodal ARGUMENTS` with this checkout's code."""
    process = subprocess.run(
        [sys.executable, "-m", "intermodal", *map(str, arguments)],
        cwd=cwd or home,
        env=environment(home, cache) | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Result(process.returncode, process.stdout, process.stderr)


@contextmanager
def world_folder() -> Iterator[Path]:
    """A folder below the temporary folder that every user may enter; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="im-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_of_checkout(folder: Path, owner: int | None = None) -> Path:
    """The files that git knows, as they are now, in `folder`; what a fresh clone would hold."""
    listed = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, target = CHECKOUT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if owner is not None:
        give(folder, owner)
    return folder


def give(folder: Path, owner: int) -> None:
    """Make `owner` the owner of everything in `folder`."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)


def as_user(uid: int, command: Sequence[str | Path]) -> list[str]:
    """The command as an ordinary user without a name, groups or capabilities; as it is when we are one already."""
    words = [str(word) for word in command]
    if os.getuid() != 0:
        return words
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", *words]
