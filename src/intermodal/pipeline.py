"""The table of contents: every command as the rooms it walks through, in order.

    inspect -> lock -> build -> check        (attest, push, deploy and watch follow in later releases)

Takes paths and names as the user gave them, hands back values; prints nothing and does no I/O of its own.
Rooms are imported where they are entered, because a command should pay only for the rooms it walks through.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from intermodal.errors import CheckFailedError, DriftError, UnsafeModelError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image
from intermodal.oci.layout import Store

if TYPE_CHECKING:
    from intermodal.engine.load import LoadReport
    from intermodal.golden.record import Replay
    from intermodal.oci.validate import Validation
    from intermodal.project.value import Project
    from intermodal.rooms.check import CheckReport
    from intermodal.rooms.inspect.card import ModelCard
    from intermodal.rooms.lock.rows import Lock


class LockOutcome(Struct, frozen=True):
    """A lock on disk, and what was done to it: "kept", "made" or "refreshed: …"."""

    lock: Lock
    path: Path
    state: str
    digest: Digest


class Step(Struct, frozen=True):
    """One room of a `ship`, as the table shows it."""

    room: str
    did: str
    seconds: float


class ShipReport(Struct, frozen=True):
    """What `ship` did, what came out, and what to try next."""

    steps: tuple[Step, ...]
    image: Image
    report: CheckReport
    next: str
    nothing_to_do: bool = False

    def as_json(self) -> dict[str, object]:
        """Steps, image and check report as one document."""
        return {
            "steps": [{"room": s.room, "did": s.did, "seconds": round(s.seconds, 3)} for s in self.steps],
            "image": self.image.as_json(),
            "check": self.report.as_json(),
            "next": self.next,
            "nothing_to_do": self.nothing_to_do,
        }


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
    card = _safe(_card(project, host, events))
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
) -> Image:
    """The image of the project at `path`, in the local store; an unchanged project costs a few stats.

    Args:
        path: project folder, project file, or bare model.
        host: this machine.
        events: where progress goes.
        tag: NAME:TAG to give the image; default: the project's name and version.
        output: "oci:DIR[:tag]" or "docker-archive:FILE": also write the image there.
        lock_file: where the lock is kept, if not beside the project file (a bare model: in the store).
    """
    from intermodal import warm

    store = open_store(host)
    image = warm.recall(path, tag, lock_file, store, host)
    if image is None:
        image = _build_cold(path, tag, lock_file, store, host, events)
    if output is not None:
        _write_out(image, output, store, host)
    return image


def check(reference: str, *, host: Host, events: Events = SILENT, engine: str = "sandbox") -> CheckReport:
    """The report on the golden predictions of an image, or of the project at an existing path (built when needed)."""
    from intermodal.engine import get_engine
    from intermodal.rooms.check import check as check_image

    store = open_store(host)
    digest = _manifest(reference, store, host, events)
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
    card = _safe(_card(replace(project, golden=None), host, events))
    replay = _locked_replay(path, host, events) if locked else None
    golden = record_cases(project, card, inputs, host=host, python=python, locked=locked, replay=replay, events=events)
    written = output or project.golden or project.root / (project.model.golden or "golden.json")
    write_golden(written, golden)
    return written


def run(reference: str, *, host: Host, events: Events = SILENT, engine: str = "sandbox", port: int = 8080) -> int:
    """Serve an image, or the project at an existing path, on loopback until interrupted; its exit status."""
    from intermodal.engine import get_engine
    from intermodal.engine.run import serve

    store = open_store(host)
    digest = _manifest(reference, store, host, events)
    return serve(digest, engine=get_engine(engine, store, host), port=port, events=events)


def load_into(reference: str, into: str, *, host: Host, events: Events = SILENT, name: str | None = None) -> LoadReport:
    """The report on an image, or the project at an existing path, that docker, podman or containerd now holds too."""
    from intermodal.engine.load import load as load_image
    from intermodal.engine.load import name_for

    store = open_store(host)
    digest = _manifest(reference, store, host, events)
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
    report = find_report(image.manifests[0].digest, store=store, engine=runner)
    known = report is not None
    if report is None:
        report = check_image(image.manifests[0].digest, store=store, engine=runner, host=host, events=events)
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
    return ShipReport(
        steps=tuple(steps),
        image=image,
        report=report,
        next=f"intermodal run {image.name}",
        nothing_to_do=known and image.unchanged,
    )


def _build_cold(
    path: Path,
    tag: str | None,
    lock_file: Path | None,
    store: Store,
    host: Host,
    events: Events,
    steps: list[Step] | None = None,
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
    watch.look([path, path / "intermodal.toml", path / "pyproject.toml"])
    project = load(path, host=host, events=events, lock_file=lock_file)
    if tag is not None:
        project = _retag(project, tag)
    card = _safe(_card(project, host, events))
    watch.look(watched(project, card))
    done("inspect", f"{card.format}, {card.framework or 'plain Python'}")
    found, state = obtain(card, project, host=host, events=events)
    done("lock", f"{state}, {len(found.packages)} packages")
    image = build_image(found, card, project, store=store, host=host, events=events)
    fresh = sum(not layer.reused for layer in image.layers)
    done("build", f"{len(image.layers)} layers, {fresh} new")
    watch.look([project.lock_path])
    warm.remember(path, tag, lock_file, image, watch, host)
    return image


def _write_out(image: Image, destination: str, store: Store, host: Host) -> None:
    """The image as an OCI layout, or as the archive that `docker load` reads."""
    kind, _, file = destination.partition(":")
    if kind == "docker-archive" and file:
        from intermodal.engine.archive import write_archive

        manifest = store.manifest_for(image.descriptor, host.platform)
        write_archive(store, manifest, image.name, Path(file))
    else:
        from intermodal.oci.export import export

        export(store, image.descriptor, destination, name=image.name)


def _locked_replay(path: Path, host: Host, events: Events) -> Replay:
    """A function that answers requests inside the built image, and says which versions answered."""
    from intermodal.engine import get_engine
    from intermodal.rooms.check.locked import answers
    from intermodal.rooms.lock.lockfile import read_lock

    store = open_store(host)
    digest = build(path, host=host, events=events).manifests[0].digest
    found = read_lock(load(path, host=host).lock_path)
    environment = {"python": found.base.python_version, "distributions": {p.name: p.version for p in found.packages}}

    def replay(requests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        engine = get_engine("sandbox", store, host)
        told = answers(digest, requests, store=store, engine=engine, host=host, events=events)
        return {"responses": told, "environment": environment}

    return replay


def _card(project: Project, host: Host, events: Events) -> ModelCard:
    from intermodal.rooms.inspect import inspect as inspect_model

    return inspect_model(project, host=host, events=events)


def _safe(card: ModelCard) -> ModelCard:
    """The card, unless opening the model would run code nobody agreed to."""
    if card.safe:
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


def _retag(project: Project, tag: str) -> Project:
    from intermodal.oci.reference import parse_name

    name, version = parse_name(tag)
    return replace(project, name=name, version=version or project.version)


def _manifest(reference: str, store: Store, host: Host, events: Events) -> Digest:
    """The manifest for this host of an image name, a digest, or a project path; an existing path wins."""
    if Path(reference).exists():
        return build(Path(reference), host=host, events=events).manifests[0].digest
    return store.manifest_for(store.resolve(reference), host.platform)
