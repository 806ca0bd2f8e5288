"""The tables: every server at every point, then the figures that we hold ourselves to."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks.measure import table
from benchmarks.serving.contenders import BARE
from benchmarks.serving.kitchen import KINDS
from benchmarks.serving.results import POINTS, Cell, Results

TITLES = {"forest": "Forest: 100 trees of scikit-learn, `joblib`", "mlp": "Network: 64-64-32-10, ONNX"}
BATCHING = ("BentoML, batching", "LitServe, batching", "MLServer, batching")

Verdict = tuple[str, str, str, str]  # what, found, wanted, verdict


def markdown(results: Results) -> str:
    """Everything that the run has found."""
    parts = [_points(results, kind) for kind in KINDS if any(kind in cells for cells in results.cells.values())]
    parts += [_costs(results), _machine(results)]
    if "ours" in results.cells:
        parts.insert(0, table(("what", "found", "wanted", "verdict"), list(_verdicts(results))))
    return "\n\n".join(parts)


def _rate(value: float) -> str:
    return f"{value:,.0f}"


def _points(results: Results, kind: str) -> str:
    header = ["requests/s (p50 / p99 ms)", *(f"{_rows(rows)}, c={c}" for rows, c in POINTS)]
    lines = []
    for name, cells in results.cells.items():
        if kind in cells:
            cell = cells[kind]
            words = [
                f"{_rate(cell.of('rate', *at))} ({cell.of('p50_ms', *at):.3g} / {cell.of('p99_ms', *at):.3g})"
                for at in POINTS
            ]
            lines.append([name, *words])
    own = ", ".join(f"{_rows(rows)}: {each[kind]:.3g} ms" for rows, each in results.own_ms.items())
    return f"**{TITLES[kind]}** (by itself, without a server: {own})\n\n{table(header, lines)}"


def _rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _costs(results: Results) -> str:
    header = ["server"]
    for kind in KINDS:
        header += [f"{kind}: CPU us a request, c=1 / 32 / 64", "start s", "RSS / PSS MB (processes)"]
    header.append("health p99 ms, forest c=32")
    lines = []
    for name, cells in results.cells.items():
        line = [name]
        for kind in KINDS:
            line += _cost(cells[kind]) if kind in cells else ["", "", ""]
        line.append(f"{cells['forest'].health_p99_ms():.1f}" if "forest" in cells else "")
        lines.append(line)
    return table(header, lines)


def _cost(cell: Cell) -> list[str]:
    used = " / ".join(_rate(cell.of("cpu_us", 1, c)) for c in (1, 32, 64))
    last = cell.memory[-1]
    return [used, f"{median(cell.start_s):.2f}", f"{last.rss_mb:.0f} / {last.pss_mb:.0f} ({last.processes})"]


def _machine(results: Results) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    loads = [p.load for cells in results.cells.values() for c in cells.values() for e in c.points.values() for p in e]
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release().partition('-')[0]}; load average "
        f"at the points {min(loads):.1f} to {max(loads):.1f}, wrk included."
    )


def _verdicts(results: Results) -> Iterator[Verdict]:
    if "mlp" in results.cells["ours"]:
        yield from _network(results, results.cells["ours"]["mlp"])
    if "forest" in results.cells["ours"]:
        yield from _forest(results, results.cells["ours"]["forest"])
    for kind in KINDS:
        if kind in results.cells["ours"] and results.peers(kind):
            yield _times(results, kind, (32, 8), 2, list(results.peers(kind)))
    if results.binary_ms:
        yield _below("1 MB of FP32 in binary, in and out, over the model's time", median(results.binary_ms), 1.0, "ms")
    if results.idle:
        front = median(each.front_mb for each in results.idle)
        yield _below("model that does nothing: front, resident", front, 60, "MB")
        start = median(each.start_s for each in results.idle)
        yield _below("- start to first answer", start, 0.6, "s")


def _network(results: Results, ours: Cell) -> Iterator[Verdict]:
    peers = results.peers("mlp")
    for c in (32, 64) if peers else ():
        yield _times(results, "mlp", (1, c), 5, list(peers))
        best = results.best("mlp", 1, c)
        assert best is not None
        limit = best[1].of("p50_ms", 1, c)
        yield _below(f"- p99, against p50 of {best[0]}", ours.of("p99_ms", 1, c), limit, "ms")
        if BARE in results.cells:
            bare = results.cells[BARE]["mlp"].of("rate", 1, c)
            yield (f"- against {BARE}", f"{ours.of('rate', 1, c) / bare:.1f}x ({_rate(bare)})", "", "")
    if "FastAPI" in peers:
        times = ours.of("rate", 1, 1) / peers["FastAPI"].of("rate", 1, 1)
        yield ("network, 1 row, c=1: requests/s", f"{times:.2f}x FastAPI", "1x", _verdict(1 / times))


def _forest(results: Results, ours: Cell) -> Iterator[Verdict]:
    batching = [name for name in results.peers("forest") if name in BATCHING]
    if batching:
        yield _times(results, "forest", (1, 32), 5, batching)
    yield _below("- p99", ours.of("p99_ms", 1, 32), 40, "ms")
    own = results.own_ms[1]["forest"]
    yield _below("forest, 1 row, c=1: p50", ours.of("p50_ms", 1, 1), own * 1.1, f"ms (1.1 x {own:.2f})")
    yield _below("health address while the forest is loaded, c=32: p99", ours.health_p99_ms(), 10, "ms")


def _times(results: Results, kind: str, at: tuple[int, int], wanted: float, among: Sequence[str]) -> Verdict:
    peers = results.peers(kind)
    name = max(among, key=lambda each: peers[each].of("rate", *at))
    ours, theirs = results.cells["ours"][kind].of("rate", *at), peers[name].of("rate", *at)
    what = f"{'network' if kind == 'mlp' else kind}, {_rows(at[0])}, c={at[1]}: requests/s"
    found = f"{ours / theirs:.1f}x {name} ({_rate(ours)} to {_rate(theirs)})"
    return what, found, f"{wanted:g}x", _verdict(wanted * theirs / ours)


def _below(what: str, found: float, limit: float, unit: str) -> Verdict:
    return what, f"{found:.3g} {unit.partition(' ')[0]}", f"at most {limit:.3g} {unit}", _verdict(found / limit)


def _verdict(part: float) -> str:
    """`part` is what was found as a part of what is allowed."""
    return "holds" if part <= 1 else f"missed by {(part - 1) * 100:.0f} %"
