"""The newcomer, shared by the tests of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.cli import copy_of_checkout, give, world_folder
from support.newcomer import UID, Newcomer


@pytest.fixture(scope="session")
def newcomer() -> Iterator[Newcomer]:
    """Made once per test process; tests that use it belong to the xdist group "newcomer"."""
    with world_folder() as folder:
        checkout, home = folder / "intermodal", folder / "home"
        home.mkdir()
        copy_of_checkout(checkout)
        if os.getuid() == 0:
            give(folder, UID)
        yield Newcomer(folder, checkout, home)
