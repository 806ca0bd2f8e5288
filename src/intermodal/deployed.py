"""A model on a target as it stands, for all commands about rollouts.

Takes the state file and a name, hands on a `Deployment`; like `pipeline` it prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal import pipeline
from intermodal.errors import InputError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.rooms.deploy.chain import Line
from intermodal.rooms.deploy.revision import Exposure, Revision, RevisionState
from intermodal.rooms.deploy.rollout import Phase, Rollout
from intermodal.rooms.deploy.state import LIVE, Model, StateFile
from intermodal.rooms.deploy.verdict import Verdict

if TYPE_CHECKING:
    from intermodal.oci.layout import Store
    from intermodal.rooms.deploy.target import Seen, Target
    from intermodal.rooms.watch.copies import Compared
    from intermodal.rooms.watch.drift import Drift


class Deployment(Struct, frozen=True):
    """A model on a target, as it stands."""

    model: str
    target: str
    endpoint: str
    revisions: tuple[Revision, ...]
    rollout: Rollout | None
    verdicts: tuple[tuple[float, Verdict], ...] = ()
    watched_by: str = ""  # "" when nobody watches
    seen: Mapping[int, Seen] | None = None  # None: not looked at
    shares: tuple[tuple[int, int], ...] = ()  # what the gateway confirms
    compared: Compared | None = None  # of copies, where there were any
    drift: Drift | None = None  # of the revision that has the traffic, when no rollout runs and it was looked at
    nothing_to_do: bool = False

    @property
    def running(self) -> bool:
        """Whether a rollout is under way."""
        return self.rollout is not None and not self.rollout.over and not self.down

    @property
    def down(self) -> bool:
        """Whether it was taken away, and nothing was deployed since."""
        states = {one.state for one in self.revisions}
        return RevisionState.DOWN in states and not states & set(LIVE)

    @property
    def went_back(self) -> bool:
        """Whether the newest rollout ended, or is ending, where it began."""
        return self.rollout is not None and self.rollout.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)


def status_of(state: StateFile, model: Model, host: Host, *, look: bool = True) -> Deployment:
    """How a model stands; with `look` the target is asked, too."""
    from intermodal.rooms.deploy.writer import who_writes
    from intermodal.rooms.watch.beside import compared_in
    from intermodal.rooms.watch.drift_kept import drift_now

    stored, revisions = state.rollout(model), state.revisions(model)
    target = target_of(model.target, model.name, model.exposure, pipeline.open_store(host), host, SILENT)
    traffic = target.traffic() if look else None
    settled = look and model.current is not None and (stored is None or stored.over)
    return Deployment(
        model=model.name,
        target=model.target,
        endpoint=target.endpoint(),
        revisions=revisions,
        rollout=stored.rollout if stored is not None else None,
        verdicts=state.verdicts(stored) if stored is not None else (),
        watched_by=who_writes(state.path, model.target, model.name),
        seen=target.seen([one.number for one in revisions]) if look else None,
        shares=traffic.weights if traffic is not None else (),
        compared=compared_in(state, stored) if stored is not None else None,
        drift=drift_now(state, model, model.current, target) if settled and model.current is not None else None,
    )


def find(state: StateFile, name: str | None, target: str | None) -> Model:
    """The model of that name, on that target or on the only one that has it; without a name the only one there is.

    Raises:
        InputError: there is none, or several could be meant.
    """
    if name is None:
        return _only_one(state.models(target))
    name = name.partition(":")[0]
    found = [model for model in state.models(target) if model.name == name]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{model.name} on {model.target}" for model in state.models()) or "nothing"
    if not found:
        raise InputError(f"{name} was never deployed{f' to {target}' if target else ''}", found=f"deployed: {known}")
    raise InputError(
        f"{name} is deployed in several places",
        found=", ".join(model.target for model in found),
        next=f"say which: --to {found[0].target}",
    )


def _only_one(models: tuple[Model, ...]) -> Model:
    if len(models) == 1:
        return models[0]
    if not models:
        raise InputError("nothing was ever deployed", next="intermodal deploy IMAGE")
    raise InputError(
        "several models are deployed",
        found=", ".join(f"{model.name} on {model.target}" for model in models),
        next=f"say which: {models[0].name} --to {models[0].target}",
    )


def protected(*, host: Host) -> frozenset[Digest]:
    """Images that revisions need: those with traffic, those that may get it, and the ones before them."""
    with StateFile.of(host) as state:
        return state.protected() if state.path.exists() else frozenset()


class History(Struct, frozen=True):
    """What became of a model's revisions."""

    model: str
    target: str
    revisions: tuple[Revision, ...]
    reasons: Mapping[int, str]  # why the newest rollout of a revision ended as it did
    log: tuple[Line, ...]
    broken: str  # where the log is not what was written, or ""


def history(name: str | None = None, *, host: Host, target: str | None = None) -> History:
    """All revisions of a model (without a name: of the only one), and its part of the log, whose chain is checked."""
    with StateFile.of(host) as state:
        model = find(state, name, target)
        reasons = {one.rollout.candidate: one.rollout.reason for one in state.rollouts(model)}
        log = tuple(
            line for line in state.log() if (line.body["target"], line.body["model"]) == (model.target, model.name)
        )
        return History(model.name, model.target, state.revisions(model), reasons, log, state.verify_log())


def logs(
    name: str, number: int | None = None, *, host: Host, target: str | None = None, lines: int = 100
) -> tuple[int, str]:
    """A revision's number and the end of what it wrote; by default the newest."""
    with StateFile.of(host) as state:
        model = find(state, name, target)
        found = state.revision(model, number) if number is not None else state.revisions(model)[-1]
        place = target_of(model.target, name, model.exposure, pipeline.open_store(host), host, SILENT)
        return found.number, place.logs(found.number, lines=lines)


def target_of(name: str, model: str, exposure: Exposure, store: Store, host: Host, events: Events) -> Target:
    """The target of that name, for a model."""
    from intermodal.rooms.deploy.targets import get_target

    return get_target(name, model, exposure, store=store, host=host, events=events)
