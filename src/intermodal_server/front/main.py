"""Start of the front: its packages, its half of the control socket, HTTP on the supervisor's sockets, and drain.

Takes descriptors from the supervisor, hands back heartbeats and whether the server is ready.

Drain, in order: readiness false at once, everything else goes on for `drain_s` (the time a gateway needs to notice);
then every answer carries `Connection: close`; idle connections are closed; what runs is finished; exit 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

from intermodal_server import contract, control
from intermodal_server.log import Log
from intermodal_server.options import Options, front_site, read_options
from intermodal_server.process import become_child, settle
from intermodal_server.pulse import Pulse

if TYPE_CHECKING:
    from intermodal_server.front.exchange import Exchange

BEAT_S = 0.5
LAST_ANSWERS_S = 0.25
LEAVE_IDLE_S = 2.0


def run(arguments: list[str], make: Callable[..., Front] | None = None) -> int:
    """Serve until drained; the exit status. `make` is for a twin."""
    parser = argparse.ArgumentParser(prog="front")
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--log", type=int, default=2, help="descriptor for log lines; 1 and 2 are the model's")
    parser.add_argument("--pulse", type=int, required=True, help="descriptor of the page that counts good answers")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", required=True, help="auto, inline, thread or workers: how this front begins")
    parser.add_argument("--measured", default="null", help="JSON: what an earlier front has measured of its model")
    parser.add_argument("--listen", default="", help="descriptors; a twin has none")
    parser.add_argument("--number", type=int, default=1, help="of a twin")
    parser.add_argument("--processes", type=int, default=1, help="how many answer, for a twin")
    parser.add_argument("--hold", action="store_true", help="take connections only when ready")
    given = parser.parse_args(arguments)
    become_child(given.parent)
    options = read_options(os.environ)
    site = front_site(options)
    if site:
        sys.path.insert(0, site)
    log = Log(f"twin-{given.number}" if make else "front", given.log)
    settings = options.settings()
    settings = replace(settings, serve=replace(settings.serve, mode=given.mode))
    front = (make or Front)(options, settings, given, log)
    listeners = [socket.socket(fileno=int(number)) for number in given.listen.split(",") if number]
    try:
        import uvloop
    except ImportError:
        asyncio.run(front.serve(listeners))
    else:
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(front.serve(listeners))
        finally:
            loop.close()
    os._exit(0)  # a model that hangs in a thread would keep the interpreter from ending


class Front:
    """Everything of the front that lives as long as its process."""

    def __init__(self, options: Options, settings: contract.ModelSettings, given: argparse.Namespace, log: Log) -> None:
        self._options = options
        self._settings = settings
        self._end = socket.socket(fileno=given.control)
        self._pulse = Pulse(given.pulse)
        self._workers = given.workers
        self._threads = given.threads
        self._processes = given.processes
        self._measured = json.loads(given.measured)
        self._hold = given.hold
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def _build(self) -> None:
        """Make the parts, inside the event loop, and listen to the supervisor."""
        from intermodal_server.front.app import App
        from intermodal_server.front.execute.execution import Execution
        from intermodal_server.front.guard.setup import make_guards
        from intermodal_server.front.health import Health
        from intermodal_server.front.http import make_server
        from intermodal_server.front.observe.instruments import Instruments
        from intermodal_server.front.service import Service
        from intermodal_server.worker.measured import Measured

        self._health = Health()
        known = Measured.from_json(self._measured)
        self._execution = Execution(self._options, self._settings, self._threads, self._tell, self._log, known)
        self._service = Service(
            self._settings,
            self._execution,
            self._health,
            slow_body_s=self._options.slow_body_s,
            log=self._log,
            vertex=self._options.vertex,
        )
        guard = make_guards(self._options, self._settings, self._health, self._log)
        self._instruments = Instruments(self._service, self._options.observe, self._options.host, self._log)
        self._app = app = App(
            self._service,
            self._log,
            guards=[self._instruments.began, *guard.guards],
            observers=[*guard.observers, *self._instruments.observers(), self._count_good],
        )
        self._server = make_server(
            app, slow_header_s=self._options.slow_body_s, max_connections=self._options.max_connections
        )
        self._end.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        loop.add_reader(self._end.fileno(), self._on_control)

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Run the HTTP server until a drain is complete."""
        from intermodal_server.front.grpc.setup import make_grpc
        from intermodal_server.front.twins.herd import Herd

        self._build()
        self._herd = Herd(self._server, self._instruments, self._health, self._service.own_statistics, self._log)
        self._service.statistics_of_all = self._herd.statistics
        self._instruments.before_page = self._herd.before_page
        self._grpc = make_grpc(self._options, self._settings, self._app, self._log)
        self._spawn(self._beat())
        self._spawn(self._instruments.serve())
        start = self._spawn(self._start())
        if self._hold:
            await start
            self._spawn(self._grpc.start())  # waits until the other front has left its port
        self._spawn(self._say_started())
        await self._server.serve(sockets=listeners)
        await self._grpc.finished()
        await asyncio.gather(self._herd.finished(), self._instruments.flush())
        self._instruments.close()
        for task in self._tasks:
            task.cancel()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._log.error("the front cannot go on", reason=repr(task.exception()))
            os._exit(1)  # the supervisor starts another; half a front helps nobody

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody awaited, as a line of our log instead of asyncio's own text."""
        self._log.error(
            "the event loop reports an error", reason=str(context.get("message")), error=repr(context.get("exception"))
        )

    def _count_good(self, exchange: Exchange, status: int) -> None:
        """Tell the supervisor's page of an answer of the model; golden replay does not come by here."""
        if status == 200 and exchange.outputs:
            self._pulse.answered()

    async def _say_started(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.01)
        control.send(self._end, "started")

    async def _beat(self) -> None:
        while True:
            control.send(self._end, "beat", reason=self._health.reason)
            await asyncio.sleep(BEAT_S)

    async def _start(self) -> None:
        from intermodal_server.front.start import become_ready

        if not self._hold:
            await self._grpc.start()
        self._spawn(self._execution.start())
        golden = self._options.path(contract.GOLDEN_PATH)
        reason = await become_ready(self._service, golden, self._workers, self._log)
        if reason is None:
            settle()
            control.send(self._end, "ready")
        else:
            self._health.phase, self._health.detail = "failed", reason
            control.send(self._end, "unfit", reason=reason)

    # --- the supervisor's messages ------------------------------------------------------------------------------------
    def _on_control(self) -> None:
        while True:
            try:
                received = control.receive(self._end)
            except (BlockingIOError, InterruptedError):
                return
            if received is None:  # no supervisor, no server
                os._exit(1)
            self._on_message(received[0], received[1])

    def _on_message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message.get("kind")
        if kind == "worker" and descriptors:
            number, pid = int(message["worker"]), int(message["pid"])
            if self._execution.worker_came(number, pid, descriptors[0], message.get("measured")):
                self._instruments.worker_came(number, pid)
        elif kind == "gone":
            pid = int(message["pid"])
            if self._execution.worker_gone(pid) or self._herd.gone(pid):
                self._instruments.worker_gone(pid, str(message["reason"]), str(message["why"]))
        elif kind == "twin" and descriptors:
            self._herd.came(int(message["pid"]), descriptors[0])
        elif kind == "release":
            self._herd.release(int(message["pid"]), LEAVE_IDLE_S)
        elif kind == "leave":
            self._spawn(self._leave() if "pid" not in message else self._let_leave(int(message["pid"])))
        elif kind == "adopt" and descriptors:
            self._server.take(socket.socket(fileno=descriptors[0]))
        elif kind == "circuit":
            self._on_circuit(str(message["reason"]), int(message["retry_s"]))
        elif kind == "failed":
            self._health.phase, self._health.detail = "failed", str(message.get("reason", ""))
            self._herd.tell_health()
        elif kind == "drain" and not self._health.draining:
            self._spawn(self._drain())

    def _tell(self, kind: str, **fields: Any) -> None:
        control.send(self._end, kind, **fields)

    def _on_circuit(self, reason: str, retry_s: int) -> None:
        """Take requests no more, or again."""
        self._health.broken, self._health.retry_s = reason, retry_s
        self._herd.tell_health()
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """With the circuit open nobody will come to take a request."""
        from intermodal_server.front.limits import Refusal

        reason, retry_s = self._health.broken, self._health.retry_s
        if reason:
            retry = ((b"retry-after", b"%d" % retry_s),)
            self._execution.refuse_waiting(Refusal(503, f"not ready: {reason}", headers=retry))

    async def _let_leave(self, pid: int) -> None:
        """Give a worker no further request; say so when it has finished its last."""
        await self._execution.release(pid)
        control.send(self._end, "left", pid=pid)

    async def _leave(self) -> None:
        """Make way for another front: no new connections, every answer the last of its connection."""
        self._instruments.close()
        self._server.stop_accepting()
        self._grpc.leave(self._settings.serve.timeout_s)
        self._herd.leave(LEAVE_IDLE_S)
        await self._finish_connections(LEAVE_IDLE_S)

    async def _finish_connections(self, idle_s: float) -> None:
        """Every answer is the last of its connection, and who was let in may still ask once."""
        self._server.close_after_answers()
        end_s = asyncio.get_running_loop().time() + idle_s
        while self._server.load and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.05)
        self._server.should_exit = True

    async def _drain(self) -> None:
        serving = self._health.serving
        self._health.draining = True
        self._herd.tell_health()
        if serving:
            await asyncio.sleep(self._settings.serve.drain_s)
        self._grpc.leave(self._settings.serve.timeout_s)
        self._herd.leave(LAST_ANSWERS_S if serving else 0.0)
        self._server.close_after_answers()
        if serving:
            await asyncio.sleep(LAST_ANSWERS_S)
        await self._server.shut()
        self._server.should_exit = True
