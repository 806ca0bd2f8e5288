"""What no longer matches: contradictions, drift, and the refresh of file rows.

Takes a `Lock`, the `ModelCard` and the `Project` as they are now; hands on findings, or the lock with new file rows.

Rules, in order:
1. A version the artifact states exactly (scikit-learn's stamp) must be the lock's; one it states by prefix (NumPy's
   major) must be the prefix of the lock's. Anything else is a contradiction, whoever pinned it.
2. What the user asked for (requirements, system, Python, base, platforms, policy) is compared by value, so that the
   difference can be named.
3. The server's sources and the layout are compared with those of this installation.
4. Model, application and golden files are compared by hash; only these rows can be refreshed without `lock`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

import intermodal_server
from intermodal.errors import ArtifactError, ContradictionError
from intermodal.events import SILENT, Events
from intermodal.fetch.names import normalise
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import Evidence, FileRow, ModelCard
from intermodal.rooms.lock import inputs
from intermodal.rooms.lock.app import collect_app
from intermodal.rooms.lock.canonical import environment_digest
from intermodal.rooms.lock.rows import CODEC, LAYOUT_VERSION, Lock
from intermodal.rooms.lock.servertree import server_tree

GOLDEN_NAME = "golden.json"


def agrees(evidence: Evidence, version: str) -> bool:
    """Whether a locked version is what the artifact says; a local part such as `+cpu` does not count.

    >>> agrees(Evidence("2", "", exact=False), "2.4.6"), agrees(Evidence("1.3.2", ""), "1.9.1")
    (True, False)
    """
    public = version.partition("+")[0]
    if evidence.exact:
        return public == evidence.version.partition("+")[0]
    stated = evidence.version.split(".")
    return public.split(".")[: len(stated)] == stated


def contradictions(lock: Lock, card: ModelCard) -> None:
    """Accept a lock whose versions are those the artifact states.

    Raises:
        ContradictionError: the first version that differs, or a distribution that is not in the lock at all.
    """
    locked = {inputs.build_of(package.name): package.version for package in lock.packages}
    for name, evidence in sorted(card.versions.items()):
        version = locked.get(inputs.build_of(normalise(name)))
        if version is not None and agrees(evidence, version):
            continue
        requirement = inputs.pin(name, evidence)
        resave = f", or re-save the model under {version}" if version else ""
        raise ContradictionError(
            f"{card.path.name} was saved by {name} {evidence.version}, but the lock has {version or 'none'}",
            found=evidence.where,
            next=f'pin it: requirements = ["{requirement}"]{resave}',
        )
    if card.python and card.python != lock.python:
        raise ContradictionError(
            f"{card.path.name} was saved by Python {card.python}, but the lock has {lock.python}",
            found=f"base {lock.base.reference}",
            next=f"take a base with Python {card.python}, or re-save the model under {lock.python}",
        )


def golden_row(project: Project) -> FileRow | None:
    """The row of the project's golden cases, or None without any.

    Raises:
        ArtifactError: the file cannot be read.
    """
    if project.golden is None:
        return None
    try:
        digest, size_bytes = Digest.of_file(project.golden)
    except OSError as error:
        raise ArtifactError(
            f"cannot read golden cases {project.golden.name}", found=error.strerror or str(error)
        ) from error
    return FileRow(GOLDEN_NAME, size_bytes, digest, project.golden)


def refresh(lock: Lock, card: ModelCard, project: Project, *, events: Events = SILENT) -> tuple[Lock, tuple[str, ...]]:
    """The lock with the model, application and golden rows (and the name) of now, and what changed by that.

    The rows of the result know where their files lie on this host, also when nothing changed.
    """
    model = tuple(sorted(card.files, key=lambda row: row.path))
    app = tuple(sorted(collect_app(project, card, events=events), key=lambda row: row.path))
    golden = golden_row(project)
    changes = [
        *_file_changes("model", lock.model, model),
        *_file_changes("app", lock.app, app),
        *_file_changes("golden", _some(lock.golden), _some(golden)),
    ]
    if (lock.name, lock.version) != (project.name, project.version):
        changes.append(f"{lock.name}:{lock.version} is now {project.name}:{project.version}")
    new = replace(lock, model=model, app=app, golden=golden, name=project.name, version=project.version)
    return replace(new, environment_digest=environment_digest(new)), tuple(changes)


def _some(row: FileRow | None) -> tuple[FileRow, ...]:
    return (row,) if row else ()


def _file_changes(kind: str, before: Sequence[FileRow], after: Sequence[FileRow]) -> Iterable[str]:
    old = {row.path: (row.digest, row.executable) for row in before}
    new = {row.path: (row.digest, row.executable) for row in after}
    for path in sorted(old.keys() | new.keys()):
        if path not in new:
            yield f"{kind} file {path} is gone"
        elif path not in old:
            yield f"{kind} file {path} is new"
        elif old[path] != new[path]:
            yield f"{kind} file {path} has changed"


def asked_differently(lock: Lock, card: ModelCard, project: Project) -> tuple[str, ...]:
    """What the user asks for now and did not when the lock was made; empty when nothing."""
    if lock.inputs == inputs.inputs_digest(card, project):
        return ()
    asked = inputs.effective_requirements(card, project)
    found = [f"requirement {line!r} is new" for line in asked if line not in lock.requirements]
    found += [f"requirement {line!r} is gone" for line in lock.requirements if line not in asked]
    environment, policy = project.environment, inputs.policy_of(project)
    pairs = [
        ("base", lock.base.reference, environment.base),
        ("system packages", ", ".join(lock.base.system), ", ".join(sorted(set(environment.system)))),
        ("platforms", ", ".join(sorted(lock.platforms)), ", ".join(sorted(project.platforms))),
        ("prune", str(lock.policy.prune), str(policy.prune)),
        ("prune.keep", ", ".join(lock.policy.keep), ", ".join(policy.keep)),
        ("bytecode", lock.policy.bytecode, policy.bytecode),
        ("compression", lock.policy.compression, policy.compression),
        ("exclude_newer", lock.exclude_newer, inputs.exclude_newer_of(project)),
        ("python", lock.python, environment.python or card.python or lock.python),
        ("grpc", _has_grpc(lock), str(project.serve.grpc)),
    ]
    found += [f"{what} was {old or 'none'}, is {new or 'none'}" for what, old, new in pairs if old != new]
    return tuple(found) or ("the lock was made for other settings, or for golden cases recorded elsewhere",)


def _has_grpc(lock: Lock) -> str:
    return str(any(package.name == "grpcio" for package in lock.server.packages))


def outdated(lock: Lock) -> tuple[str, ...]:
    """What of this installation differs from the one that made the lock: Debian rows, server, layout, codec."""
    found = []
    if not lock.base.packages and not lock.base.images:
        found.append("the lock holds no Debian packages, so it does not say what the base is")
    if lock.server.tree != server_tree()[0]:
        ours, theirs = intermodal_server.__version__, lock.server.version
        versions = f"{theirs} in the lock, {ours} here" if ours != theirs else f"{ours}, other sources"
        found.append(f"the server has changed ({versions})")
    if (lock.policy.layout, lock.policy.codec) != (LAYOUT_VERSION, CODEC):
        found.append(
            f"the layer layout has changed ({lock.policy.layout}, {lock.policy.codec} in the lock; "
            f"{LAYOUT_VERSION}, {CODEC} here)"
        )
    return tuple(found)


def drift(lock: Lock, card: ModelCard, project: Project, *, host: Host) -> tuple[str, ...]:
    """Everything about a lock that no longer matches, as one line each; empty when it still describes the project.

    Args:
        lock: as read from the project.
        card: the artifact as it is now.
        project: the project as it is now.
        host: the machine. Nothing on it counts but the project's files, and how its registries are reached: a lock
            must not drift because of where it is checked.

    Raises:
        RegistryError: the base is an image of a registry that cannot be asked.
    """
    _, files = refresh(lock, card, project)
    found = [*asked_differently(lock, card, project), *outdated(lock), *files]
    try:
        contradictions(lock, card)
    except ContradictionError as error:
        found.append(error.message)
    if lock.base.images and lock.base.reference == project.environment.base:
        from intermodal.rooms.lock.registry_base.images import moved

        if now := moved(lock.base, host):
            found.append(now)
    return tuple(found)
