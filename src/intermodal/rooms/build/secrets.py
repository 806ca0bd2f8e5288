"""Whether files that would enter the image hold secrets.

Takes `FileRow` values; hands on findings, or refuses.

Rules, in order:
1. Some names are enough (`rooms.lock.app_denied`).
2. Text is read whole, in pieces that overlap, by the rules of `secret_rules`.
3. Of a file that is no text (a model, an image) only frames and prefixes are looked for, in its first 64 MiB: a
   model's numbers hold no passwords, and 2 GB of them must not cost a minute.
4. A finding shows path, line, rule and the first four characters, never more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from intermodal.errors import InputError, SecretFoundError
from intermodal.rooms.build.secret_rules import matches
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.app_denied import secret_name

PIECE_BYTES = 1 << 20
OVERLAP_BYTES = 8 << 10
MAX_BINARY_BYTES = 64 << 20
MAX_FINDINGS = 20  # of one file: more would hide the others


class SecretFinding(Struct, frozen=True):
    """One place that looks like a secret; `line` is 0 when the name alone says so."""

    path: str
    line: int
    rule: str
    shown: str  # the first four characters

    def __str__(self) -> str:
        where = f"{self.path} line {self.line}" if self.line else self.path
        return f"{where}: {self.rule}{f' ({self.shown}…)' if self.shown else ''}"


def refuse_secrets(files: Iterable[FileRow]) -> None:
    """Nothing, when no file looks like a secret.

    Raises:
        SecretFoundError: at least one does; every finding is named.
    """
    findings = find_secrets(files)
    if findings:
        paths = sorted({finding.path for finding in findings})
        raise SecretFoundError(
            f"{paths[0]} looks like it holds a secret"
            if len(paths) == 1
            else f"{len(paths)} files look like they hold secrets",
            found=[str(finding) for finding in findings],
            next=(
                "take it out: name it under [secrets], and it is delivered as a file at run time",
                "if it has ever been committed or sent anywhere, replace it: it is no longer secret",
            ),
        )


def find_secrets(files: Iterable[FileRow]) -> tuple[SecretFinding, ...]:
    """Every place in `files` that looks like a secret, by path and line."""
    findings: list[SecretFinding] = []
    for row in files:
        if why := secret_name(row.path):
            findings.append(SecretFinding(row.path, 0, why, ""))
        else:
            findings.extend(_in_file(row.path, row.source))
    return tuple(sorted(set(findings), key=lambda finding: (finding.path, finding.line, finding.rule)))


def _in_file(path: str, source: Path) -> Iterator[SecretFinding]:
    name = path.rpartition("/")[2]
    try:
        opened = source.open("rb")
    except OSError as error:
        raise InputError(
            f"cannot look for secrets in {path}",
            found=error.strerror or str(error),
            next="check the file and its owner",
        ) from error
    with opened as stream:
        piece = stream.read(PIECE_BYTES)
        binary = b"\0" in piece[:8192]
        kept = done = newlines = found = 0  # kept: bytes at the piece's start that were searched before
        while len(piece) > kept:
            for match in matches(piece, binary=binary, name=name):
                if match.end > kept and found < MAX_FINDINGS:
                    found += 1
                    line = newlines + piece.count(b"\n", 0, match.start) + 1
                    yield SecretFinding(path, line, match.rule, match.value[:4].decode("latin-1"))
            done += len(piece) - kept
            if found >= MAX_FINDINGS or (binary and done >= MAX_BINARY_BYTES):
                return
            tail = piece[-OVERLAP_BYTES:]
            newlines += piece.count(b"\n", 0, len(piece) - len(tail))
            kept = len(tail)
            piece = tail + stream.read(PIECE_BYTES)
