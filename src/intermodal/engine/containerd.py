"""Loading into containerd, through its own `ctr`: the store of Kubernetes nodes, nerdctl, and newer Dockers.

Takes an image of the store; hands on what was sent. containerd keeps blobs by digest, so exactly those it does not
hold are sent; it unpacks them at once, which also proves them complete. Containers are not run here.

The socket and the namespace are those of `CONTAINERD_ADDRESS` and `CONTAINERD_NAMESPACE`, as for `ctr` itself
(Kubernetes uses `k8s.io`).
"""

from __future__ import annotations

import shutil
import subprocess

from intermodal.engine.archive import Parts, Sent, archive, familiar, feed
from intermodal.errors import EngineError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.layout import Store


class ContainerdLoader:
    """containerd on this machine; implements `archive.Loader`."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host
        self._program = shutil.which("ctr", path=host.environment.get("PATH"))

    def load(self, parts: Parts, name: str, events: Events) -> Sent:
        """Put the image into containerd under `name`, sending only the blobs it lacks.

        Raises:
            EngineError: it is missing or refused.
        """
        full = familiar(name)
        held = set(self._ctr("content", "list", "--quiet").split())
        missing = [layer for layer in parts.layers if str(layer.digest) not in held]
        if not missing and str(parts.manifest.digest) in self._ctr("images", "list", f"name=={full}"):
            return Sent(full, 0, 0)
        try:
            return self._send(parts, name, held, events)
        except EngineError as error:
            if len(missing) == len(parts.layers):
                raise
            why = "; ".join((error.message, *error.found))
            events.notice(f"containerd did not take a part of the image ({why}); sending all of it")
            return self._send(parts, name, set(), events)

    def _send(self, parts: Parts, name: str, held: set[str], events: Events) -> Sent:
        left_out = [layer.digest for layer in parts.layers if str(layer.digest) in held]
        layers = {layer.digest for layer in parts.layers if layer.digest not in left_out}
        total = sum(layer.size_bytes for layer in parts.layers if layer.digest in layers)
        with events.task("load into containerd", total=total, unit="bytes") as task:
            pieces = archive(parts, self._store, name, without=left_out)
            count = feed([self._found(), "images", "import", "-"], pieces, self._host)
            task.advance(total)
        if str(parts.manifest.digest) not in self._ctr("images", "list", f"name=={familiar(name)}"):
            raise EngineError("containerd did not load the image", found="it took the archive, but does not list it")
        return Sent(familiar(name), len(layers), count)

    def _found(self) -> str:
        if self._program is None:
            raise EngineError("containerd is not installed", found="no ctr in PATH", next="sudo apt install containerd")
        return self._program

    def _ctr(self, *arguments: str) -> str:
        done = subprocess.run(
            [self._found(), *arguments], env=dict(self._host.environment), cwd="/", capture_output=True, check=False
        )
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise EngineError(
                "containerd refused",
                found=[line[:500] for line in said[-2:]] or "ctr said nothing",
                next="is it running, and may this user use it? CONTAINERD_ADDRESS names its socket",
            )
        return done.stdout.decode("utf-8", "replace")
