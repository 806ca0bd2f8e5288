"""API keys as the server knows them: names and SHA-256 hashes, from a file that may change at any time.

Takes a source (`file:/path`, or `keys:name:hash,…`), hands on the name that a presented key belongs to.

Rules, in order:
1. A line is `name:hash` with the key's SHA-256 in hexadecimal; empty lines and those that begin with `#` do not count.
   Plain SHA-256 suffices because keys are made by a machine (256 random bits); passwords have no place here.
2. What cannot be read, or holds no key, lets nobody in. A line that is not of this form is passed over and named by its
   number in the log, never by its text: somebody may have put the key itself there.
3. The file is looked at again at most once a second, and read when it is another one or has changed.
4. Finding a name takes as long for a wrong key as for a right one: what is looked up is a hash under a secret of this
   process, so the time tells nothing about the stored hashes.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from typing import Optional

from intermodal_server.contract import KEYS_MISSING, KEYS_UNREADABLE
from intermodal_server.log import Log

LOOK_EVERY_S = 1.0
MAX_FILE_BYTES = 1 << 20
MAX_KEY_CHARS = 512
LINE = re.compile(r"([A-Za-z0-9._@-]{1,64}):([0-9A-Fa-f]{64})")
_SALT = os.urandom(32)

Identity = Optional[tuple[int, ...]]  # of a file: other numbers, other content


def parse_keys(text: str) -> tuple[dict[str, str], list[int]]:
    """Names by hash (lower case), and the numbers of lines that are none."""
    names: dict[str, str] = {}
    wrong: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            wrong.append(number)
        else:
            names.setdefault(found.group(2).lower(), found.group(1))
    return names, wrong


def _hidden(digest: bytes) -> bytes:
    return hashlib.blake2b(digest, key=_SALT, digest_size=32).digest()


class KeyRing:
    """The keys of now."""

    def __init__(self, source: str, log: Log) -> None:
        self._path = source[len("file:") :] if source.startswith("file:") else ""
        self._log = log
        self._names: dict[bytes, tuple[bytes, str]] = {}
        self._identity: Identity = None
        self._looked_s = float("-inf")
        self.problem = ""  # why nobody gets in, in words that a probe may show
        if not self._path:
            self._take(source[len("keys:") :].replace(",", "\n"))

    def refresh(self, now_s: float) -> None:
        """Read the file again if it is time and it has changed."""
        if not self._path or now_s - self._looked_s < LOOK_EVERY_S:
            return
        first = self._looked_s == float("-inf")
        self._looked_s = now_s
        try:
            with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # never waits
                found = os.fstat(file.fileno())
                identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if identity == self._identity:
                    return
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            if first or self._identity is not None or not self.problem:
                self._shut(KEYS_UNREADABLE, error.strerror or str(error))
            self._identity = None
            return
        self._identity = identity
        if len(data) > MAX_FILE_BYTES:
            self._shut(KEYS_UNREADABLE, f"the file is larger than {MAX_FILE_BYTES} bytes")
            return
        self._take(data.decode("utf-8", "replace"))

    def _shut(self, problem: str, reason: str) -> None:
        self._names, self.problem = {}, problem
        self._log.error("nobody gets in: " + problem, path=self._path, reason=reason)

    def _take(self, text: str) -> None:
        names, wrong = parse_keys(text)
        if wrong:
            self._log.error(
                "lines of the API keys are not name:sha256 and do not count", path=self._path, lines=wrong[:20]
            )
        if not names:
            self._shut(KEYS_MISSING, "it holds no line of the form name:sha256")
            return
        self.problem = ""
        digests = {bytes.fromhex(digest): name for digest, name in names.items()}
        self._names = {_hidden(digest): (digest, name) for digest, name in digests.items()}
        self._log.info("API keys were read", path=self._path, keys=len(names), names=len(set(names.values())))

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None when nobody's."""
        if not key or len(key) > MAX_KEY_CHARS:
            return None
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = self._names.get(_hidden(digest))
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]
