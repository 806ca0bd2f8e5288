"""The Debian releases that a base can be made of, and the Python each brings.

Takes the project's `base`; hands on a `Suite`, or the error that says which base to take.
"""

from __future__ import annotations

from msgspec import Struct

from intermodal.errors import RequirementError


class Suite(Struct, frozen=True):
    """A Debian release that a base can be made of."""

    name: str
    python: str
    glibc: tuple[int, int]

    @property
    def reference(self) -> str:
        """As the project writes it."""
        return f"deb:{self.name}" if self.name in SUITES else self.name


SUITES = {
    "bookworm": Suite("bookworm", "3.11", (2, 36)),
    "trixie": Suite("trixie", "3.13", (2, 41)),
}


def suite_of(reference: str) -> Suite:
    """The suite that a project's `base` names.

    Raises:
        RequirementError: a Debian release that we do not know.
    """
    kind, _, name = reference.partition(":")
    if kind != "deb" or name not in SUITES:
        raise RequirementError(
            f"no base is known as {reference!r}",
            found=f"known: {', '.join(f'deb:{suite}' for suite in SUITES)}",
            next='base = "deb:bookworm" (Python 3.11) or "deb:trixie" (Python 3.13)',
        )
    return SUITES[name]


def check_python(suite: Suite, wanted: str, why: str) -> None:
    """Accept a Python version that the base has.

    Raises:
        RequirementError: the base has another; the message names the base that has it.
    """
    if wanted == suite.python:
        return
    fitting = next((other for other in SUITES.values() if other.python == wanted), None)
    advice = (
        f'base = "deb:{fitting.name}" brings Python {wanted}'
        if fitting
        else f'base = "docker.io/library/python:{wanted}-slim", or another image of a registry that has it; '
        + "of the Debian bases, deb:bookworm brings 3.11 and deb:trixie 3.13"
    )
    raise RequirementError(
        f"the model needs Python {wanted}, but {suite.reference} brings {suite.python}", found=why, next=advice
    )
