"""Debian packages made by hand, well formed or not, and locks that name them."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path

from intermodal.oci.digest import Digest
from intermodal.rooms.lock.rows import BaseLock, DebRow, Lock, Policy, ServerLock

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB%s==\n-----END CERTIFICATE-----\n"


def ar(members: Iterable[tuple[bytes, bytes]]) -> bytes:
    """An ar archive."""
    out = b"!<arch>\n"
    for name, data in members:
        out += ar_header(name, len(data)) + data + b"\n" * (len(data) & 1)
    return out


def ar_header(name: bytes, size: int) -> bytes:
    return (
        name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"100644".ljust(8) + str(size).encode().ljust(10) + b"`\n"
    )


def tar(entries: Iterable[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    """A tar archive of (name, content) pairs and of headers without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                info.mode = 0o755 if entry[0].rpartition("/")[0].endswith("bin") else 0o644
                archive.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def header(name: str, kind: bytes = tarfile.REGTYPE, *, target: str = "", mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def folder(name: str) -> tarfile.TarInfo:
    return header(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return header(name, tarfile.SYMTYPE, target=target, mode=0o777)


def hardlink(name: str, target: str) -> tarfile.TarInfo:
    return header(name, tarfile.LNKTYPE, target=target)


def deb(
    entries: Iterable[tarfile.TarInfo | tuple[str, bytes]] = (),
    *,
    name: str = "hello",
    version: str = "1.0-1",
    architecture: str = "amd64",
    md5sums: bytes = b"",
    data: bytes | None = None,
    suffix: str = ".xz",
) -> bytes:
    """A package; `data` replaces the plain tar made of `entries`."""
    pack = {".xz": lzma.compress, ".gz": lambda plain: gzip.compress(plain, mtime=0), "": bytes}[suffix]
    control = f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nDescription: a test\n second line\n"
    scripts = [("./control", control.encode()), ("./postinst", b"#!/bin/sh\ntouch /tmp/ran\n")]
    if md5sums:
        scripts.append(("./md5sums", md5sums))
    return ar(
        [
            (b"debian-binary", b"2.0\n"),
            (b"control.tar" + suffix.encode(), pack(tar(scripts))),
            (b"data.tar" + suffix.encode(), pack(tar(entries) if data is None else data)),
        ]
    )


def python_base(python: str = "3.11") -> dict[str, bytes]:
    """The smallest packages that make a base: base-files as in bookworm, a loader, certificates, an interpreter."""
    library = "./lib/x86_64-linux-gnu"
    return {
        "base-files": deb(
            [
                folder("./"),
                folder("./bin/"),
                folder("./lib/"),
                folder("./var/run/"),
                ("./usr/lib/os-release", b"ID=debian\n"),
                symlink("./etc/os-release", "../usr/lib/os-release"),
            ],
            name="base-files",
        ),
        "libc6": deb(
            [
                (f"{library}/ld.so.2", b"\x7fELF loader"),
                symlink("./lib64/ld.so.2", "/lib/x86_64-linux-gnu/ld.so.2"),
                ("./usr/lib/x86_64-linux-gnu/gconv/BIG5.so", b"x" * 1000),
                ("./usr/share/doc/libc6/copyright", b"LGPL\n"),
                ("./usr/share/doc/libc6/changelog.gz", b"y" * 500),
            ],
            name="libc6",
            md5sums=b"0" * 32
            + b"  lib/x86_64-linux-gnu/ld.so.2\n"
            + b"1" * 32
            + b"  usr/share/doc/libc6/changelog.gz\n",
        ),
        "ca-certificates": deb(
            [
                (f"./usr/share/ca-certificates/mozilla/{name}.crt", CERTIFICATE % name.encode())
                for name in ("Beta", "Alpha")
            ],
            name="ca-certificates",
        ),
        f"python{python}": deb(
            [
                (f"./usr/bin/python{python}", b"\x7fELF python"),
                (f"./usr/lib/python{python}/os.py", b"name = 'posix'\n"),
                (f"./usr/lib/python{python}/test/support.py", b"pass\n"),
                (f"./etc/python{python}/sitecustomize.py", b"hook = 1\n"),
                symlink(f"./usr/lib/python{python}/sitecustomize.py", f"/etc/python{python}/sitecustomize.py"),
            ],
            name=f"python{python}",
        ),
    }


def lay_out(folder: Path, packages: dict[str, bytes]) -> dict[Digest, Path]:
    """The packages as files, by digest."""
    found = {}
    for name, data in packages.items():
        path = folder / f"{name}_1.0-1_amd64.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found[Digest.of(data)] = path
    return found


def deb_rows(packages: dict[str, bytes], *, system: tuple[str, ...] = ()) -> tuple[DebRow, ...]:
    return tuple(
        DebRow(
            name,
            "1.0-1",
            "amd64",
            f"pool/main/{name}.deb",
            len(data),
            Digest.of(data),
            layer="system" if name in system else "base",
        )
        for name, data in sorted(packages.items())
    )


def lock_of(
    rows: tuple[DebRow, ...], *, python: str = "3.11", policy: Policy | None = None, suite: str = "bookworm"
) -> Lock:
    """A lock with these Debian rows and nothing else."""
    nothing = Digest.of(b"")
    return Lock(
        name="demo",
        version="1",
        python=python,
        platforms=("linux/amd64",),
        requirements=(),
        packages=(),
        base=BaseLock(f"deb:{suite}", suite, python, f"{python}.2", "", rows, ()),
        server=ServerLock("0", nothing, ()),
        model=(),
        app=(),
        golden=None,
        policy=policy or Policy(),
        inputs=nothing,
    )
