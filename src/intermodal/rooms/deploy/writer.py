"""Whoever changes a rollout: one at a time for each target and model, and it says who it is.

Takes a `StateFile`, a target and a model; writes revisions, rollouts and transitions.

Rules: the lock is the kernel's and ends with its process, however that ends; the lock file says who holds it, for
people. Each method is one transaction.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from msgspec.structs import replace

from intermodal.errors import RolloutBusyError
from intermodal.host.held import lock_file
from intermodal.rooms.deploy.revision import Exposure, RevisionState, Settings
from intermodal.rooms.deploy.rollout import Action, Command, Phase, Rollout
from intermodal.rooms.deploy.state import LIVE, Model, StateFile, Stored, encode, told
from intermodal.rooms.deploy.verdict import Verdict

_VERDICTS_KEPT = 200


class Writer:
    """The writer of `model` on `target`; entering the `with` block takes the lock.

    Args:
        state: the file.
        target: "sandbox", "local", "ssh://HOST".
        model: its name.
        who: for people who find it locked: "intermodal deploy digits, process 123".

    Raises:
        RolloutBusyError: (on entering) somebody else is at it; `.found` says who.
    """

    def __init__(self, state: StateFile, target: str, model: str, who: str) -> None:
        self.state = state
        self.target = target
        self.name = model
        self._who = who
        self._held = ExitStack()

    def __enter__(self) -> Writer:
        path = lock_path(self.state.path, self.target, self.name)
        try:
            with told("cannot lock the rollout", path):
                handle = self._held.enter_context(lock_file(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
                os.ftruncate(handle, 0)
                os.pwrite(handle, self._who.encode(), 0)
        except BaseException as error:
            self._held.close()
            if isinstance(error.__cause__, BlockingIOError):
                raise RolloutBusyError(
                    f"somebody else is rolling out {self.name} on {self.target}",
                    found=path.read_text("utf-8", "replace")[:200] or "it does not say who",
                    next=(f"intermodal status {self.name} shows it", f"intermodal abort {self.name} ends it"),
                ) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def model(self) -> Model:
        """The model as stored; `declare` must have run once."""
        found = self.state.model(self.target, self.name)
        assert found is not None
        return found

    def declare(self, exposure: Exposure) -> Model:
        """The model, known from now on, offered as `exposure` says."""
        with self.state.transaction():
            self.state.connection.execute(
                "INSERT INTO models (target, model, exposure) VALUES (?, ?, ?) "
                "ON CONFLICT (target, model) DO UPDATE SET exposure = excluded.exposure",
                (self.target, self.name, encode(exposure)),
            )
        return self.model

    def begin(self, listed: str, manifest: str, settings: Settings, make: Rollout) -> Stored:
        """A new revision and its rollout; `make` is taken with the new revision as candidate."""
        model = self.model
        number = max((one.number for one in self.state.revisions(model)), default=0) + 1
        created = self.state.clock.words()
        with self.state.transaction():
            self.state.connection.execute(
                "INSERT INTO revisions VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (model.id, number, listed, manifest, encode(settings), RevisionState.CANDIDATE.value, created),
            )
            return self._insert(model, replace(make, candidate=number), "deploy", image=manifest)

    def begin_between(self, rollout: Rollout, what: str) -> Stored:
        """A rollout between revisions that exist."""
        with self.state.transaction():
            return self._insert(self.model, rollout, what)

    def _insert(self, model: Model, rollout: Rollout, what: str, **more: str) -> Stored:
        now_s = self.state.clock.now_s()
        rollout = replace(rollout, since_s=now_s)
        made = self.state.connection.execute(
            "INSERT INTO rollouts (model_id, candidate, stable, rollout, memory, over, began_s) "
            "VALUES (?, ?, ?, ?, '', ?, ?)",
            (model.id, rollout.candidate, rollout.stable, encode(rollout), int(rollout.over), now_s),
        )
        self._mark(model, rollout)
        self.state.note(
            self.target, self.name, what,
            rollout=made.lastrowid, candidate=rollout.candidate, stable=rollout.stable, **more,
        )  # fmt: skip
        return Stored(int(made.lastrowid or 0), rollout, "", rollout.over, now_s)

    def intend(
        self, stored: Stored, after: Rollout, actions: tuple[Action, ...], *, request: int | None = None
    ) -> tuple[Stored, int]:
        """The rollout in its next state, and the number of the transition to be marked by `done`.

        Args:
            stored: as it was.
            after: its next state.
            actions: what will be done for it.
            request: the command that led to it, which is taken from the queue.
        """
        with self.state.transaction():
            self.state.connection.execute("DELETE FROM requests WHERE id = ?", (request,))
            made = self.state.connection.execute(
                "INSERT INTO transitions (rollout_id, at_s, before, after, actions) VALUES (?, ?, ?, ?, ?)",
                (stored.id, self.state.clock.now_s(), encode(stored.rollout), encode(after), encode(actions)),
            )
            self.state.connection.execute(
                "UPDATE rollouts SET rollout = ?, over = ? WHERE id = ?", (encode(after), int(after.over), stored.id)
            )
            if (after.phase, after.step, after.held) != (
                stored.rollout.phase, stored.rollout.step, stored.rollout.held,
            ):  # fmt: skip
                self._mark(self.model, after)
                self.state.note(
                    self.target, self.name, after.phase.value,
                    rollout=stored.id, candidate=after.candidate, stable=after.stable, step=after.step,
                    weight=after.weight_percent, reason=after.reason,
                )  # fmt: skip
        return replace(stored, rollout=after, over=after.over), int(made.lastrowid or 0)

    def done(self, transition: int, problem: str = "") -> None:
        """Mark the actions of a transition as done, or what kept them from it."""
        with self.state.transaction():
            self.state.connection.execute(
                "UPDATE transitions SET done_s = ?, problem = ? WHERE id = ?",
                (self.state.clock.now_s(), problem, transition),
            )

    def remember(self, stored: Stored, memory: str) -> Stored:
        """The rollout with what the watcher must not forget."""
        with self.state.transaction():
            self.state.connection.execute("UPDATE rollouts SET memory = ? WHERE id = ?", (memory, stored.id))
        return replace(stored, memory=memory)

    def judged(self, stored: Stored, verdict: Verdict) -> None:
        """Keep a verdict; of one rollout the newest few hundred."""
        with self.state.transaction():
            self.state.connection.execute(
                "INSERT INTO verdicts (rollout_id, at_s, verdict) VALUES (?, ?, ?)",
                (stored.id, self.state.clock.now_s(), encode(verdict)),
            )
            self.state.connection.execute(
                "DELETE FROM verdicts WHERE rollout_id = ? AND id NOT IN "
                "(SELECT id FROM verdicts WHERE rollout_id = ? ORDER BY id DESC LIMIT ?)",
                (stored.id, stored.id, _VERDICTS_KEPT),
            )

    def next_request(self) -> tuple[int, Command] | None:
        """The oldest command that waits for this model, with its number; it waits until `intend` or `drop_request`."""
        model = self.state.model(self.target, self.name)
        if model is None:
            return None
        with told("cannot read the state of rollouts", self.state.path):
            row = self.state.connection.execute(
                "SELECT id, command FROM requests WHERE model_id = ? ORDER BY id LIMIT 1", (model.id,)
            ).fetchone()
        return (int(row[0]), Command(row[1])) if row else None

    def drop_request(self, number: int) -> None:
        """Forget a command that changed nothing."""
        with self.state.transaction():
            self.state.connection.execute("DELETE FROM requests WHERE id = ?", (number,))

    def taken_down(self) -> None:
        """Nothing of this model runs any more."""
        model = self.model
        with self.state.transaction():
            self.state.connection.execute("UPDATE models SET current = NULL WHERE id = ?", (model.id,))
            self.state.connection.execute("DELETE FROM requests WHERE model_id = ?", (model.id,))
            self.state.connection.execute("UPDATE rollouts SET over = 1 WHERE model_id = ?", (model.id,))
            for state in LIVE:
                self.state.connection.execute(
                    "UPDATE revisions SET state = ? WHERE model_id = ? AND state = ?",
                    (RevisionState.DOWN.value, model.id, state.value),
                )
            self.state.note(self.target, self.name, "down")

    # --- what a transition means for revisions ---------------------------------------------------------------------
    def _mark(self, model: Model, rollout: Rollout) -> None:
        ended = {
            Phase.PROMOTED: (RevisionState.STABLE, RevisionState.RETIRED, rollout.candidate),
            Phase.ROLLED_BACK: (RevisionState.ROLLED_BACK, RevisionState.STABLE, rollout.stable),
        }
        candidate, stable, current = ended.get(
            rollout.phase, (RevisionState.CANDIDATE, RevisionState.STABLE, model.current)
        )
        self._set(model, rollout.candidate, candidate)
        if rollout.stable is not None:
            self._set(model, rollout.stable, stable)
        if rollout.over:
            self.state.connection.execute("UPDATE models SET current = ? WHERE id = ?", (current, model.id))
        if rollout.phase is Phase.PROMOTED:
            self.state.connection.execute(
                "UPDATE revisions SET proven = 1 WHERE model_id = ? AND number = ?", (model.id, rollout.candidate)
            )

    def _set(self, model: Model, number: int, state: RevisionState) -> None:
        self.state.connection.execute(
            "UPDATE revisions SET state = ? WHERE model_id = ? AND number = ?", (state.value, model.id, number)
        )


def lock_path(state: Path, target: str, model: str) -> Path:
    """The lock file of a target's model."""
    return state.parent / "locks" / f"{quote(target, safe='')}+{model}"


def who_writes(state: Path, target: str, model: str) -> str:
    """Who holds the lock of a target's model, in its own words; "" when nobody does."""
    path = lock_path(state, target, model)
    try:
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return stream.read(200).decode("utf-8", "replace") or "somebody"
    except OSError:
        pass
    return ""
