"""skopeo and `docker push`, which move the same image."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, run
from benchmarks.registry.images import Built, Home


class Skopeo:
    """`skopeo copy` from an OCI layout."""

    def __init__(self, layout: Path) -> None:
        self._layout = layout

    def push(self, to: str) -> Run:
        """One push; the registry is on loopback without TLS."""
        words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{self._layout}:1", f"docker://{to}:1"]
        return run(words)


@dataclass(frozen=True)
class Docker:
    """`docker push` out of a daemon of our own, into which the image was loaded."""

    variables: dict[str, str]
    image: str

    @classmethod
    @contextmanager
    def started(cls, home: Home, image: Built) -> Iterator[Docker]:
        """With the daemon running."""
        from support import engines

        with engines.docker() as running:
            variables = {**os.environ, **running.variables, "HOME": str(running.folder)}
            run(["docker", "version"], env=variables)
            loading = {**home.variables(), **running.variables}
            run([sys.executable, "-m", "intermodal", "load", image.name, "--into", "docker"], env=loading)
            yield cls(variables, image.name)

    def push(self, to: str) -> Run:
        """One push; tagging is not timed."""
        docker = shutil.which("docker") or "docker"
        run([docker, "tag", self.image, f"{to}:1"], env=self.variables)
        return run([docker, "push", "-q", f"{to}:1"], env=self.variables)
