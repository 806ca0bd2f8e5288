"""Where the model runs and whether requests go together: pure decisions over what was measured.

Takes what was asked for and what `worker.measure` found, hands on a `Decision` with its reasons; the log and
`/v2/models/M/config` show it.

Rules of the mode, in order:
1. What `placement` says: where nothing but workers will do, workers.
2. What was asked for by name.
3. `auto`, nothing measured: workers.
4. `auto`: p95 of one row under 0.2 ms: inline. Up to 2 ms, or longer but with the GIL released: thread; else workers.
5. What `auto` would run in the front, but takes long to load: workers, because it has been loaded there already. Long
   is 3 s for inline; for thread, which saves a tenth of a millisecond and costs the front its independence, half a
   second. Asked for by name, it is loaded in the front only.

Rules of batching, in order: off when asked (`max_batch_rows = 1`); off when rows together did not give what they give
alone, or could not be tried; off when it does not pay, that is when each further row costs more than 7/31 of the first
(32 rows take as long as 8 single ones); as many rows as keep a batch within a quarter of `timeout_s`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Optional

from intermodal_server.contract import ServeSettings
from intermodal_server.worker.measured import Measured

INLINE_S = 0.0002
THREAD_S = 0.002
LOAD_TWICE_S = {"inline": 3.0, "thread": 0.5}
A_ROW_MOST = 7 / 31


@dataclass(frozen=True)
class Decision:
    """How requests reach the model, and why."""

    mode: str  # inline | thread | workers
    mode_reason: str
    max_batch_rows: int  # 1: no batching
    batching: str  # "on: …" or "off: …"
    predict_1_s: float = 0.0  # 0: not measured
    predict_n_s: float = 0.0
    n: int = 0
    fixed_s: float = 0.0  # of a predict, whatever its rows; 0 without batching
    releases_gil: Optional[bool] = None

    def as_json(self) -> dict[str, Any]:
        """For the log and the model's configuration."""
        return asdict(self)


def decide_mode(serve: ServeSettings, forced: str, measured: Optional[Measured]) -> tuple[str, str]:
    """inline, thread or workers, and why.

    Args:
        serve: what was asked for.
        forced: what `placement.only_workers` says.
        measured: in a worker; None when nothing was.
    """
    if forced:
        return "workers", forced
    if serve.mode != "auto":
        return serve.mode, "asked for"
    if measured is None or not measured.predict_1_s:
        return "workers", measured.problem if measured is not None and measured.problem else "nothing was measured"
    took = f"one row takes {measured.predict_1_s * 1000:.3g} ms"
    if measured.predict_1_s >= THREAD_S and not measured.releases_gil:
        return "workers", f"{took} and holds the interpreter's lock"
    mode = "inline" if measured.predict_1_s < INLINE_S else "thread"
    if measured.load_s > LOAD_TWICE_S[mode]:
        return "workers", f"{took}, which suits {mode}, but loading again would take {measured.load_s:.1f} s"
    return mode, took if measured.predict_1_s < THREAD_S else f"{took} and releases the interpreter's lock"


def decide_batching(serve: ServeSettings, measured: Optional[Measured]) -> tuple[int, str]:
    """How many rows go together at most, and why; 1 is no batching."""
    if serve.max_batch_rows == 1:
        return 1, "off: max_batch_rows = 1"
    if measured is None:
        return 1, "off: nothing was measured"
    if not measured.same:
        return 1, f"off: {measured.problem or 'nothing was measured'}"
    alone_s, together_s, n = measured.typical_1_s, measured.predict_n_s, measured.n
    a_row_s = _a_row_s(measured)
    if a_row_s >= alone_s * A_ROW_MOST:
        return 1, f"off: {n} rows take {together_s / alone_s:.1f} times as long as one, so it does not pay"
    rows, spare_s = serve.max_batch_rows, serve.timeout_s / 4 - alone_s
    if spare_s <= 0:
        return 1, "off: one row takes more than a quarter of timeout_s"
    if a_row_s:
        rows = min(rows, 1 + int(spare_s / a_row_s))
    source = "golden" if measured.golden else "made-up"
    text = f"on: {source} rows answer together as alone, and {n} take {together_s / alone_s:.1f} times as long as one"
    return max(1, rows), text


def _a_row_s(measured: Measured) -> float:
    """What a further row costs."""
    return max(0.0, (measured.predict_n_s - measured.typical_1_s) / (measured.n - 1))


def decide(serve: ServeSettings, mode: str, mode_reason: str, measured: Optional[Measured]) -> Decision:
    """Both decisions as one value."""
    rows, batching = decide_batching(serve, measured)
    if measured is None:
        return Decision(mode, mode_reason, rows, batching)
    return Decision(
        mode,
        mode_reason,
        rows,
        batching,
        predict_1_s=measured.predict_1_s,
        predict_n_s=measured.predict_n_s,
        n=measured.n,
        fixed_s=max(0.0, measured.typical_1_s - _a_row_s(measured)) if rows > 1 else 0.0,
        releases_gil=measured.releases_gil,
    )
