"""Keys of the schema whose rooms do not exist yet: which are refused, and which are only mentioned.

Rules:
1. A key that would change the image or how it serves is refused, because an image without it would be another image
   than the one asked for; so is one that promises protection (encryption).
2. A key of a later room (scan, sign) changes nothing yet: one notice names them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from intermodal.errors import NotBuiltYetError
from intermodal.project.schema import ProjectFile

LATER_TABLES = ("scan", "sign")


def refuse(settings: ProjectFile, file_name: str) -> None:
    """Return when nothing in `settings` needs a room that does not exist yet.

    Raises:
        NotBuiltYetError: one or several keys would change the image; all are named.
    """
    missing = list(_changes_the_image(settings))
    if missing:
        keys = ", ".join(key for key, _ in missing)
        raise NotBuiltYetError(
            f"not built yet: {keys}",
            found=[f"{file_name}: {key}" for key, _ in missing],
            next=[hint for _, hint in missing],
        )


def _changes_the_image(settings: ProjectFile) -> Iterator[tuple[str, str]]:
    environment = settings.environment
    if settings.models:
        yield "[[models]]", "ship one [model] an image"
    if settings.pipeline is not None:
        yield "[pipeline]", "ship each step as its own [model]"
    if settings.model is not None and settings.model.app is not None:
        yield "[model] app", 'take predictor = "module:Class" instead'
    if environment.accelerator != "cpu":
        yield f'[environment] accelerator = "{environment.accelerator}"', 'take accelerator = "cpu"'
    if environment.compression != "gzip":
        yield f'[environment] compression = "{environment.compression}"', 'take compression = "gzip"'
    if settings.sign.encrypt is not None:
        yield "[sign] encrypt", "leave it out; the model files would enter the image as they are"


def later(settings: ProjectFile) -> tuple[str, ...]:
    """One notice about tables that are accepted and have no effect yet; none when there are none."""
    default = ProjectFile()
    names = [f"[{name}]" for name in LATER_TABLES if getattr(settings, name) != getattr(default, name)]
    return (f"not built yet, without effect: {', '.join(names)}",) if names else ()
