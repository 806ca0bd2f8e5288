"""A compose file: the image behind the gateway, confined as our own targets confine it.

Takes `About` and the names of both images, hands on `compose.yaml` and the gateway's configuration beside it.

Rules, in order:
1. Replicas are in a network without a way out; only the gateway is in another one, too, and only its port is published.
2. Every measure is that of `engine.driver.HARDENED`, said in compose's words.
3. The gateway's configuration is what our targets give it, but fixed: replicas are found by the service's name, so
   `--scale` works; its administration is a socket inside, and one more port tells statistics to Prometheus alone.
4. One revision, all traffic: rollouts are `intermodal deploy`'s.
5. A server that wants API keys reads them from a folder beside the file: they are written neither here nor in an image.
"""

from __future__ import annotations

import json
from typing import Any

from intermodal.engine.driver import HARDENED, Policy
from intermodal.oci.canonical import canonical_json
from intermodal.rooms.deploy.envoy.image import CONFIG_DIR
from intermodal.rooms.deploy.envoy.plan import GatewayPlan, Group, Site, Upstream
from intermodal.rooms.deploy.envoy.render import CLUSTERS, LISTENERS, endpoints_file, pipe, render, routes_file, tcp
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.secrets import SECRETS_DIR
from intermodal.rooms.deploy.targets.bodies import ADMIN_SOCKET
from intermodal.rooms.render.about import About, Rendered
from intermodal.rooms.render.prometheus import GATEWAY_PORT
from intermodal.rooms.render.yaml_text import yaml_text
from intermodal_server.contract import ENV_API_KEYS, HTTP_PORT

FILE, GATEWAY_FILE = "compose.yaml", "gateway/envoy.json"
KEYS_FILE, _KEYS_FOLDER = "api-keys", "secrets"
_ABOUT_KEYS = f"""The server reads its API keys from {KEYS_FILE} here, which every user must be able to read:
a line `name:sha256` for each, as `intermodal apikey NAME` makes it with its key.
A change counts within a second, without a restart.
"""
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - in the container; compose publishes it on 127.0.0.1
_API = "type.googleapis.com/envoy."


def compose(about: About, *, image: str, gateway_image: str, port: int, load: tuple[str, ...]) -> Rendered:
    """The files.

    Args:
        about: the model.
        image: as the engine knows it.
        gateway_image: likewise.
        port: of 127.0.0.1, where the model is offered.
        load: commands that give the engine both images.
    """
    keys: dict[str, Any] = {}
    if about.wants_keys:
        source = f"file:{SECRETS_DIR}/{KEYS_FILE}"
        keys = {"environment": {ENV_API_KEYS: source}, "volumes": [f"./{_KEYS_FOLDER}:{SECRETS_DIR}:ro"]}
    document: dict[str, Any] = {
        "services": {
            about.model: {
                **_confined(image, HARDENED),
                **keys,
                "stop_grace_period": "45s",
                "networks": ["inside"],
            },
            "gateway": {
                **_confined(gateway_image, HARDENED),
                "command": ["-c", f"{CONFIG_DIR}/envoy.json", "--disable-hot-restart", "--log-level", "warning"],
                "volumes": [f"./gateway:{CONFIG_DIR}:ro"],
                "ports": [f"127.0.0.1:{port}:{HTTP_PORT}"],
                "networks": ["inside", "outside"],
                "depends_on": [about.model],
            },
        },
        "networks": {"inside": {"internal": True}, "outside": {}},
    }
    head = f"{about.model} {about.version} behind its gateway, on 127.0.0.1:{port}\nimages: " + "\n        ".join(load)
    files = {FILE: yaml_text(document, head=head), GATEWAY_FILE: _gateway(about.model)}
    put = (f"intermodal apikey NAME, and its line into {_KEYS_FOLDER}/{KEYS_FILE} beside {FILE}",) if keys else ()
    if keys:
        files[f"{_KEYS_FOLDER}/README"] = _ABOUT_KEYS.encode()
    return Rendered(files, (*load, *put, f"docker compose up -d, or docker-compose up -d --scale {about.model}=2"))


