"""The tables in which rollouts are kept, and the way from an older file to a newer one.

Takes an open connection, hands it back with the newest tables. Rules: a migration is a list of statements that is
never changed once released; `user_version` counts those that have run; each runs in one transaction; a file of a newer
program is refused, not touched. Tables are STRICT, so SQLite itself refuses a value of another kind.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from intermodal.errors import StoreError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE models (
            id INTEGER PRIMARY KEY,
            target TEXT NOT NULL,
            model TEXT NOT NULL,
            current INTEGER,
            exposure TEXT NOT NULL,
            UNIQUE (target, model)
        ) STRICT""",
        """CREATE TABLE revisions (
            model_id INTEGER NOT NULL REFERENCES models (id),
            number INTEGER NOT NULL CHECK (number > 0),
            listed TEXT NOT NULL CHECK (listed LIKE 'sha256:%'),
            manifest TEXT NOT NULL CHECK (manifest LIKE 'sha256:%'),
            settings TEXT NOT NULL,
            state TEXT NOT NULL,
            created TEXT NOT NULL,
            proven INTEGER NOT NULL DEFAULT 0 CHECK (proven IN (0, 1)),
            PRIMARY KEY (model_id, number)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE rollouts (
            id INTEGER PRIMARY KEY,
            model_id INTEGER NOT NULL REFERENCES models (id),
            candidate INTEGER NOT NULL,
            stable INTEGER,
            rollout TEXT NOT NULL,
            memory TEXT NOT NULL,
            over INTEGER NOT NULL DEFAULT 0 CHECK (over IN (0, 1)),
            began_s REAL NOT NULL,
            FOREIGN KEY (model_id, candidate) REFERENCES revisions (model_id, number),
            FOREIGN KEY (model_id, stable) REFERENCES revisions (model_id, number)
        ) STRICT""",
        "CREATE UNIQUE INDEX one_rollout_at_a_time ON rollouts (model_id) WHERE over = 0",
        """CREATE TABLE transitions (
            id INTEGER PRIMARY KEY,
            rollout_id INTEGER NOT NULL REFERENCES rollouts (id),
            at_s REAL NOT NULL,
            before TEXT NOT NULL,
            after TEXT NOT NULL,
            actions TEXT NOT NULL,
            done_s REAL,
            problem TEXT NOT NULL DEFAULT ''
        ) STRICT""",
        "CREATE INDEX transitions_of ON transitions (rollout_id)",
        """CREATE TABLE verdicts (
            id INTEGER PRIMARY KEY,
            rollout_id INTEGER NOT NULL REFERENCES rollouts (id),
            at_s REAL NOT NULL,
            verdict TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE requests (
            id INTEGER PRIMARY KEY,
            model_id INTEGER NOT NULL REFERENCES models (id),
            command TEXT NOT NULL CHECK (command IN ('promote', 'abort', 'rollback')),
            asked_by TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE log (
            seq INTEGER PRIMARY KEY CHECK (seq > 0),
            body TEXT NOT NULL,
            previous TEXT NOT NULL,
            hash TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE clock (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            last_s REAL NOT NULL,
            log_seq INTEGER NOT NULL,
            log_hash TEXT NOT NULL
        ) STRICT""",
        "INSERT INTO clock VALUES (1, 0.0, 0, '')",
    ),
    (
        """CREATE TABLE predictions (
            id INTEGER PRIMARY KEY,
            model_id INTEGER NOT NULL REFERENCES models (id),
            request_id TEXT NOT NULL,
            revision INTEGER NOT NULL,
            rollout_id INTEGER,
            weight_percent REAL,
            copied INTEGER NOT NULL CHECK (copied IN (0, 1)),
            outputs TEXT NOT NULL,
            UNIQUE (model_id, request_id, revision)
        ) STRICT""",
        """CREATE TABLE labels (
            id INTEGER PRIMARY KEY,
            model_id INTEGER NOT NULL REFERENCES models (id),
            request_id TEXT NOT NULL,
            revision INTEGER NOT NULL,
            rollout_id INTEGER,
            weight_percent REAL,
            copied INTEGER NOT NULL CHECK (copied IN (0, 1)),
            correct INTEGER NOT NULL CHECK (correct IN (0, 1)),
            UNIQUE (model_id, request_id, revision)
        ) STRICT""",
        "CREATE INDEX labels_of ON labels (rollout_id)",
        """CREATE TABLE compared (
            rollout_id INTEGER PRIMARY KEY REFERENCES rollouts (id),
            document TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE drift (
            model_id INTEGER NOT NULL REFERENCES models (id),
            revision INTEGER NOT NULL,
            document TEXT NOT NULL,
            PRIMARY KEY (model_id, revision)
        ) STRICT, WITHOUT ROWID""",
    ),
)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables up to date.

    Raises:
        StoreError: a newer program wrote the file.
        sqlite3.Error: it is no database, or cannot be written.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise StoreError(
            "cannot read the state of rollouts",
            found=f"{path} was written by a newer intermodal (form {version}, this one knows {len(MIGRATIONS)})",
            next="use that intermodal: pip install --upgrade intermodal",
        )
    while version < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == version:  # else another process was faster
                for statement in MIGRATIONS[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        version = max(found, version + 1)
