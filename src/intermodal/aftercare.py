"""What comes after a deployment, as functions: labels that turn up later, drift, files for monitoring.

Takes names as the user gave them, hands back values; like `pipeline` it prints nothing and does no I/O of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from intermodal import pipeline
from intermodal.deployed import find, target_of
from intermodal.errors import InputError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.rooms.deploy import answers
from intermodal.rooms.deploy.answers import Answer
from intermodal.rooms.deploy.state import Model, StateFile
from intermodal.rooms.deploy.verdict import Finding

if TYPE_CHECKING:
    from intermodal.rooms.deploy.target import Target
    from intermodal.rooms.watch.drift import Drift
    from intermodal.rooms.watch.feedback_file import Labelled

_SHOWN = 5


class Accuracy(Struct, frozen=True):
    """How many labelled answers of a revision were wrong."""

    revision: int
    labelled: int
    wrong: int


class Feedback(Struct, frozen=True):
    """What came of labels."""

    model: str
    target: str
    given: int
    joined: int  # labels whose request was known
    unknown: tuple[str, ...]  # the first few requests that nobody remembers
    accuracy: tuple[Accuracy, ...]  # of all labels so far
    finding: Finding | None  # of the rollout that runs, or ran last


def feedback(
    name: str,
    labels: Sequence[Labelled],
    *,
    host: Host,
    events: Events = SILENT,
    target: str | None = None,
    output: str = "",
    within: float | None = None,
) -> Feedback:
    """Join labels with what was predicted, and count who was right.

    Args:
        name: of the model.
        labels: request ids with what the answer should have been.
        host: this machine.
        events: told what takes long.
        target: where it is deployed; needed when that is in several places.
        output: which output the labels are of.
        within: how far a number may be off.

    Raises:
        InputError: labels do not fit the outputs.
    """
    with StateFile.of(host) as state:
        model = find(state, name, target)
        known = {one: answers.answers_to(state, model, one) for one, _ in labels}
        if not all(known.values()):
            place = target_of(model.target, model.name, model.exposure, pipeline.open_store(host), host, events)
            with events.task("ask the servers for their last predictions"):
                known |= _from_rings(state, model, place, {one for one, found in known.items() if not found})
        judged = _judged(labels, known, output, within)
        if judged:
            answers.keep_labels(state, model, judged)
        unknown = [one for one, found in known.items() if not found]
        return Feedback(
            model=model.name,
            target=model.target,
            given=len(labels),
            joined=len({one for one, _ in labels}) - len(unknown),
            unknown=tuple(unknown[:_SHOWN]),
            accuracy=accuracy_of(state, model),
            finding=_finding(state, model),
        )


def _judged(
    labels: Sequence[Labelled], known: dict[str, tuple[Answer, ...]], output: str, within: float | None
) -> list[tuple[Answer, bool]]:
    from intermodal.rooms.watch.labels import is_right

    judged = []
    for request_id, label in labels:
        for one in known[request_id]:
            try:
                judged.append((one, is_right(one.outputs, label, output=output, within=within)))
            except InputError as error:
                raise InputError(f"the label of request {request_id}: {error}", found=error.found) from error
    return judged


def _from_rings(state: StateFile, model: Model, place: Target, wanted: set[str]) -> dict[str, tuple[Answer, ...]]:
    """What the servers remember of these requests; no evidence, because one ring may reach further back."""
    from intermodal.rooms.watch.rings import Ring

    found: dict[str, tuple[Answer, ...]] = dict.fromkeys(wanted, ())
    for revision in state.revisions(model):
        if revision.state.value in ("candidate", "stable"):
            for one in Ring(place, revision.number, everything=True).new():
                if one.request_id in wanted and one.traffic in ("live", "mirror") and one.outputs is not None:
                    text = json.dumps(one.outputs, ensure_ascii=False)
                    found[one.request_id] += (Answer(one.request_id, revision.number, text),)
    return found


def accuracy_of(state: StateFile, model: Model) -> tuple[Accuracy, ...]:
    """How many labelled answers of each revision were wrong, so far."""
    sums: dict[int, tuple[int, int]] = {}
    for one in answers.tallies(state, model):
        labelled, wrong = sums.get(one.revision, (0, 0))
        sums[one.revision] = (labelled + one.labelled, wrong + one.wrong)
    return tuple(Accuracy(revision, *both) for revision, both in sorted(sums.items()))


def _finding(state: StateFile, model: Model) -> Finding | None:
    from intermodal.rooms.watch.labels import wrong_answers
    from intermodal.rooms.watch.memory import read_memory

    stored = state.rollout(model)
    if stored is None or stored.rollout.stable is None:
        return None
    rollout = stored.rollout
    tallies = answers.tallies(state, model, stored.id)
    assert rollout.stable is not None
    return wrong_answers(tallies, stable=rollout.stable, canary=rollout.candidate, rules=read_memory(stored).rules)


class Drifted(Struct, frozen=True):
    """How a model's predictions moved since its promotion."""

    model: str
    target: str
    revision: int
    drift: Drift


def drift(name: str, *, host: Host, events: Events = SILENT, target: str | None = None) -> Drifted:
    """Look at the predictions of the revision that has the traffic, and tell when they have moved.

    Raises:
        InputError: nothing of the model is deployed.
    """
    from intermodal.rooms.watch.drift_kept import look_and_keep
    from intermodal.rooms.watch.memory import read_memory
    from intermodal.rooms.watch.notify import Notifier

    with StateFile.of(host) as state:
        model = find(state, name, target)
        if model.current is None:
            raise InputError(f"nothing of {name} is deployed on {model.target}", next="intermodal deploy IMAGE")
        stored = state.rollout(model)
        assert stored is not None
        notify = read_memory(stored).notify
        notifier = Notifier(notify.webhook or "", notify.command or "", host=host, events=events)
        place = target_of(model.target, model.name, model.exposure, pipeline.open_store(host), host, events)
        try:
            found = look_and_keep(state, model, model.current, place, notifier.tell)
        finally:
            notifier.close()
        return Drifted(model.name, model.target, model.current, found)
