"""What uv says when it cannot resolve, in our words.

Takes uv's stderr; hands on the error to raise: unsatisfiable, unknown name, source only, index unreachable. Only the
useful part of uv's explanation is kept, without addresses' credentials and without uv's own hints about its options.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from intermodal.errors import DownloadError, IndexUnreachableError, IntermodalError, RequirementError
from intermodal.host.files import failure
from intermodal.host.pip import without_credentials

if TYPE_CHECKING:
    from intermodal.host import Host
    from intermodal.rooms.lock.uv import Question

MAX_LINES = 6
_URL = re.compile(r"\b(?:https?|file)://[^\s)`'\",]+")
_SOURCE_ONLY = re.compile(
    r"(?:all versions of )?([A-Za-z0-9][\w.-]*)(?:([=<>!~]=?[^\s,]*))? (?:have|has) no (?:usable )?wheels"
)
_NO_TAG = re.compile(r"([A-Za-z0-9][\w.-]*)(?:([=<>!~]=?[^\s,]*))? (?:have|has) no wheels with a matching")
_UNKNOWN = re.compile(r"([A-Za-z0-9][\w.-]*) was not found in the (?:package registry|provided package locations)")
_REFUSED = re.compile(r"\b(401 Unauthorized|403 Forbidden|407 Proxy Authentication Required)")
_DAMAGED = re.compile(r"The structure of `([^`]+)` \(v?([^)]*)\) was invalid:?\s*([^\n]*)")
_MACHINE = re.compile(r"\(os error (\d+)\)")
_OUR_MACHINE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)
) | {errno.ENOMEM, errno.ENOLCK, errno.EFBIG}
_NETWORK = (
    "error sending request",
    "Failed to fetch",
    "dns error",
    "tcp connect error",
    "Could not connect",
    "timed out",
    "HTTP status",
)


def explain(stderr: str, question: Question, host: Host) -> IntermodalError:
    """The error that uv's failure means to the user."""
    text = _URL.sub(lambda match: without_credentials(match[0]), stderr)
    causes = _causes(text)
    if _REFUSED.search(text):
        return _no_access(text, host)
    if damaged := _DAMAGED.search(text):
        return DownloadError(
            f"cannot read a wheel of {damaged[1]} in the package index",
            found=f"version {damaged[2]}: {damaged[3].strip() or 'its structure is invalid'}",
            next="try again: the transfer may have broken; if it stays so, the file in the index is damaged",
        )
    if "No solution found" in text or "unsatisfiable" in text:
        return _unsatisfiable(causes, text, question, host)
    if any(mark in text for mark in _NETWORK):
        return _unreachable(causes, text, host)
    machine = _MACHINE.search(text)
    if machine and int(machine[1]) in _OUR_MACHINE:
        error = OSError(int(machine[1]), causes[-1] if causes else os.strerror(int(machine[1])))
        return failure("uv cannot work here", host.cache_dir, error, variable="UV_CACHE_DIR and XDG_CACHE_HOME")
    return RequirementError(
        "cannot resolve the requirements",
        found=causes[:MAX_LINES] or [text.strip()[:300] or "uv failed without a word"],
        next="correct [environment] requirements",
    )


def _causes(text: str) -> list[str]:
    """The explanation's sentences, one a line, without uv's labels and hints."""
    lines = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("hint:"):
            break
        stripped = re.sub(r"^(error|cause|warning|×|├─▶|╰─▶|│)[:\s]*", "", stripped).strip()
        if stripped and not stripped.startswith("No solution found"):
            lines.append(stripped)
    return lines


def _unsatisfiable(causes: list[str], text: str, question: Question, host: Host) -> RequirementError:
    sentences = [re.sub(r"^And because", "because", sentence) for sentence in causes]
    shortest = sentences if len(sentences) <= MAX_LINES else [*sentences[:2], "…", *sentences[-3:]]
    where = f"Python {question.target.python}, {question.target.platform}"
    no_tag = _NO_TAG.search(text)
    source = None if no_tag else _SOURCE_ONLY.search(text)
    if source and "building from source is disabled" in text:
        name, version = source[1], source[2] or ""
        return RequirementError(
            f"{name}{version} has no wheel for {where}",
            found=f"only a source distribution, which would run its set-up code while the lock is made: {causes[0]}",
            next=[
                f"require a version of {name} that has wheels",
                f"or build one (pip wheel {name}) and put its folder into find-links",
            ],
        )
    unknown = _UNKNOWN.search(text)
    if unknown:
        return RequirementError(
            f"no package is called {unknown[1]}",
            found=f"searched: {host.indexes.shown}",
            next="correct its name in [environment] requirements, or configure the index that has it",
        )
    if no_tag:
        return RequirementError(
            f"{no_tag[1]}{no_tag[2] or ''} has no wheel for {where}",
            found=shortest,
            next="require a version that has one, or take a base with another Python",
        )
    return RequirementError(
        "the requirements cannot be met together",
        found=shortest,
        next=f"relax one of them in [environment] requirements (resolved for {where})",
    )


def _no_access(text: str, host: Host) -> IndexUnreachableError:
    refused = _REFUSED.search(text)
    line = next((line for line in text.splitlines() if _REFUSED.search(line)), text)
    url = _URL.search(line) or _URL.search(text)
    place = urlsplit(url[0]).netloc if url else host.indexes.shown
    return IndexUnreachableError(
        f"{place} refuses access",
        found=f"{url[0] if url else place}: {refused[0] if refused else 'no reason given'}",
        next="put credentials into ~/.netrc, or into UV_INDEX_<NAME>_USERNAME and UV_INDEX_<NAME>_PASSWORD",
    )


def _unreachable(causes: list[str], text: str, host: Host) -> IntermodalError:
    url = _URL.search(text)
    place = urlsplit(url[0]).netloc if url else host.indexes.shown
    last = causes[-1] if causes else ""
    return IndexUnreachableError(
        f"cannot reach the package index at {place}",
        found=[line for line in dict.fromkeys([url[0] if url else "", last]) if line],
        next="check the network, or the index settings of pip and uv: intermodal doctor",
    )
