"""The server's own source files, by hash: equal from a checkout and from an installed wheel.

Takes nothing; hands on the tree digest and the files. Only `.py` files count: byte code, type markers and lint
settings never enter the image.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import intermodal_server
from intermodal.oci.digest import Digest


def server_tree() -> tuple[Digest, list[tuple[str, Path]]]:
    """The digest over the sorted (path, sha256) list of the server's sources, and the files as (path, where)."""
    root = Path(intermodal_server.__file__).parent
    return tree_of(root)


def tree_of(root: Path) -> tuple[Digest, list[tuple[str, Path]]]:
    """The same for any package folder; paths start with the folder's own name."""
    files = sorted(
        (f"{root.name}/{path.relative_to(root).as_posix()}", path)
        for path in root.rglob("*.py")
        if "__pycache__" not in path.parts
    )
    whole = hashlib.sha256()
    for name, path in files:
        whole.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n".encode())
    return Digest(whole.hexdigest()), files
