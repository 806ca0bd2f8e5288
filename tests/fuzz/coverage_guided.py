"""The same by coverage: libFuzzer through atheris, which keeps every input that reaches new code.

    python -m tests.fuzz.coverage_guided READER SECONDS OUT FOLDER     (started by `__main__` where atheris installs)

A finding does not end the run: it is kept, and the run goes on. What was reached lies in OUT/READER-corpus.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import sys
from pathlib import Path

import atheris

LATE = ("rooms.inspect.formats", "rooms.inspect.pickles", "rooms.build.wheels")  # imported when first called


def _import_all() -> None:
    for room in LATE:
        package = importlib.import_module(f"intermodal.{room}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)


with atheris.instrument_imports(include=["intermodal", "intermodal_server", "zipfile"], enable_loader_override=False):
    _import_all()
    from .campaign import CORPUS, Findings
    from .guard import limit_memory
    from .mutate import MAX_BYTES, mutate


def main(reader: str, seconds: float, out: Path, folder: Path) -> None:
    """Run; never returns, as libFuzzer ends the process."""
    limit_memory()
    found = Findings(reader, out, folder)
    for path in sorted((CORPUS / reader).iterdir()):
        found.try_(path.read_bytes())

    def one(data: bytes) -> None:
        found.try_(data)

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.4:
            made: bytes = atheris.Mutate(data, max_size)
            return made
        return mutate(reader, data, chance)[:max_size]

    reached = out / f"{reader}-corpus"
    reached.mkdir(parents=True, exist_ok=True)
    words = [f"-max_total_time={int(seconds)}", f"-max_len={MAX_BYTES}", "-rss_limit_mb=0", "-print_final_stats=1"]
    words += [f"-artifact_prefix={out}/{reader}-", str(reached), str(CORPUS / reader)]
    atheris.Setup([sys.argv[0], *words], one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
