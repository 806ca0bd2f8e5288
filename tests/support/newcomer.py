"""A newcomer: a fresh checkout, an empty home, an ordinary user; and nothing of this process's environment."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.cli import Result, as_user

UID = 54321


@dataclass(frozen=True)
class Newcomer:
    """Somebody who has just cloned the repository."""

    folder: Path
    checkout: Path
    home: Path

    def dev(
        self,
        *arguments: str | Path,
        home: Path | None = None,
        uid: int = UID,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        umask: int = 0o022,
    ) -> Result:
        """Run `./dev ARGUMENTS` with an environment of PATH, HOME and `env` alone."""
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home or self.home), **(env or {})}
        words = [
            "env",
            "-i",
            *(f"{k}={v}" for k, v in variables.items()),
            *prefix,
            self.checkout / "dev",
            *arguments,
        ]
        process = subprocess.run(
            as_user(uid, words),
            cwd=cwd or self.checkout,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            umask=umask,
        )
        return Result(process.returncode, process.stdout, process.stderr)
