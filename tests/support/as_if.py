"""Run `intermodal` as another machine would: its file system, the order its folders list files in, its cores.

A program of its own, started by `tests/e2e/test_one_digest.py` in a mount namespace of its own:

    python as_if.py SPEC.json ARGUMENT…

SPEC holds `seed` (null: files are listed as the disk lists them), `cores` (null: as it is), `mount` ("tmpfs",
"overlay" or null: over `folder`), `copy` (pairs of from and to, once mounted) and `record`, a file that gets what was
really different: a test that only asked for a difference proves nothing.
"""

from __future__ import annotations

import json
import os
import random
import sys

REFUSED = 77  # exit status: the kernel mounts nothing for us
listings: dict[str, list[str]] = {}


class Shuffled:
    """What `os.scandir` gives, in another order."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Shuffled:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)

    def __enter__(self) -> Shuffled:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


def shuffle_listings(seed: int) -> None:
    """Every folder lists its files in an order that `seed` decides, from now on, whoever asks."""
    order, scandir, listdir = random.Random(seed), os.scandir, os.listdir

    def shuffled_scandir(path: object = ".") -> Shuffled:
        with scandir(path) as found:  # type: ignore[call-overload]
            entries = sorted(found, key=lambda entry: entry.name)
        order.shuffle(entries)
        listings[str(path)] = [str(entry.name) for entry in entries]
        return Shuffled(entries)

    def shuffled_listdir(path: object = ".") -> list[str]:
        names = sorted(listdir(path))  # type: ignore[call-overload]
        order.shuffle(names)
        listings[str(path)] = [str(name) for name in names]
        return names

    os.scandir, os.listdir = shuffled_scandir, shuffled_listdir  # type: ignore[assignment]


def mount(kind: str, folder: str) -> None:
    """Put a file system over `folder`; it goes with this process's mount namespace."""
    import subprocess

    def mounted(*words: str) -> None:
        if subprocess.run(["mount", *words], check=False).returncode:
            sys.exit(REFUSED)

    mounted("-t", "tmpfs", "tmpfs", folder)
    if kind == "overlay":
        parts = {name: f"{folder}/{name}" for name in ("lower", "upper", "work", "merged")}
        for part in parts.values():
            os.mkdir(part)
        options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
        mounted("-t", "overlay", "overlay", "-o", options, parts["merged"])


def file_system(path: str) -> str:
    """What `path` lies on, as the kernel says."""
    found = {}
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            _, place, kind = line.split(" ")[:3]
            if path == place or path.startswith(place.rstrip("/") + "/"):
                found[len(place)] = kind
    return found[max(found)]


def main() -> None:
    """Become the other machine, then be the command line."""
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    if spec["mount"]:
        mount(spec["mount"], spec["folder"])
    for source, target in spec["copy"]:
        import shutil

        shutil.copytree(source, target)
    if spec["seed"] is not None:
        shuffle_listings(spec["seed"])
    if spec["cores"] is not None:
        os.sched_getaffinity = lambda _: set(range(spec["cores"]))  # type: ignore[assignment,misc]
    sys.argv = ["intermodal", *sys.argv[2:]]
    from intermodal.cli.app import main as intermodal

    code = intermodal(sys.argv[1:])
    told = {
        "listings": listings,
        "python": sys.version.split()[0],
        "project": file_system(sys.argv[2]),
        "cache": file_system(os.environ["XDG_CACHE_HOME"]),
    }
    with open(spec["record"], "w") as file:
        json.dump(told, file)
    sys.exit(code)


if __name__ == "__main__":
    main()
