"""The project as rooms see it: paths resolved, defaults filled, one model.

`load.load(path, host)` makes it from a folder, an `intermodal.toml`, a `pyproject.toml` or a bare model file or folder.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.project.schema import Check, Environment, Model, ProjectFile, Serve


class Project(Struct, frozen=True):
    """What the user wants shipped.

    `root` is the folder that relative paths start from; `file` is the project file, None for a bare artifact;
    `lock_path` is where its lock lives (beside the project file, or in the local store for a bare artifact).
    """

    root: Path
    file: Path | None
    name: str  # DNS label
    version: str  # the tag: images are called name:version
    artifact: Path | None  # absolute; None for a predictor without files
    golden: Path | None  # absolute; None when there are no golden cases
    lock_path: Path
    requirements: tuple[str, ...]  # PEP 508 lines, files already read
    platforms: tuple[str, ...]
    model: Model
    settings: ProjectFile
    notices: tuple[str, ...] = ()  # keys of rooms that are not built yet, and the like
    narrowed: tuple[str, ...] = ()  # platforms to build now, where not all of them
    files: tuple[Path, ...] = ()  # every file that was read to make this value: the project file, requirement files

    def on(self, platforms: tuple[str, ...]) -> Project:
        """This project, built for `platforms` alone: some of its own, or any where its file names none.

        Raises:
            InputError: its file names others.
        """
        own = self.environment.platforms
        if not platforms or platforms == self.platforms:
            return self
        if not own:
            return replace(self, platforms=platforms)
        if unknown := [platform for platform in platforms if platform not in own]:
            raise InputError(
                f"{self.name} is not made for {', '.join(unknown)}",
                found=f"platforms = {list(own)} under [environment]",
                next="add it there, and lock again",
            )
        return replace(self, narrowed=tuple(platform for platform in own if platform in platforms))

    @property
    def environment(self) -> Environment:
        """`[environment]`."""
        return self.settings.environment

    @property
    def serve(self) -> Serve:
        """`[serve]`."""
        return self.settings.serve

    @property
    def check(self) -> Check:
        """`[check]`."""
        return self.settings.check
