"""The Python of an image that somebody else made, found by reading its layers.

Takes the merged tree and the variables of its config; hands on a `Found`, or the error that says what is missing. Runs
nothing: what a base holds is data until it is confined.

Rules, in order:
1. It is the first `python3`, `python` or `python3.N` on the config's PATH that is a CPython by its file's name, of a
   version that the server and the byte-code compiler know; with a version asked for, the first of that version.
2. Its full version is what the interpreter or its shared library says of itself.
3. Its standard library lies beside it, and it was made for glibc: wheels for musl are not locked.
4. The places of an image of ours must be free: nothing of the base may look like part of the model or the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from intermodal.errors import RequirementError
from intermodal.rooms.lock.reading import INTERPRETER
from intermodal.rooms.lock.registry_base.tree import Node, Tree
from intermodal_server.contract import APP_DIR, METADATA_DIR, MODEL_DIR, SERVER_DIR, VENV_DIR

OLDEST, NEWEST = 9, 14
MAX_FOLDERS = 64  # of a PATH
MAX_LIBRARIES = 8  # of one name
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME = re.compile(r"python3\.(\d{1,2})\Z")
_CANDIDATE = re.compile(r"python(?:3(?:\.\d{1,2})?)?\Z")
_LOADER = re.compile(rb"/lib(?:32|64)?/ld-[\w.-]+")
_GLIBC = re.compile(rb"GNU C Library [^\n\0]{0,120}version (\d{1,2})\.(\d{1,3})")
_NEXT = "take a base with a CPython of 3.9 to 3.14 on its PATH and glibc, such as python:3.12-slim or deb:bookworm"


class Found(Struct, frozen=True):
    """The Python of a base."""

    interpreter: str  # "/usr/local/bin/python3.12", the file itself
    version: str  # "3.12.4"
    glibc: tuple[int, int]
    library: str  # "usr/local/lib/python3.12"

    @property
    def minor(self) -> str:
        """Without the last part: "3.12"."""
        return ".".join(self.version.split(".")[:2])


def find_python(tree: Tree, environment: Mapping[str, str], reference: str, wanted: str = "") -> Found:
    """The Python of an image.

    Args:
        tree: its merged layers.
        environment: the variables of its config.
        reference: for messages.
        wanted: "3.12" when the project asks for it; "" takes the first.

    Raises:
        RequirementError: there is none that can be used; the message says what there is instead.
    """
    _refuse_taken(tree, reference)
    seen: list[str] = []
    for path in _candidates(tree, environment.get("PATH") or PATH):
        place = tree.resolve(path) or ""
        match = _NAME.match(place.rpartition("/")[2])
        if match is None or not tree.nodes[place].mode & 0o111 or not INTERPRETER.match(f"/{place}"):
            seen.append(f"{path} is {f'/{place}' if place and place != path else 'no CPython'}")
        elif not OLDEST <= int(match[1]) <= NEWEST:
            seen.append(f"{path} is Python 3.{match[1]}")
        elif wanted and wanted != f"3.{match[1]}":
            seen.append(f"{path} is Python 3.{match[1]}, asked for is {wanted}")
        else:
            return _found(tree, place, f"3.{match[1]}", reference)
    raise RequirementError(
        f"the base {reference} has no Python that can be used",
        found=list(dict.fromkeys(seen))[:5] or f"no python3 on its PATH ({environment.get('PATH') or PATH})",
        next=_NEXT,
    )


def _candidates(tree: Tree, path: str) -> list[str]:
    folders = [folder.strip("/") for folder in path.split(":", MAX_FOLDERS)[:MAX_FOLDERS] if folder.startswith("/")]
    found = []
    for folder in dict.fromkeys(folders):
        real = tree.resolve(folder)
        names = [n.rpartition("/")[2] for n in tree.nodes if real is not None and n.rpartition("/")[0] == real]
        own = sorted((n for n in names if _CANDIDATE.match(n)), key=lambda n: (n != "python3", n != "python", n))
        found += [f"{folder}/{name}" for name in own if tree.file(f"{folder}/{name}") is not None]
    return found


def _found(tree: Tree, place: str, minor: str, reference: str) -> Found:
    prefix = place.rpartition("/")[0].rpartition("/")[0]
    library = tree.resolve(f"{prefix}/lib/python{minor}")
    if library is None or tree.file(f"{library}/os.py") is None:
        raise RequirementError(
            f"the Python of the base {reference} has no standard library",
            found=f"/{place}, and no /{prefix}/lib/python{minor}/os.py",
            next=_NEXT,
        )
    program = tree.nodes[place]
    libraries = [n for name in _libraries(tree, f"libpython{minor}.so") if (n := tree.file(name)) is not None]
    libc = [n for name in _libraries(tree, "libc.so.6") if (n := tree.file(name)) is not None]
    contents = dict(zip((nodes := [program, *libraries, *libc]), tree.read(nodes), strict=True))
    loader = _LOADER.search(contents[program][:8192])
    if loader is None or b"musl" in loader[0]:
        said = loader[0].decode() if loader else "it names no loader"
        raise RequirementError(
            f"the base {reference} is made for another C library than the wheels",
            found=f"/{place}: {said}",
            next="Alpine and other musl images cannot hold manylinux wheels; " + _NEXT,
        )
    version = next((v for node in (program, *libraries) if (v := _version(contents[node], minor))), "")
    glibc = next((g for node in libc if (g := _glibc(contents[node]))), None)
    if not version or glibc is None:
        what = f"the full version of /{place}" if not version else "the version of its C library"
        raise RequirementError(f"the base {reference} does not tell {what}", found=f"/{place}", next=_NEXT)
    return Found(f"/{place}", version, glibc, library)


def _libraries(tree: Tree, name: str) -> list[str]:
    return sorted(path for path in tree.nodes if path.rpartition("/")[2].startswith(name))[:MAX_LIBRARIES]


def _version(data: bytes, minor: str) -> str:
    """The full version that stands in the interpreter as a text, or as the end of one: linkers share such ends."""
    version = rb"(" + re.escape(minor.encode()) + rb"\.\d{1,3}(?:(?:a|b|rc)\d{1,3})?)\+?\0"
    alone = set(re.findall(rb"\0" + version, data))
    found = alone or set(re.findall(rb"(?<![\d.])" + version, data))
    return found.pop().decode() if len(found) == 1 else ""


def _glibc(data: bytes) -> tuple[int, int] | None:
    match = _GLIBC.search(data)
    return (int(match[1]), int(match[2])) if match else None


def _refuse_taken(tree: Tree, reference: str) -> None:
    """Refuse a base that has something where our layers go, or a link on the way there."""
    for folder in (VENV_DIR, SERVER_DIR, METADATA_DIR, MODEL_DIR, APP_DIR):
        path = folder.strip("/")
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            place = "/".join(parts[:depth])
            node: Node | None = tree.nodes.get(place)
            if node is not None and node.kind != "directory":
                raise _taken(reference, f"/{place} is a {node.kind}")
        if inside := next((name for name in tree.nodes if name.startswith(f"{path}/")), None):
            raise _taken(reference, f"/{inside}")


def _taken(reference: str, found: str) -> RequirementError:
    return RequirementError(
        f"the base {reference} has something where the model or the server go",
        found=found,
        next=f"take a base without {VENV_DIR}, {SERVER_DIR}, {MODEL_DIR} and {APP_DIR} in it",
    )
