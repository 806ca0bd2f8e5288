"""From a `GatewayPlan` to Envoy's files, without I/O: equal plans are equal bytes.

Takes a plan and the folder as Envoy sees it, hands on file names with their content.

Rules, each of which was paid for (facts of Envoy, not of taste):
1. One file per cluster for its endpoints: a file with two assignments is rejected without a word at level error.
2. Every file is watched by its folder, because files are replaced by renaming; Envoy does not see writes in place.
3. `update_merge_window` 0 s: else workers believe for up to a second that a healthy host is ill.
4. No panic mode; a retry goes to another host; circuit breakers are raised, retries above all.
5. Histogram edges lie half a millisecond above whole ones, because Envoy times in whole milliseconds.
6. Statistics are taken when asked for: else histograms are up to five seconds old.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from intermodal.oci.canonical import canonical_json
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, clusters
from intermodal.rooms.deploy.envoy.routes import route_config, route_name

_API = "type.googleapis.com/envoy."
_EDGES_MS = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 23, 26, 30, 35, 40, 45, 50, 57, 65, 75, 85, 100, 115, 130, 150,
    175, 200, 230, 260, 300, 350, 400, 450, 500, 575, 650, 750, 850, 1000, 1150, 1300, 1500, 1750, 2000, 2500, 3000,
    3500, 4000, 5000, 6000, 7500, 10000, 15000, 20000, 30000, 45000, 60000,
)  # fmt: skip
BOOTSTRAP, CLUSTERS, LISTENERS = "bootstrap.json", "cds.json", "lds.json"

_HEALTH_CHECK = {
    "timeout": "2s",
    "interval": "0.2s",
    "no_traffic_interval": "0.2s",
    "no_traffic_healthy_interval": "0.2s",
    "unhealthy_threshold": 3,  # of silence; a refusal counts at once
    "healthy_threshold": 1,
    "http_health_check": {"path": "/v2/health/ready", "host": "gateway.intermodal"},
}

Files = dict[str, bytes]


def bootstrap(folder: str, admin: dict[str, Any]) -> bytes:
    """The file that Envoy is started with; it does not depend on a plan.

    Args:
        folder: where the other files lie, as Envoy sees it.
        admin: address of the administration: `pipe(path)` or `tcp(address, port)`.
    """
    return canonical_json(
        {
            "node": {"id": "intermodal", "cluster": "intermodal"},
            "admin": {"address": admin},
            "dynamic_resources": {"lds_config": _source(folder, LISTENERS), "cds_config": _source(folder, CLUSTERS)},
            "stats_flush_on_admin": True,
            "stats_config": {
                "histogram_bucket_settings": [
                    {"match": {"prefix": "cluster."}, "buckets": [edge + 0.5 for edge in _EDGES_MS]}
                ]
            },
        }
    )


def pipe(path: str) -> dict[str, Any]:
    """A Unix socket as an address."""
    return {"pipe": {"path": path, "mode": 0o600}}


def tcp(address: str, port: int) -> dict[str, Any]:
    """A TCP port as an address."""
    return {"socket_address": {"address": address, "port_value": port}}


def render(plan: GatewayPlan, folder: str) -> Files:
    """All files of a plan but the bootstrap, by name."""
    files: Files = {}
    found = []
    for site in plan.sites:
        for name, group in clusters(site):
            found.append(_cluster(name, folder))
            files[endpoints_file(name)] = document([_assignment(name, group)])
    files[CLUSTERS] = document(found)
    listeners = []
    for (address, port), sites in _by_port(plan).items():
        name = route_name(address, port)
        files[routes_file(name)] = document([route_config(name, sites)])
        listeners.append(_listener(name, address, port, sites, folder))
        for site in sites:
            if site.exposure.certificate:
                files[_secret_file(site)] = document([_secret(site)])
    files[LISTENERS] = document(listeners)
    return files


def endpoints_file(cluster: str) -> str:
    """The file with a cluster's endpoints."""
    return f"eds-{cluster}.json"


def routes_file(name: str) -> str:
    """The file with a listener's routes."""
    return f"rds-{name}.json"


def version_of(content: bytes) -> str:
    """The version that a file states, which is what Envoy tells once it has taken it."""
    import json

    return str(json.loads(content)["version_info"])


