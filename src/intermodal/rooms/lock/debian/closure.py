"""Dependency closure over signed indexes: from a few names to every package that must be in the image.

Takes `Archive` (the indexes of one platform) and root names; hands on the packages, one version each.

Rules, in order:
1. The newest version over all suites wins; the security suite is always among them.
2. Depends and Pre-Depends are followed; Recommends and Suggests are not.
3. Of alternatives the first that is already chosen counts, then the first that exists in a good version; a virtual
   package is its first provider by name.
4. What an image never needs (`EXCLUDED`: the package manager, account tools, the shell's helpers) is left out and
   counts as there, unless it was asked for by name.
5. A relation that nothing satisfies is an error, never skipped.

Spec: Debian Policy 7, "Declaring relationships between packages".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from intermodal.errors import RequirementError
from intermodal.rooms.lock.debian.packages import Deb, PackageIndex
from intermodal.rooms.lock.debian.versions import satisfies, version_key

_LEFT_OUT = """
adduser apt base-passwd bsdutils cdebconf debconf debconf-2.0 debianutils dpkg e2fsprogs findutils gawk grep gzip
hostname init-system-helpers install-info libc-bin libc-l10n login login.defs mawk mount ncurses-bin openssl
openssl-provider-legacy original-awk passwd perl perl-base sed sensible-utils sysvinit-utils tar ucf util-linux
"""
EXCLUDED = frozenset(_LEFT_OUT.split())
_RELATION = re.compile(
    r"^\s*([a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^)\s]+)\s*\))?\s*$"
)


class Relation(Struct, frozen=True):
    """One alternative of a dependency."""

    name: str
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


def parse_relations(text: str) -> list[list[Relation]]:
    """The clauses of a Depends field, each a list of alternatives.

    >>> [[str(a) for a in clause] for clause in parse_relations("libc6 (>= 2.36), awk | mawk")]
    [['libc6 (>= 2.36)'], ['awk', 'mawk']]
    """
    clauses = []
    for clause in text.split(","):
        alternatives = []
        for alternative in clause.split("|"):
            match = _RELATION.match(alternative)
            if match:
                alternatives.append(Relation(match[1], match[2] or "", match[3] or ""))
            elif alternative.strip():
                raise RequirementError(f"cannot read a Debian dependency: {alternative.strip()[:80]!r}")
        if alternatives:
            clauses.append(alternatives)
    return clauses


class Archive:
    """All indexes of one platform, asked as one."""

    def __init__(self, indexes: Iterable[PackageIndex], suite: str, platform: str) -> None:
        self.indexes = tuple(indexes)
        self.suite = suite
        self.platform = platform
        self._newest: dict[str, Deb | None] = {}

    def newest(self, name: str) -> Deb | None:
        """The newest version of a real package, or None."""
        if name not in self._newest:
            found = [deb for index in self.indexes for deb in index.versions(name)]
            self._newest[name] = max(found, key=lambda deb: version_key(deb.version), default=None)
        return self._newest[name]

    def providers(self, relation: Relation) -> list[Deb]:
        """The newest packages that provide a virtual name in a good version."""
        found: dict[str, Deb] = {}
        for index in self.indexes:
            for package, version in index.providers(relation.name):
                deb = self.newest(package)
                if deb is None or deb.archive != index.archive:
                    continue
                if not relation.operator or (version and satisfies(version, relation.operator, relation.version)):
                    found.setdefault(package, deb)
        return [found[name] for name in sorted(found)]

    def candidates(self, relation: Relation) -> list[Deb]:
        """What satisfies one relation: the real package first, then providers."""
        real = self.newest(relation.name)
        fits = real is not None and (
            not relation.operator or satisfies(real.version, relation.operator, relation.version)
        )
        return ([real] if real is not None and fits else []) + self.providers(relation)

    def close(self) -> None:
        """Close every index."""
        for index in self.indexes:
            index.close()


def closure(archive: Archive, roots: Iterable[str], given: Iterable[Deb] = ()) -> list[Deb]:
    """Every package that the roots need, themselves included, sorted by name.

    Args:
        archive: where packages are looked for.
        roots: names to start from; one that is left out otherwise is taken when it stands here.
        given: packages that are there already; they count, are not followed again, and are not in the answer.

    Raises:
        RequirementError: a root does not exist (near names are shown), or a dependency cannot be satisfied.
    """
    wanted = list(dict.fromkeys(roots))
    excluded = EXCLUDED - set(wanted)
    present = {deb.name for deb in given}
    chosen: dict[str, Deb] = {}
    queue: list[Deb] = []

    def take(deb: Deb) -> None:
        if deb.name not in chosen and deb.name not in present:
            chosen[deb.name] = deb
            queue.append(deb)

    for name in wanted:
        found = archive.candidates(Relation(name))
        if not found:
            raise _unknown(archive, name)
        take(found[0])
    while queue:
        deb = queue.pop(0)
        for clause in parse_relations(deb.depends):
            if any(relation.name in excluded for relation in clause):
                continue
            options = [option for relation in clause for option in archive.candidates(relation)]
            if any(option.name in chosen or option.name in present for option in options):
                continue
            allowed = [option for option in options if option.name not in excluded]
            if options and not allowed:
                continue  # only something that is left out on purpose would provide it
            if not allowed:
                raise RequirementError(
                    f"Debian package {deb.name} cannot be installed from {archive.suite}",
                    found=f"{deb.name} {deb.version} needs {' | '.join(map(str, clause))}, which nothing provides",
                    next="the mirror may be halfway through an update: try again later, or choose another mirror",
                )
            take(allowed[0])
    return [chosen[name] for name in sorted(chosen)]


def _unknown(archive: Archive, name: str) -> RequirementError:
    import difflib

    names = {known for index in archive.indexes for known in index.names()}
    near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.7)
    return RequirementError(
        f"{archive.suite} has no Debian package {name!r} for {archive.platform}",
        found=f"near names: {', '.join(near)}" if near else f"{len(names)} packages looked through",
        next="correct it in [environment] system",
    )
