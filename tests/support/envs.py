"""Training environments for tests: real interpreters with real frameworks, made once and kept in a cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("INTERMODAL_TEST_CACHE") or CHECKOUT / ".cache" / "tests")


def training_python(*requirements: str, python: str = sys.executable) -> Path:
    """The interpreter of a virtual environment that holds `requirements`, as somebody who trains models would have.

    Installed by pip, so the machine's pip configuration counts; made once per set of requirements, safe for parallel
    test processes.
    """
    key = hashlib.sha256("\n".join((python, *sorted(requirements))).encode()).hexdigest()[:16]
    folder = CACHE / "envs" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
            subprocess.run([python, "-m", "venv", str(folder)], check=True, env=environment)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--prefer-binary"]
            subprocess.run([*pip, *requirements], check=True, env=environment)
            (folder / "done").touch()
    return folder / "bin" / "python"
