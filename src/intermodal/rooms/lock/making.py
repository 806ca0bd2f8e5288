"""The lock room's work: base, packages and server resolved, files hashed, put together.

Takes a `ModelCard` and a `Project`; hands on a `Lock`. Writing it is the caller's.

Rules, in order:
1. An earlier lock is the starting point: without `upgrade` its versions are kept where they still fit, and its base
   where suite, platforms and system packages are unchanged.
2. The base comes first, because its Python's full version is what wheels are chosen for.
3. Model and server environments are resolved apart: they never share packages in the image.
4. A lock that contradicts the artifact is never handed on.
5. Without addresses a lock still pins every file by name, version, size and hash; only an address that the project
   itself names (`name @ https://…`) stays, because no index has that file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

import intermodal_server
from intermodal.errors import InputError, NotBuiltYetError, RequirementError
from intermodal.events import SILENT, Events
from intermodal.fetch import fetch_all
from intermodal.fetch.names import normalise
from intermodal.host import Host
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock import inputs, uv
from intermodal.rooms.lock.app import collect_app, missing_imports
from intermodal.rooms.lock.canonical import environment_digest
from intermodal.rooms.lock.collision import refuse_collision
from intermodal.rooms.lock.debian.base import resolve_base
from intermodal.rooms.lock.debian.suites import Suite, suite_of
from intermodal.rooms.lock.drift import contradictions, golden_row
from intermodal.rooms.lock.lockfile import read_lock
from intermodal.rooms.lock.platforms import MACHINES
from intermodal.rooms.lock.registry_base.images import is_registry_base, resolve_image
from intermodal.rooms.lock.requests import wheel_request
from intermodal.rooms.lock.resolve import Wanted, kept_versions, resolve, server_requirements
from intermodal.rooms.lock.rows import BaseLock, Lock, PackageRow, ServerLock, WheelRow
from intermodal.rooms.lock.servertree import server_tree


def make(
    card: ModelCard,
    project: Project,
    *,
    host: Host,
    events: Events = SILENT,
    upgrade: Collection[str] | None = None,
    no_urls: bool = False,
    allow_build: bool = False,
    keyring: bytes | None = None,
) -> Lock:
    """The lock of a project; see `intermodal.rooms.lock.lock`."""
    if allow_build:
        raise NotBuiltYetError(
            "--allow-build is not built yet",
            found="source distributions cannot be turned into wheels by this version",
            next="build the wheels yourself (pip wheel NAME) and put their folder into find-links",
        )
    if project.environment.accelerator != "cpu":
        raise NotBuiltYetError('accelerator = "cuda" is not built yet', next='accelerator = "cpu"')
    earlier = _earlier(project, events)
    upgrade = _known(upgrade, earlier)
    suite, base = _suite_and_base(card, project, earlier, upgrade, host, events, keyring)
    python = suite.python
    requirements = inputs.effective_requirements(card, project)
    wanted = Wanted(
        requirements=requirements,
        platforms=project.platforms,
        python_version=base.python_version,
        glibc=suite.glibc,
        root=project.root,
        exclude_newer=inputs.exclude_newer_of(project),
    )
    served = server_requirements(project.serve.grpc)
    packages, server_packages = _environments(wanted, served, earlier, upgrade, host, events)
    lock = Lock(
        name=project.name,
        version=project.version,
        python=python,
        platforms=project.platforms,
        requirements=requirements,
        packages=packages,
        base=base,
        server=ServerLock(intermodal_server.__version__, server_tree()[0], server_packages),
        model=tuple(sorted(card.files, key=lambda row: row.path)),
        app=_sorted(collect_app(project, card, events=events)),
        golden=golden_row(project),
        policy=inputs.policy_of(project),
        inputs=inputs.inputs_digest(card, project),
        exclude_newer=wanted.exclude_newer,
    )
    contradictions(lock, card)
    refuse_collision(lock, project.serve.mode)
    for sentence in missing_imports(project, card, {package.name for package in packages}):
        events.notice(sentence)
    if no_urls:
        lock = without_urls(lock, host, events)
    return replace(lock, environment_digest=environment_digest(lock))


def _sorted(rows: Sequence[FileRow]) -> tuple[FileRow, ...]:
    return tuple(sorted(rows, key=lambda row: row.path))


def _earlier(project: Project, events: Events) -> Lock | None:
    if not project.lock_path.exists():
        return None
    try:
        return read_lock(project.lock_path)
    except InputError as error:
        events.warning(f"the earlier lock is ignored: {error.found[0] if error.found else error.message}")
        return None


def _known(upgrade: Collection[str] | None, earlier: Lock | None) -> Collection[str] | None:
    """The names to upgrade as rows write them.

    Raises:
        InputError: a name that the earlier lock does not hold; upgrading it would do nothing, silently.
    """
    if not upgrade or earlier is None:
        return upgrade
    rows = {row.name for row in (*earlier.packages, *earlier.server.packages)}
    rows |= {row.name for row in earlier.base.packages} | ({earlier.base.reference} if earlier.base.images else set())
    for name in upgrade:
        if name not in rows and normalise(name) not in rows:
            import difflib

            near = difflib.get_close_matches(normalise(name), sorted(rows), n=3, cutoff=0.6)
            raise InputError(
                f"the lock holds no package called {name}",
                found=f"near names: {', '.join(near)}" if near else f"{len(rows)} packages looked through",
                next="intermodal lock --upgrade without a name takes the newest of everything",
            )
    return frozenset(name if name in rows else normalise(name) for name in upgrade)


def _suite_and_base(
    card: ModelCard,
    project: Project,
    earlier: Lock | None,
    upgrade: Collection[str] | None,
    host: Host,
    events: Events,
    keyring: bytes | None,
) -> tuple[Suite, BaseLock]:
    """The base, and what wheels must know of it; a base with another Python than the model's is refused."""
    reference = project.environment.base
    if not is_registry_base(reference):
        suite = suite_of(reference)
        inputs.choose_python(card, project, suite)
        return suite, _base(project, earlier, upgrade, host, events, keyring)
    if project.environment.system:
        raise RequirementError(
            "Debian packages cannot be added to a base from a registry",
            found=f"base = {reference!r}, system = {sorted(project.environment.system)}",
            next='take base = "deb:bookworm" or "deb:trixie", or a base that has them',
        )
    compiler, found = compiler_for(project, host), earlier.base if earlier is not None else None
    wanted = {*project.platforms, compiler} - {""}
    wish = project.environment.python or card.python or ""
    kept = (
        found is not None
        and found.reference == reference
        and {row.platform for row in found.images} >= wanted
        and wish in ("", found.python)
    )
    if found is None or not kept or (upgrade is not None and (not upgrade or reference in upgrade)):
        found = resolve_image(reference, project.platforms, host=host, events=events, compiler=compiler, wanted=wish)
    suite = Suite(reference, found.python, found.glibc)
    inputs.choose_python(card, project, suite)
    return suite, found


