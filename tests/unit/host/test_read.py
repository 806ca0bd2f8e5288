"""A machine where the user has no home and no name, as under `docker run -u 12345`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.cli import as_user
from support.envs import CHECKOUT

from intermodal import host as hosts
from intermodal.errors import HostError


def nobody(monkeypatch: pytest.MonkeyPatch, **variables: str) -> hosts.Host:
    """The host of a process without HOME whose user id nobody knows."""
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567)
    return hosts.read()


def test_a_user_without_home_is_fine_where_the_folders_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = nobody(monkeypatch, XDG_DATA_HOME=str(tmp_path / "d"), XDG_CACHE_HOME=str(tmp_path / "c"))
    assert host.data_dir == tmp_path / "d" / "intermodal" and host.cache_dir == tmp_path / "c" / "intermodal"
    assert host.home == hosts.NOWHERE
    assert host.indexes is not None and host.apt_sources is not None


def test_without_those_the_error_says_what_to_set_and_only_when_a_folder_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = nobody(monkeypatch, HOME="relative")
    assert host.platform
    with pytest.raises(HostError) as caught:
        _ = host.cache_dir
    assert "XDG_CACHE_HOME" in str(caught.value) and "1234567" in str(caught.value)
    assert caught.value.exit_code == 3


def test_home_comes_from_the_environment_and_then_from_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hosts.read().home == tmp_path
    monkeypatch.delenv("HOME")
    import pwd

    assert hosts.read().home == Path(pwd.getpwuid(os.getuid()).pw_dir)


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_the_command_line_as_such_a_user(tmp_path: Path) -> None:
    import subprocess
    import sys

    told = subprocess.run(
        as_user(1_234_567, [sys.executable, "-I", "-m", "intermodal", "images"]),
        env={"PATH": os.environ["PATH"]}, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "No module named" in told.stderr or "Permission denied" in told.stderr:
        pytest.fail(f"user 1234567 cannot read {CHECKOUT}: {told.stderr}")
    assert told.returncode == 3 and "set HOME, or XDG_DATA_HOME" in told.stderr
