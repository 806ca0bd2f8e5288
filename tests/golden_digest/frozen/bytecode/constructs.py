"""Constants of every kind that marshal writes, nested code, and what compilers reorder when they can."""

from __future__ import annotations

import functools

WORDS = frozenset({"alpha", "beta", "gamma", "delta", "omega"})
NUMBERS = (1, 2**80, -1.5, 3 + 4j, True, None, ..., b"bytes", "tëxt", ("nested", (1, 2)), "x" * 5000)


def same(x: object, y: object = (1, 2, 3), *rest: int, key: str = "alpha", **more: object) -> object:
    """Closures, sets in comparisons, f-strings, exceptions, comprehensions."""
    if x in {"alpha", "beta", "gamma"} or key in WORDS:
        return [f"{a!r:>{10}}" for a in rest if a % 2 == 0]
    try:
        return {k: v for k, v in more.items() if (n := len(k)) > 3 and n}
    except (KeyError, ValueError) as error:
        raise RuntimeError("alpha") from error
    finally:
        del x, y


@functools.cache
def deep(n: int) -> object:
    """A function in a function in a function."""

    def one() -> object:
        def two() -> object:
            return lambda m=n: (m, n, WORDS)

        return two

    match n:
        case 0 | 1:
            return one
        case int(value) if value > 2:
            return [one, *range(value)]
    return None


class Thing:
    """A class with slots, properties and an async method."""

    __slots__ = ("alpha", "beta")

    @property
    def gamma(self) -> int:
        return self.alpha

    async def run(self, items: list[int]) -> list[int]:
        async with self:
            return [item async for item in self if item]
