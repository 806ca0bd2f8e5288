"""What was measured, as it is kept: every point of every round."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.serving.contenders import BARE
from benchmarks.serving.extras import Idle
from benchmarks.serving.load import Point
from benchmarks.serving.tree import Memory

POINTS = ((1, 1), (1, 8), (1, 32), (1, 64), (32, 1), (32, 8))  # rows of a request, connections


@dataclass
class Cell:
    """One server with one model."""

    points: dict[str, list[Point]] = field(default_factory=dict)
    start_s: list[float] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    health_ms: list[list[float]] = field(default_factory=list)

    def add(self, rows: int, connections: int, point: Point) -> None:
        """Keep a point."""
        self.points.setdefault(f"{rows}x{connections}", []).append(point)

    def of(self, what: str, rows: int, connections: int) -> float:
        """The median over the rounds of one field of a point."""
        return median(float(getattr(point, what)) for point in self.points[f"{rows}x{connections}"])

    def health_p99_ms(self) -> float:
        """Of the health address under load, the worst round."""
        return max(taken[int(len(taken) * 0.99)] for taken in self.health_ms)


@dataclass
class Results:
    """Everything of one run."""

    own_ms: dict[int, dict[str, float]]
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)  # contender, then kind
    binary_ms: list[float] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)

    def cell(self, name: str, kind: str) -> Cell:
        """The cell of a server and a model, empty at first."""
        return self.cells.setdefault(name, {}).setdefault(kind, Cell())

    def peers(self, kind: str) -> dict[str, Cell]:
        """All but ours that do the same job."""
        return {name: cells[kind] for name, cells in self.cells.items() if name not in ("ours", BARE) and kind in cells}

    def best(self, kind: str, rows: int, connections: int) -> tuple[str, Cell] | None:
        """The peer with most requests a second at one point."""
        found = self.peers(kind)
        return max(found.items(), key=lambda item: item[1].of("rate", rows, connections), default=None)

    def write(self, path: Path) -> None:
        """Keep everything."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))
