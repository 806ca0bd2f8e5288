"""Everything that can go wrong, as one tree, with the exit code each branch ends in.

    IntermodalError
    ├── InputError                 2  the request or a file is wrong
    │   ├── ProjectError              intermodal.toml: unknown key, wrong value
    │   │   └── NotBuiltYetError      a key whose room does not exist yet and which would change the image
    │   ├── ArtifactError             model file: missing, truncated, unknown
    │   ├── RequirementError          unsatisfiable, sdist only, Python that the base does not have
    │   ├── ContradictionError        the artifact says one version, the lock another
    │   ├── PackageFileError          a wheel or .deb that breaks its own format or promises
    │   ├── UnsafePathError           a name that is absolute or climbs out of its root
    │   ├── SecretFoundError          a file that looks like a secret would enter the image
    │   ├── ImageRefusedError         an image of a registry that breaks its format or promises
    │   └── UnknownImageError         no image of that name or digest
    ├── NegativeAnswer             1  we looked, and the answer is no
    │   ├── UnsafeModelError          the artifact would run code outside the allow-list
    │   ├── DriftError                the lock no longer describes the project
    │   └── CheckFailedError          the image does not give its golden predictions
    ├── HostError                  3  this machine or its surroundings
    │   ├── IndexUnreachableError     package index or Debian mirror (retriable)
    │   ├── DownloadError             a transfer broke or brought other bytes (retriable)
    │   ├── RegistryError             a registry refused, or answered something it must not
    │   │   └── RegistryUnreachableError  it did not answer, or is busy (retriable)
    │   ├── StoreError                disk full, permissions, damaged store
    │   ├── PortTakenError            somebody else listens there
    │   ├── RolloutBusyError          another process is rolling out that model
    │   └── EngineError               no engine, or it refused
    └── Interrupted              130  Ctrl-C

An error is data: what was tried (`message`), what was found (`found`), what to do next (`next`).
`cli` alone turns it into text; rooms raise it and never print.
"""

from __future__ import annotations

from collections.abc import Iterable


def _lines(value: str | Iterable[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


class IntermodalError(Exception):
    """The base of every error a user can meet.

    Args:
        message: one line: what was tried and why it did not work, without a final full stop.
        found: one line or several: the evidence (paths, versions, answers); never a secret.
        next: one line or several: what the user can do now, as commands or settings where possible.
    """

    exit_code = 2
    retriable = False

    def __init__(
        self,
        message: str,
        *,
        found: str | Iterable[str] = (),
        next: str | Iterable[str] = (),  # noqa: A002 - the word users see
    ) -> None:
        super().__init__(message)
        self.message = message
        self.found = _lines(found)
        self.next = _lines(next)

    def __str__(self) -> str:
        return "\n".join(
            [self.message] + [f"  found   {line}" for line in self.found] + [f"  next    {line}" for line in self.next]
        )

    def as_json(self) -> dict[str, object]:
        """The same content for `--json`: `error`, `kind`, `found`, `next`, `exit_code`."""
        return {
            "error": self.message,
            "kind": type(self).__name__,
            "found": list(self.found),
            "next": list(self.next),
            "exit_code": self.exit_code,
        }


class InputError(IntermodalError):
    """The request or one of its files is wrong; the same call will fail again."""


class ProjectError(InputError):
    """`intermodal.toml` has an unknown key or a value outside its range."""


class NotBuiltYetError(ProjectError):
    """A key asks for a room that does not exist yet and that would change the image."""


class ArtifactError(InputError):
    """The model file is missing, truncated, or of no format we know."""


class RequirementError(InputError):
    """The environment asked for cannot be had: unsatisfiable, source only, wrong Python."""


class ContradictionError(InputError):
    """The artifact's own evidence and the lock disagree about a version."""


class PackageFileError(InputError):
    """A wheel or .deb breaks its format, its hashes, or writes where it must not."""


class UnsafePathError(InputError):
    """A name is absolute, climbs out of its root, or cannot be stored."""


class DuplicatePathError(InputError):
    """Two sources want the same path in the image."""


class SecretFoundError(InputError):
    """A file that looks like a secret would enter the image."""


class ImageRefusedError(InputError):
    """An image of a registry breaks its format, or is not what it promised to be."""


class UnknownImageError(InputError):
    """No image of that name or digest is in the store, or in the registry."""


class NegativeAnswer(IntermodalError):
    """We looked, and the answer is no."""

    exit_code = 1


class UnsafeModelError(NegativeAnswer):
    """Opening the artifact would run code that is not on the allow-list."""


class DriftError(NegativeAnswer):
    """The lock no longer describes the project."""


class CheckFailedError(NegativeAnswer):
    """The image does not start, does not become ready, or answers differently."""


class HostError(IntermodalError):
    """This machine or its surroundings prevented the work."""

    exit_code = 3


class IndexUnreachableError(HostError):
    """A package index or Debian mirror did not answer."""

    retriable = True


class DownloadError(HostError):
    """A transfer broke, or its bytes are not those that were asked for."""

    retriable = True


class RegistryError(HostError):
    """A registry refused, or answered something that it must not."""


class RegistryUnreachableError(RegistryError):
    """A registry did not answer, broke off, or is too busy; `wait_s` is how long it asked us to stay away."""

    retriable = True
    wait_s: float | None = None


class StoreError(HostError):
    """The local store or cache cannot be written or read."""


class PortTakenError(HostError):
    """Somebody else listens on that port."""


class RolloutBusyError(HostError):
    """Another process is rolling out that model on that target."""


class EngineError(HostError):
    """The engine is missing, refused, or died."""


class Interrupted(IntermodalError):
    """The user pressed Ctrl-C."""

    exit_code = 130
