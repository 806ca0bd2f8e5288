"""Alert rules for one model.

Takes `About`, hands on a Prometheus rule file. Rules: nothing is said of fewer than 20 requests; a rule that has no
data is silent, so the absence of replicas has one of its own; what a rollout does is known from
`intermodal status --metrics`, for those who collect it.
"""

from __future__ import annotations

from typing import Any

from intermodal.rooms.render import queries
from intermodal.rooms.render.about import About, Rendered
from intermodal.rooms.render.prometheus import ALERTS_FILE, job_name
from intermodal.rooms.render.yaml_text import yaml_text

_ENOUGH = 20
_SPAN = "5m"
_MOVED = 0.15
_ENOUGH_PREDICTIONS = 500


def alerts(about: About) -> Rendered:
    """The rules."""
    group = {
        "name": job_name(about),
        "rules": [*_requests(about), *_servers(about), *_predictions(about), *_rollout(about)],
    }
    head = f"Alert rules for {about.model}; who is told is Alertmanager's to say, by the labels severity and model."
    return Rendered({ALERTS_FILE: yaml_text({"groups": [group]}, head=head)}, (f"promtool check rules {ALERTS_FILE}",))


def _rule(
    about: About, name: str, query: str, summary: str, *, after: str = "", severity: str = "page"
) -> dict[str, Any]:
    found: dict[str, Any] = {"alert": f"Intermodal{name}", "expr": query}
    if after:
        found["for"] = after
    return {
        **found,
        "labels": {"severity": severity, "model": about.model},
        "annotations": {"summary": summary, "status": f"intermodal status {about.model}"},
    }


def _requests(about: About) -> list[dict[str, Any]]:
    labels = f'model="{about.model}"'
    enough = f"{queries.asked(labels, _SPAN)} >= {_ENOUGH}"
    lately = f"{queries.asked(labels, '1m')} >= {_ENOUGH}"
    return [
        _rule(
            about,
            "Errors",
            f"({queries.errors(labels, _SPAN)} > {about.max_error_rate:g}) and {enough}",
            f"revision {{{{ $labels.revision }}}} fails more than {about.max_error_rate * 100:g} % of its requests",
            after="2m",
        ),
        _rule(
            about,
            "Slow",
            f"({queries.quantile(labels, _SPAN, 0.99)} > {about.max_p99_s:g}) and {enough}",
            f"one of 100 requests to revision {{{{ $labels.revision }}}} takes longer than {about.max_p99_s:g} s",
            after="5m",
        ),
        _rule(
            about,
            "CircuitOpen",
            f"({queries.errors(labels, '1m')} >= 0.5) and {lately}",
            "revision {{ $labels.revision }} fails half of its requests or more",
        ),
    ]


def _servers(about: About) -> list[dict[str, Any]]:
    labels, job = f'model="{about.model}"', f'job="{job_name(about)}"'
    return [
        _rule(
            about,
            "NotReady",
            f"min by (model, revision, instance) (intermodal_ready{{{labels}}}) == 0",
            "a replica of revision {{ $labels.revision }} is not ready: {{ $labels.instance }}",
            after="1m",
        ),
        _rule(
            about,
            "Gone",
            f"absent(up{{{job}}} == 1)",
            f"no replica of {about.model} answers Prometheus",
            after="1m",
        ),
        _rule(
            about,
            "WorkersReplaced",
            f"sum by (model, revision, reason) (increase(intermodal_worker_replacements_total{{{labels}}}[10m])) > 3",
            "model processes of revision {{ $labels.revision }} keep ending: {{ $labels.reason }}",
            severity="ticket",
        ),
        _rule(
            about,
            "GatewayRefuses",
            f"max by (model, envoy_cluster_name) (envoy_cluster_circuit_breakers_default_rq_open{{{labels}}}) == 1",
            "the gateway takes no more requests for {{ $labels.envoy_cluster_name }}",
        ),
    ]


def _predictions(about: About) -> list[dict[str, Any]]:
    labels = f'model="{about.model}"'
    moved = queries.moved(labels, "1h", "1d")
    enough = (
        f"sum by ({queries.BY}, output) (increase(intermodal_predictions_total{{{labels}, {queries.LIVE}}}[1h]))"
        f" >= {_ENOUGH_PREDICTIONS}"
    )
    return [
        _rule(
            about,
            "Drift",
            f"({moved} > {_MOVED:g}) and {enough}",
            f"more than {_MOVED * 100:g} % of the predictions of {{{{ $labels.output }}}} moved in a day",
            after="30m",
            severity="ticket",
        ),
        _rule(
            about,
            "DriftSincePromotion",
            f"max by (model, revision, output) (intermodal_drift_warning{{{labels}}}) == 1",
            "{{ $labels.output }} is not predicted as when revision {{ $labels.revision }} was promoted",
            severity="ticket",
        ),
    ]


def _rollout(about: About) -> list[dict[str, Any]]:
    labels = f'model="{about.model}"'
    return [
        _rule(
            about,
            "RolloutHeld",
            f"max by (model, target) (intermodal_rollout_held{{{labels}}}) == 1",
            f"a rollout waits for a person: intermodal promote {about.model}, or abort",
            after="1m",
            severity="ticket",
        ),
        _rule(
            about,
            "RolloutUnwatched",
            f"max by (model, target) (intermodal_rollout_running{{{labels}}}) == 1 "
            f"and max by (model, target) (intermodal_rollout_watched{{{labels}}}) == 0",
            f"nobody watches a rollout: intermodal watch {about.model} goes on",
            after="1m",
        ),
    ]
