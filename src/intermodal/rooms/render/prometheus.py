"""The scrape file: where Prometheus finds the replicas of a model, whichever revision they are of.

Takes `About`, hands on a Prometheus configuration. Docker's containers are found by their labels, so the file stays
true while revisions come and go. Replicas listen in a network of their own, which their machine reaches: Prometheus
runs on that machine.
"""

from __future__ import annotations

from typing import Any

from intermodal.rooms.deploy.targets.bodies import LABEL, METRICS_PORT, MODEL, NETWORK, REPLICA, REVISION
from intermodal.rooms.render.about import About, Place, Rendered
from intermodal.rooms.render.yaml_text import yaml_text

FILE, ALERTS_FILE = "prometheus.yml", "alerts.yml"
GATEWAY_PORT = 9901  # of the compose file's gateway, for its statistics alone
_SOCKET = "unix:///var/run/docker.sock"


def scrape(about: About) -> Rendered:
    """The configuration, complete; its jobs can be copied into one that is there."""
    jobs = [_docker_job(about)] if about.place is Place.DOCKER else _compose_jobs(about)
    document: dict[str, Any] = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "15s"},
        "rule_files": [ALERTS_FILE],
        "scrape_configs": jobs,
    }
    where = "on the machine of the containers" if about.place is Place.DOCKER else "as a service of the compose file"
    head = f"Prometheus for {about.model}: runs {where}.\nRules: intermodal render {about.model} --format alerts"
    return Rendered(
        {FILE: yaml_text(document, head=head)},
        (f"promtool check config {FILE}", f"prometheus --config.file {FILE}"),
    )


def job_name(about: About) -> str:
    """The job of the replicas."""
    return f"intermodal-{about.model}"


def _docker_job(about: About) -> dict[str, Any]:
    labels = {
        name: f"__meta_docker_container_label_{label.replace('.', '_').replace('-', '_')}"
        for name, label in (("kind", LABEL), ("model", MODEL), ("revision", REVISION), ("replica", REPLICA))
    }
    rules = [
        {"source_labels": [labels["kind"], labels["model"]], "regex": f"replica;{about.model}", "action": "keep"},
        {"source_labels": ["__meta_docker_network_name"], "regex": NETWORK, "action": "keep"},
        # one target for each open port of a container becomes one, because equal targets are scraped once
        {
            "source_labels": ["__meta_docker_network_ip"],
            "target_label": "__address__",
            "replacement": f"$1:{METRICS_PORT}",
        },
        *({"source_labels": [labels[name]], "target_label": name} for name in ("model", "revision", "replica")),
    ]
    discovery = {"host": _SOCKET, "refresh_interval": "5s", "filters": [{"name": "label", "values": [LABEL]}]}
    return {"job_name": job_name(about), "docker_sd_configs": [discovery], "relabel_configs": rules}


def _compose_jobs(about: About) -> list[dict[str, Any]]:
    labels = [
        {"target_label": "model", "replacement": about.model},
        {"target_label": "revision", "replacement": about.version or "1"},
    ]
    replicas = {"names": [about.model], "type": "A", "port": METRICS_PORT, "refresh_interval": "5s"}
    gateway = {"names": ["gateway"], "type": "A", "port": GATEWAY_PORT, "refresh_interval": "5s"}
    return [
        {"job_name": job_name(about), "dns_sd_configs": [replicas], "relabel_configs": labels},
        {
            "job_name": f"{job_name(about)}-gateway",
            "metrics_path": "/stats/prometheus",
            "dns_sd_configs": [gateway],
            "relabel_configs": labels[:1],
        },
    ]
