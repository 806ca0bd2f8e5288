"""The memory of unchanged builds: what the walk itself wrote is no change, everything else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.host.files import unchanged
from intermodal.warm import Watch


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """A walk that has looked at a project folder before it wrote the lock there."""
    (tmp_path / "predictor.py").write_text("one")
    found = Watch()
    found.enter(tmp_path)
    found.look([tmp_path, tmp_path / "predictor.py", tmp_path / "golden.json"])
    return found


def test_the_lock_that_the_walk_wrote_is_no_change(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text("lock")
    assert not unchanged(watch.seen)
    watch.wrote(tmp_path / "pylock.toml")
    assert unchanged(watch.seen)


@pytest.mark.parametrize("name", ["golden.json", "other.py"])
def test_what_came_at_the_same_time_is(watch: Watch, tmp_path: Path, name: str) -> None:
    (tmp_path / "pylock.toml").write_text("lock")
    (tmp_path / name).write_text("new")
    watch.wrote(tmp_path / "pylock.toml")
    assert not unchanged(watch.seen)


def test_what_comes_afterwards_is(watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text("lock")
    watch.wrote(tmp_path / "pylock.toml")
    (tmp_path / "other.py").write_text("new")
    assert not unchanged(watch.seen)
    (tmp_path / "other.py").unlink()
    assert not unchanged(watch.seen), "times have moved on: look again"


def test_a_folder_that_was_not_entered_stays_as_it_was(tmp_path: Path) -> None:
    watch = Watch()
    watch.look([tmp_path])
    (tmp_path / "pylock.toml").write_text("lock")
    watch.wrote(tmp_path / "pylock.toml")
    assert not unchanged(watch.seen)
