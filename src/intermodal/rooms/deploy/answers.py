"""What revisions answered, and what turned out to be right: kept in the state file, bounded.

Takes predictions by request id and labels, hands them back and counts them. Documents of the comparison of copies and
of drift lie here too; their words belong to `watch`.

Rules, in order:
1. Of one model the newest `KEPT` predictions and labels stay, of all revisions together: else a late label would find
   one revision's answers more often than the other's.
2. Only the outputs of a request are kept, never its inputs, and none above `MAX_TEXT`.
3. They go when the model is taken down.
4. A request has one prediction of a revision, and one label: a later label replaces an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from intermodal.rooms.deploy.state import Model, StateFile, told

KEPT = 20_000
MAX_TEXT = 4096


class Answer(Struct, frozen=True):
    """What one revision answered to one request."""

    request_id: str
    revision: int
    outputs: str  # V2 outputs as JSON
    rollout: int | None = None  # the rollout in which it was answered, or none
    weight_percent: float | None = None  # the candidate's share of requests then; None: no evidence
    copied: bool = False  # of a request that both revisions were given


class Tally(Struct, frozen=True):
    """Labelled answers of one revision, counted under the same circumstances."""

    revision: int
    rollout: int | None
    weight_percent: float | None
    copied: bool
    labelled: int
    wrong: int
    wrong_alone: int  # where the other revision answered a copy of the request, and was right


def keep_answers(state: StateFile, model: Model, answers: Iterable[Answer]) -> None:
    """Store what was answered."""
    rows = [
        (model.id, one.request_id, one.revision, one.rollout, one.weight_percent, int(one.copied), one.outputs)
        for one in answers
        if len(one.outputs) <= MAX_TEXT
    ]
    if not rows:
        return
    with state.transaction():
        state.connection.executemany(
            "INSERT OR IGNORE INTO predictions (model_id, request_id, revision, rollout_id, weight_percent, copied, "
            "outputs) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        _bound(state, model, "predictions")


def answers_to(state: StateFile, model: Model, request_id: str) -> tuple[Answer, ...]:
    """What is kept of one request."""
    with told("cannot read what was predicted", state.path):
        rows = state.connection.execute(
            "SELECT request_id, revision, outputs, rollout_id, weight_percent, copied FROM predictions "
            "WHERE model_id = ? AND request_id = ? ORDER BY revision",
            (model.id, request_id),
        ).fetchall()
    return tuple(Answer(row[0], row[1], row[2], row[3], row[4], bool(row[5])) for row in rows)


def keep_labels(state: StateFile, model: Model, judged: Iterable[tuple[Answer, bool]]) -> None:
    """Store which answers were right."""
    with state.transaction():
        state.connection.executemany(
            "INSERT INTO labels (model_id, request_id, revision, rollout_id, weight_percent, copied, correct) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (model_id, request_id, revision) DO UPDATE SET correct = excluded.correct",
            [
                (model.id, one.request_id, one.revision, one.rollout, one.weight_percent, int(one.copied), int(right))
                for one, right in judged
            ],
        )
        _bound(state, model, "labels")


def tallies(state: StateFile, model: Model, rollout: int | None = None) -> tuple[Tally, ...]:
    """Labels by revision and circumstances; with `rollout` only those of its time."""
    with told("cannot read the labels", state.path):
        rows = state.connection.execute(
            """SELECT one.revision, one.rollout_id, one.weight_percent, one.copied, count(*), sum(1 - one.correct),
                      sum(CASE WHEN one.correct = 0 AND other.correct = 1 THEN 1 ELSE 0 END)
               FROM labels AS one
               LEFT JOIN labels AS other ON one.copied = 1 AND other.model_id = one.model_id
                   AND other.request_id = one.request_id AND other.revision != one.revision
                   AND other.rollout_id = one.rollout_id
               WHERE one.model_id = ? AND (? IS NULL OR one.rollout_id = ?)
               GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
            (model.id, rollout, rollout),
        ).fetchall()
    return tuple(Tally(row[0], row[1], row[2], bool(row[3]), *row[4:]) for row in rows)


def keep_compared(state: StateFile, rollout: int, document: str) -> None:
    """Store how far the comparison of a rollout's copies is."""
    with state.transaction():
        state.connection.execute(
            "INSERT INTO compared VALUES (?, ?) ON CONFLICT (rollout_id) DO UPDATE SET document = excluded.document",
            (rollout, document),
        )


def compared_of(state: StateFile, rollout: int) -> str:
    """What was stored of a rollout's copies; "" for nothing."""
    with told("cannot read the comparison of copies", state.path):
        row = state.connection.execute("SELECT document FROM compared WHERE rollout_id = ?", (rollout,)).fetchone()
    return str(row[0]) if row else ""


def keep_drift(state: StateFile, model: Model, revision: int, document: str) -> None:
    """Store what a revision's predictions are compared with, and the last comparison."""
    with state.transaction():
        state.connection.execute(
            "INSERT INTO drift VALUES (?, ?, ?) "
            "ON CONFLICT (model_id, revision) DO UPDATE SET document = excluded.document",
            (model.id, revision, document),
        )


def drift_of(state: StateFile, model: Model, revision: int) -> str:
    """What was stored of a revision's drift; "" for nothing."""
    with told("cannot read what predictions are compared with", state.path):
        row = state.connection.execute(
            "SELECT document FROM drift WHERE model_id = ? AND revision = ?", (model.id, revision)
        ).fetchone()
    return str(row[0]) if row else ""


def forget_answers(state: StateFile, model: Model) -> None:
    """Forget what a model predicted; labels stay, because they are counts of right and wrong."""
    with state.transaction():
        state.connection.execute("DELETE FROM predictions WHERE model_id = ?", (model.id,))


def _bound(state: StateFile, model: Model, table: str) -> None:
    """Drop the oldest rows beyond those that stay; `table` is one of ours."""
    state.connection.execute(
        f"DELETE FROM {table} WHERE model_id = ? AND id <= "  # noqa: S608 - the name is a constant of this module
        f"(SELECT id FROM {table} WHERE model_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (model.id, model.id, KEPT),
    )
