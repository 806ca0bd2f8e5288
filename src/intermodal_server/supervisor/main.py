"""Start of PID 1: options, settings, listening sockets, then the supervisor's loop; one clear line when that fails."""

from __future__ import annotations

import contextlib
import os

from intermodal_server import contract
from intermodal_server.log import Log
from intermodal_server.options import OptionError, read_options
from intermodal_server.placement import only_one_process, processes_wanted
from intermodal_server.process import raise_descriptor_limit
from intermodal_server.supervisor.cgroup import usable_cores
from intermodal_server.supervisor.family import adopt_orphans
from intermodal_server.supervisor.listen import ListenError, check_ports, open_listeners
from intermodal_server.supervisor.loop import Supervisor
from intermodal_server.supervisor.memory import MemoryWatch

EXIT_SETTINGS = 2
EXIT_LISTEN = 3


def run() -> int:
    """Run until drained or given up.

    Returns:
        0 after a drain, 1 when the server could not start or stay up, 2 for wrong variables or settings, 3 when an
        address is taken.
    """
    log = Log("supervisor")
    try:
        options = read_options(os.environ)
        settings = options.settings()
        grpc_addresses = options.grpc_addresses(settings)
    except OptionError as error:
        log.error("a variable is wrong", reason=str(error))
        return EXIT_SETTINGS
    except (contract.ContractError, OSError) as error:
        log.error("the model's settings cannot be read", path=contract.SETTINGS_PATH, reason=str(error))
        return EXIT_SETTINGS
    raise_descriptor_limit()
    try:
        listeners = open_listeners(options)
        check_ports(grpc_addresses)
    except ListenError as error:
        log.error("an address cannot be listened on", reason=str(error))
        return EXIT_LISTEN
    adopt_orphans()
    cores = usable_cores()
    if settings.serve.workers > cores:
        log.warning("there are more workers than cores", workers=settings.serve.workers, cores=cores)
    threads = max(1, cores // settings.serve.workers)
    processes = processes_wanted(options, settings, cores)
    if settings.serve.processes > processes:
        reason = only_one_process(options, settings) or "the model runs in workers or in a thread"
        log.warning("one process answers all requests", asked=settings.serve.processes, reason=reason)
    memory = MemoryWatch(options.memory_bytes)
    try:
        return Supervisor(options, settings, listeners, threads, processes, memory, log).run()
    finally:
        for path in filter(None, (options.socket, options.grpc_socket)):
            with contextlib.suppress(OSError):
                os.unlink(path)
