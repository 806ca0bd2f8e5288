"""The table of contents: every command as the rooms it walks through, in order.

    inspect -> lock -> build -> check -> push        (attest, deploy and watch follow in later releases)

Takes paths and names as the user gave them, hands back values; prints nothing and does no I/O of its own.
Rooms are imported where they are entered, because a command should pay only for the rooms it walks through.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from intermodal.errors import CheckFailedError, DriftError, UnsafeModelError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image
from intermodal.oci.layout import Store
from intermodal.outcomes import LockOutcome, ShipReport, Step

if TYPE_CHECKING:
    from intermodal.engine.load import LoadReport
    from intermodal.golden.record import Replay
    from intermodal.oci.descriptor import Descriptor
    from intermodal.oci.validate import Validation
    from intermodal.project.value import Project
    from intermodal.rooms.check import CheckReport
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal.rooms.push import PullReport, PushReport


def open_store(host: Host) -> Store:
    """The local store, created when it is not there yet."""
    store = Store(host.data_dir / "store")
    store.open_or_create()
    return store


def validate(*, host: Host, events: Events = SILENT) -> Validation:
    """Everything that is wrong with the local store, recomputed; makes none where there is none."""
    from intermodal.oci.validate import validate_store

    return validate_store(Store(host.data_dir / "store"), events)


def load(
    path: Path, *, host: Host, events: Events = SILENT, recording: bool = False, lock_file: Path | None = None
) -> Project:
    """The project at `path`: a folder, a project file, or a bare model.

    Args:
        path: what the user named.
        host: this machine.
        events: where notices go.
        recording: golden cases are to come; their absence is no fault.
        lock_file: where its lock is kept, if not where it usually is.
    """
    from intermodal.project.load import load as load_project

    project = load_project(path, host, recording=recording)
    for notice in project.notices:
        events.notice(notice)
    return project if lock_file is None else replace(project, lock_path=lock_file.absolute())


def inspect(path: Path, *, host: Host, events: Events = SILENT) -> ModelCard:
    """The model card of what lies at `path`; an unsafe model gives a card too, with `safe` false."""
    return _card(load(path, host=host, events=events), host, events)


def lock(
    path: Path,
    *,
    host: Host,
    events: Events = SILENT,
    check: bool = False,
    upgrade: Collection[str] | None = None,
    no_urls: bool = False,
    lock_file: Path | None = None,
) -> LockOutcome:
    """Write the project's lock, or with `check` only compare it.

    Raises:
        DriftError: `check` was asked and the lock no longer describes the project.
        UnsafeModelError: the model would run code outside the allow-list.
    """
    from intermodal.rooms.lock import lock as make_lock
    from intermodal.rooms.lock.drift import drift
    from intermodal.rooms.lock.lockfile import lock_digest, read_lock, write_lock

    project = load(path, host=host, events=events, lock_file=lock_file)
    card = safe_card(project, host, events)
    if check:
        found = read_lock(project.lock_path)
        if differences := drift(found, card, project, host=host):
            raise DriftError(
                f"{project.lock_path.name} no longer describes the project",
                found=differences,
                next=f"intermodal lock {path} writes it anew; commit the result",
            )
        return LockOutcome(found, project.lock_path, "kept", lock_digest(found))
    made = make_lock(card, project, host=host, events=events, upgrade=upgrade, no_urls=no_urls)
    write_lock(made, project.lock_path)
    return LockOutcome(made, project.lock_path, "made", lock_digest(made))


def build(
    path: Path,
    *,
    host: Host,
    events: Events = SILENT,
    tag: str | None = None,
    output: str | None = None,
    lock_file: Path | None = None,
    platforms: tuple[str, ...] = (),
) -> Image:
    """The image of the project at `path`, in the local store; an unchanged project costs a few stats.

    Args:
        path: project folder, project file, or bare model.
        host: this machine.
        events: where progress goes.
        tag: NAME:TAG to give the image; default: the project's name and version.
        output: "oci:DIR[:tag]" or "docker-archive:FILE": also write the image there.
        lock_file: where the lock is kept, if not beside the project file (a bare model: in the store).
        platforms: only these, "linux/arm64"; default: all of the project's.
    """
    from intermodal import warm

    store = open_store(host)
    image = warm.recall(path, tag, lock_file, store, host, platforms)
    if image is None:
        image = _build_cold(path, tag, lock_file, store, host, events, platforms=platforms)
    if output is not None:
        from intermodal.engine.export import write_out

        write_out(image, output, store, host)
    return image


def check(reference: str, *, host: Host, events: Events = SILENT, engine: str = "sandbox") -> CheckReport:
    """The report on the golden predictions of an image, or of the project at an existing path (built when needed)."""
    from intermodal.engine import get_engine
    from intermodal.rooms.check import check as check_image

    store = open_store(host)
    digest = manifest_of(reference, store, host, events)
    return check_image(digest, store=store, engine=get_engine(engine, store, host), host=host, events=events)


def record(
    path: Path,
    inputs: Path,
    *,
    host: Host,
    events: Events = SILENT,
    python: Path | None = None,
    locked: bool = False,
    output: Path | None = None,
) -> Path:
    """The file of golden cases that now holds the model's answers to `inputs`.

    Args:
        path: project folder, project file, or bare model.
        inputs: .npy, .npz, .csv, V2 JSON, or golden cases to record again.
        host: this machine.
        events: where progress goes.
        python: the interpreter the model was trained with; default: the active environment's.
        locked: record what the built image answers instead.
        output: where to write; default: the project's golden.json.
    """
    from intermodal.golden.cases import write_golden
    from intermodal.golden.record import record as record_cases

    project = load(path, host=host, events=events, recording=True)
    # Old golden cases are evidence of where the model was trained; they must not stand in the way of new ones.
    card = safe_card(replace(project, golden=None), host, events)
    replay = _locked_replay(path, host, events) if locked else None
    golden = record_cases(project, card, inputs, host=host, python=python, locked=locked, replay=replay, events=events)
    written = output or project.golden or project.root / (project.model.golden or "golden.json")
    write_golden(written, golden)
    return written


def run(
    reference: str, *, host: Host, events: Events = SILENT, engine: str = "sandbox", port: int = 8080, **more: Any
) -> int:
    """The exit status of serving an image, or the project at a path, on loopback; `more` is for `engine.run.serve`."""
    from intermodal.engine import get_engine
    from intermodal.engine.run import serve
    from intermodal.rooms.check import find_report
    from intermodal.rooms.check.keys import refuse_keyless_image, refuse_keyless_project

    store, keyless = open_store(host), not more.get("api_keys")
    if keyless and Path(reference).exists():
        refuse_keyless_project(load(Path(reference), host=host))
    digest = manifest_of(reference, store, host, events)
    if keyless:
        refuse_keyless_image(digest, store=store, host=host)
    runner = get_engine(engine, store, host)
    checked = find_report(digest, store=store, engine=runner)
    return serve(digest, engine=runner, port=port, events=events, mode=checked.mode if checked else "", **more)


def load_into(reference: str, into: str, *, host: Host, events: Events = SILENT, name: str | None = None) -> LoadReport:
    """The report on an image, or the project at an existing path, that docker, podman or containerd now holds too."""
    from intermodal.engine.load import load as load_image
    from intermodal.engine.load import name_for

    store = open_store(host)
    digest = manifest_of(reference, store, host, events)
    return load_image(digest, name_for(digest, name, store), into=into, store=store, host=host, events=events)


def ship(
    path: Path, *, host: Host, events: Events = SILENT, engine: str = "sandbox", lock_file: Path | None = None
) -> ShipReport:
    """Walk the whole corridor as far as it is configured; a second walk does only what changed.

    Raises:
        UnsafeModelError: the model would run code outside the allow-list.
        CheckFailedError: the image was built, but does not give its golden predictions.
    """
    from intermodal import warm
    from intermodal.engine import get_engine
    from intermodal.rooms.check import check as check_image
    from intermodal.rooms.check import find_report

    store = open_store(host)
    steps: list[Step] = []
    clock = time.monotonic()
    image = warm.recall(path, None, lock_file, store, host)
    if image is None:
        image = _build_cold(path, None, lock_file, store, host, events, steps)
    else:
        steps.append(Step("build", "nothing to do", time.monotonic() - clock))
    runner = get_engine(engine, store, host)
    clock = time.monotonic()
    digest = image.manifest_for(host.platform)
    report = find_report(digest, store=store, engine=runner)
    known = report is not None
    if report is None:
        report = check_image(digest, store=store, engine=runner, host=host, events=events)
    did = "nothing to do: this image has passed" if known else report.summary()
    steps.append(Step("check", did, time.monotonic() - clock))
    if not report.passed:
        raise CheckFailedError(
            f"{image.name} does not give its golden predictions",
            found=report.explain(),
            next=(
                "retrained on purpose? record its golden cases again: intermodal record PATH --inputs FILE",
                f"look closer: intermodal run {image.name}",
            ),
        )
    clock = time.monotonic()
    pushed = _push_on(path, image, host, events)
    if pushed is not None:
        steps.append(Step("push", pushed.summary(), time.monotonic() - clock))
    return ShipReport(
        steps=tuple(steps),
        image=image,
        report=report,
        next=f"intermodal run {image.name}" if pushed is None else f"intermodal pull {pushed.pinned}",
        nothing_to_do=known and image.unchanged and (pushed is None or pushed.unchanged),
        pushed=pushed,
    )


def push(image: str, to: str, *, host: Host, events: Events = SILENT, plain_http: bool = False) -> PushReport:
    """The report on an image, or the project at an existing path, that a registry now has; by default under its tag."""
    from intermodal.registry.reference import parse_remote
    from intermodal.rooms.push import push as push_image

    own = open_store(host)
    found = build(Path(image), host=host, events=events).name if Path(image).exists() else image
    store, descriptor = (own, own.resolve(found)) if not found.startswith("oci:") else _layout(found, own)
    reference = parse_remote(to, store.tag_of(descriptor.digest, found) or "latest")
    return push_image(descriptor, reference, store=store, memory=own, host=host, events=events, plain_http=plain_http)


def pull(
    reference: str, *, host: Host, events: Events = SILENT, tag: str = "", platform: str = "", plain_http: bool = False
) -> PullReport:
    """The report on an image of a registry that the local store now holds, verified; `rooms.push.pull` says more."""
    from intermodal.registry.reference import parse_remote
    from intermodal.rooms.push import pull as pull_image

    place, store = parse_remote(reference, "latest"), open_store(host)
    return pull_image(place, store=store, host=host, events=events, name=tag, platform=platform, plain_http=plain_http)


def _layout(reference: str, store: Store) -> tuple[Store, Descriptor]:
    from intermodal.diff.sides import locate

    return locate(reference, store)


def _push_on(path: Path, image: Image, host: Host, events: Events) -> PushReport | None:
    """The report on the push that the project asks for; None when it names no registry."""
    to = load(path, host=host).settings.push.to
    return push(image.name, to, host=host, events=events) if to else None


def _build_cold(
    path: Path,
    tag: str | None,
    lock_file: Path | None,
    store: Store,
    host: Host,
    events: Events,
    steps: list[Step] | None = None,
    platforms: tuple[str, ...] = (),
) -> Image:
    """Walk inspect, lock and build, and remember what decided the result."""
    from intermodal import warm
    from intermodal.rooms.build import build as build_image
    from intermodal.rooms.lock.app import watched
    from intermodal.rooms.lock.obtain import obtain

    steps = [] if steps is None else steps
    clock = time.monotonic()

    def done(room: str, did: str) -> None:
        nonlocal clock
        now = time.monotonic()
        steps.append(Step(room, did, now - clock))
        clock = now

    watch = warm.Watch()
    watch.enter(path if path.is_dir() else path.parent)
    watch.look([path, path / "intermodal.toml", path / "pyproject.toml"])
    project = load(path, host=host, events=events, lock_file=lock_file).on(platforms)
    if tag is not None:
        project = retag(project, tag)
    card = safe_card(project, host, events)
    watch.look(watched(project, card))
    done("inspect", f"{card.format}, {card.framework or 'plain Python'}")
    found, state = obtain(card, project, host=host, events=events)
    done("lock", f"{state}, {len(found.packages)} packages")
    image = build_image(found, card, project, store=store, host=host, events=events)
    fresh = sum(not layer.reused for layer in image.layers)
    done("build", f"{len(image.layers)} layers, {fresh} new")
    if state != "kept":
        watch.wrote(project.lock_path)
    watch.look([project.lock_path])
    warm.remember(path, tag, lock_file, image, watch, host, platforms)
    return image


def _locked_replay(path: Path, host: Host, events: Events) -> Replay:
    """A function that answers requests inside the built image, and says which versions answered."""
    from intermodal.engine import get_engine
    from intermodal.rooms.check.locked import replay
    from intermodal.rooms.lock.lockfile import read_lock

    store = open_store(host)
    digest = build(path, host=host, events=events).manifest_for(host.platform)
    found = read_lock(load(path, host=host).lock_path)
    return replay(digest, found, store=store, engine=get_engine("sandbox", store, host), host=host, events=events)


def _card(project: Project, host: Host, events: Events) -> ModelCard:
    from intermodal.rooms.inspect import inspect as inspect_model

    return inspect_model(project, host=host, events=events)


def safe_card(project: Project, host: Host, events: Events) -> ModelCard:
    """The card of a project, unless opening its model would run code nobody agreed to."""
    if (card := _card(project, host, events)).safe:
        return card
    serious = [f for f in card.findings if f.severity in ("high", "critical")]
    raise UnsafeModelError(
        f"{card.path.name} would run code that is not on the allow-list",
        found=[f"{f.message}{f' ({f.where})' if f.where else ''}" for f in serious],
        next=(
            f"intermodal inspect {card.path.name} shows all of it",
            'if you wrote that code yourself, name it: trust = ["module.Name"] under [model]',
        ),
    )


def retag(project: Project, tag: str) -> Project:
    """The project under another NAME[:TAG]."""
    from intermodal.oci.reference import parse_name

    name, version = parse_name(tag)
    return replace(project, name=name, version=version or project.version)


def manifest_of(reference: str, store: Store, host: Host, events: Events) -> Digest:
    """The manifest for this host of an image name, a digest, or a project path; an existing path wins."""
    if Path(reference).exists():
        return build(Path(reference), host=host, events=events).manifest_for(host.platform)
    return store.manifest_for(store.resolve(reference), host.platform)
