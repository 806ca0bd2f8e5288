"""The commands about rollouts, as the rooms they walk through: deploy -> watch.

Takes names as the user gave them, hands back values; like `pipeline` it prints nothing and does no I/O of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from intermodal import pipeline
from intermodal.deployed import Deployment, find, status_of, target_of
from intermodal.errors import EngineError, InputError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.descriptor import INDEXES
from intermodal.rooms.deploy.answers import forget_answers
from intermodal.rooms.deploy.revision import Revision, RevisionState
from intermodal.rooms.deploy.rollout import Command, Phase, Plan, Rollout
from intermodal.rooms.deploy.state import Model, StateFile, Stored
from intermodal.rooms.deploy.wish import Overrides, Wish, wish_of

if TYPE_CHECKING:
    from intermodal.oci.descriptor import Descriptor
    from intermodal.oci.layout import Store
    from intermodal.project.value import Project
    from intermodal.rooms.check.metadata import Metadata
    from intermodal.rooms.deploy.target import Target
    from intermodal.rooms.deploy.writer import Writer

_RATE_S = 2.0
_DOWN_S = 90.0
_POLL_S = 0.2
_TAKEN_S = 10.0


def deploy(
    reference: str,
    *,
    host: Host,
    events: Events = SILENT,
    overrides: Overrides = Overrides(),  # noqa: B008 - frozen
    detach: bool = False,
) -> Deployment:
    """A rollout of an image, or of the project at an existing path (built when needed), watched until it is over.

    Args:
        reference: NAME[:TAG], a digest, or a project's path.
        host: this machine.
        events: where it tells how far it is.
        overrides: of the project's `[deploy]`.
        detach: return as soon as it has begun, and leave the watching to a process of its own.

    Raises:
        RolloutBusyError: the model is being rolled out there.
        InputError: a rollout of something else is not over; or the server wants API keys, and gets none.
        HostError: the target cannot do it; nothing has changed for users.
    """
    from intermodal.rooms.check import measured_mode
    from intermodal.rooms.deploy.keys import with_keys
    from intermodal.rooms.watch.service import leave

    store = pipeline.open_store(host)
    project = pipeline.load(Path(reference), host=host, events=events) if Path(reference).exists() else None
    named = str(pipeline.build(Path(reference), host=host, events=events).digest) if project else reference
    image = store.resolve(named)
    metadata = _metadata(_any_of(image, store), store, host, events)
    model = metadata.settings.name
    wish = _wish(project, model, overrides)
    wish = with_keys(wish, metadata, host, api_keys=overrides.api_keys or "")
    for notice in wish.notices:
        events.notice(notice)
    target = target_of(wish.target, model, wish.exposure, store, host, events)
    new = Revision(0, str(image.digest), str(store.manifest_for(image, target.platform)), wish.settings)
    mode = measured_mode(new.image, store=store)
    new = replace(new, settings=replace(new.settings, mode=mode))
    with StateFile.of(host) as state:
        with state.writer(wish.target, model, _who("deploy", model)) as writer:
            begun = _begin(writer, new, wish, target, events)
            if begun is not None and not detach:
                _watch(writer, begun, host, events)
        if begun is not None and detach:
            leave(wish.target, model, state.path, host, events)
        found = state.model(wish.target, model)
        assert found is not None
        return replace(status_of(state, found, host), nothing_to_do=begun is None)


def watch(name: str, *, host: Host, events: Events = SILENT, target: str | None = None) -> Deployment:
    """Go on watching a model's newest rollout until it is over and everything is as it says.

    Raises:
        RolloutBusyError: somebody watches it.
    """
    with StateFile.of(host) as state:
        model = find(state, name, target)
        with state.writer(model.target, model.name, _who("watch", name)) as writer:
            stored = state.rollout(model)
            if stored is None or (model.current is None and stored.over and stored.rollout.phase is Phase.PROMOTED):
                raise InputError(f"{name} was taken down", next="intermodal deploy IMAGE")
            _watch(writer, stored, host, events)
        return status_of(state, find(state, name, model.target), host)


def command(name: str, what: Command, *, host: Host, events: Events = SILENT, target: str | None = None) -> Deployment:
    """Promote or abort the rollout of a model that runs; whoever watches it obeys, else this process does.

    Raises:
        InputError: no rollout runs.
    """
    with StateFile.of(host) as state:
        model = find(state, name, target)
        stored = state.rollout(model)
        if stored is None or stored.over:
            raise InputError(
                f"no rollout of {name} is running on {model.target}",
                found=f"revision {model.current} has the traffic" if model.current else "nothing is deployed",
                next=f"intermodal rollback {name} goes back" if what is Command.ABORT else f"intermodal history {name}",
            )
        state.ask(model, what, _who(what.value, name))
        _obeyed(state, model, host, events, until_over=what is not Command.PROMOTE)
        return status_of(state, find(state, name, model.target), host)


def rollback(
    name: str, number: int | None = None, *, host: Host, events: Events = SILENT, target: str | None = None
) -> Deployment:
    """Go back: out of the rollout that runs, or to an earlier revision.

    Args:
        name: of the model.
        number: of a revision that was promoted once; default: the one before.
        host: this machine.
        events: where it tells how far it is.
        target: where, when it is deployed in several places.

    Raises:
        InputError: there is nothing to go back to.
    """
    with StateFile.of(host) as state:
        model = find(state, name, target)
        stored = state.rollout(model)
        if stored is not None and not stored.over:
            state.ask(model, Command.ROLLBACK, _who("rollback", name))
            _obeyed(state, model, host, events, until_over=True)
            model = find(state, name, model.target)
            if number in (None, model.current):
                return status_of(state, model, host)
        with state.writer(model.target, model.name, _who("rollback", name)) as writer:
            goal = _goal(state, model, number)
            assert model.current is not None
            reason = f"rollback to revision {goal.number} was asked for"
            back = Rollout(model.current, goal.number, Plan(), phase=Phase.ROLLING_BACK, reason=reason)
            store = pipeline.open_store(host)
            target_of(model.target, name, model.exposure, store, host, events).prepare(goal)
            _watch(writer, writer.begin_between(back, "rollback"), host, events)
        return status_of(state, find(state, name, model.target), host)


def down(name: str, *, host: Host, events: Events = SILENT, target: str | None = None) -> Deployment:
    """Take a model away from its target: route, containers, and the gateway when it was its last one.

    Raises:
        RolloutBusyError: a rollout is being watched; abort it first.
    """
    with StateFile.of(host) as state:
        model = find(state, name, target)
        with state.writer(model.target, model.name, _who("down", name)) as writer:
            place = target_of(model.target, name, model.exposure, pipeline.open_store(host), host, events)
            numbers = [one.number for one in state.revisions(model)]
            deadline_s = time.monotonic() + _DOWN_S
            with events.task("end what runs"):
                place.down()
                while left := [number for number, seen in place.seen(numbers).items() if seen.containers]:
                    if time.monotonic() > deadline_s:
                        raise EngineError(
                            f"{name} is not down yet",
                            found=f"revisions {', '.join(map(str, left))} still run",
                            next=f"intermodal logs {name}; intermodal down {name} tries again",
                        )
                    time.sleep(_POLL_S)
                    place.down()
                place.down()  # once more, for what only the last container held
            writer.taken_down()
            forget_answers(state, model)
        return status_of(state, find(state, name, model.target), host, look=False)


def status(name: str | None = None, *, host: Host, target: str | None = None) -> tuple[Deployment, ...]:
    """How a model stands, or all that are or were deployed."""
    with StateFile.of(host) as state:
        if name is not None:
            return (status_of(state, find(state, name, target), host),)
        return tuple(status_of(state, model, host) for model in state.models(target))


# --- one rollout


def _begin(writer: Writer, new: Revision, wish: Wish, target: Target, events: Events) -> Stored | None:
    """The rollout to be watched; None when there is nothing to do."""
    from intermodal.rooms.watch.memory import first_memory

    state, name = writer.state, writer.name
    known = state.model(wish.target, name)
    last = state.rollout(known) if known is not None else None

    def is_new(one: Revision) -> bool:
        same = known is not None and known.exposure == wish.exposure
        return same and (one.manifest, one.settings) == (new.manifest, new.settings)

    if known is not None and last is not None and not last.over:
        running = state.revision(known, last.rollout.candidate)
        if is_new(running):
            events.notice(f"revision {running.number} is this image: its rollout goes on")
            return last
        raise InputError(
            f"a rollout of {name} on {wish.target} is not over",
            found=f"revision {running.number}: {last.rollout.phase.value}",
            next=(f"intermodal watch {name} goes on with it", f"intermodal abort {name} ends it"),
        )
    current = state.revision(known, known.current) if known is not None and known.current is not None else None
    if current is not None and is_new(current):
        alive = target.seen([current.number])[current.number].healthy > 0
        return None if alive else last
    if not new.settings.mode:
        events.notice("this image was not checked here: each replica measures by itself where its model runs best")
    target.prepare(new)
    rate = _rate(target, current, events) if wish.strategy == "auto" else None  # takes its time, and only auto asks
    plan = wish.plan(first=current is None, requests_per_s=rate)
    writer.declare(wish.exposure)
    rollout = Rollout(0, current.number if current is not None else None, plan)
    begun = writer.begin(new.listed, new.manifest, new.settings, rollout)
    return writer.remember(begun, first_memory(begun.rollout, wish))


def _watch(writer: Writer, stored: Stored, host: Host, events: Events) -> Stored:
    """Watch a rollout until it is over."""
    from intermodal.rooms.deploy.secrets import resolve_secrets
    from intermodal.rooms.watch.beside import Beside
    from intermodal.rooms.watch.drift_kept import begin_drift
    from intermodal.rooms.watch.loop import Watcher
    from intermodal.rooms.watch.memory import read_memory
    from intermodal.rooms.watch.notify import Notifier
    from intermodal.rooms.watch.replays import LiveReplays

    store, model = pipeline.open_store(host), writer.model
    target = target_of(model.target, model.name, model.exposure, store, host, events)
    memory = read_memory(stored)

    def key() -> str:
        secrets = resolve_secrets([("golden_key", memory.golden_key)] if memory.golden_key else [], host)
        return secrets.get("golden_key", b"").decode().strip()

    replays = LiveReplays(target, model.exposure, lambda revision: _metadata(revision, store, host, events), key)

    def tolerance() -> tuple[float | None, float | None]:
        candidate = writer.state.revision(model, stored.rollout.candidate)
        found = _metadata(candidate, store, host, events).settings.tolerance
        return found.rtol, found.atol

    notifier = Notifier(memory.notify.webhook or "", memory.notify.command or "", host=host, events=events)
    try:
        beside = Beside(writer, stored, target, tolerance)
        watcher = Watcher(writer, stored, target, replays, beside=beside, tell=notifier.tell, events=events)
        watcher.run()
        if watcher.stored.rollout.phase is Phase.PROMOTED:
            begin_drift(writer.state, model, watcher.stored.rollout.candidate, target)
        return watcher.stored
    except KeyboardInterrupt:
        events.warning(f"nobody watches {model.name} now: intermodal watch {model.name} goes on")
        raise
    finally:
        notifier.close()


def _obeyed(state: StateFile, model: Model, host: Host, events: Events, *, until_over: bool) -> None:
    """Wait until whoever watches has taken the command; where nobody watches, do it."""
    from intermodal.errors import RolloutBusyError

    deadline_s = time.monotonic() + _TAKEN_S
    with events.task("wait for the watcher"):
        while True:
            stored = state.rollout(model)
            assert stored is not None
            if stored.over or (not until_over and not state.waiting(model)):
                return
            try:
                with state.writer(model.target, model.name, _who("watch", model.name)) as writer:
                    if until_over or state.waiting(model):
                        _watch(writer, stored, host, events)
                    return
            except RolloutBusyError:
                if not until_over and time.monotonic() > deadline_s:
                    return
            time.sleep(_POLL_S)


def _goal(state: StateFile, model: Model, number: int | None) -> Revision:
    """The revision to go back to."""
    proven = [one for one in state.revisions(model) if one.proven and one.number != model.current]
    if model.current is None:
        raise InputError(f"nothing of {model.name} is deployed on {model.target}", next="intermodal deploy IMAGE")
    if number is None:
        retired = [one for one in proven if one.state is RevisionState.RETIRED]
        if not retired:
            raise InputError(
                f"there is no revision of {model.name} to go back to",
                found=f"revision {model.current} has the traffic, no other was promoted before it",
                next=f"intermodal history {model.name}",
            )
        return retired[-1]
    found = state.revision(model, number)
    if found not in proven:
        raise InputError(
            f"cannot go back to revision {number}",
            found="it has the traffic" if number == model.current else "it was never promoted",
            next=f"promoted before: {', '.join(str(one.number) for one in proven) or 'none'}",
        )
    return found


# --- what is known of an image, and wanted of it


def _any_of(image: Descriptor, store: Store) -> Revision:
    """An image for any machine: what it says of its model is the same for all."""
    several = image.media_type in INDEXES
    manifest = store.document(image)["manifests"][0]["digest"] if several else str(image.digest)
    return Revision(0, str(image.digest), str(manifest))


def _rate(target: Target, current: Revision | None, events: Events) -> float | None:
    """What stable is asked now, in requests a second; None where nobody can tell."""
    from intermodal.rooms.watch.observe import Moment, requests_per_s

    if current is None:
        return None
    before = Moment(time.monotonic(), None, target.scrape([current.number]))
    with events.task("see how much the model is asked"):
        time.sleep(_RATE_S)
    return requests_per_s(before, Moment(time.monotonic(), None, target.scrape([current.number])), current.number)


def _metadata(revision: Revision, store: Store, host: Host, events: Events) -> Metadata:
    from intermodal.engine.image import read_image, unpacked_layers
    from intermodal.oci.folder_once import folders_in_use
    from intermodal.rooms.check.metadata import read_metadata

    with folders_in_use(host.cache_dir):
        return read_metadata(unpacked_layers(store, read_image(store, revision.image), host, events))


def _wish(project: Project | None, model: str, overrides: Overrides) -> Wish:
    """What is wanted: by the project, or by that of the current folder when it is this model's."""
    from intermodal.project.load import settings_here
    from intermodal.project.schema import Deploy

    if project is not None:
        return wish_of(project.settings.deploy, project.settings.secrets, overrides, root=project.root)
    name, settings = settings_here(Path()) or ("", None)
    if settings is None or name != model:
        return wish_of(Deploy(), {}, overrides)
    return wish_of(settings.deploy, settings.secrets, overrides, root=Path().absolute())


def _who(what: str, name: str) -> str:
    import os

    return f"intermodal {what} {name}, process {os.getpid()}"
