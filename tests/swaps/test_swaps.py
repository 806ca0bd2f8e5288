"""Three swaps of each kind behind the real Envoy, some thousand requests, nothing lost; and a loss is seen.

The whole campaign: python -m tests.swaps --swaps 20 --requests 100000
"""

from __future__ import annotations

import pytest

from swaps import campaign as module
from swaps.campaign import campaign

pytestmark = pytest.mark.network  # Envoy comes from the package index, once


@pytest.mark.parametrize("mode", ["rolling", "weights"])
def test_nothing_is_lost(mode: str) -> None:
    found = campaign(swaps=3, requests=2000, mode=mode, resets=False)
    assert found.lost == ()
    assert found.answered >= 2000 and found.swaps == 3


def test_nothing_is_lost_where_several_processes_answer() -> None:
    found = campaign(swaps=2, requests=2000, mode="rolling", resets=False, processes=2)
    assert found.lost == ()


def test_a_server_that_is_killed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(replica: module.Replica) -> str:
        for part in ("front", "worker"):
            assert replica.server.children(part)
        replica.server.process.kill()
        replica.server.process.wait()
        replica.stack.close()
        return ""

    monkeypatch.setattr(module.Replica, "drain", kill)
    found = campaign(swaps=2, requests=1, mode="rolling", resets=False)
    assert found.lost
