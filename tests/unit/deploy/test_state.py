"""What is stored of rollouts: that it survives, that one writes at a time, and that the log shows tampering."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from intermodal.errors import InputError, RolloutBusyError, StoreError
from intermodal.oci.digest import Digest
from intermodal.rooms.deploy.clock import Clock
from intermodal.rooms.deploy.revision import Exposure, RevisionState, Settings
from intermodal.rooms.deploy.rollout import Action, Command, Do, Phase, Plan, Rollout, Step
from intermodal.rooms.deploy.schema import MIGRATIONS
from intermodal.rooms.deploy.state import StateFile, Stored
from intermodal.rooms.deploy.verdict import Finding, Outcome, Verdict
from intermodal.rooms.deploy.writer import Writer, who_writes

PLAN = Plan((Step(5), Step(pause=True), Step(50)), bake_s=60)


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    with StateFile(tmp_path / "deploy" / "state.db") as file:
        yield file


def writer(state: StateFile, model: str = "digits", who: str = "a test") -> Writer:
    return state.writer("sandbox", model, who)


def begin(held: Writer, letter: str = "a", stable: int | None = None) -> Stored:
    held.declare(Exposure(port=8081))
    return held.begin(digest(letter), digest(letter), Settings(replicas=2), Rollout(0, stable, PLAN))


def end(held: Writer, stored: Stored, phase: Phase) -> Stored:
    stored, number = held.intend(stored, replace(stored.rollout, phase=phase), ())
    held.done(number)
    return stored


def promoted(held: Writer, letter: str, stable: int | None = None) -> Stored:
    return end(held, begin(held, letter, stable), Phase.PROMOTED)


def test_everything_comes_back_as_it_was(state: StateFile) -> None:
    with writer(state) as held:
        stored = begin(held)
        after = replace(stored.rollout, phase=Phase.JUDGING, step=2, weight_percent=50, reason="because")
        actions = (Action(Do.WEIGHT, 1, weight_percent=50), Action(Do.MIRROR, 1, on=True))
        stored, _ = held.intend(stored, after, actions)
        stored = held.remember(stored, '{"any":"words"}')
        finding = Finding("errors", 1, 90, 2, 10, 3.5, 333.3, 1.5, missed_ratio=7.0)
        verdict = Verdict(Outcome.INCONCLUSIVE, 2, "few", 10, 90, findings=(finding,))
        held.judged(stored, verdict)
    state.close()
    with StateFile(state.path) as again:
        model = again.model("sandbox", "digits")
        assert model is not None and model.exposure == Exposure(port=8081)
        assert again.rollout(model) == stored
        assert [revision.settings for revision in again.revisions(model)] == [Settings(replicas=2)]
        (transition,) = again.transitions(stored)
        assert (transition.after, transition.actions, transition.done_s) == (after, actions, None)
        assert [found for _, found in again.verdicts(stored)] == [verdict]


def test_a_second_writer_is_told_who_is_at_it_and_a_dead_one_leaves_no_lock(state: StateFile) -> None:
    with writer(state, who="deploy digits, process 1"):
        assert who_writes(state.path, "sandbox", "digits") == "deploy digits, process 1"
        with pytest.raises(RolloutBusyError, match="deploy digits, process 1"), writer(state):
            pass
        with writer(state, "other"):
            pass
    assert who_writes(state.path, "sandbox", "digits") == ""
    code = (
        "import os, sys; from pathlib import Path; from intermodal.rooms.deploy.state import StateFile\n"
        "with StateFile(Path(sys.argv[1])).writer('sandbox', 'digits', 'the dead'): os.kill(os.getpid(), 9)"
    )
    died = subprocess.run([sys.executable, "-c", code, str(state.path)], check=False)
    assert died.returncode == -signal.SIGKILL
    with writer(state):
        pass


def test_two_rollouts_of_a_model_cannot_run_at_once_whatever_a_program_tries(state: StateFile) -> None:
    with writer(state) as held:
        begin(held)
        with pytest.raises(StoreError, match="UNIQUE"):
            begin(held, "b")
    model = state.model("sandbox", "digits")
    assert model is not None and len(state.revisions(model)) == 1, "nothing of the second one stays"


def test_revisions_follow_their_rollouts(state: StateFile) -> None:
    def states() -> list[tuple[int, str, bool]]:
        model = state.model("sandbox", "digits")
        assert model is not None
        return [(one.number, one.state.value, one.proven) for one in state.revisions(model)]

    with writer(state) as held:
        promoted(held, "a")
        assert (states(), held.model.current) == ([(1, "stable", True)], 1)
        second = begin(held, "b", 1)
        assert (states(), held.model.current) == ([(1, "stable", True), (2, "candidate", False)], 1)
        end(held, second, Phase.PROMOTED)
        assert (states(), held.model.current) == ([(1, "retired", True), (2, "stable", True)], 2)
        end(held, begin(held, "c", 2), Phase.ROLLED_BACK)
        assert (states()[1:], held.model.current) == ([(2, "stable", True), (3, "rolled back", False)], 2)
        back = held.begin_between(Rollout(2, 1, Plan(), phase=Phase.ROLLING_BACK), "rollback")
        end(held, back, Phase.ROLLED_BACK)
        assert (states()[:2], held.model.current) == ([(1, "stable", True), (2, "rolled back", True)], 1)
        with pytest.raises(InputError, match="no revision 9"):
            state.revision(held.model, 9)
        held.taken_down()
        assert states()[0] == (1, "down", True)


def test_what_a_revision_may_need_again_is_protected(state: StateFile) -> None:
    with writer(state) as held:
        promoted(held, "a")
        promoted(held, "b", 1)
        promoted(held, "c", 2)
        end(held, begin(held, "d", 3), Phase.ROLLED_BACK)
        begin(held, "e", 3)
        assert state.protected() == {Digest.parse(digest(letter)) for letter in "bce"}


def test_a_command_waits_for_the_writer_and_is_taken_once(state: StateFile) -> None:
    with writer(state) as held:
        begin(held)
        with StateFile(state.path) as other:
            other.ask(held.model, Command.ABORT, "somebody")
            other.ask(held.model, Command.PROMOTE, "somebody")
        first = held.next_request()
        assert first is not None and first == held.next_request() and first[1] is Command.ABORT
        stored = state.rollout(held.model)
        assert stored is not None
        held.intend(stored, replace(stored.rollout, reason="asked"), (), request=first[0])
        second = held.next_request()
        assert second is not None and second[1] is Command.PROMOTE
        held.drop_request(second[0])
        assert held.next_request() is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE log SET body = replace(body, 'rolled back', 'promoted') WHERE seq = 4", "line 4 was changed"),
        ("DELETE FROM log WHERE seq = 2", "line 2 is missing"),
        ("DELETE FROM log WHERE seq = (SELECT max(seq) FROM log)", "line 4 is missing: 4 were written"),
        ("UPDATE log SET hash = previous WHERE seq = 3", "line 3 was changed"),
        ("UPDATE log SET previous = hash WHERE seq = 3", "line 3 does not follow line 2"),
    ],
)
def test_the_log_shows_where_somebody_changed_it(state: StateFile, change: str, found: str) -> None:
    with writer(state) as held:
        promoted(held, "a")
        end(held, begin(held, "b", 1), Phase.ROLLED_BACK)
    assert state.verify_log() == ""
    assert [line.body["what"] for line in state.log()] == ["deploy", "promoted", "deploy", "rolled back"]
    with sqlite3.connect(state.path) as strange:
        assert strange.execute(change).rowcount == 1
    assert state.verify_log() == found


def test_the_clock_never_falls(state: StateFile) -> None:
    wall, ticks = [1000.0], [5.0]
    clock = Clock(0.0, wall=lambda: wall[0], ticking=lambda: ticks[0])
    assert clock.now_s() == 1000.0
    wall[0], ticks[0] = 10.0, 7.5
    assert clock.now_s() == 1002.5, "setting the machine's time does nothing while it runs"
    later = Clock(clock.now_s(), wall=lambda: wall[0], ticking=lambda: ticks[0])
    assert later.now_s() == 1002.5, "nor does it go back in a new process"
    wall[0] = 2000.0
    assert Clock(1002.5, wall=lambda: wall[0], ticking=lambda: ticks[0]).now_s() == 2000.0
    with sqlite3.connect(state.path.parent.mkdir() or state.path):
        pass
    with writer(state) as held:
        begin(held)
        with sqlite3.connect(state.path) as strange:
            strange.execute("UPDATE clock SET last_s = 9e9")
        with StateFile(state.path) as again:
            assert again.clock.now_s() >= 9e9


FULL = """
import resource, signal, sys
from pathlib import Path
from intermodal.errors import StoreError
from intermodal.rooms.deploy.revision import Exposure, Settings
from intermodal.rooms.deploy.rollout import Phase, Plan, Rollout
from intermodal.rooms.deploy.state import StateFile
from msgspec.structs import replace
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with StateFile(path) as state, state.writer("sandbox", "digits", "me") as held:
    held.declare(Exposure())
    digest = "sha256:" + "a" * 64
    stored = held.begin(digest, digest, Settings(), Rollout(0, None, Plan()))
    wal = path.with_name(path.name + "-wal")
    size = wal.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        held.intend(stored, replace(stored.rollout, phase=Phase.CHECKING), ())
        print("stored")
    except StoreError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(state.rollout(held.model) == stored, len(state.transitions(stored)), state.verify_log() == "")
    held.intend(stored, replace(stored.rollout, phase=Phase.CHECKING), ())
    print(len(state.transitions(stored)))
