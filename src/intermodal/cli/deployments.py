"""How a deployment is shown: as a document and as a few lines; shared by the commands about rollouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from intermodal.cli.beside import copies_document, copies_rows, drift_document, drift_rows
from intermodal.cli.output import Output, table
from intermodal.cli.session import Session

if TYPE_CHECKING:
    from intermodal.deployed import Deployment
    from intermodal.rooms.deploy.verdict import Verdict


_LIVE = ("candidate", "stable")


def to_option(function: Callable[..., Output]) -> Callable[..., Output]:
    """`--to TARGET`, for models that are deployed in several places."""
    return click.option(
        "--to", "target", metavar="TARGET", help="Where it is deployed; needed when that is in several places."
    )(function)


def document(found: Deployment) -> dict[str, object]:
    """A deployment as `--json` shows it."""
    rollout = found.rollout
    return {
        "model": found.model,
        "target": found.target,
        "endpoint": found.endpoint,
        "revisions": [
            {
                "number": one.number,
                "digest": one.listed,
                "state": one.state.value,
                "created": one.created,
                "replicas": one.settings.replicas,
                "containers": found.seen[one.number].containers if found.seen is not None else None,
                "healthy": found.seen[one.number].healthy if found.seen is not None else None,
                "live_percent": dict(found.shares).get(one.number, 0),
            }
            for one in found.revisions
        ],
        "rollout": None
        if rollout is None
        else {
            "phase": rollout.phase.value,
            "step": rollout.step,
            "steps": len(rollout.plan.steps),
            "weight_percent": rollout.weight_percent,
            "candidate": rollout.candidate,
            "stable": rollout.stable,
            "held": rollout.held.value if rollout.held else None,
            "reason": rollout.reason,
            "verdicts": [verdict_document(at_s, verdict) for at_s, verdict in found.verdicts],
        },
        "copies": None if found.compared is None else copies_document(found.compared),
        "drift": None if found.drift is None else drift_document(found.drift),
        "down": found.down,
        "watched_by": found.watched_by or None,
        "nothing_to_do": found.nothing_to_do,
    }


def verdict_document(at_s: float, verdict: Verdict) -> dict[str, object]:
    """A verdict with its numbers."""
    return {
        "at_s": round(at_s, 3),
        "outcome": verdict.outcome.value,
        "step": verdict.step,
        "reason": verdict.reason,
        "hold": verdict.hold,
        "canary_requests": verdict.canary_requests,
        "stable_requests": verdict.stable_requests,
        "findings": [
            {
                "signal": one.signal,
                "canary_events": one.canary_events,
                "canary_requests": one.canary_requests,
                "stable_events": one.stable_events,
                "stable_requests": one.stable_requests,
                "evidence": one.evidence,
                "needed": one.needed,
                "missed_ratio": one.missed_ratio,
                "missed_rate": one.missed_rate,
            }
            for one in verdict.findings
        ],
    }


def text(found: Deployment, *, verdict: bool = True) -> str:
    """A deployment as a person reads it."""
    if found.down:
        return table(
            [("model", f"{found.model} on {found.target}"), ("state", "down"), ("next", "intermodal deploy IMAGE")]
        )
    rows = [("model", f"{found.model} on {found.target}"), ("endpoint", found.endpoint)]
    if found.rollout is not None:
        rows.append(("rollout", _rollout(found)))
        if found.rollout.reason:
            rows.append(("reason", found.rollout.reason))
    shown = [one for one in found.revisions if one.state.value in _LIVE or _alive(found, one.number)]
    for index, one in enumerate(shown):
        share = dict(found.shares).get(one.number)
        words = [f"{one.number}", one.state.value, one.image.short]
        words += [f"{share} % of the traffic"] if share is not None else []
        if found.seen is not None:
            seen = found.seen[one.number]
            words.append(f"{seen.healthy} of {one.settings.replicas} healthy")
        rows.append(("" if index else "revisions", ", ".join(words)))
    if verdict and found.verdicts and found.running:
        rows += [("" if index else "verdict", line) for index, line in enumerate(found.verdicts[-1][1].explain())]
    if found.compared is not None and found.running:
        rows += copies_rows(found.compared)
    if found.drift is not None and found.drift.shifts:
        rows += drift_rows(found.drift)
    rows += [("next", line) for line in _next(found)]
    return table(rows)


def _alive(found: Deployment, number: int) -> bool:
    return found.seen is not None and found.seen[number].containers > 0


def _rollout(found: Deployment) -> str:
    rollout = found.rollout
    assert rollout is not None
    words = f"revision {rollout.candidate}: {rollout.phase.value}"
    if found.running:
        steps = len(rollout.plan.steps)
        words += f", step {rollout.step + 1} of {steps}" if rollout.step < steps else ""
        words += f", {rollout.weight_percent} %" + (", copies of the traffic" if rollout.mirror else "")
        words += f", held: {rollout.held.value}" if rollout.held else ""
    return words


def _next(found: Deployment) -> list[str]:
    rollout, name = found.rollout, found.model
    if rollout is None or not found.running:
        return []
    if not found.watched_by:
        return [f"nobody watches it: intermodal watch {name} goes on"]
    if rollout.phase.value in ("held", "paused"):
        return [f"intermodal promote {name}", f"intermodal abort {name}"]
    return []


def output(session: Session, found: Deployment, *, exit_code: int = 0) -> Output:
    """A deployment as a command's result."""
    return session.output(document(found), text(found), exit_code)
