"""`./dev bench [NAME [options]]`: run one benchmark, or all of them with their defaults, and print their tables."""

from __future__ import annotations

import importlib
import sys

NAMES = ("build", "registry", "rollouts", "serving")


def main(arguments: list[str]) -> int:
    """Run the named benchmark with the options behind its name."""
    if arguments and arguments[0] not in NAMES:
        print(f"no benchmark named {arguments[0]}; there are: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in arguments[:1] or NAMES:
        importlib.import_module(f"benchmarks.{name}").main(arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