"""


def test_a_full_disk_stores_all_of_a_transition_or_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "state.db")], capture_output=True, text=True, check=True
    )
    first, *_, before, after = done.stdout.splitlines()
    assert first == "cannot store the state of the rollout", done.stdout
    assert (before, after) == ("True 0 True", "1")


def test_a_file_of_a_newer_program_is_left_alone(state: StateFile) -> None:
    with writer(state) as held:
        begin(held)
    state.close()
    with sqlite3.connect(state.path) as strange:
        strange.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = state.path.read_bytes()
    with pytest.raises(StoreError, match="written by a newer intermodal"):
        state.models()
    assert state.path.read_bytes() == before


def test_tables_refuse_values_of_another_kind_and_strangers(state: StateFile) -> None:
    with writer(state) as held:
        begin(held)
    for statement in (
        "UPDATE rollouts SET began_s = 'yesterday'",
        "UPDATE rollouts SET candidate = 77",
        "UPDATE requests SET command = 'x'",
        "INSERT INTO requests VALUES (1, 99, 'abort', 'me')",
    ):
        try:
            changed = state.connection.execute(statement).rowcount
        except sqlite3.IntegrityError:
            continue
        assert changed == 0, statement


def test_a_damaged_file_is_told_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(os.urandom(8192))
    with pytest.raises(StoreError, match="cannot open the state of rollouts"), StateFile(path) as state:
        state.models()


def test_states_of_revisions_are_words_of_the_glossary() -> None:
    assert {state.value for state in RevisionState} == {"candidate", "stable", "retired", "rolled back", "down"}
