"""One campaign: seeds first, then mutations of them; whatever a reader did wrong is kept once.

Takes the name of a reader and how long; hands on the number of different findings. The same seed gives the same inputs.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from .guard import limit_memory
from .mutate import mutate
from .targets import run

CORPUS = Path(__file__).parent / "corpus"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where inputs are unpacked
GENERATION = 64  # mutations of mutations, before the seeds are taken again


def corpus_of(reader: str) -> list[bytes]:
    """The seeds of a reader and everything that was ever found with it, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / reader).iterdir())]


class Findings:
    """Runs inputs and keeps one example of each way to fail."""

    def __init__(self, reader: str, out: Path, folder: Path) -> None:
        self._reader, self._out, self._folder = reader, out, folder
        self.kinds: dict[str, str] = {}
        self.runs = 0
        self.taken = 0

    def try_(self, data: bytes) -> bool:
        """Whether the reader did nothing wrong with `data`."""
        self.runs += 1
        try:
            self.taken += run(self._reader, data, self._folder)
        except Exception as error:
            self._keep(error, data)
            return False
        return True

    def _keep(self, error: Exception, data: bytes) -> None:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "intermodal" in Path(f.filename).parts]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        kind = f"{type(error).__name__} {place}" if place else f"{type(error).__name__} {str(error)[:60]}"
        if kind in self.kinds:
            return
        self.kinds[kind] = str(error)
        self._out.mkdir(parents=True, exist_ok=True)
        kept = self._out / f"{self._reader}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
        kept.write_bytes(data)
        print(f"{self._reader}: FOUND {kind}: {str(error)[:300]} ({kept})", file=sys.stderr, flush=True)
        kept.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


def by_structure(reader: str, *, runs: int, seconds: float, seed: int, out: Path) -> int:
    """How many different findings `runs` mutations gave, or those of so many `seconds`."""
    limit_memory()
    chance, seeds = random.Random(seed), corpus_of(reader)
    with tempfile.TemporaryDirectory(prefix="im-fuzz-", dir=MEMORY) as folder:
        found = Findings(reader, out, Path(folder))
        for data in seeds:
            found.try_(data)
        until = time.monotonic() + seconds
        data, done = b"", 0
        while done < runs or (seconds and time.monotonic() < until):
            data = chance.choice(seeds) if done % GENERATION == 0 or chance.random() < 0.3 else data
            made = mutate(reader, data, chance)
            data = made if found.try_(made) and made else chance.choice(seeds)
            done += 1
    print(f"{reader}: {found.runs} executions, {found.taken} of them taken, {len(found.kinds)} findings", flush=True)
    return len(found.kinds)
