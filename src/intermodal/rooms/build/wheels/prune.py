"""What is left out of wheels, by the rules of `prune.toml`.

Takes names, answers yes or no; the rules are data, so that a reader can check them and a version stands for them. The
result is proven by `check`: an image whose pruned parts were needed does not give its golden predictions.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from fnmatch import translate
from functools import cache
from pathlib import Path

from msgspec import Struct


class PruneRules(Struct, frozen=True):
    """The rules, ready to be asked."""

    version: int
    folders: frozenset[str]
    suffixes: tuple[str, ...]
    paths: re.Pattern[str]
    keep_paths: re.Pattern[str]
    keep_distributions: re.Pattern[str]
    drop_distributions: re.Pattern[str]

    def applies_to(self, distribution: str, keep: Collection[str] = ()) -> bool:
        """Whether anything of a distribution may be left out; `keep` are the names that the project exempts."""
        return distribution not in keep and not self.keep_distributions.fullmatch(distribution)

    def drops_all_of(self, distribution: str, keep: Collection[str] = ()) -> bool:
        """Whether a CPU image goes without the whole distribution."""
        return distribution not in keep and bool(self.drop_distributions.fullmatch(distribution))

    def drops(self, path: str) -> bool:
        """Whether the file at `path` below site-packages is left out.

        >>> rules().drops("numpy/linalg/tests/test_linalg.py"), rules().drops("numpy/testing/_private/utils.py")
        (True, False)
        """
        if not self._dropped(path):
            return False
        return not self.keep_paths.match(path)

    def _dropped(self, path: str) -> bool:
        if path.endswith(self.suffixes):
            return True
        return not self.folders.isdisjoint(path.split("/")[:-1]) or bool(self.paths.match(path))


@cache
def rules() -> PruneRules:
    """The rules of this version of the program."""
    document = tomllib.loads(Path(__file__).with_name("prune.toml").read_text(encoding="utf-8"))
    return PruneRules(
        version=document["version"],
        folders=frozenset(document["folders"]),
        suffixes=tuple(document["suffixes"]),
        paths=_below(document["paths"]),
        keep_paths=_below(document["keep_paths"]),
        keep_distributions=_any(document["keep_distributions"]),
        drop_distributions=_any(document["drop_distributions"]),
    )


def _below(patterns: list[str]) -> re.Pattern[str]:
    """Matches a path that is one of `patterns` or lies below; a leading `*/` stands for any depth."""
    parts = []
    for pattern in patterns:
        deep = pattern.startswith("*/")
        body = re.escape(pattern.removeprefix("*/")).replace(r"\*", "[^/]*")
        parts.append(f"{'(?:.*/)?' if deep else ''}{body}(?:/|$)")
    return re.compile("|".join(parts))


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(pattern) for pattern in patterns))
