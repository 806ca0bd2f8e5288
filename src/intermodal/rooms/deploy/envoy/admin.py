"""What Envoy says of itself: which configuration it has taken, who gets which traffic, and what it counted.

Takes a way to ask its administration, hands on values. What it answers is checked, because another program may listen
where Envoy did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from intermodal.rooms.deploy import prometheus
from intermodal.rooms.deploy.envoy.plan import ASIDE, MIRROR, cluster_name
from intermodal.rooms.deploy.envoy.routes import route_name
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.target import Counters, Scrape, Traffic

Ask = Callable[[str], bytes]  # path and query -> body; raises OSError when nobody answers
_COUNTED = "upstream_rq_(completed|retry|5xx|time|active)|membership_healthy"


def versions(ask: Ask) -> dict[str, str]:
    """The version of each configuration that has been taken: "cds", "lds", "rds-NAME.json", "eds-NAME.json".

    Raises:
        OSError, ValueError: nobody answers, or not Envoy.
    """
    found = {}
    for name, value in _stats(ask, "version_text$").items():
        if name == "cluster_manager.cds.version_text":
            found["cds.json"] = str(value)
        elif name == "listener_manager.lds.version_text":
            found["lds.json"] = str(value)
        elif name.startswith("cluster."):
            found[f"eds-{name.split('.')[1]}.json"] = str(value)
        elif ".rds." in name:
            found[f"rds-{name.split('.rds.')[1].removesuffix('.version_text')}.json"] = str(value)
    return found


def refused(ask: Ask) -> int:
    """How many configurations Envoy has refused since it started."""
    return sum(int(value) for value in _stats(ask, r"\.update_rejected$|lds\.listener_create_failure$").values())


def warming(ask: Ask) -> int:
    """How many clusters wait for their first endpoints and health checks."""
    return int(_stats(ask, "^cluster_manager.warming_clusters$").get("cluster_manager.warming_clusters", 0))


def born(ask: Ask) -> str:
    """What tells this Envoy process from the one before."""
    return str(json.loads(ask("/server_info"))["command_line_options"]["base_id"])


def traffic(ask: Ask, model: str, exposure: Exposure) -> Traffic | None:
    """Who gets what of a model's inference; None when Envoy has no route for it yet.

    Only the listener at `exposure` is looked at: one that was closed keeps its routes while it drains.

    Raises:
        OSError, ValueError: nobody answers, or not Envoy.
    """
    name = route_name(exposure.address, exposure.port)
    try:
        for config in json.loads(ask("/config_dump?resource=dynamic_route_configs")).get("configs", []):
            if config["route_config"]["name"] != name:
                continue
            for host in config["route_config"].get("virtual_hosts", []):
                for route in host.get("routes", []):
                    if route.get("name") == model:
                        return _traffic(route["route"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer of Envoy: {error!r}") from error
    return None


def _traffic(action: dict[str, Any]) -> Traffic:
    weights = []
    for one in action["weighted_clusters"]["clusters"]:
        weights.append((int(one["name"].rpartition("_r")[2]), int(one.get("weight", 0))))
    mirrors = action.get("request_mirror_policies", [])
    mirror = int(mirrors[0]["cluster"].removesuffix(MIRROR).rpartition("_r")[2]) if mirrors else None
    return Traffic(tuple(sorted(weights)), mirror)


def healthy(ask: Ask, model: str, revisions: Sequence[int]) -> dict[int, int]:
    """How many endpoints of each revision are healthy, for users' traffic and for what is asked by header alike.

    Raises:
        OSError, ValueError: nobody answers, or not Envoy.
    """
    found = _stats(ask, rf"^cluster\.{model}_r[0-9]+({ASIDE})?\.membership_healthy$")
    return {
        one: min(
            int(found.get(f"cluster.{cluster_name(model, one, kind)}.membership_healthy", 0)) for kind in ("", ASIDE)
        )
        for one in revisions
    }


def scrape(ask: Ask, model: str, revisions: Sequence[int], gateway: str) -> Scrape:
    """What was counted of these revisions.

    Raises:
        OSError: nobody answers.
    """
    which = "|".join(str(one) for one in revisions)
    pattern = rf"^cluster\.{model}_r({which})({MIRROR})?\.({_COUNTED})$"
    samples = prometheus.parse(ask(f"/stats/prometheus?filter={quote(pattern, safe='')}"))

    def counted(name: str) -> Counters:
        def one(stat: str, **labels: str) -> int:
            return prometheus.total(samples, f"envoy_cluster_{stat}", envoy_cluster_name=name, **labels)

        return Counters(
            requests=one("upstream_rq_completed"),
            errors=one("upstream_rq_xx", envoy_response_code_class="5"),
            retries=one("upstream_rq_retry"),
            latency=prometheus.histogram(
                samples, "envoy_cluster_upstream_rq_time", unit_s=1e-3, envoy_cluster_name=name
            ),
            healthy=one("membership_healthy"),
            active=one("upstream_rq_active"),
        )

    return Scrape(
        {one: counted(cluster_name(model, one)) for one in revisions},
        {one: counted(cluster_name(model, one, MIRROR)) for one in revisions},
        gateway,
    )


def active(ask: Ask, model: str, revision: int) -> int:
    """How many requests of a revision are under way, of every kind."""
    found = _stats(ask, rf"^cluster\.{model}_r{revision}(_aside|_mirror)?\.upstream_rq_active$")
    return sum(int(value) for value in found.values())


def _stats(ask: Ask, pattern: str) -> dict[str, Any]:
    """Statistics by name."""
    document = json.loads(ask(f"/stats?format=json&filter={quote(pattern, safe='')}"))
    if not isinstance(document, dict) or not isinstance(document.get("stats"), list):
        raise ValueError("not an answer of Envoy")
    return {str(one["name"]): one.get("value", 0) for one in document["stats"] if "name" in one}
