"""What a base needs and no package brings: users, name services, CA bundle, mount points, links, package
records.

Takes a `Tree` with all packages in; adds to it. On a Debian machine maintainer scripts make most of these
files; they are never run here, so each is written by hand.

Rules, in order:
1. Users are root, nobody and nonroot (65532, home /tmp); nobody has a password or a shell.
2. All CA certificates stand in one bundle, sorted by path, and OpenSSL finds it in its built-in place.
3. Every place that a container engine mounts something on exists.
4. `python3` and `python` are links to the interpreter.
5. Each package leaves its control paragraph and the md5sums of the files that stayed in `status.d`, in the
   form that scanners know from distroless images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from intermodal.errors import PackageFileError
from intermodal.rooms.build.base_tree import MERGED, Node, Tree, merged_path
from intermodal.rooms.build.debs import Deb
from intermodal_server.contract import APP_DIR, METADATA_DIR, MODEL_DIR, USER_ID

CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----\n")
_FOLDERS = (
    "dev",
    "dev/shm",
    "etc",
    "home",
    "opt",
    "proc",
    "root",
    "run",
    "sys",
    "var/cache",
    "var/lib",
    "var/log",
    METADATA_DIR[1:],
    APP_DIR[1:],
    MODEL_DIR[1:],
)
_WRITABLE = ("tmp", "var/tmp")
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
        f"nonroot:x:{USER_ID}:{USER_ID}:nonroot:/tmp:/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\nnogroup:x:65534:\nnonroot:x:{USER_ID}:\n",
    "etc/nsswitch.conf": (
        "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\n"
        "protocols: files\nservices: files\nethers: files\nrpc: files\n"
    ),
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/hostname": "localhost\n",
    "etc/resolv.conf": "",  # engines mount theirs here
}


def add_system_files(tree: Tree, python: str, certificates: bytes) -> None:
    """Complete a base whose packages are all in.

    Args:
        tree: the merged packages.
        python: "3.11"; `usr/bin/python3.11` must be among the files.
        certificates: from `certificate_bundle`.

    Raises:
        PackageFileError: the packages bring no such interpreter.
    """
    if tree.get(f"usr/bin/python{python}") is None:
        raise PackageFileError(
            f"the base has no Python {python}",
            found=f"none of its Debian packages brings /usr/bin/python{python}",
            next="intermodal lock --upgrade",
        )
    for folder in _FOLDERS:
        tree.add_folder(folder)
    for folder in _WRITABLE:
        tree.add_folder(folder, 0o1777)
    for path, text in _FILES.items():
        tree.add_file(path, text.encode())
    if certificates:
        tree.add_file(CA_BUNDLE, certificates)
        tree.add_link("usr/lib/ssl/cert.pem", CA_BUNDLE)
        tree.add_link("usr/lib/ssl/certs", "etc/ssl/certs")
    tree.add_link("usr/bin/python3", f"usr/bin/python{python}", replace=False)
    tree.add_link("usr/bin/python", "usr/bin/python3", replace=False)
    tree.add_link("var/run", "run")
    tree.add_link("etc/mtab", "proc/self/mounts")
    for top in MERGED:
        if next(iter(tree.below(f"usr/{top}")), None) is not None:
            tree.add_link(top, f"usr/{top}")


def certificate_bundle(files: Iterable[tuple[str, bytes]]) -> bytes:
    """All certificates of (path, PEM file) pairs, by path, each once, ending in a newline.

    >>> certificate_bundle([("b", b"x"), ("a", b"")])
    b''
    """
    seen: dict[bytes, None] = {}
    for _, data in sorted(files):
        for block in _CERTIFICATE.findall(data.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"):
            seen[block] = None
    return b"".join(seen)


def add_package_record(tree: Tree, deb: Deb, name: str, nodes: Iterable[Node]) -> None:
    """Leave what scanners look for: control paragraph and checksums, under the package's name."""
    folder = "var/lib/dpkg/status.d"
    tree.add_file(f"{folder}/{name}", deb.control.encode(), owner=name)
    stayed = {node.path for node in nodes}
    rows = []
    for line in deb.md5sums.decode("utf-8", "replace").splitlines():
        checksum, _, path = line.partition("  ")
        merged = merged_path(path.strip().removeprefix("./"))
        if merged in stayed:
            rows.append(f"{checksum}  {merged}\n")
    tree.add_file(f"{folder}/{name}.md5sums", "".join(sorted(rows)).encode(), owner=name)
