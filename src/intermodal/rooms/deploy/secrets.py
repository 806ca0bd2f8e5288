"""Secrets by reference: read when a replica is made, handed on as files, never stored, logged or told.

Takes names with references (`env:NAME`, `file:PATH`), hands on their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from intermodal.errors import InputError
from intermodal.host import Host

SECRETS_DIR = "/run/secrets"  # in a replica
MAX_BYTES = 1 << 20


def resolve_secrets(references: Iterable[tuple[str, str]], host: Host) -> dict[str, bytes]:
    """The content of each secret by its name.

    Raises:
        InputError: a reference that leads nowhere; the message names it, never a value.
    """
    return {name: _resolve(name, reference, host) for name, reference in references}


def _resolve(name: str, reference: str, host: Host) -> bytes:
    kind, _, rest = reference.partition(":")
    if kind == "env":
        value = host.environment.get(rest)
        if value is None:
            raise _missing(name, reference, f"the variable {rest} is not set")
        return value.encode("utf-8", "surrogateescape")
    if kind == "file":
        try:
            content = Path(rest).expanduser().read_bytes()
        except OSError as error:
            raise _missing(name, reference, error.strerror or "it cannot be read") from error
        if len(content) > MAX_BYTES:
            raise _missing(name, reference, f"it has {len(content)} bytes, {MAX_BYTES} at most are taken")
        return content
    raise _missing(name, reference, "only env: and file: lead somewhere here")


def _missing(name: str, reference: str, why: str) -> InputError:
    return InputError(
        f"the secret {name} cannot be read", found=f"{reference}: {why}", next=f"set it, or change [secrets] {name}"
    )
