"""The story of seven revisions on a real Docker engine, once: each ends as it deserves, and nobody is lost.

On a machine busy with other work it takes longer, because evidence that does not decide is no end.
"""

from __future__ import annotations

import pytest
from story.tale import tell
from story.world import world

pytestmark = [pytest.mark.network, pytest.mark.slow]


def test_seven_revisions_end_as_they_deserve_and_nobody_is_lost() -> None:
    with world("local") as here:
        told = tell(here)
    assert told.faults == [], "\n".join(told.chapters)