def _confined(image: str, policy: Policy) -> dict[str, Any]:
    scratch = policy.scratch_bytes
    return {
        "image": image,
        "user": policy.user,
        "read_only": policy.read_only_root,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": policy.pids,
        "shm_size": str(scratch),
        "ipc": "private",
        "tmpfs": [f"/tmp:rw,nosuid,nodev,exec,mode=1777,size={scratch}"],  # noqa: S108 - in the container
        "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "1"}},
        "restart": "unless-stopped",
    }


def _gateway(model: str) -> bytes:
    """The gateway's whole configuration in one file, from the very files that our targets write."""
    exposure = Exposure(port=HTTP_PORT, address=_EVERYWHERE)
    site = Site(model, exposure, (Group(1, (Upstream(model, HTTP_PORT),)),), ((1, 100),))
    files = {name: json.loads(content)["resources"] for name, content in render(GatewayPlan((site,)), "").items()}
    clusters = [_by_name(one, files[endpoints_file(one["name"])][0]) for one in files[CLUSTERS]]
    listeners = [_with_routes(one, files) for one in files[LISTENERS]]
    histograms = {"match": {"prefix": "cluster."}, "buckets": [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000]}
    document = {
        "node": {"id": "intermodal", "cluster": "intermodal"},
        "admin": {"address": pipe(ADMIN_SOCKET)},
        "static_resources": {
            "clusters": [*clusters, _administration()],
            "listeners": [*listeners, _statistics(listeners[0])],
        },
        "stats_config": {"histogram_bucket_settings": [histograms]},
    }
    return canonical_json(document) + b"\n"


def _by_name(cluster: dict[str, Any], assignment: dict[str, Any]) -> dict[str, Any]:
    """A cluster whose replicas are all addresses of a name."""
    left = {key: value for key, value in cluster.items() if key not in ("@type", "eds_cluster_config")}
    endpoints = {key: value for key, value in assignment.items() if key != "@type"}
    return {
        **left,
        "type": "STRICT_DNS",
        "dns_refresh_rate": "1s",
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": endpoints,
    }


def _with_routes(listener: dict[str, Any], files: dict[str, Any]) -> dict[str, Any]:
    """A listener whose routes are in it."""
    (chain,) = listener["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    name = manager["rds"]["route_config_name"]
    routes = {key: value for key, value in files[routes_file(name)][0].items() if key != "@type"}
    inside = {**{key: value for key, value in manager.items() if key != "rds"}, "route_config": routes}
    return {
        **{key: value for key, value in listener.items() if key != "@type"},
        "filter_chains": [{"filters": [{**chain["filters"][0], "typed_config": inside}]}],
    }


def _administration() -> dict[str, Any]:
    address = {"pipe": {"path": ADMIN_SOCKET}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": "administration",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "administration", "endpoints": endpoints},
    }


def _statistics(like: dict[str, Any]) -> dict[str, Any]:
    """A listener that tells `/stats/prometheus` and nothing else of the administration."""
    (chain,) = like["filter_chains"]
    route = {
        "match": {
            "path": "/stats/prometheus",
            "headers": [{"name": ":method", "string_match": {"exact": "GET"}}],
        },
        "route": {"cluster": "administration"},
    }
    manager = {
        "@type": f"{_API}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "statistics",
        "route_config": {
            "name": "statistics",
            "virtual_hosts": [{"name": "statistics", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": chain["filters"][0]["typed_config"]["http_filters"],
    }
    return {
        "name": "statistics",
        "address": tcp(_EVERYWHERE, GATEWAY_PORT),
        "filter_chains": [{"filters": [{**chain["filters"][0], "typed_config": manager}]}],
    }
