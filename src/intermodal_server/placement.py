"""Where the model may run at all: in the front, or in worker processes only.

Takes options and settings, hands on the mode to begin with. Supervisor and front ask the same question, so that one
starts the workers that the other waits for.

Rules, in order: a collision of packages, more than one worker, or an interpreter of the model's own that is another
than the front's leave nothing but workers; else what was asked for counts.
"""

from __future__ import annotations

import os
import sys

from intermodal_server import contract
from intermodal_server.options import Options

IN_FRONT = ("inline", "thread")
MOST_PROCESSES = 4  # that a server takes by itself


def model_site(options: Options) -> tuple[str, str]:
    """The folder of the model's packages ("" for none), and why the front cannot use it ("" when it can)."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if not options.worker_python:
        folder = options.path(f"{contract.VENV_DIR}/lib/{version}/site-packages")
        return (folder if os.path.isdir(folder) else ""), ""
    prefix = os.path.dirname(os.path.dirname(os.path.abspath(options.worker_python)))
    folder = os.path.join(prefix, "lib", version, "site-packages")
    if os.path.exists(os.path.join(prefix, "pyvenv.cfg")) and os.path.isdir(folder):
        return folder, ""
    return "", "the model's interpreter is another than the server's"


def only_workers(options: Options, settings: contract.ModelSettings) -> str:
    """Why nothing but workers will do; "" when the front may run the model."""
    if settings.collision:
        return f"model and server need different versions of {', '.join(settings.collision)}"
    if settings.serve.workers > 1:
        return f"workers = {settings.serve.workers}"
    return model_site(options)[1]


def first_mode(options: Options, settings: contract.ModelSettings) -> str:
    """auto, inline, thread or workers: what a start begins with."""
    return "workers" if only_workers(options, settings) else settings.serve.mode


def only_one_process(options: Options, settings: contract.ModelSettings) -> str:
    """Why one process has to answer all requests, whatever the model costs; "" when several may."""
    serve = settings.serve
    if serve.grpc and options.grpc_addresses(settings):
        return "gRPC is on"
    if serve.rate_per_s or serve.max_concurrent:
        return "limits of rate or concurrency are counted in one place"
    return ""


def processes_wanted(options: Options, settings: contract.ModelSettings, cores: int) -> int:
    """How many processes may answer requests, where the model runs inline and there is memory for them."""
    if only_one_process(options, settings) or first_mode(options, settings) not in ("auto", "inline"):
        return 1
    return settings.serve.processes or max(1, min(MOST_PROCESSES, cores))
