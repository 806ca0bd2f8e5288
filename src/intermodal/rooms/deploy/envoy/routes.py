"""The routes of one listener: who is asked, in which order the questions are put.

Takes the sites of one address and port, hands on Envoy's route configuration.

For each model, in this order:
1. A request that names a revision (`x-intermodal-revision: 3`) goes to that revision, aside; one that is not there is
   404, so that nobody believes that it was asked.
2. Inference (POST without `x-intermodal-golden`) is divided by weight, and copied where there is a mirror.
3. Everything else is divided by weight too, but counted aside: health, metadata and pages are no evidence.
Longer paths come first; a model's path is taken away before it sees the request. What a replica did not do (it refused
the connection, broke it, or says that it is not ready) another one is asked for: a replica that was killed comes back
at its address sooner than health checks tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from intermodal.rooms.deploy.envoy.plan import (
    ASIDE,
    GOLDEN_HEADER,
    MIRROR,
    NOT_READY_HEADER,
    REVISION_HEADER,
    Site,
    cluster_name,
)

_PREVIOUS = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_PICKS = 64  # for one that was not asked yet: a dead replica has the fewest requests, so it is picked again and again


def route_name(address: str, port: int) -> str:
    """The name of a listener and of its routes; no dots, which part the names of statistics."""
    return f"{address.replace('.', '-').replace(':', '-')}_{port}"


def route_config(name: str, sites: Sequence[Site]) -> dict[str, Any]:
    """Envoy's route configuration for these sites."""
    hosts: dict[str, list[Site]] = {}
    for site in sites:
        hosts.setdefault(site.exposure.host, []).append(site)
    return {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [
            {
                "name": "any" if host == "*" else host,
                "domains": [host],
                "routes": [
                    route
                    for site in sorted(found, key=lambda one: (-len(one.exposure.path.rstrip("/")), one.exposure.path))
                    for route in _routes(site)
                ],
            }
            for host, found in sorted(hosts.items())
        ],
    }


def _routes(site: Site) -> list[dict[str, Any]]:
    found = [_to_revision(site, group.revision) for group in site.groups]
    found.append(
        {
            "match": {**_path(site), "headers": [{"name": REVISION_HEADER, "present_match": True}]},
            "direct_response": _says(404, f"{site.model} has no such revision here"),
        }
    )
    if not site.weights:
        return [
            *found,
            {"match": _path(site), "direct_response": _says(503, f"{site.model} has no revision with traffic yet")},
        ]
    asked = [
        {"name": ":method", "string_match": {"exact": "POST"}},
        {"name": GOLDEN_HEADER, "present_match": True, "invert_match": True},
    ]
    live = _action(site, _divided(site, ""))
    if site.mirror is not None:
        live["request_mirror_policies"] = [{"cluster": cluster_name(site.model, site.mirror, MIRROR)}]
    found.append({"name": f"{site.model}", "match": {**_path(site), "headers": asked}, "route": live})
    found.append({"match": _path(site), "route": _action(site, _divided(site, ASIDE))})
    return found


def _to_revision(site: Site, revision: int) -> dict[str, Any]:
    return {
        "match": {
            **_path(site),
            "headers": [{"name": REVISION_HEADER, "string_match": {"exact": str(revision)}}],
        },
        "route": _action(site, {"cluster": cluster_name(site.model, revision, ASIDE)}),
        "response_headers_to_add": [_told(revision)],
    }


def _divided(site: Site, kind: str) -> dict[str, Any]:
    weighted: dict[str, Any] = {
        "clusters": [
            {
                "name": cluster_name(site.model, revision, kind),
                "weight": percent,
                "response_headers_to_add": [_told(revision)],
            }
            for revision, percent in site.weights
        ]
    }
    if site.exposure.sticky:
        weighted["use_hash_policy"] = True
    return {"weighted_clusters": weighted}


def _told(revision: int) -> dict[str, Any]:
    return {
        "header": {"key": REVISION_HEADER, "value": str(revision)},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _action(site: Site, where: dict[str, Any]) -> dict[str, Any]:
    """A route's action: no time-out of the gateway's own, because the server keeps one."""
    reset = "reset" if site.retry_reset else "reset-before-request"
    action: dict[str, Any] = {
        **where,
        "timeout": "0s",
        "retry_policy": {
            "retry_on": f"connect-failure,refused-stream,{reset},retriable-headers",
            "retriable_headers": [{"name": NOT_READY_HEADER, "present_match": True}],
            "num_retries": 4,
            "retry_host_predicate": [
                {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS}}
            ],
            "host_selection_retry_max_attempts": _PICKS,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
        },
    }
    if site.exposure.sticky:
        action["hash_policy"] = [{"header": {"header_name": site.exposure.sticky}}]
    if path := site.exposure.path.rstrip("/"):
        escaped = "".join(f"\\{letter}" if letter in r".+*?()|[]{}^$\\" else letter for letter in path)
        action["regex_rewrite"] = {"pattern": {"regex": f"^{escaped}/?(.*)$"}, "substitution": r"/\1"}
    return action


def _path(site: Site) -> dict[str, Any]:
    path = site.exposure.path.rstrip("/")
    return {"path_separated_prefix": path} if path else {"prefix": "/"}


def _says(status: int, text: str) -> dict[str, Any]:
    return {"status": status, "body": {"inline_string": json.dumps({"error": text}) + "\n"}}
