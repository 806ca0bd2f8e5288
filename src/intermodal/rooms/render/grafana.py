"""A dashboard for Grafana: revisions side by side.

Takes `About`, hands on a dashboard as Grafana imports it, for any data source of the kind Prometheus.
"""

from __future__ import annotations

import json
from typing import Any

from intermodal.rooms.render import queries
from intermodal.rooms.render.about import About, Rendered

FILE = "dashboard.json"
_SCHEMA = 36  # Grafana 9 and later read it
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_SPAN = "$__rate_interval"
_WIDTH, _HEIGHT = 12, 8
_LABELS = 'model="$model", revision=~"$revision"'


def dashboard(about: About) -> Rendered:
    """The dashboard."""
    panels = [*_requests(), *_predictions()]
    for index, panel in enumerate(panels):
        panel |= {
            "id": index + 1,
            "gridPos": {"x": index % 2 * _WIDTH, "y": index // 2 * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        }
    document = {
        "uid": f"intermodal-{about.model}"[:40],
        "title": f"{about.model}: revisions side by side",
        "tags": ["intermodal"],
        "schemaVersion": _SCHEMA,
        "version": 1,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "templating": {"list": _variables(about)},
        "annotations": {"list": []},
        "panels": panels,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return Rendered({FILE: text.encode()}, (f"Grafana, Dashboards, Import: {FILE}",))


def _requests() -> list[dict[str, Any]]:
    """What users asked and got."""
    labels = _LABELS
    return [
        _panel("Requests", "reqps", [(queries.requests(labels, _SPAN), "revision {{revision}}")]),
        _panel(
            "Share of the traffic", "percentunit", [(queries.weight('model="$model"', _SPAN), "revision {{revision}}")]
        ),
        _panel("Errors", "percentunit", [(queries.errors(labels, _SPAN), "revision {{revision}}")]),
        _panel(
            "Answers by code",
            "reqps",
            [
                (
                    f"sum by (revision, code, traffic) (rate(intermodal_requests_total{{{labels}}}[{_SPAN}]))",
                    "revision {{revision}}: {{code}} {{traffic}}",
                )
            ],
        ),
        _panel(
            "Latency",
            "s",
            [
                (queries.quantile(labels, _SPAN, share), f"revision {{{{revision}}}}: p{share * 100:g}")
                for share in (0.5, 0.95, 0.99)
            ],
        ),
        _panel(
            "Waiting and computing, p95",
            "s",
            [
                (
                    queries.quantile(labels, _SPAN, 0.95, f"intermodal_{part}_duration_seconds"),
                    f"revision {{{{revision}}}}: {part}",
                )
                for part in ("queue", "compute")
            ],
        ),
    ]


def _predictions() -> list[dict[str, Any]]:
    """What was predicted, and how the rollout stands."""
    labels = _LABELS
    return [
        _panel(
            "Predicted classes",
            "percentunit",
            [(queries.classes(labels, _SPAN), "revision {{revision}}: {{output}} = {{class}}")],
        ),
        _panel(
            "Predicted numbers, median",
            "short",
            [
                (
                    f"avg by (revision, output) "
                    f'(intermodal_prediction_value{{{labels}, quantile="0.5", {queries.LIVE}}})',
                    "revision {{revision}}: {{output}}",
                )
            ],
        ),
        _panel(
            "Ready replicas",
            "short",
            [(f"sum by (revision) (intermodal_ready{{{labels}}})", "revision {{revision}}")],
        ),
        _panel(
            "Rollout",
            "percent",
            [
                (
                    'max by (revision) (intermodal_revision_weight_percent{model="$model"})',
                    "revision {{revision}}: weight",
                ),
                ('100 * max(intermodal_rollout_held{model="$model"})', "held"),
            ],
        ),
    ]


def _variables(about: About) -> list[dict[str, Any]]:
    fixed = {"text": about.model, "value": about.model, "selected": True}
    revisions = f'label_values(intermodal_ready{{model="{about.model}"}}, revision)'
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0},
        {"name": "model", "type": "constant", "query": about.model, "hide": 2, "current": fixed, "options": [fixed]},
        {
            "name": "revision",
            "label": "revision",
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": revisions, "refId": "revisions"},
            "definition": revisions,
            "refresh": 2,
            "sort": 4,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"], "selected": True},
        },
    ]


def _panel(title: str, unit: str, asked: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "timeseries",
        "datasource": _SOURCE,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(asked)
        ],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 5}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }
