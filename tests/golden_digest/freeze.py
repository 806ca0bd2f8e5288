"""Make the packages and the lock of the frozen project.

Done once: wheels and Debian packages are compressed by whatever zlib and xz the machine has, which is why they are kept
as files. Needed again only when the lock's format changes, or the frozen project is to hold something new.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.lockfile import write_lock
from intermodal.rooms.lock.rows import BaseLock, DebRow, Lock, PackageRow, Policy, ServerLock, WheelRow
from intermodal.rooms.lock.servertree import tree_of

from .project import FROZEN, PLATFORM, inputs

DEEP = "/".join(["a_folder_with_a_long_name"] * 5)  # 129 characters: beyond what fits into a header without its prefix


def freeze() -> None:
    """Write `frozen/wheels`, `frozen/debs`, the golden cases and the lock anew."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    for kind in ("wheels", "debs"):
        shutil.rmtree(FROZEN / kind, ignore_errors=True)
    _wheels(FROZEN / "wheels")
    debs = _debs(FROZEN / "debs")
    _golden_cases()
    with tempfile.TemporaryDirectory() as folder:
        write_lock(_lock(inputs(Path(folder)), debs), FROZEN / "pylock.intermodal.toml")


def _wheels(folder: Path) -> None:
    from support.wheels import make_wheel

    make_wheel(
        folder, "golden_alpha", "1.0",
        {
            "golden_alpha/__init__.py": "A = 1\n" * 900,  # more than 4 KiB: spliced
            "golden_alpha/small.py": "S = 1\n",
            "golden_alpha/tests/test_it.py": "pruned\n",
            "golden_alpha/données/é.txt": "non-ASCII\n",
            f"golden_alpha/{DEEP}/deep.txt": "deep\n",
            f"golden_alpha/{'n' * 120}.txt": "a name that needs a pax record\n",
            "golden_alpha/empty": b"",
            "golden_alpha-1.0.data/scripts/alpha-run": "#!python\nprint('alpha')\n",
            "golden_alpha-1.0.data/data/share/alpha.txt": "data\n",
        },
        entry_points="[console_scripts]\nalpha = golden_alpha:main\n",
    )  # fmt: skip
    make_wheel(folder, "golden_beta", "2.0", {"golden_beta.py": "B = 2\n"}, tag="cp311-cp311-manylinux_2_17_x86_64")
    make_wheel(folder, "golden_serving", "0.1", {"golden_serving.py": "S = 1\n"})


def _debs(folder: Path) -> tuple[DebRow, ...]:
    from support import debs

    packages = debs.python_base()
    packages["libgomp1"] = debs.deb(
        [
            ("./usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0", b"\x7fELF gomp" * 40),
            debs.symlink("./usr/lib/x86_64-linux-gnu/libgomp.so.1", "libgomp.so.1.0.0"),
            debs.hardlink("./usr/lib/x86_64-linux-gnu/libgomp-twin.so", "./usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0"),
            ("./usr/share/doc/libgomp1/copyright", b"GPL\n"),
        ],
        name="libgomp1",
    )
    folder.mkdir(parents=True)
    for name, data in packages.items():
        (folder / f"{name}.deb").write_bytes(data)
    return debs.deb_rows(packages, system=("libgomp1",))


def _golden_cases() -> None:
    from intermodal.golden.cases import GoldenCase, GoldenFile

    case = GoldenCase("one", {"inputs": []}, {"outputs": []})
    data = GoldenFile("training", {"python": "3.11.7"}, (case,)).to_bytes()
    (FROZEN / "project/golden.json").write_bytes(data)


def _lock(files: dict[str, Path], debs: tuple[DebRow, ...]) -> Lock:
    def package(path: Path) -> PackageRow:
        name, version = path.name.split("-")[:2]
        digest, size_bytes = Digest.of_file(path)
        return PackageRow(name.replace("_", "-"), version, (WheelRow(path.name, size_bytes, digest),))

    def row(name: str) -> FileRow:
        digest, size_bytes = Digest.of_file(files[name])
        return FileRow(name, size_bytes, digest, files[name])

    wheels = {path.name.partition("-")[0]: path for name, path in files.items() if name.endswith(".whl")}
    return Lock(
        name="golden",
        version="1.0.0",
        python="3.11",
        platforms=(PLATFORM,),
        requirements=("golden-alpha",),
        packages=tuple(package(wheels[name]) for name in ("golden_alpha", "golden_beta", "golden_big")),
        base=BaseLock("deb:bookworm", "bookworm", "3.11", "3.11.2", "", debs, ("libgomp1",)),
        server=ServerLock(
            "0.1.0", tree_of(FROZEN / "server/intermodal_server")[0], (package(wheels["golden_serving"]),)
        ),
        model=(row("net/config.json"), row("net/weights.bin")),
        app=(row("predictor.py"),),
        golden=row("golden.json"),
        policy=Policy(bytecode="none"),
        inputs=Digest.of(b"frozen"),
    )
