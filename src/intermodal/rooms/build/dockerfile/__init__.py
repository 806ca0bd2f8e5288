"""The same image by another road: a Dockerfile with everything it needs, for teams who must use one.

Takes a lock, the card and the project; hands on a `Context`, a folder that `docker build`, `podman build` or
`buildah build` turn into an image with the same base, packages, server, model, settings and entry point. What such
a build leaves (layers, times, byte code) is the engine's own, so its digest differs from machine to machine.
"""

from __future__ import annotations

from intermodal.rooms.build.dockerfile.context import Context, write_context
from intermodal.rooms.build.dockerfile.local_base import LocalBase, local_base

__all__ = ["Context", "LocalBase", "local_base", "write_context"]
