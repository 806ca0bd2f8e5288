"""Start of a worker process: threads, verification, load, then the loop.

Takes the control socket's number from the supervisor, hands back `loaded` or `failed` with a reason over it.

Rules, in order: thread counts of numeric libraries are set before anything can import them; every file of the model
is verified before any is opened; what goes wrong is told to the supervisor in one sentence and to the log in full.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import socket
import sys
import time
import traceback

from intermodal_server import contract
from intermodal_server.contract import ModelSettings
from intermodal_server.control import send
from intermodal_server.golden_file import GoldenError, read_cases
from intermodal_server.log import Log, in_words
from intermodal_server.options import Options, read_options
from intermodal_server.process import become_child, settle
from intermodal_server.worker.backends.interface import Backend
from intermodal_server.worker.loop import serve_connections
from intermodal_server.worker.measure import measure
from intermodal_server.worker.measured import Measured
from intermodal_server.worker.model import LoadError, load_model
from intermodal_server.worker.threads import set_threads


def run(arguments: list[str]) -> int:
    """Serve until the supervisor closes the control socket; the exit status."""
    parser = argparse.ArgumentParser(prog="worker")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log", type=int, default=2, help="descriptor for log lines; 1 and 2 are the model's")
    parser.add_argument("--number", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", choices=("no", "batch", "mode"), default="no", help="what to find out")
    parser.add_argument("--site", default="", help="site-packages to add, where the interpreter is not the venv's")
    options = parser.parse_args(arguments)
    become_child(options.parent)
    set_threads(options.threads)
    log = Log(f"worker-{options.number}", options.log)
    faulthandler.enable()  # a crash in native code leaves its Python stack in the log
    if options.site:
        import site

        site.addsitedir(options.site)
    control = socket.socket(fileno=options.control)
    begin_s = time.monotonic()
    try:
        environment = read_options(os.environ)
        settings = environment.settings()
        model = load_model(
            settings,
            environment.path(contract.MODEL_DIR),
            environment.path(contract.APP_DIR),
            threads=options.threads,
            strict=True,
            log=log,
        )
    except LoadError as error:
        log.error("the model cannot be loaded", reason=str(error), traceback=error.details)
        send(control, "failed", reason=str(error))
        return 1
    except BaseException as error:
        # a model may raise anything while it loads, SystemExit too, and the probe must say so
        reason = f"the model cannot be loaded: {in_words(error)}"
        log.error("the model cannot be loaded", reason=reason, traceback=traceback.format_exc())
        send(control, "failed", reason=reason)
        return 1
    log.info("model loaded", model=settings.name, backend=settings.backend, python=sys.version.split()[0])
    settle()
    measured = None
    if options.measure != "no":
        load_s = time.monotonic() - begin_s
        measured = _measure(model, settings, environment, load_s, mode=options.measure == "mode").as_json()
    if not send(control, "loaded", measured=measured):
        return 1
    try:
        serve_connections(control, model, log)
    except BaseException:
        log.error("the worker ends", traceback=traceback.format_exc())
    os._exit(0)  # threads that the model has left would keep the interpreter from ending


def _measure(model: Backend, settings: ModelSettings, environment: Options, load_s: float, *, mode: bool) -> Measured:
    try:
        cases = read_cases(environment.path(contract.GOLDEN_PATH))
    except GoldenError:  # the start check says so
        cases = []
    return measure(model, settings, cases, load_s=load_s, mode=mode)
