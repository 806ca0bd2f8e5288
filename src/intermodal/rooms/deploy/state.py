"""Where rollouts are kept: revisions, rollouts, every transition, commands that wait, and the deployment log.

Takes values of `revision` and `rollout`, hands the same values back after a crash. One SQLite file for all targets and
models of a user.

Rules, in order:
1. Whoever changes a rollout is the only one: a `Writer` holds the lock of its target and model, and says who it is.
   Anybody may read, and may leave a command for the writer.
2. A transition is stored with its actions before they are done and marked when they are; what was in between when the
   machine died is seen, and done again, because actions may be repeated.
3. What a transition means for revisions is stored in the same transaction.
4. Times come from a `Clock` that never falls; each write stores the highest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from intermodal.errors import InputError, StoreError
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.rooms.deploy import chain
from intermodal.rooms.deploy.clock import Clock
from intermodal.rooms.deploy.revision import Exposure, Revision, RevisionState, Settings
from intermodal.rooms.deploy.rollout import Action, Command, Rollout
from intermodal.rooms.deploy.schema import migrate
from intermodal.rooms.deploy.verdict import Verdict

if TYPE_CHECKING:
    from intermodal.rooms.deploy.writer import Writer

_BUSY_S = 10.0
LIVE = (RevisionState.CANDIDATE, RevisionState.STABLE)


class Model(Struct, frozen=True):
    """A model on a target."""

    id: int
    target: str
    name: str
    current: int | None  # the revision that has the traffic when no rollout runs
    exposure: Exposure


class Stored(Struct, frozen=True):
    """A rollout as it is kept."""

    id: int
    rollout: Rollout
    memory: str  # what the watcher must not forget, in its own words
    over: bool
    began_s: float


class Transition(Struct, frozen=True):
    """From one state of a rollout to the next."""

    id: int
    at_s: float
    before: Rollout
    after: Rollout
    actions: tuple[Action, ...]
    done_s: float | None  # None: the watcher died in between, or is at it
    problem: str


class StateFile:
    """The file at `path`; opened at first use, closed by `close` or the end of a `with` block.

    Args:
        path: of the SQLite file; its folder is made when missing.
        make_clock: from the highest time stored to a clock; tests turn one by hand.
    """

    def __init__(self, path: Path, *, make_clock: type[Clock] = Clock) -> None:
        self.path = path
        self._make_clock = make_clock
        self._connection: sqlite3.Connection | None = None
        self._clock: Clock | None = None

    @classmethod
    def of(cls, host: Host) -> StateFile:
        """This user's file."""
        return cls(host.data_dir / "deploy" / "state.db")

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection, tables up to date.

        Raises:
            StoreError: the file cannot be read or made.
        """
        if self._connection is None:
            with told("cannot open the state of rollouts", self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                made = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
                try:
                    made.execute("PRAGMA journal_mode = WAL")
                    made.execute("PRAGMA synchronous = FULL")
                    made.execute("PRAGMA foreign_keys = ON")
                    migrate(made, self.path)
                except BaseException:
                    made.close()
                    raise
                self._connection = made
        return self._connection

    @property
    def clock(self) -> Clock:
        """Time for rollouts."""
        if self._clock is None:
            self._clock = self._make_clock(float(self._one("SELECT last_s FROM clock")[0]))
        return self._clock

    def close(self) -> None:
        """Close the file; safe to call twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading -------------------------------------------------------------------------------------------------
    def models(self, target: str | None = None) -> tuple[Model, ...]:
        """Every model, or those of one target, by target and name."""
        rows = self._all("SELECT id, target, model, current, exposure FROM models ORDER BY target, model")
        return tuple(_model(row) for row in rows if target in (None, row[1]))

    def model(self, target: str, name: str) -> Model | None:
        """One model, or None when it was never deployed there."""
        return next((model for model in self.models(target) if model.name == name), None)

    def revisions(self, model: Model) -> tuple[Revision, ...]:
        """All revisions of a model, by number."""
        rows = self._all(
            "SELECT number, listed, manifest, settings, state, created, proven FROM revisions WHERE model_id = ? "
            "ORDER BY number",
            model.id,
        )
        return tuple(_revision(row) for row in rows)

    def revision(self, model: Model, number: int) -> Revision:
        """One revision.

        Raises:
            InputError: there is none of that number.
        """
        found = self.revisions(model)
        for revision in found:
            if revision.number == number:
                return revision
        raise InputError(
            f"{model.name} has no revision {number} on {model.target}",
            found=f"revisions: {', '.join(str(one.number) for one in found) or 'none'}",
            next=f"intermodal history {model.name}",
        )

    def rollout(self, model: Model) -> Stored | None:
        """The newest rollout of a model, running or over."""
        rows = self._all(
            "SELECT id, rollout, memory, over, began_s FROM rollouts WHERE model_id = ? ORDER BY id DESC LIMIT 1",
            model.id,
        )
        return _stored(rows[0]) if rows else None

    def rollouts(self, model: Model) -> tuple[Stored, ...]:
        """All rollouts of a model, oldest first."""
        rows = self._all(
            "SELECT id, rollout, memory, over, began_s FROM rollouts WHERE model_id = ? ORDER BY id", model.id
        )
        return tuple(_stored(row) for row in rows)

    def transitions(self, stored: Stored) -> tuple[Transition, ...]:
        """All transitions of a rollout, oldest first."""
        rows = self._all(
            "SELECT id, at_s, before, after, actions, done_s, problem FROM transitions WHERE rollout_id = ? "
            "ORDER BY id",
            stored.id,
        )
        return tuple(
            Transition(
                row[0], row[1], _decode(row[2], Rollout), _decode(row[3], Rollout),
                _decode(row[4], tuple[Action, ...]), row[5], row[6],
            )
            for row in rows
        )  # fmt: skip

    def verdicts(self, stored: Stored) -> tuple[tuple[float, Verdict], ...]:
        """When and what was judged, oldest first; only where it said something new."""
        rows = self._all("SELECT at_s, verdict FROM verdicts WHERE rollout_id = ? ORDER BY id", stored.id)
        return tuple((row[0], _decode(row[1], Verdict)) for row in rows)

    def waiting(self, model: Model) -> bool:
        """Whether a command waits for whoever writes this model's rollout."""
        return bool(self._all("SELECT 1 FROM requests WHERE model_id = ? LIMIT 1", model.id))

    def protected(self) -> frozenset[Digest]:
        """Digests that a revision which has traffic, may get it, or was stable last, needs."""
        kept: set[Digest] = set()
        for model in self.models():
            revisions = self.revisions(model)
            retired = [one for one in revisions if one.state is RevisionState.RETIRED][-1:]
            for one in (*retired, *(one for one in revisions if one.state in LIVE)):
                kept |= {Digest.parse(one.listed), Digest.parse(one.manifest)}
        return frozenset(kept)

    def log(self, *, newest: int | None = None) -> list[chain.Line]:
        """The deployment log, oldest line first."""
        with told("cannot read the deployment log", self.path):
            return chain.lines(self.connection, newest=newest)

    def verify_log(self) -> str:
        """The first broken link of the deployment log, in words; "" when there is none."""
        with told("cannot read the deployment log", self.path):
            return chain.broken_link(self.connection)

    # --- writing -------------------------------------------------------------------------------------------------
    def ask(self, model: Model, command: Command, asked_by: str) -> None:
        """Leave a command for whoever writes this model's rollout."""
        with self.transaction():
            self.connection.execute(
                "INSERT INTO requests (model_id, command, asked_by) VALUES (?, ?, ?)",
                (model.id, command.value, asked_by),
            )
            self.note(model.target, model.name, "asked", command=command.value, by=asked_by)

    def writer(self, target: str, model: str, who: str) -> Writer:
        """The only writer of a model's rollout, for the length of a `with` block; see `writer.Writer`."""
        from intermodal.rooms.deploy.writer import Writer

        return Writer(self, target, model, who)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what is written in the `with` block, and the time.

        Raises:
            StoreError: the disk is full, or the file is damaged or busy; nothing was written.
        """
        with told("cannot store the state of the rollout", self.path):
            connection, now_s = self.connection, self.clock.now_s()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("UPDATE clock SET last_s = max(last_s, ?)", (now_s,))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def note(self, target: str, model: str, what: str, **more: Any) -> None:
        """Add a line to the log, inside a transaction."""
        body: Mapping[str, Any] = {"at": self.clock.words(), "target": target, "model": model, "what": what, **more}
        chain.append(self.connection, body)

    def _all(self, query: str, *values: object) -> list[Any]:
        with told("cannot read the state of rollouts", self.path):
            return self.connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        return self._all(query, *values)[0]


@contextmanager
def told(message: str, path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk say into our words."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        full = "full" in str(error) or getattr(error, "errno", 0) in (27, 28, 122)
        raise StoreError(
            message,
            found=f"{path}: {error}",
            next="free some space (intermodal prune), then intermodal watch goes on"
            if full
            else f"look at {path.parent}: its owner, its disk; a copy of state.db may be put back",
        ) from error
    except msgspec.ValidationError as error:
        raise StoreError(message, found=f"{path}: {error}", next="was it changed by hand? put a copy back") from error


def encode(value: object) -> str:
    """A value as text."""
    return msgspec.json.encode(value).decode()


def _decode(text: str, kind: Any) -> Any:
    return msgspec.json.decode(text, type=kind)


def _model(row: tuple[Any, ...]) -> Model:
    return Model(row[0], row[1], row[2], row[3], _decode(row[4], Exposure))


def _revision(row: tuple[Any, ...]) -> Revision:
    return Revision(row[0], row[1], row[2], _decode(row[3], Settings), RevisionState(row[4]), row[5], bool(row[6]))


def _stored(row: tuple[Any, ...]) -> Stored:
    return Stored(row[0], _decode(row[1], Rollout), row[2], bool(row[3]), row[4])
