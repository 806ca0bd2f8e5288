"""The identity of a lock: digests that do not depend on where or when its bytes were found.

Takes a `Lock`; hands on the digest of the whole and that of its environment. Left out: addresses, sizes that only
some indexes state (the hash stands for them), dates, the version of this tool, where files lie on the host, and what
only compiles byte code on a host of another kind. So two mirrors, and two architectures, give one image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from intermodal.oci.digest import Digest
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock.rows import Lock, PackageRow


def lock_digest(lock: Lock) -> Digest:
    """The digest that image labels carry."""
    return _digest(
        {
            "name": lock.name,
            "version": lock.version,
            "requirements": sorted(lock.requirements),
            "environment": _environment(lock),
            "model": _files(lock.model),
            "app": _files(lock.app),
            "golden": _files([lock.golden] if lock.golden else []),
        }
    )


def environment_digest(lock: Lock) -> Digest:
    """The digest of everything but model, application, golden cases and the project's name."""
    return _digest(_environment(lock))


def _digest(value: object) -> Digest:
    return Digest.of(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def _environment(lock: Lock) -> dict[str, object]:
    policy = lock.policy
    return {
        "python": lock.python,
        "platforms": list(lock.platforms),
        "packages": _packages(lock.packages),
        "base": {
            "suite": lock.base.suite,
            "python": lock.base.python_version,
            **_registry_base(lock),
            "packages": sorted(
                [row.architecture, row.name, row.version, row.digest.hex, row.layer]
                for row in lock.base.packages
                if row.layer != "compiler"
            ),
        },
        "server": {"tree": lock.server.tree.hex, "packages": _packages(lock.server.packages)},
        "policy": {
            "prune": policy.prune,
            "keep": list(policy.keep),
            "bytecode": policy.bytecode,
            "compression": policy.compression,
            "layout": policy.layout,
            "codec": policy.codec,
        },
    }


def _registry_base(lock: Lock) -> dict[str, object]:
    """The images of a registry base by digest; nothing for a base of Debian packages."""
    if not lock.base.images:
        return {}
    images = [row for row in lock.base.images if row.platform in lock.platforms]
    return {"images": sorted([row.platform, row.manifest.hex] for row in images)}


def _packages(rows: Sequence[PackageRow]) -> Sequence[object]:
    return sorted(
        [row.name, row.version, sorted([w.filename, w.digest.hex] for w in row.wheels), *map(str, row.platforms)]
        for row in rows
    )


def _files(rows: Sequence[FileRow]) -> Sequence[object]:
    return sorted([row.path, row.size_bytes, row.digest.hex, row.executable] for row in rows)
