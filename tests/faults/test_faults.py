"""A small number of the campaign's runs, so that each change meets full disks, lost networks and kills.

The whole campaign: python -m tests.faults --runs 300 --seed 1 --jobs 2
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.campaign import Campaign, Case
from faults.intercept import Fault, run

SEED = 11
RUNS = 14
STATES = ("cold", "code", "prune")
pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.xdist_group("faults")]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    yield Campaign(tmp_path_factory.mktemp("faults"), STATES)


@pytest.mark.parametrize("number", range(1, RUNS + 1))
def test_nothing_is_lost_under_a_fault(campaign: Campaign, number: int) -> None:
    case = campaign.case(SEED, number)
    found, _ = campaign.faults(case, f"run-{number}")
    again = f"python -m tests.faults --seed {SEED} --states {','.join(STATES)} --only {number}"
    assert not found, "\n".join([f"{case}: {again}", *found])


@pytest.mark.parametrize(
    "case",
    [
        Case("network", "cold", trouble="cut for good", at=9),
        Case("disk", "cold", room=0.5),
        Case("two", "cold", beside="build"),
        Case("two", "prune", beside="build"),
        Case("call", "cold", Fault("intermodal rename data/intermodal/store/index.json", 2, "kill")),
        Case("call", "code", Fault("intermodal write data/intermodal/store/tmp/#.tmp", 1, "ENOSPC")),
        Case("call", "cold", Fault("intermodal execve uv", 1, "EACCES")),
    ],
    ids=str,
)
def test_the_faults_one_thinks_of_first(campaign: Campaign, case: Case) -> None:
    found, met = campaign.faults(case, f"case-{abs(hash(case))}")
    assert met, "the command never came to the place of its fault"
    assert not found, "\n".join(found)


def test_the_seam_is_the_operating_system(tmp_path: Path) -> None:
    program = "open('a', 'w').write('x'); import os; os.rename('a', 'b'); print(os.path.exists('b'))"
    command = [sys.executable, "-c", program]
    free = run(command, root=tmp_path, cwd=tmp_path, env=dict(os.environ))
    assert free.code == 0 and free.out == "True\n"
    assert free.places["intermodal rename b"] == 1
    place = Fault("intermodal rename b", 1, "EIO")
    failed = run(command, root=tmp_path, cwd=tmp_path, env=dict(os.environ), fault=place)
    assert failed.code == 1 and "Input/output error" in failed.err and failed.struck
    killed = run(command, root=tmp_path, cwd=tmp_path, env=dict(os.environ), fault=Fault(place.place, 1, "kill"))
    assert killed.code == -9 and killed.struck
