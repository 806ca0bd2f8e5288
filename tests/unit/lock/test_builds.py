"""Distributions that come in several builds with the same modules: one of them is enough, and two would collide."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.locks import world

from intermodal.errors import ContradictionError
from intermodal.rooms.inspect.card import Evidence
from intermodal.rooms.lock import lock
from intermodal.rooms.lock.drift import contradictions


@pytest.mark.parametrize("known", ["requires", "versions"])
def test_another_build_that_the_project_names_is_enough(tmp_path: Path, known: str) -> None:
    with world(tmp_path) as here:
        here.publish("xgboost==3.2.0", "xgboost_cpu==3.2.0", "xgboost_cpu==2.1.4")
        project = here.project("xgboost-cpu==3.2.0")
        evidence = {"xgboost": Evidence("3.2", "the file", exact=False)} if known == "versions" else {}
        card = here.card(evidence, requires=("xgboost",) if known == "requires" else ())
        found = lock(card, project, host=here.host, keyring=here.keyring)
        assert {row.name: row.version for row in found.packages} == {"xgboost-cpu": "3.2.0"}
        contradictions(found, card)

        older = here.project("xgboost-cpu==2.1.4")
        if known == "versions":
            with pytest.raises(ContradictionError, match=r"saved by xgboost 3\.2, but the lock has 2\.1\.4"):
                lock(card, older, host=here.host, keyring=here.keyring)
