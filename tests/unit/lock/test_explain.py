"""What uv says when this machine or the network fails it, told apart from wrong requirements."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hosts import empty_host

from intermodal.errors import DownloadError, EngineError, IndexUnreachableError, RequirementError, StoreError
from intermodal.rooms.lock import uv
from intermodal.rooms.lock.explain import explain

QUESTION = uv.Question(("alpha==1.0",), uv.Target("linux/amd64", "x86_64-manylinux_2_36", "3.11.2"), Path("/"))
BROKEN_WHEEL = """error: No solution found when resolving dependencies
  cause: Because alpha==1.0 has an invalid package format and you require alpha==1.0, we can conclude that your \
requirements are unsatisfiable.

hint: The structure of `alpha` (v1.0) was invalid:
  Failed to read from zip file
"""
BROKEN_PAGE = """error: Request failed after 2 retries in 0.0s
  cause: Failed to fetch: http://127.0.0.1:38363/index/simple/orjson/
  cause: Connection reset by peer (os error 104)
"""
FULL = """error: failed to create file `/home/me/.cache/uv/simple/x`
  cause: No space left on device (os error 28)
"""
CLASH = """error: No solution found when resolving dependencies
  cause: Because alpha==1.0 needs beta<1 and you require beta>=1, we can conclude that it is unsatisfiable.
"""


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (BROKEN_WHEEL, DownloadError, ("alpha", "1.0", "Failed to read from zip file", "try again")),
        (BROKEN_PAGE, IndexUnreachableError, ("127.0.0.1:38363", "Connection reset")),
        (FULL, StoreError, ("disk is full", "XDG_CACHE_HOME")),
        (CLASH, RequirementError, ("cannot be met together",)),
    ],
    ids=["wheel", "page", "disk", "clash"],
)
def test_each_cause_has_its_error(said: str, kind: type[Exception], words: tuple[str, ...], tmp_path: Path) -> None:
    error = explain(said, QUESTION, empty_host(tmp_path))
    assert type(error) is kind and error.next
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize(
    ("program", "words"),
    [("#!/bin/sh\nkill -9 $$\n", "signal 9"), ("#!/nowhere/at/all\n", "cannot start uv")],
    ids=["killed", "unstartable"],
)
def test_a_uv_that_is_killed_or_does_not_start(
    program: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "uv"
    fake.write_text(program)
    fake.chmod(0o755)
    monkeypatch.setattr(uv, "binary", lambda: str(fake))
    host = empty_host(tmp_path)
    with pytest.raises(EngineError) as caught:
        uv.compile_lock(QUESTION, host)
    assert words in str(caught.value) and caught.value.next
    assert list(host.temporary_dir.iterdir()) == []
