"""`./dev bench [NAME …]`: run benchmarks by name, all of them by default, and print their tables."""

from __future__ import annotations

import importlib
import sys

NAMES = ("build",)


def main(arguments: list[str]) -> int:
    """Run the named benchmarks."""
    chosen = [name for name in arguments if not name.startswith("-")] or list(NAMES)
    if unknown := [name for name in chosen if name not in NAMES]:
        print(f"no benchmark named {', '.join(unknown)}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in chosen:
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
