"""The folders of one Python environment in the image."""

from __future__ import annotations

import posixpath

from msgspec import Struct


class Scheme(Struct, frozen=True):
    """The folders of one environment in the image."""

    prefix: str  # "opt/venv"
    python: str  # "3.11"

    @property
    def site(self) -> str:
        """Its site-packages."""
        return f"{self.prefix}/lib/python{self.python}/site-packages"

    def relative(self, path: str) -> str:
        """A path of this environment as RECORD writes it."""
        site = self.site
        return path[len(site) + 1 :] if path.startswith(f"{site}/") else posixpath.relpath(path, site)

    @property
    def interpreter(self) -> str:
        """What scripts begin with."""
        return f"/{self.prefix}/bin/python"

    @property
    def reserved(self) -> frozenset[str]:
        """Paths that make it an environment; no wheel may bring them."""
        names = ("bin/python", "bin/python3", f"bin/python{self.python}", "pyvenv.cfg")
        return frozenset(f"{self.prefix}/{name}" for name in names)