def _base(
    project: Project,
    earlier: Lock | None,
    upgrade: Collection[str] | None,
    host: Host,
    events: Events,
    keyring: bytes | None,
) -> BaseLock:
    system = tuple(sorted(set(project.environment.system)))
    compiler = compiler_for(project, host)
    if earlier is not None and earlier.base.packages:
        same = (
            earlier.base.reference == project.environment.base
            and earlier.base.system == system
            and earlier.platforms == project.platforms
            and (not compiler or any(row.layer == "compiler" for row in earlier.base.packages))
        )
        names = {row.name for row in earlier.base.packages}
        if same and (upgrade is None or (upgrade and not names & set(upgrade))):
            return earlier.base
    return resolve_base(
        project.environment.base,
        project.platforms,
        system,
        host=host,
        events=events,
        keyring=keyring,
        compiler=compiler,
    )


def compiler_for(project: Project, host: Host) -> str:
    """The platform whose interpreter has to be locked besides the image's own: this host's, when it builds for others.

    "" when an interpreter of the image runs here, when no byte code is wanted, and where no Linux of ours runs.
    """
    if project.environment.bytecode == "none" or host.platform in project.platforms:
        return ""
    return host.platform if host.platform in MACHINES else ""


def _environments(
    wanted: Wanted,
    requirements: tuple[str, ...],
    earlier: Lock | None,
    upgrade: Collection[str] | None,
    host: Host,
    events: Events,
) -> tuple[tuple[PackageRow, ...], tuple[PackageRow, ...]]:
    """The model's and the server's packages, resolved side by side; `requirements` are the server's."""
    kept = kept_versions(earlier.packages, upgrade) if earlier else {}
    served = kept_versions(earlier.server.packages, upgrade) if earlier else {}
    server = replace(wanted, requirements=requirements, root=host.home if host.home.is_dir() else wanted.root)
    uv.binary()
    with events.task("resolve the requirements"), ThreadPoolExecutor(2) as pool:
        model_rows = pool.submit(resolve, wanted, host=host, preferences=kept)
        server_rows = pool.submit(resolve, server, host=host, preferences=served)
        model = model_rows.result()
        try:
            return model, server_rows.result()
        except RequirementError as error:
            raise RequirementError(
                f"the image's own server cannot be locked: {error.message}",
                found=error.found,
                next=f"the configured indexes must offer its packages: {', '.join(requirements)}",
            ) from error


def without_urls(lock: Lock, host: Host, events: Events = SILENT) -> Lock:
    """The form of a lock that is committed: every file by name, version, size and hash, found anew by each machine.

    Wheels whose size the index does not state are fetched, because their bytes are the only thing that does.

    Raises:
        DownloadError, IndexUnreachableError, StoreError: such a wheel cannot be had.
    """
    rows = (*lock.packages, *lock.server.packages)
    unsized = [wheel_request(row, wheel) for row in rows for wheel in row.wheels if not wheel.size_bytes]
    files = fetch_all(unsized, host=host, events=events) if unsized else {}

    def bare_wheel(wheel: WheelRow) -> WheelRow:
        named = any(wheel.url in requirement for requirement in lock.requirements)
        size_bytes = wheel.size_bytes or files[wheel.digest].stat().st_size
        return replace(wheel, url=wheel.url if named else "", size_bytes=size_bytes)

    def bare(rows: Sequence[PackageRow]) -> tuple[PackageRow, ...]:
        return tuple(replace(row, wheels=tuple(map(bare_wheel, row.wheels))) for row in rows)

    return replace(
        lock,
        packages=bare(lock.packages),
        server=replace(lock.server, packages=bare(lock.server.packages)),
        base=replace(lock.base, packages=tuple(replace(row, url="") for row in lock.base.packages)),
    )
