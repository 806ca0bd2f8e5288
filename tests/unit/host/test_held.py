"""Temporary things belong to the living: what nobody holds is told apart and swept."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intermodal.host import held
from intermodal.host.files import replace_file
from intermodal.host.held import SUFFIX, Sweep, lock_file, new_file, scratch

HOLDER = """
import sys, time
from pathlib import Path
from intermodal.host.held import new_file, scratch
new_file(sys.argv[1], ".index.json.")
with scratch(Path(sys.argv[1])) as folder:
    (folder / "inside").write_bytes(b"x" * 1000)
    print("held", flush=True)
    time.sleep(600)
"""


def test_what_the_living_hold_stays_and_what_the_dead_left_goes(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    before = sorted(tmp_path.iterdir())
    sweep = Sweep(dry_run=False)
    sweep.abandoned("temporary", tmp_path)
    assert sweep.items == [] and sorted(tmp_path.iterdir()) == before and len(before) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    look = Sweep(dry_run=True)
    look.abandoned("temporary", tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    sweep.abandoned("temporary", tmp_path)
    assert sweep.items == look.items and sum(item.bytes for item in sweep.items) == 1000
    assert list(tmp_path.iterdir()) == []


def test_the_next_write_of_a_file_sweeps_what_a_killed_one_left_beside_it(tmp_path: Path) -> None:
    for name in (f".lock.toml.0123456789abcdef{SUFFIX}", f".other.toml.0123456789abcdef{SUFFIX}", ".lock.toml.swp"):
        (tmp_path / name).touch()
    replace_file(tmp_path / "lock.toml", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock.toml.swp", f".other.toml.0123456789abcdef{SUFFIX}", "lock.toml",
    ]  # fmt: skip


def test_a_new_file_that_is_swept_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = fcntl.flock, []

    def swept_first(handle: int, how: int) -> None:
        if not seen:
            seen.append(next(tmp_path.iterdir()))
            seen[0].unlink()
        real(handle, how)

    monkeypatch.setattr(held.fcntl, "flock", swept_first)
    handle, name = new_file(tmp_path)
    os.close(handle)
    assert Path(name).exists() and Path(name) != seen[0]


def test_a_file_system_without_locks_is_an_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(held.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"):
        new_file(tmp_path)
    with pytest.raises(OSError, match="No locks"), scratch(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_removed_while_we_waited_is_not_the_lock(tmp_path: Path) -> None:
    path, got = tmp_path / "deep" / "x.lock", []

    def wait_for_it() -> None:
        with lock_file(path) as handle:
            got.append(held.is_at(handle, path))

    with lock_file(path):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        path.unlink()
    waiting.join()
    assert got == [True] and path.exists()
    with lock_file(path), pytest.raises(BlockingIOError), lock_file(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
        pass


def test_an_error_inside_a_lock_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), lock_file(tmp_path / "x.lock"):
        raise FileNotFoundError
    assert held.is_at(os.open(tmp_path / "x.lock", os.O_RDONLY), tmp_path / "x.lock")


def test_hard_links_count_once_and_only_with_their_last_name(tmp_path: Path) -> None:
    for name in ("one", "two", "stays"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a").write_bytes(bytes(100))
    (tmp_path / "two" / "a").hardlink_to(tmp_path / "one" / "a")
    (tmp_path / "one" / "b").write_bytes(bytes(7))
    (tmp_path / "stays" / "b").hardlink_to(tmp_path / "one" / "b")
    for dry_run in (True, False):
        sweep = Sweep(dry_run=dry_run)
        sweep.remove("tree", tmp_path / "one")
        sweep.remove("tree", tmp_path / "two")
        assert [item.bytes for item in sweep.items] == [0, 100]
    assert [path.name for path in tmp_path.iterdir()] == ["stays"]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "link").symlink_to(tmp_path / "kept")
    Sweep(dry_run=False).abandoned("container", tmp_path / "swept")
    assert (tmp_path / "kept" / "file").exists() and list((tmp_path / "swept").iterdir()) == []
