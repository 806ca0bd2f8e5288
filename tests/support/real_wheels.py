"""Published wheels for tests: the pinned table `real-wheels.txt`, and the files, fetched once into the test cache.

The table is a requirements file that pip itself reads; the comment above each row says what the wheel exercises, and
"big:" where it is. Hashes stand for the wheels of Linux on x86-64 and arm64. After a change of names or versions,
`cd tests && python -m support.real_wheels` writes the hashes that the machine's indexes state.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from intermodal.oci.digest import Digest
from intermodal.rooms.build.wheels.groups import LockedWheel
from support.envs import CACHE

TABLE = Path(__file__).with_name("real-wheels.txt")
_FITTING = re.compile(r"-(cp31[1-4]-cp31[1-4]|cp3\d+-abi3|(py2\.)?py3-none)-(any|.*manylinux.*_(x86_64|aarch64))\.whl$")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    version: str
    exercises: str
    big: bool
    text: str  # the requirement with its hashes


@dataclass(frozen=True)
class RealWheel:
    """A wheel that was fetched."""

    locked: LockedWheel
    path: Path


def table() -> list[Row]:
    """The rows, in the order of the file."""
    rows = []
    for block in TABLE.read_text().strip().split("\n\n"):
        comment, _, requirement = block.partition("\n")
        assert comment.startswith("# ") and "--hash=sha256:" in requirement, block
        name, _, version = requirement.split()[0].partition("==")
        about = comment[2:]
        rows.append(Row(name, version, about.removeprefix("big: "), about.startswith("big: "), requirement))
    return rows


def pip(*arguments: str | Path) -> None:
    """Run this interpreter's pip, with the machine's own configuration."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def fetched(rows: list[Row]) -> list[RealWheel]:
    """The wheels of `rows` for this interpreter, sorted by name; from the machine's own indexes, checked by hash."""
    wanted = "\n".join(row.text for row in rows) + "\n"
    key = hashlib.sha256(f"{sys.version_info[:2]}\n{wanted}".encode()).hexdigest()[:16]
    folder = CACHE / "wheels-real" / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            (folder / "wanted.txt").write_text(wanted)
            choice = ("--no-deps", "--only-binary=:all:", "--require-hashes")
            pip("download", *choice, "-d", folder, "-r", folder / "wanted.txt")
            (folder / "done").touch()
    found = [_real(path) for path in sorted(folder.glob("*.whl"))]
    assert {wheel.locked.name for wheel in found} == {canonicalize_name(row.name) for row in rows}
    return found


def _real(path: Path) -> RealWheel:
    name, version, _, _ = parse_wheel_filename(path.name)
    digest, size_bytes = Digest.of_file(path)
    return RealWheel(LockedWheel(name, str(version), path.name, digest, size_bytes), path)


def renew() -> None:
    """Write the table again, with the hashes of every wheel that Linux and a Python of today could take."""
    from intermodal.fetch.index import offered
    from intermodal.fetch.transfer import Transfers, file_path
    from intermodal.host import read

    blocks = []
    with Transfers(read()) as transfers:
        for row in table():
            hashes = set()
            for link in offered(transfers, row.name):
                if not _FITTING.search(link.filename) or parse_wheel_filename(link.filename)[1].public != row.version:
                    continue
                if row.name == "torch" and "+cpu" not in link.filename:
                    continue
                local = link.digest is None and link.url.startswith("file:")
                digest = Digest.of_file(file_path(link.url))[0] if local else link.digest
                hashes |= {digest.hex} if digest else set()
            lines = "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(hashes))
            blocks.append(f"# {'big: ' if row.big else ''}{row.exercises}\n{row.name}=={row.version}{lines}\n")
    TABLE.write_text("\n".join(blocks))


def odd_wheel(folder: Path) -> RealWheel:
    """A wheel of what the specification allows and hardly anybody publishes, as one tool or another has written it."""
    info, data = "odd-1.0.dist-info", "odd-1.0.data"
    points = """[console_scripts]
odd = odd.main:run
odd.nested = odd.main:Case.run [extra]
[gui_scripts]
odd-window = odd.main:run
"""
    members: list[tuple[str, str, int]] = [  # path, content, mode
        ("odd/", "", 0o40755),
        ("odd/__init__.py", "", 0o644),
        ("odd/main.py", "class Case:\n    run = print\nrun = print\n", 0o755),  # no type: pip counts that as no mode
        ("odd/tool.py", "#!/usr/bin/env python\n", 0o100755),
        ("odd/tests/run.py", "assert True\n", 0o100711),
        ("odd/naïve/größe 日本.txt", "å", 0o600),
        ("odd/no, mode.txt", "made on Windows", 0),
        ("odd/__pycache__/main.cpython-311.pyc", "not what it says", 0o100644),
        ("odd.pth", "odd/naïve\n", 0o644),
        (f"{data}/scripts/odd", "#!python\nold = 1\n", 0o100755),
        (f"{data}/scripts/odd-script.py", "#!python\nold = 1\n", 0o100755),
        (f"{data}/scripts/odd.exe", "MZ", 0o100755),
        (f"{data}/scripts/shell", "#!/bin/sh\nexit 0\n", 0o644),
        (f"{data}/scripts/windowed", "#!pythonw\r\nimport odd\r\n", 0o644),
        (f"{data}/scripts/alone", "#!python", 0o644),
        (f"{data}/purelib/odd_pure.py", "pure = True\n", 0o644),
        (f"{data}/platlib/odd_plat/module.py", "pure = False\n", 0o644),
        (f"{data}/headers/odd.h", "int odd;\n", 0o644),
        (f"{data}/data/share/odd/notes.txt", "notes\n", 0o644),
        (f"{data}/data/etc/odd.conf", "", 0o644),
        (f"{info}/METADATA", "Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n", 0o644),
        (f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: odd\nRoot-Is-Purelib: true\nTag: py3-none-any\n", 0o644),
        (f"{info}/entry_points.txt", points, 0o644),
        (f"{info}/licenses/LICENSE", "free\n", 0o644),
    ]
    rows = "".join(f"{quoted(p)},sha256={record_hash(t)},{len(t.encode())}\n" for p, t, _ in members if p[-1] != "/")
    members.append((f"{info}/RECORD", f"{rows}{info}/RECORD,,\n", 0o644))
    path = folder / "odd-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, text, mode) in enumerate(members):
            slot = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            slot.external_attr = mode << 16
            slot.create_system = (3, 0)[number % 2]
            archive.writestr(slot, text.encode(), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2])
    return _real(path)


def quoted(path: str) -> str:
    """A path as RECORD writes it."""
    return f'"{path}"' if "," in path else path


def record_hash(text: str) -> str:
    """A hash as RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    renew()
