"""Prometheus itself reads the files that are rendered for it, and its rules fire when they should and only then."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.engines import need

from intermodal.cli.metrics_text import metrics_text
from intermodal.deployed import Deployment
from intermodal.rooms.deploy.revision import Revision, RevisionState
from intermodal.rooms.deploy.rollout import Hold, Phase, Plan, Rollout
from intermodal.rooms.deploy.target import Seen
from intermodal.rooms.render import About, Place
from intermodal.rooms.render.alerts import alerts
from intermodal.rooms.render.grafana import dashboard
from intermodal.rooms.render.prometheus import scrape
from intermodal.rooms.render.yaml_text import yaml_text
from intermodal.rooms.watch.drift import Drift, Shift

ABOUT = About("digits", Place.DOCKER, target="local", max_error_rate=0.05, max_p99_s=0.5)
COMPOSE = About("digits", Place.COMPOSE, version="1.0.0")
R = 'model="digits", revision="2"'
STATES = ((1, RevisionState.STABLE), (2, RevisionState.CANDIDATE))


def promtool(*words: str, folder: Path) -> str:
    done = subprocess.run([need("promtool"), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("about", [ABOUT, COMPOSE], ids=["deployed", "compose"])
def test_promtool_takes_configuration_and_rules(about: About, tmp_path: Path) -> None:
    for rendered in (scrape(about), alerts(about)):
        for name, content in rendered.files.items():
            (tmp_path / name).write_bytes(content)
    said = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert "1 rule files found" in said and "SUCCESS: 11 rules found" in said


def test_every_question_of_the_dashboard_is_one_that_prometheus_understands(tmp_path: Path) -> None:
    (content,) = dashboard(ABOUT).files.values()
    document = json.loads(content)
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(document)
    assert len(document["uid"]) <= 40 and document["title"]
    ids, places, rules = set(), set(), []
    for panel in document["panels"]:
        assert {"id", "type", "title", "gridPos", "targets", "datasource", "fieldConfig"} <= set(panel)
        ids.add(panel["id"])
        places.add((panel["gridPos"]["x"], panel["gridPos"]["y"]))
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "1m").replace("$model", "digits")
            rules.append({"record": f"question:{len(rules)}", "expr": query.replace("$revision", ".*")})
            assert target["legendFormat"] and target["datasource"]["uid"] == "${source}"
    assert len(ids) == len(places) == len(document["panels"]) == 10
    assert {one["name"] for one in document["templating"]["list"]} == {"source", "model", "revision"}
    (tmp_path / "rules.yml").write_bytes(yaml_text({"groups": [{"name": "all", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", "rules.yml", folder=tmp_path)


def counter(name: str, values: str, **labels: str) -> dict[str, str]:
    every = ", ".join([R, *(f'{key}="{value}"' for key, value in labels.items())])
    return {"series": f"{name}{{{every}}}", "values": values}


def live(code: str, values: str) -> dict[str, str]:
    return counter("intermodal_requests_total", values, protocol="v2", code=code, traffic="live")


FINE = [live("200", "0+600x60"), counter("up", "1x60", job="intermodal-digits"), counter("intermodal_ready", "1x60")]


def histogram(fast: int, slow: int) -> list[dict[str, str]]:
    name = "intermodal_request_duration_seconds_bucket"
    return [
        counter(name, f"0+{fast}x60", traffic="live", le="0.1"),
        counter(name, f"0+{fast}x60", traffic="live", le="0.5"),
        counter(name, f"0+{fast + slow}x60", traffic="live", le="2"),
        counter(name, f"0+{fast + slow}x60", traffic="live", le="+Inf"),
    ]


CASES: dict[str, tuple[list[dict[str, str]], set[str]]] = {
    "nothing is wrong": ([*FINE, *histogram(600, 3)], set()),
    "errors beyond the limit": ([*FINE, live("500", "0+60x60")], {"Errors"}),
    "errors below the limit": ([*FINE, live("500", "0+20x60")], set()),
    "copies and golden cases fail": (
        [*FINE, counter("intermodal_requests_total", "0+600x60", protocol="v2", code="500", traffic="mirror")],
        set(),
    ),
    "half of it fails": ([*FINE, live("500", "0+700x60")], {"Errors", "CircuitOpen"}),
    "all of very few fail": ([live("500", "0+1x60"), *FINE[1:]], set()),
    "slow": ([*FINE, *histogram(600, 30)], {"Slow"}),
    "not ready": ([*FINE[:2], counter("intermodal_ready", "0x60")], {"NotReady"}),
    "gone": ([counter("up", "0x60", job="intermodal-digits")], {"Gone"}),
    "workers end": (
        [*FINE, counter("intermodal_worker_replacements_total", "0+1x60", reason="crash")],
        {"WorkersReplaced"},
    ),
    "gateway refuses": (
        [*FINE, counter("envoy_cluster_circuit_breakers_default_rq_open", "1x60", envoy_cluster_name="digits_r2")],
        {"GatewayRefuses"},
    ),
    "held": ([*FINE, counter("intermodal_rollout_held", "1x60", target="local")], {"RolloutHeld"}),
    "unwatched": (
        [
            *FINE,
            counter("intermodal_rollout_running", "1x60", target="local"),
            counter("intermodal_rollout_watched", "0x60", target="local"),
        ],
        {"RolloutUnwatched"},
    ),
    "watched": (
        [
            *FINE,
            counter("intermodal_rollout_running", "1x60", target="local"),
            counter("intermodal_rollout_watched", "1x60", target="local"),
        ],
        set(),
    ),
    "drift": ([*FINE, counter("intermodal_drift_warning", "1x60", output="label")], {"DriftSincePromotion"}),
}


@pytest.mark.parametrize("case", CASES)
def test_alerts_fire_when_they_should_and_only_then(case: str, tmp_path: Path) -> None:
    series, wanted = CASES[case]
    check(tmp_path, series, wanted, "1h")


def share(name: str, before: int, after: int) -> dict[str, str]:
    """Predictions of a class a minute, for a day, and then for three hours."""
    values = f"0+{before}x1440 {before * 1440}+{after}x180"
    return counter("intermodal_predictions_total", values, **{"class": name}, output="label", traffic="live")


def test_a_class_that_moved_in_a_day_is_told(tmp_path: Path) -> None:
    day = [counter("up", "1x2000", job="intermodal-digits")]
    check(tmp_path, [*day, share("a", 50, 50), share("b", 50, 52)], set(), "26h30m", "10m")
    check(tmp_path, [*day, share("a", 50, 75), share("b", 50, 25)], {"Drift"}, "26h30m", "10m")
    check(tmp_path, [*day, share("a", 5, 7), share("b", 5, 2)], {"Drift"}, "26h30m", "10m")
    check(tmp_path, [*day, share("a", 3, 5), share("b", 3, 1)], set(), "26h30m", "10m")  # 360 an hour are too few


def check(folder: Path, series: list[dict[str, str]], wanted: set[str], when: str, every: str = "1m") -> None:
    """Exactly the wanted alerts fire."""
    (content,) = alerts(ABOUT).files.values()
    (folder / "alerts.yml").write_bytes(content)
    fired = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing", model="digits"})',
        "eval_time": when,
        "exp_samples": [{"labels": f'{{alertname="Intermodal{name}"}}', "value": 1} for name in wanted],
    }
    tests: list[dict[str, Any]] = [{"interval": "1m", "input_series": series, "promql_expr_test": [fired]}]
    document = {"rule_files": ["alerts.yml"], "evaluation_interval": every, "tests": tests}
    (folder / "tests.yml").write_bytes(yaml_text(document))
    promtool("test", "rules", "tests.yml", folder=folder)


def test_metrics_of_rollouts_are_such_as_prometheus_takes() -> None:
    digest = f"sha256:{1:064x}"
    revisions = tuple(Revision(number, digest, digest, state=state) for number, state in STATES)
    shift = Shift("label", 0.3, 0.1, 600, 'a "class"', 0.1, 0.4)
    one = Deployment(
        model="digits",
        target='ssh://a"b',
        endpoint="",
        revisions=revisions,
        rollout=Rollout(2, 1, Plan(), phase=Phase.HELD, held=Hold.SHIFT, weight_percent=10),
        seen={1: Seen(1, 1), 2: Seen(1, 0)},
        shares=((1, 100), (2, 0)),
        drift=Drift(shifts=(shift,)),
    )
    text = metrics_text([one, one])
    done = subprocess.run(
        [need("promtool"), "check", "metrics"], input=metrics_text([one]), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert 'intermodal_rollout_held{model="digits",target="ssh://a\\"b"} 1' in text
    assert 'intermodal_revision_healthy{model="digits",target="ssh://a\\"b",revision="2",state="candidate"} 0' in text
    assert 'intermodal_drift_warning{model="digits",target="ssh://a\\"b",revision="1",output="label"} 1' in text
    assert text.count("# TYPE intermodal_rollout_held gauge") == 1
    asked = "".join(content.decode() for content in [*alerts(ABOUT).files.values(), *dashboard(ABOUT).files.values()])
    for name in re.findall(r"intermodal_(?:rollout|revision|drift)_\w+", asked):
        assert f"# TYPE {name} gauge" in text, f"{name} is asked for, and nobody tells it"