def document(resources: list[dict[str, Any]]) -> bytes:
    """A file with these resources; its version is a hash of them."""
    version = hashlib.sha256(canonical_json(resources)).hexdigest()[:16]
    return canonical_json({"version_info": version, "resources": resources}) + b"\n"


def _source(folder: str, name: str) -> dict[str, Any]:
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": f"{folder}/{name}", "watched_directory": {"path": folder}},
    }


def _by_port(plan: GatewayPlan) -> dict[tuple[str, int], list[Site]]:
    found: dict[tuple[str, int], list[Site]] = {}
    for site in plan.sites:
        found.setdefault((site.exposure.address, site.exposure.port), []).append(site)
    return dict(sorted(found.items()))


# --- clusters


def _cluster(name: str, folder: str) -> dict[str, Any]:
    return {
        "@type": f"{_API}config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _source(folder, endpoints_file(name))},
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "ignore_health_on_host_removal": True,
        "common_lb_config": {"update_merge_window": "0s", "healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 65536, "max_pending_requests": 65536, "max_requests": 65536, "max_retries": 4096}
            ]
        },
        "health_checks": [_HEALTH_CHECK],
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_API}extensions.upstreams.http.v3.HttpProtocolOptions",
                # shorter than the server keeps an idle connection, so that it is never the server that closes one
                "common_http_protocol_options": {"idle_timeout": "3s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _assignment(name: str, group: Group) -> dict[str, Any]:
    return {
        "@type": f"{_API}config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": tcp(one.address, one.port)}} for one in sorted(group.upstreams)]}
        ],
    }


# --- listeners


def _listener(name: str, address: str, port: int, sites: list[Site], folder: str) -> dict[str, Any]:
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_API}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "rds": {"route_config_name": name, "config_source": _source(folder, routes_file(name))},
            "strip_any_host_port": True,
            "normalize_path": True,
            "use_remote_address": True,
            "preserve_external_request_id": True,
            "server_header_transformation": "PASS_THROUGH",
            "delayed_close_timeout": "1s",
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": f"{_API}extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                }
            ],
        },
    }
    found = {
        "@type": f"{_API}config.listener.v3.Listener",
        "name": name,
        "address": tcp(address, port),
        "enable_reuse_port": False,  # else a second gateway on this port would silently share the traffic
        "filter_chains": [{**chain, "filters": [manager]} for chain in _chains(sites, folder)],
    }
    if any(site.exposure.certificate for site in sites):
        inspector = {"@type": f"{_API}extensions.filters.listener.tls_inspector.v3.TlsInspector"}
        found["listener_filters"] = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
    return found


def _chains(sites: list[Site], folder: str) -> Iterable[dict[str, Any]]:
    """One chain for each certificate, or a plain one; a certificate's chain is chosen by the name a client asks for."""
    if not any(site.exposure.certificate for site in sites):
        return [{}]
    chains: dict[str, dict[str, Any]] = {}
    for site in sites:
        name = _secret_file(site)
        context = {
            "@type": f"{_API}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [{"name": name, "sds_config": _source(folder, name)}],
            },
        }
        chain = chains.setdefault(
            name,
            {
                "filter_chain_match": {"server_names": []},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
            },
        )
        if site.exposure.host == "*":
            chain["filter_chain_match"] = {}
        elif names := chain["filter_chain_match"].get("server_names"):
            names.append(site.exposure.host)
        elif chain["filter_chain_match"]:
            chain["filter_chain_match"]["server_names"] = [site.exposure.host]
    return chains.values()


def _secret_file(site: Site) -> str:
    files = f"{site.exposure.certificate}\n{site.exposure.key}"
    return f"sds-{hashlib.sha256(files.encode()).hexdigest()[:16]}.json"


def _secret(site: Site) -> dict[str, Any]:
    exposure = site.exposure
    return {
        "@type": f"{_API}extensions.transport_sockets.tls.v3.Secret",
        "name": _secret_file(site),
        "tls_certificate": {
            "certificate_chain": {"filename": exposure.certificate},
            "private_key": {"filename": exposure.key},
            "watched_directory": {"path": exposure.certificate.rpartition("/")[0] or "/"},
        },
    }
