"""Keys that are made here are keys that the server knows, from a file and from a variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intermodal.errors import InputError
from intermodal.project.api_keys import as_variable, make_key
from intermodal_server.front.guard.keys import KeyRing
from intermodal_server.log import Log

LOG = Log("test", os.open(os.devnull, os.O_WRONLY))


def test_the_server_knows_what_was_made(tmp_path: Path) -> None:
    keys = [make_key("alice"), make_key("alice"), make_key("team-b@x.example")]
    assert len({made.key for made in keys}) == 3 and all(len(made.key) > 40 for made in keys)
    file = tmp_path / "keys"
    file.write_text("# ours\n" + "\n".join(made.line for made in keys) + "\n")
    for source in (f"file:{file}", as_variable(file)):
        ring = KeyRing(source, LOG)
        ring.refresh(0)
        assert [ring.name_of(made.key) for made in keys] == ["alice", "alice", "team-b@x.example"]
        assert ring.name_of(keys[0].line) is None


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ü", "a\n", "a" * 65])
def test_names_that_could_not_stand_in_the_file(name: str) -> None:
    with pytest.raises(InputError):
        make_key(name)


@pytest.mark.parametrize("text", ["", "# nobody\n", "alice:hunter2\n", "hunter2"])
def test_files_without_keys_are_refused_and_never_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError) as caught:
        as_variable(tmp_path / "keys")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InputError):
        as_variable(tmp_path / "missing")
