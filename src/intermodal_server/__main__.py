"""Start of every process of the server, run as a folder: `python -I -S /opt/intermodal/intermodal_server [ROLE]`.

Takes a role: none, `supervisor`, or `serve` as SageMaker says it (PID 1 of the image), `front`, `twin`, `worker`,
`health` (the HEALTHCHECK probe) or `replay` (run the backend over requests from standard input). Registers the package
from its own folder, so that nothing beside that folder, a whole site-packages for instance, becomes importable by
accident.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def _register() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != folder]
    if "intermodal_server" in sys.modules:  # run as `python -m intermodal_server`
        return
    spec = importlib.util.spec_from_file_location(
        "intermodal_server", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["intermodal_server"] = module
    spec.loader.exec_module(module)


def main(arguments: list[str]) -> int:
    """The exit status of the role that `arguments` name."""
    role, rest = (arguments[0], arguments[1:]) if arguments else ("supervisor", [])
    if role in ("supervisor", "serve"):
        from intermodal_server.supervisor.main import run as run_supervisor

        return run_supervisor()
    if role == "front":
        from intermodal_server.front.main import run as run_front

        return run_front(rest)
    if role == "twin":
        from intermodal_server.front.twins.twin import run as run_twin

        return run_twin(rest)
    if role == "worker":
        from intermodal_server.worker.main import run as run_worker

        return run_worker(rest)
    if role == "health":
        from intermodal_server.probe import run as run_probe

        return run_probe(rest)
    if role == "replay":
        from intermodal_server.worker.replay import run as run_replay

        return run_replay(rest)
    sys.stderr.write(f"unknown role {role!r}; supervisor, front, twin, worker, health or replay is expected\n")
    return 2


if __name__ == "__main__":
    _register()
    sys.exit(main(sys.argv[1:]))
