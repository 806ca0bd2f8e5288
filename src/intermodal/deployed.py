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
from intermodal.rooms.deploy.revision import Exposure, Revision
from intermodal.rooms.deploy.rollout import Phase, Rollout
from intermodal.rooms.deploy.state import Model, StateFile
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
        return self.rollout is not None and not self.rollout.over

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


def find(state: StateFile, name: str, target: str | None) -> Model:
    """The model of that name, on that target or on the only one that has it."""
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


def protected(*, host: Host) -> frozenset[Digest]:
    """Images that revisions need: those with traffic, those that may get it, and the ones before them."""
    with StateFile.of(host) as state:
        return state.protected() if state.path.exists() else frozenset()


def target_of(name: str, model: str, exposure: Exposure, store: Store, host: Host, events: Events) -> Target:
    """The target of that name, for a model."""
    from intermodal.rooms.deploy.targets import get_target

    return get_target(name, model, exposure, store=store, host=host, events=events)
