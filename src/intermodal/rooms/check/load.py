"""Load from golden inputs: requests at a steady rate, so that a canary can be tried at home.

Takes cases, a base address and a rate; hands on a report, and one line a second to `events`.

Rules, in order:
1. The rate is kept whatever the server does (an open loop): a slow server meets the requests that users would have
   sent, not those that waited for it. A request's latency counts from when it was due.
2. Nothing is sent again. A broken connection is a lost request, unless it was idle when the server closed it, which
   every HTTP client must bear.
3. Whether answers equal the recorded ones is counted, not judged: another version may answer otherwise.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from urllib.parse import quote, urlsplit

from msgspec import Struct

from intermodal.errors import InputError
from intermodal.events import SILENT, Events
from intermodal.golden.cases import GoldenCase
from intermodal_server.golden import compare

MAX_WORKERS = 128
_TIMEOUT_S = 60.0
_LOOK_S = 0.05


class LoadReport(Struct, frozen=True):
    """What came of a load."""

    requests: int
    lost: int  # no answer, or 5xx
    statuses: dict[str, int]  # by HTTP status; "none" where no answer came
    equal: int  # answers that are the recorded ones
    rate_per_s: float  # really sent
    p50_s: float
    p99_s: float

    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.requests} requests, {self.rate_per_s:.0f}/s, {self.lost} lost, "
            f"{self.equal} answered as recorded, p50 {self.p50_s * 1e3:.1f} ms, p99 {self.p99_s * 1e3:.1f} ms"
        )


class _Tally:
    """Counts of all workers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.statuses: Counter[str] = Counter()
        self.equal = 0
        self.latencies: list[float] = []
        self.recent = 0

    def add(self, status: str, latency_s: float, equal: bool) -> None:
        with self.lock:
            self.statuses[status] += 1
            self.equal += equal
            self.recent += 1
            self.latencies.append(latency_s)

    def report(self, elapsed_s: float) -> LoadReport:
        with self.lock:
            ordered = sorted(self.latencies)
            statuses = dict(sorted(self.statuses.items()))
            equal = self.equal
        count = len(ordered)
        lost = sum(number for status, number in statuses.items() if status == "none" or status.startswith("5"))
        return LoadReport(
            count,
            lost,
            statuses,
            equal,
            count / max(elapsed_s, 1e-9),
            _quantile(ordered, 0.5),
            _quantile(ordered, 0.99),
        )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Load:
    """A load on one model; `run` sends it until `stop`, or for a while.

    Args:
        cases: whose requests are sent, one after the other.
        url: of the server or gateway, with the path of the model's route: "http://127.0.0.1:8080/".
        model: its name.
        rate_per_s: requests a second, above 0.
        host: name to ask for, when the gateway tells models apart by it.
        api_key: sent with every request; "" for none.

    Raises:
        InputError: there are no cases, or `url` is none.
    """

    def __init__(
        self,
        cases: Sequence[GoldenCase],
        url: str,
        model: str,
        *,
        rate_per_s: float,
        host: str = "",
        api_key: str = "",
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is no address to send requests to", next="--url http://127.0.0.1:8080")
        if not cases:
            raise InputError(
                "there is nothing to send",
                found="the image has no golden cases",
                next="intermodal record PATH makes some",
            )
        self._make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._address, self._port = parts.hostname, parts.port
        self._path = f"{parts.path.rstrip('/')}/v2/models/{quote(model, safe='')}/infer"
        named = {"Host": host, "X-API-Key": api_key}
        self._headers = {"Content-Type": "application/json", **{name: value for name, value in named.items() if value}}
        self._cases = [(case, _body(case)) for case in cases]
        self._rate_per_s = rate_per_s
        self._stop = threading.Event()
        self._tally = _Tally()
        self._numbers = itertools.count()

    def stop(self) -> None:
        """End it once what is under way is answered."""
        self._stop.set()

    def run(self, *, seconds: float | None = None, events: Events = SILENT) -> LoadReport:
        """Send until `stop`, or for so long; what came of it. Ctrl-C ends it in order."""
        began_s = time.monotonic()
        until_s = None if seconds is None else began_s + seconds
        count = min(MAX_WORKERS, max(4, int(self._rate_per_s / 4)))
        workers = [
            threading.Thread(target=self._work, args=(began_s, until_s), name=f"load-{number}", daemon=True)
            for number in range(count)
        ]
        for worker in workers:
            worker.start()
        try:
            told_s = began_s
            while any(worker.is_alive() for worker in workers):
                self._stop.wait(_LOOK_S)
                if time.monotonic() - told_s >= 1.0:
                    told_s += 1.0
                    self._tell(events)
        finally:
            self._stop.set()
            for worker in workers:
                worker.join(_TIMEOUT_S)
        return self._tally.report(time.monotonic() - began_s)

    def _tell(self, events: Events) -> None:
        with self._tally.lock:
            recent, self._tally.recent = self._tally.recent, 0
            latest = sorted(self._tally.latencies[-recent:]) if recent else []
            statuses = dict(sorted(self._tally.statuses.items()))
        shown = ", ".join(f"{status}: {number}" for status, number in statuses.items())
        events.output(f"{recent}/s  p99 {_quantile(latest, 0.99) * 1e3:.1f} ms  {shown}")

    def _work(self, began_s: float, until_s: float | None) -> None:
        connection = self._make(self._address, self._port, timeout=_TIMEOUT_S)
        try:
            while not self._stop.is_set():
                number = next(self._numbers)
                due_s = began_s + number / self._rate_per_s
                if until_s is not None and due_s >= until_s:
                    return
                if self._stop.wait(max(0.0, due_s - time.monotonic())):
                    return
                case, body = self._cases[number % len(self._cases)]
                status, answer = self._ask(connection, body)
                equal = status == "200" and _equal(case, answer)
                self._tally.add(status, time.monotonic() - due_s, equal)
        finally:
            connection.close()

    def _ask(self, connection: HTTPConnection, body: bytes) -> tuple[str, bytes]:
        """Status and body of an answer; once more when an idle connection had been closed."""
        kept = connection.sock is not None
        try:
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse()
            return str(answer.status), answer.read()
        except (RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            connection.close()
            return self._ask(connection, body) if kept else ("none", b"")
        except (OSError, HTTPException):
            connection.close()
            return "none", b""


def _body(case: GoldenCase) -> bytes:
    request = {key: value for key, value in case.request.items() if key != "id"}
    return json.dumps(request, ensure_ascii=False, allow_nan=False).encode()


def _equal(case: GoldenCase, answer: bytes) -> bool:
    try:
        return not compare(case.name, case.response, json.loads(answer), rtol=case.rtol, atol=case.atol)
    except (ValueError, KeyError, TypeError):
        return False
