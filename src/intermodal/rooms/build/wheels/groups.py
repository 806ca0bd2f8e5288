"""Which wheels share a layer, and what a layer's bytes depend on.

Takes the locked wheels of one environment, hands on groups, rarest change first, and their identities.

Rules, in order:
1. A wheel of 1 MiB or more has a layer of its own; a change of it moves nothing else.
2. The others go into 16 buckets by the hash of their name, so that adding one touches one bucket only.
3. If more than 60 layers would result, the smallest of the single ones join their buckets.
4. A layer's identity names everything that decides its bytes: wheels by hash, folders, interpreter, policies, versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from msgspec import Struct

from intermodal.oci.digest import Digest
from intermodal.rooms.build.bytecode import POLICY_VERSION
from intermodal.rooms.build.wheels.prune import PruneRules
from intermodal.rooms.build.wheels.scheme import Scheme
from intermodal.rooms.lock.rows import Lock

OWN_BYTES = 1 << 20
BUCKETS = 16
LAYERS_MAX = 60


class LockedWheel(Struct, frozen=True):
    """One wheel to be installed, with the distribution it is of."""

    name: str
    version: str
    filename: str
    digest: Digest
    size_bytes: int


class Group(Struct, frozen=True):
    """The wheels of one layer, by name."""

    wheels: tuple[LockedWheel, ...]
    single: bool

    @property
    def title(self) -> str:
        """What people read: "numpy 2.4.6", or the names of several."""
        if len(self.wheels) == 1:
            return f"{self.wheels[0].name} {self.wheels[0].version}"
        return ", ".join(wheel.name for wheel in self.wheels)


def group(wheels: Iterable[LockedWheel], *, buckets: int = BUCKETS, limit: int = LAYERS_MAX) -> list[Group]:
    """The wheels by layer: single ones first, each part in the order of names."""
    listed = sorted(wheels, key=lambda wheel: wheel.name)
    single = [wheel for wheel in listed if wheel.size_bytes >= OWN_BYTES]
    shared: dict[int, list[LockedWheel]] = {}

    def share(wheel: LockedWheel) -> None:
        shared.setdefault(bucket(wheel.name, buckets), []).append(wheel)

    for wheel in listed:
        if wheel.size_bytes < OWN_BYTES:
            share(wheel)
    by_size = sorted(single, key=lambda wheel: (wheel.size_bytes, wheel.name))
    while by_size and len(by_size) + len(shared) > limit:
        share(by_size.pop(0))
    own = sorted(by_size, key=lambda wheel: wheel.name)
    return [Group((wheel,), single=True) for wheel in own] + [
        Group(tuple(sorted(shared[number], key=lambda wheel: wheel.name)), single=False) for number in sorted(shared)
    ]


def bucket(name: str, buckets: int = BUCKETS) -> int:
    """The bucket that a distribution of this (normalised) name belongs to, for ever."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()) % buckets


def interpreter(lock: Lock) -> list[str]:
    """What decides byte code: the packages that the base's Python is made of, by hash; nothing when none is made.

    Those of every architecture, because any of them may compile: so a layer without code of a machine is the same layer
    for all platforms.
    """
    if lock.policy.bytecode == "none":
        return []
    debs = [f"{row.name} {row.digest}" for row in lock.base.packages if row.name.startswith(("python3", "libpython3"))]
    return sorted([*debs, *(f"{row.platform} {row.manifest}" for row in lock.base.images)])


def policies(lock: Lock) -> dict[str, object]:
    """The part of an identity that all layers with byte code share."""
    return {
        "python": lock.python,
        "interpreter": interpreter(lock),
        "bytecode": [lock.policy.bytecode, POLICY_VERSION],
        "layout": lock.policy.layout,
        "codec": lock.policy.codec,
        "compression": lock.policy.compression,
    }


def identity(group: Group, scheme: Scheme, lock: Lock, rules: PruneRules) -> Mapping[str, object]:
    """Everything that decides the bytes of the layer of `group`."""
    return {
        **policies(lock),
        "kind": "wheels",
        "prefix": scheme.prefix,
        "wheels": [str(wheel.digest) for wheel in group.wheels],
        "pruned": [pruned(wheel.name, lock, rules) for wheel in group.wheels],
        "rules": rules.version if lock.policy.prune else 0,
    }


def pruned(name: str, lock: Lock, rules: PruneRules) -> bool:
    """Whether the prune rules apply to a distribution."""
    return lock.policy.prune and rules.applies_to(name, lock.policy.keep)
