"""Small signed Debian archives that tests make themselves, in the layout of the real ones."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pysequoia


@cache
def signing_key(name: str = "Test Archive") -> pysequoia.Tsk:
    """An OpenPGP key, made once per process and name."""
    return pysequoia.Tsk.generate(f"{name} <archive@example.com>")


@cache
def keyring(name: str = "Test Archive") -> bytes:
    """The public side of a key, as `lock(keyring=…)` takes it."""
    return bytes(signing_key(name).extract_certificate())


def inrelease(text: str, name: str = "Test Archive") -> bytes:
    """`text`, clear-signed."""
    return bytes(pysequoia.sign(signing_key(name).signer(), text.encode(), mode=pysequoia.SignatureMode.CLEAR))


def ar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """An ar archive, as .debs are."""
    out = bytearray(b"!<arch>\n")
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return bytes(out)


def tar_xz(files: Mapping[str, bytes]) -> bytes:
    """An xz-compressed tar with parents, as dpkg-deb writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        parents = {str(p) for name in files for p in Path(name).parents if str(p) != "."}
        for parent in sorted(parents):
            entry = tarfile.TarInfo(f"./{parent}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(f"./{name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return lzma.compress(buffer.getvalue(), preset=1)


@dataclass
class Package:
    """One package to be put into an archive."""

    name: str
    version: str = "1.0-1"
    depends: str = ""
    provides: str = ""
    architecture: str = "amd64"
    source: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        version = self.version.partition(":")[2] or self.version
        return f"pool/main/{self.name[0]}/{self.name}/{self.name}_{version}_{self.architecture}.deb"

    def control(self) -> str:
        """The control paragraph."""
        fields = {
            "Package": self.name,
            "Source": self.source,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Nobody <nobody@example.com>",
            "Provides": self.provides,
            "Depends": self.depends,
            "Description": "test package",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)

    def deb(self) -> bytes:
        """The .deb file."""
        files = self.files or {f"usr/share/doc/{self.name}/copyright": b"public domain\n"}
        control = tar_xz({"control": self.control().encode()})
        return ar([("debian-binary", b"2.0\n"), ("control.tar.xz", control), ("data.tar.xz", tar_xz(files))])


BASE = (
    Package("base-files", "12.4+test"),
    Package("ca-certificates", "2025", "openssl (>= 1), debconf | debconf-2.0", architecture="all"),
    Package("libc6", "2.36-9", "libgcc-s1", source="glibc"),
    Package("libgcc-s1", "12.2.0-14", "libc6 (>= 2.35)", source="gcc-12"),
    Package("libstdc++6", "12.2.0-14", "libc6 (>= 2.36), libgcc-s1 (>= 4.2)", source="gcc-12"),
    Package("netbase", "6.4", architecture="all"),
    Package("tzdata", "2026a-1", "debconf (>= 0.5) | debconf-2.0", architecture="all"),
    Package(
        "python3.11",
        "3.11.2-6",
        "python3.11-minimal (= 3.11.2-6), libpython3.11-stdlib (= 3.11.2-6)",
        files={"usr/bin/python3.11": b"\x7fELF python"},
    ),
    Package("python3.11-minimal", "3.11.2-6", "libpython3.11-minimal (= 3.11.2-6), libc6:any (>= 2.35)"),
    Package("libpython3.11-minimal", "3.11.2-6"),
    Package("libpython3.11-stdlib", "3.11.2-6", "libpython3.11-minimal (= 3.11.2-6), awk"),
    Package("mawk", "1.3", provides="awk"),
)


@dataclass
class DebianArchive:
    """An archive in a folder: write suites into it, then serve the folder."""

    root: Path
    key: str = "Test Archive"
    date_s: float = 1_794_900_000.0

    def suite(
        self,
        name: str,
        packages: Iterable[Package] = (),
        *,
        valid_days: float | None = None,
        architectures: tuple[str, ...] = ("amd64",),
        codename: str | None = None,
        date_s: float | None = None,
        edit: Mapping[str, str] | None = None,
    ) -> None:
        """Write `dists/<name>` with its InRelease, and the packages into the pool."""
        dists = self.root / "dists" / name
        sums = []
        packages = list(packages)
        for package in packages:
            target = self.root / package.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(package.deb())
        for architecture in architectures:
            wanted = [p for p in packages if p.architecture in (architecture, "all")]
            data = lzma.compress("\n".join(self._paragraph(p) for p in wanted).encode())
            path = f"main/binary-{architecture}/Packages.xz"
            digest = hashlib.sha256(data).hexdigest()
            folder = dists / f"main/binary-{architecture}"
            (folder / "by-hash/SHA256").mkdir(parents=True, exist_ok=True)
            (folder / "Packages.xz").write_bytes(data)
            (folder / "by-hash/SHA256" / digest).write_bytes(data)
            sums.append(f" {digest} {len(data)} {path}")
        at_s = self.date_s if date_s is None else date_s
        fields = {"Origin": "Test", "Codename": codename or name, "Date": stamp(at_s), "Acquire-By-Hash": "yes"}
        if valid_days is not None:
            fields["Valid-Until"] = stamp(at_s + valid_days * 86_400)
        fields |= dict(edit or {})
        text = "".join(f"{key}: {value}\n" for key, value in fields.items()) + "SHA256:\n" + "\n".join(sums) + "\n"
        (dists / "InRelease").write_bytes(inrelease(text, self.key))

    def _paragraph(self, package: Package) -> str:
        data = (self.root / package.filename).read_bytes()
        return package.control() + (
            f"Filename: {package.filename}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )

    def whole(self, suite: str = "bookworm", extra: Iterable[Package] = (), security: Iterable[Package] = ()) -> None:
        """The three suites that a base is resolved from."""
        self.suite(suite, [*BASE, *extra])
        self.suite(f"{suite}-updates")
        self.suite(f"{suite}-security", security, valid_days=7)


def stamp(at_s: float) -> str:
    """A date as InRelease writes it."""
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(at_s))


def use(apt_folder: Path, url: str, suite: str = "bookworm") -> None:
    """Make a host's apt configuration name an archive for all three suites of a release."""
    apt_folder.mkdir(parents=True, exist_ok=True)
    lines = [f"deb [trusted=yes] {url} {name} main" for name in (suite, f"{suite}-updates", f"{suite}-security")]
    (apt_folder / "sources.list").write_text("\n".join(lines) + "\n")
