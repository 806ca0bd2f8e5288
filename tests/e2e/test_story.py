"""The story of seven revisions on a real Docker engine, once: each ends as it deserves, and nobody is lost.

On a machine busy with other work latencies spread so far that a revision twice as slow passes: not in CI yet.
"""

from __future__ import annotations

import pytest
from story.tale import tell
from story.world import world

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.big]


def test_seven_revisions_end_as_they_deserve_and_nobody_is_lost() -> None:
    with world("local") as here:
        told = tell(here)
    assert told.faults == [], "\n".join(told.chapters)
