"""Measure a loaded model: how long one row takes, how long many, whether together is as alone, who else may run.

Takes a backend, its settings and golden cases, hands on `Measured`. Runs in the process that holds the model, so it
calls the backend itself; nothing here may take longer than about `BUDGET_S` beyond the calls that it cannot do without.

Rules, in order:
1. Golden requests are the material; without any, rows made up from the signature where it says enough (numbers and
   booleans of known shape). A predictor is somebody's program, which may write, send or count: it is not called with
   rows that nobody sent. What cannot be tried is not measured, and not batched.
2. The time of a row is its best of several calls, so that a busy machine does not count; p95 over the rows.
3. Together is as alone when all requests merged, merged in reverse, and repeated up to 32 rows, give each request its
   own answer, within the tolerances of the golden check; a slow model is tried with the last of these only. A model
   that raises or answers with another number of rows is not batched.
4. The GIL counts as released when a second thread that naps for half a millisecond at a time wakes up at least half as
   often while the model predicts as it does when nothing runs: that is what the event loop would see. Where the model
   gives it up for moments only, such a thread is now in luck and now not; so it must be in luck nearly always.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable, Optional

from intermodal_server.contract import INTEGER_DATATYPES, ModelSettings, TensorSpec
from intermodal_server.golden import compare
from intermodal_server.rows import RowCountError, check_rows, merge, merge_key, row_count, split
from intermodal_server.tensors import Tensor, TensorError, elements, encode, from_document, to_document
from intermodal_server.worker.backends.interface import Backend
from intermodal_server.worker.measured import Measured

BUDGET_S = 1.0
MOST_REQUESTS = 32
MOST_ROWS = 256
CALLS = 5  # of one row
SLOW_S = 0.1  # a model that takes longer is asked as seldom as can be
NAP_S = 0.0005
GIL_LEAST_S = 0.001  # below, nobody needs to know
GIL_TRIAL_S = 0.03
GIL_SHARE = 0.5
TRIALS = 3

OWN = "predictor"
NOT_MADE_UP = ("cannot be made up from so open a signature", "are not made up for a program of one's own")

Inputs = Sequence[Tensor]


def measure(
    model: Backend, settings: ModelSettings, cases: Sequence[Mapping[str, Any]], *, load_s: float, mode: bool
) -> Measured:
    """What was found; never raises.

    Args:
        model: loaded.
        settings: of the model.
        cases: golden cases as `golden.json` holds them.
        load_s: how long loading took.
        mode: also find out what decides the execution mode.
    """
    found = Measured(load_s=load_s)
    if not mode and settings.serve.max_batch_rows == 1:  # nothing hangs on it
        return found
    try:
        requests = _golden_requests(cases)
        found = replace(found, golden=bool(requests))
        if not requests:
            requests = _made_up(settings)
        if not requests:
            return replace(found, problem=f"there are no golden cases, and rows {NOT_MADE_UP[settings.backend == OWN]}")
        return _measured(model, settings, requests, found, mode)
    except BaseException as error:  # the model may raise anything; it will say so again when it is asked
        return replace(found, problem=f"the trial failed: {type(error).__name__}")


def _measured(model: Backend, settings: ModelSettings, requests: list[Inputs], found: Measured, mode: bool) -> Measured:
    singles = [row for request in requests for row in _rows_of(request, 8)][:MOST_REQUESTS] or requests
    lone = _times(model, singles)
    found = replace(found, predict_1_s=lone[int(len(lone) * 0.95)], typical_1_s=lone[len(lone) // 2])
    if mode and found.typical_1_s >= GIL_LEAST_S:
        found = replace(found, releases_gil=_releases_gil(lambda: model.predict(singles[0]), found))
    if settings.serve.max_batch_rows == 1:
        return found
    alike = _largest_group(requests)
    if sum(row_count(request) or 0 for request in alike) < 2:
        return replace(found, problem="fewer than two rows that could go together are known")
    if len(alike) == 1:
        alike = list(_rows_of(alike[0], MOST_REQUESTS))
    alike = alike[: max(2, int(BUDGET_S / 4 / found.typical_1_s))]
    alone = [model.predict(request) for request in alike]
    n, there = min(32, settings.serve.max_batch_rows), list(range(len(alike)))
    orders = [there, there[::-1]] if found.typical_1_s < SLOW_S else []
    for order in [*orders, _of_rows(alike, there[::-1], n)]:
        problem, took_s = _together(model, settings, alike, alone, order)
        if problem:
            return replace(found, problem=problem)
        found = replace(found, n=sum(row_count(alike[i]) or 0 for i in order), predict_n_s=took_s)
    if orders:
        many = merge([alike[i] for i in order], found.n)
        found = replace(found, predict_n_s=min(took_s, *(_timed(model, many) for _ in range(2))))
    return replace(found, same=True)


# --- material ---------------------------------------------------------------------------------------------------------
def _golden_requests(cases: Sequence[Mapping[str, Any]]) -> list[Inputs]:
    requests: list[Inputs] = []
    for case in cases[:MOST_REQUESTS]:
        inputs = [from_document(document) for document in case["request"]["inputs"]]
        rows = row_count(inputs)
        if rows is None or 0 < rows <= MOST_ROWS:
            requests.append(inputs)
    return requests


def _made_up(settings: ModelSettings) -> list[Inputs]:
    """A few rows that fit the signature, or none when it leaves too much open."""
    specs = settings.signature.inputs
    if settings.backend == OWN or not specs or any(not _can_make_up(spec) for spec in specs):
        return []
    return [[_values(spec, seed) for spec in specs] for seed in range(4)]


def _can_make_up(spec: TensorSpec) -> bool:
    known = spec.shape[:1] == (-1,) and all(length > 0 for length in spec.shape[1:])
    return known and spec.datatype != "BYTES" and not spec.assumed and elements(spec.shape[1:]) <= 1 << 20


def _values(spec: TensorSpec, seed: int) -> Tensor:
    shape = (1, *spec.shape[1:])
    steps = [(place * 7 + seed * 3) % 10 for place in range(elements(shape))]
    values: list[Any] = steps if spec.datatype in INTEGER_DATATYPES else [step / 10 for step in steps]
    if spec.datatype == "BOOL":
        values = [step > 4 for step in steps]
    return Tensor(spec.name, spec.datatype, shape, encode(values, spec.datatype, spec.name))


def _rows_of(request: Inputs, most: int) -> list[Inputs]:
    """The first rows of a request, each as a request of its own."""
    rows = row_count(request)
    if not rows:
        return []
    if rows == 1:
        return [request]
    return split(request, [1] * rows)[:most]  # type: ignore[return-value]


def _largest_group(requests: Sequence[Inputs]) -> list[Inputs]:
    """The most requests that could go together."""
    groups: dict[Any, list[Inputs]] = {}
    for request in requests:
        if row_count(request):
            groups.setdefault(merge_key(request), []).append(request)
    return max(groups.values(), key=len) if groups else []


def _of_rows(requests: Sequence[Inputs], order: Sequence[int], rows: int) -> list[int]:
    """`order` over and over until there are `rows` rows, as few more as the requests allow."""
    found: list[int] = []
    while rows > 0:
        for i in order:
            if rows > 0:
                found.append(i)
                rows -= row_count(requests[i]) or 1
    return found


# --- times ------------------------------------------------------------------------------------------------------------
def _timed(model: Backend, inputs: Inputs) -> float:
    begin_s = time.perf_counter()
    model.predict(inputs)
    return time.perf_counter() - begin_s


def _times(model: Backend, rows: Sequence[Inputs]) -> list[float]:
    """The best time of each row, sorted; fewer calls and rows of a slow model."""
    first_s = _timed(model, rows[0])  # often allocates, compiles, imports
    if first_s > SLOW_S:
        second_s = _timed(model, rows[-1])
        return [min(first_s, second_s)]
    end_s = time.perf_counter() + BUDGET_S / 4
    found: list[float] = []
    for row in rows:
        found.append(min(_timed(model, row) for _ in range(CALLS)))
        if time.perf_counter() > end_s:
            break
    return sorted(found)


def _naps(busy: Callable[[], None]) -> float:
    """How often a second thread woke up per second, while `busy` ran."""
    counts, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            time.sleep(NAP_S)
            counts[0] += 1

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    begin_s = time.perf_counter()
    busy()
    took_s = time.perf_counter() - begin_s
    seen = counts[0]
    stop.set()
    thread.join()
    return seen / took_s


def _releases_gil(predict: Callable[[], Any], found: Measured) -> Optional[bool]:
    times = max(1, int(GIL_TRIAL_S / found.typical_1_s))

    def work() -> None:
        for _ in range(times):
            predict()

    idle = max(_naps(lambda: time.sleep(0.03)) for _ in range(TRIALS))
    if not idle:
        return None
    starved = 0
    for _ in range(3 * TRIALS):
        starved += _naps(work) < GIL_SHARE * idle
        if starved == TRIALS:  # a busy machine may spoil some
            return False
    return True


# --- together ---------------------------------------------------------------------------------------------------------
def _together(
    model: Backend,
    settings: ModelSettings,
    requests: Sequence[Inputs],
    alone: Sequence[Sequence[Tensor]],
    order: Sequence[int],
) -> tuple[str, float]:
    """Why `requests` must not go together, "" when they may; and how long it took."""
    counts = [row_count(requests[i]) or 0 for i in order]
    try:
        inputs = merge([requests[i] for i in order], sum(counts))
        begin_s = time.perf_counter()
        outputs = model.predict(inputs)
        took_s = time.perf_counter() - begin_s
        check_rows(outputs, sum(counts))
        parts = split(outputs, counts)
    except RowCountError as error:
        return f"the outputs do not have one row for each input row: {error}", 0.0
    except Exception as error:
        return f"rows together fail: {type(error).__name__}", 0.0
    if all(_equal(alone[i], part, settings) for i, part in zip(order, parts)):
        return "", took_s
    return "rows together are not answered as they are alone", 0.0


def _equal(alone: Sequence[Tensor], together: Sequence[Tensor], settings: ModelSettings) -> bool:
    if [(t.name, t.datatype, t.shape, bytes(t.data)) for t in alone] == [
        (t.name, t.datatype, t.shape, bytes(t.data)) for t in together
    ]:
        return True
    try:
        bodies = [{"outputs": [to_document(tensor) for tensor in answer]} for answer in (alone, together)]
    except TensorError:  # bytes that are no text, and differ
        return False
    tolerance = settings.tolerance
    return not compare("", bodies[0], bodies[1], rtol=tolerance.rtol, atol=tolerance.atol)
