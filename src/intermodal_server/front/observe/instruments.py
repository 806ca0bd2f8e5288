"""Everything that measures, put together: what a front has beside its answers.

Takes the service and the options of `observe`, hands on one guard and the observers for the application, and serves
the pages of the metrics port: `/metrics`, `/sketches`, `/predictions` (with a ring) and `/health`.

Rules, in order: what is off costs nothing and is not even imported; whatever fails here is logged and fails nothing
else.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Callable, Optional

import orjson

from intermodal_server import __version__
from intermodal_server.front.app import Guard, Observer
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.observe.access import AccessLog
from intermodal_server.front.observe.exposition import OPENMETRICS_TYPE, TEXT_TYPE, Family, Sample, render
from intermodal_server.front.observe.listener import Listener, Page, Pages, Question
from intermodal_server.front.observe.merge import add_sketches, pack_entries, take_sketches
from intermodal_server.front.observe.metrics import FINE_EDGES_S, Metrics, triton_families
from intermodal_server.front.observe.processes import cpu_s, process_families
from intermodal_server.front.observe.ring import DEFAULT_LIMIT, Entry, Ring
from intermodal_server.front.observe.sketches import MAX_CLASSES, Sketches
from intermodal_server.front.service import Service
from intermodal_server.log import Log
from intermodal_server.options import ObserveOptions

if TYPE_CHECKING:
    from intermodal_server.front.observe.trace.tracer import Tracer

SKETCHES_FORMAT = 1
PREDICTIONS = "/predictions"
PIECE_ENTRIES = 100  # of the ring, handed on at once
PIECE_BYTES = 256 << 10
REASONS = ("crash", "exit", "hang", "memory", "other")


class Instruments:
    """All of them; one for the life of the front."""

    def __init__(self, service: Service, options: ObserveOptions, host: str, log: Log) -> None:
        self._service = service
        self._options = options
        self._host = host
        self._log = log
        self._metrics = Metrics()
        self._sketches = Sketches()
        self._ring = Ring(options.ring, inputs=options.ring_inputs) if options.ring else None
        self._tracer = (
            self._make_tracer() if any(name.startswith("OTEL_EXPORTER_") for name, _ in options.otel) else None
        )
        self._workers: dict[int, int] = {}
        self._replaced: Counter[str] = Counter()
        self.twins = self._metrics.elsewhere
        self.before_page: Callable[[str], Awaitable[None]] | None = None  # where several processes answer
        self._twins_cpu_s = 0.0
        self._told_cpu_s = 0.0
        self._told_inflight = 0
        self._listener = Listener(self._pages(), log, self._gather)

    async def _gather(self, path: str) -> None:
        if self.before_page is not None:
            await self.before_page(path)

    # --- what the application calls -----------------------------------------------------------------------------------
    @property
    def began(self) -> Guard:
        """Told that a request has come; never refuses. Must be the first guard, so that none goes uncounted."""
        return self._metrics.began if self._tracer is None else self._began

    def _began(self, exchange: Exchange) -> None:
        self._metrics.began(exchange)
        assert self._tracer is not None
        self._tracer.began(exchange)

    def observers(self) -> list[Observer]:
        """Who wants to know how requests ended."""
        found: list[Observer] = [self._metrics.ended, self._sketches.ended]
        if self._ring is not None:
            found.append(self._ring.ended)
        if self._options.access_log != "off":
            found.append(AccessLog(self._log, everything=self._options.access_log == "all").ended)
        if self._tracer is not None:
            found.append(self._tracer.ended)
        return found

    # --- what the front tells -----------------------------------------------------------------------------------------
    def worker_came(self, number: int, pid: int) -> None:
        """A worker has loaded the model."""
        self._workers[number] = pid

    def worker_gone(self, pid: int, how: str, why: str) -> None:
        """A worker has ended; `how` and `why` as supervisor and executor word it."""
        self._workers = {number: other for number, other in self._workers.items() if other != pid}
        self._replaced[replacement_reason(how, why)] += 1

    # --- numbers of several processes ---------------------------------------------------------------------------------
    @property
    def changed(self) -> bool:
        """Whether `take` has something to tell."""
        if self._metrics.requests or self.inflight != self._told_inflight:
            return True
        return self._tracer is not None and self._tracer.changed

    @property
    def inflight(self) -> int:
        """Requests that are being answered here."""
        return self._metrics.inflight

    def take(self) -> dict[str, Any]:
        """What was counted since this was last asked, for `add` of the front."""
        self._told_inflight = self.inflight
        used_s = cpu_s()
        more_s, self._told_cpu_s = used_s - self._told_cpu_s, used_s
        return {
            "metrics": self._metrics.take(),
            "sketches": take_sketches(self._sketches),
            "statistics": self._service.statistics.take(),
            "cpu_s": more_s,
            "traced": (0, 0) if self._tracer is None else self._tracer.take(),
        }

    def add(self, taken: Mapping[str, Any]) -> None:
        """Count what a twin has counted."""
        self._metrics.add(taken["metrics"])
        self._sketches.flush()
        add_sketches(self._sketches, taken["sketches"])
        self._service.statistics.add(taken["statistics"])
        self._twins_cpu_s += taken["cpu_s"]
        if self._tracer is not None:
            self._tracer.add(taken["traced"])

    def divide_ring(self, parts: int) -> None:
        """Keep predictions in that part of the memory for them."""
        if self._ring is not None:
            self._ring.divide(parts)

    @property
    def predictions(self) -> int:
        """How many the ring of a twin has to hand on."""
        return 0 if self._ring is None else self._ring.waiting

    def take_predictions(self, most: int) -> tuple[int, bytes]:
        """How many of the oldest that the ring has to hand on, `most` or fewer, and these for `add_predictions`."""
        assert self._ring is not None
        lost, entries = self._ring.take(min(most, PIECE_ENTRIES), PIECE_BYTES)
        return len(entries), pack_entries(lost, entries)

    def add_predictions(self, lost: int, entries: Sequence[Entry]) -> None:
        """Keep what twins have kept, and count what they have lost."""
        if self._ring is not None:
            self._ring.add(lost, entries)

    # --- the pages ----------------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        """Offer the pages wherever the options say; returns once they are."""
        work = []
        if self._options.port:
            work.append(self._listener.serve_tcp(self._host, self._options.port))
        if self._options.socket:
            work.append(self._listener.serve_unix(self._options.socket))
        await asyncio.gather(*work)

    def close(self) -> None:
        """Stop offering the pages."""
        self._listener.close()

    async def flush(self) -> None:
        """The last word, when no request will come: what waits to be sent is sent."""
        if self._tracer is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracer.close)

    def _make_tracer(self) -> Optional[Tracer]:
        """The traces, when the variables say where to."""
        from intermodal_server.front.observe.trace.settings import read_settings

        settings = self._service.settings
        resource = {
            "service.name": settings.name,
            "service.version": settings.version,
            "service.instance.id": self._metrics.instance,
            "telemetry.sdk.name": "intermodal",
            "telemetry.sdk.language": "python",
            "telemetry.sdk.version": __version__,
        }
        found = read_settings(dict(self._options.otel), resource, self._log.warning)
        if found is None:
            return None
        from intermodal_server.front.observe.trace.tracer import Tracer

        return Tracer(found, self._log)

    def _pages(self) -> Pages:
        pages = {"/metrics": self._metrics_page, "/sketches": self._sketches_page, "/health": self._health_page}
        return {**pages, PREDICTIONS: self._predictions_page} if self._ring is not None else pages

    def _metrics_page(self, question: Question) -> Page:
        openmetrics = "application/openmetrics-text" in question.accept
        self._sketches.flush()
        text = render(self.families(), openmetrics=openmetrics)
        return Page((piece.encode() for piece in text), OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)

    def families(self) -> Iterator[Family]:
        """Every metric of now."""
        settings, executor, health = self._service.settings, self._service.executor, self._service.health_body()
        model = {"model": settings.name, "version": settings.version}
        about: list[Sample] = [("", (*model.items(), ("mode", executor.mode), ("server", __version__)), 1)]
        yield Family("intermodal_model_info", "gauge", "What is served, and how; always 1.", about)
        yield Family("intermodal_ready", "gauge", "1 when the readiness probe says so.", _one(int(health["ready"])))
        yield Family("intermodal_workers", "gauge", "Copies of the model that can be asked.", _one(executor.workers))
        processes = _one(1 + len(self.twins))
        yield Family("intermodal_processes", "gauge", "Processes that answer requests.", processes)
        yield Family("intermodal_queued_requests", "gauge", "Requests that wait for the model.", _one(executor.waiting))
        replaced: list[Sample] = [
            ("", (("reason", reason),), self._replaced[reason]) for reason in REASONS if self._replaced[reason]
        ]
        yield Family("intermodal_worker_replacements", "counter", "Model processes that ended, by cause.", replaced)
        yield from chain(self._metrics.families(), self._sketches.families())
        failed = self._sketches.failed
        yield Family("intermodal_sketch_failures", "counter", "Outputs that could not be counted.", _one(failed))
        yield from process_families(self._metrics.since_s, self._workers, self.twins, self._twins_cpu_s)
        if self._tracer is not None:
            yield from self._tracer.families()
        if self._options.triton:
            yield from triton_families(self._metrics, model, executor.waiting)

    def _sketches_page(self, _: Question) -> Page:
        self._sketches.flush()
        settings = self._service.settings
        head = {
            "format": SKETCHES_FORMAT,
            "instance": f"{self._metrics.instance}{self._sketches.era}",
            "since_s": self._metrics.since_s,
            "model": settings.name,
            "version": settings.version,
            "max_classes": MAX_CLASSES,
            "duration_edges_s": FINE_EDGES_S,
            "requests": self._metrics.as_json(),
        }
        return Page(chain([orjson.dumps(head)[:-1] + b',"outputs":'], self._sketches.pieces(), [b"}"]))

    def _predictions_page(self, question: Question) -> Page:
        assert self._ring is not None
        try:
            after, limit = int(question.query.get("after", 0)), int(question.query.get("limit", DEFAULT_LIMIT))
        except ValueError:
            return Page([b'{"error":"after and limit must be whole numbers"}'], status=400)
        return Page(self._ring.page(self._metrics.instance, max(0, after), max(0, limit)))

    def _health_page(self, _: Question) -> Page:
        executor, health = self._service.executor, self._service.health_body()
        document: dict[str, Any] = {**health, "workers": executor.workers, "mode": executor.mode}
        document["processes"] = 1 + len(self.twins)
        return Page([orjson.dumps(document)], status=200 if health["ready"] else 503)


def _one(value: float) -> list[Sample]:
    return [("", (), value)]


def replacement_reason(how: str, why: str) -> str:
    """The cause of a worker's end in one of a few words, so that metrics stay few.

    >>> replacement_reason("signal SIGKILL", "no answer within 30 s")
    'hang'
    """
    if "memory" in why or "memory" in how:
        return "memory"
    if why.startswith("no answer"):
        return "hang"
    if how.startswith("signal"):
        return "crash"
    return "exit" if how.startswith("status") else "other"
