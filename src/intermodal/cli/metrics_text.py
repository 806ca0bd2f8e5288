"""Deployments as Prometheus' text format: what no server knows of itself, for alerts and dashboard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intermodal.deployed import Deployment

_HELP = {
    "intermodal_rollout_running": "1 while a rollout is under way",
    "intermodal_rollout_watched": "1 while somebody watches it",
    "intermodal_rollout_held": "1 while it waits for data or a person",
    "intermodal_rollout_went_back": "1 when the newest rollout was, or is being, rolled back",
    "intermodal_revision_weight_percent": "share of the traffic, as the gateway confirms",
    "intermodal_revision_replicas": "containers that are wanted",
    "intermodal_revision_healthy": "containers that the gateway takes for healthy",
    "intermodal_drift_index": "population stability index of predictions since promotion",
    "intermodal_drift_warning": "1 when predictions have moved since promotion",
}


def metrics_text(deployments: Iterable[Deployment]) -> str:
    """All of them, every name with its help and type once."""
    found: dict[str, list[str]] = {name: [] for name in _HELP}
    for one in deployments:
        for name, labels, value in _samples(one):
            words = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            found[name].append(f"{name}{{{words}}} {value:g}")
    lines: list[str] = []
    for name, samples in found.items():
        if samples:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge", *samples]
    return "".join(f"{line}\n" for line in lines)


def _samples(one: Deployment) -> Iterator[tuple[str, dict[str, str], float]]:
    labels = {"model": one.model, "target": one.target}
    rollout = one.rollout
    yield "intermodal_rollout_running", labels, one.running
    yield "intermodal_rollout_watched", labels, bool(one.watched_by)
    yield "intermodal_rollout_held", labels, bool(one.running and rollout is not None and rollout.held)
    yield "intermodal_rollout_went_back", labels, one.went_back
    shares = dict(one.shares)
    for revision in one.revisions:
        seen = one.seen.get(revision.number) if one.seen is not None else None
        if revision.state.value in ("candidate", "stable") or (seen is not None and seen.containers):
            named = {**labels, "revision": str(revision.number), "state": revision.state.value}
            yield "intermodal_revision_weight_percent", named, shares.get(revision.number, 0)
            yield "intermodal_revision_replicas", named, revision.settings.replicas
            if seen is not None:
                yield "intermodal_revision_healthy", named, seen.healthy
    current = max((number for number, share in one.shares if share == 100), default=0)
    for shift in one.drift.shifts if one.drift is not None else ():
        named = {**labels, "revision": str(current), "output": shift.output}
        yield "intermodal_drift_index", named, shift.index
        yield "intermodal_drift_warning", named, shift.warns


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
