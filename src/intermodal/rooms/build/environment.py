"""The layers of one Python environment: the model's in /opt/venv, or the server's in /opt/intermodal.

Takes the locked packages, hands on parts. What each wheel brings is remembered beside its layer, so that wheels of
different layers can be compared without reading any of them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from intermodal.errors import StoreError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.host.files import read_json, write_atomically
from intermodal.oci.blob import BlobWriter
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import Digest
from intermodal.rooms.build.layer_cache import layer_key
from intermodal.rooms.build.part import Part, Tools
from intermodal.rooms.build.wheels.groups import Group, LockedWheel, group, identity, pruned
from intermodal.rooms.build.wheels.prune import PruneRules, rules
from intermodal.rooms.build.wheels.scheme import Scheme
from intermodal.rooms.lock.platforms import fits
from intermodal.rooms.lock.rows import Lock, PackageRow


def locked_wheels(packages: Sequence[PackageRow], lock: Lock, platform: str, events: Events) -> list[LockedWheel]:
    """The wheels of an environment for one platform, without distributions that the prune rules drop whole
    and those that only another platform needs.
    """
    found = []
    dropped = []
    for package in packages:
        if not fits(package, platform, lock.python):
            continue
        if lock.policy.prune and rules().drops_all_of(package.name, lock.policy.keep):
            dropped.append(package.name)
            continue
        row = lock.wheel_for(package, platform)
        found.append(LockedWheel(package.name, package.version, row.filename, row.digest, row.size_bytes))
    if dropped:
        events.notice(f'left out of a CPU image: {", ".join(dropped)}; prune = {{ keep = ["{dropped[0]}"] }} keeps it')
    return found


def plan_environment(
    wheels: Sequence[LockedWheel],
    scheme: Scheme,
    lock: Lock,
    *,
    kind: str,
    buckets: int,
    host: Host,
    events: Events,
) -> list[Part]:
    """The parts of one environment.

    Args:
        wheels: with their sizes known.
        scheme: where they are installed.
        lock: its policies decide bytes, too.
        kind: "wheel" for the model's environment (then shared layers are "wheels"), "server" for the server's.
        buckets: how many layers small wheels are spread over.
        host: whose cache remembers what each wheel brought.
        events: told of equal files in two wheels.
    """
    parts = []
    for each in group(wheels, buckets=buckets):
        who = identity(each, scheme, lock, rules())
        layer_kind = kind if each.single or kind != "wheel" else "wheels"
        paths_file = host.cache_dir / "layers" / f"{layer_key(who)}.paths.json"
        write = _Writer(each, scheme, lock, layer_kind, paths_file, host.temporary_dir, events)
        compiles = lock.policy.bytecode != "none"
        parts.append(Part(layer_kind, each.title, who, write, each.wheels, paths_file, compiles))
    return parts


def check_collisions(parts: Sequence[Part], host: Host, events: Events) -> None:
    """Nothing, when no two wheels of these layers want one path with different content.

    Raises:
        DuplicatePathError: two do.
    """
    keys = sorted(layer_key(part.identity) for part in parts)
    marker = host.cache_dir / "layers" / f"{layer_key({'without collisions': keys})}.json"
    if marker.exists():
        return
    from intermodal.rooms.build.wheels.layers import shared_paths

    shared_paths([_read_paths(part) for part in parts], events)
    write_atomically(marker, b"{}", host.temporary_dir)


def _read_paths(part: Part) -> Mapping[str, Mapping[str, str]]:
    assert part.paths_file is not None
    document = read_json(part.paths_file)
    if not isinstance(document, dict):
        raise StoreError(f"the cache lost what {part.title} brought", found=str(part.paths_file), next="build again")
    return document


class _Writer:
    """Writes the layer of one group; a value, so that it can be planned long before it is called."""

    def __init__(
        self,
        which: Group,
        scheme: Scheme,
        lock: Lock,
        kind: str,
        paths_file: Path,
        temporary: Path,
        events: Events,
    ) -> None:
        self._group = which
        self._scheme = scheme
        self._lock = lock
        self._kind = kind
        self._paths_file = paths_file
        self._temporary = temporary
        self._events = events

    def __call__(self, sink: BlobWriter, tools: Tools) -> LayerInfo:
        from intermodal.rooms.build.wheels.layers import write_group

        info, paths = write_group(
            self._group,
            tools.files,
            self._scheme,
            sink,
            rules=self._rules,
            compile_sources=tools.compile_sources,
            events=self._events,
        )
        write_atomically(self._paths_file, json.dumps(paths).encode(), self._temporary)
        return replace(info, kind=self._kind)

    def _rules(self, name: str) -> PruneRules | None:
        return rules() if pruned(name, self._lock, rules()) else None


def with_sizes(wheels: Sequence[LockedWheel], files: Mapping[Digest, Path]) -> list[LockedWheel]:
    """The wheels with sizes taken from the files where the lock has none."""
    return [
        wheel if wheel.size_bytes else replace(wheel, size_bytes=files[wheel.digest].stat().st_size) for wheel in wheels
    ]
