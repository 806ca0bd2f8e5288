"""From `[deploy]` and the command line to one wish, and from a wish to a plan."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.project.schema import Deploy, ProjectFile
from intermodal.rooms.deploy.revision import Exposure, Settings
from intermodal.rooms.deploy.rollout import Step
from intermodal.rooms.deploy.wish import DEFAULT_STEPS, Overrides, Wish, seconds, wish_of
from intermodal.rooms.watch.rules import rules_of

RING = (("INTERMODAL_RING", "1000"),)  # predictions by request id, for copies and labels
FULL = """
[deploy]
target = "ssh://ml@gpu1"
host = "digits.example.com"
path = "/digits"
port = 8443
address = "0.0.0.0"
certificate = "tls.pem"
key = "/etc/tls.key"
sticky = "X-User"
strategy = "canary"
replicas = 3
steps = [{ weight = 5, min_requests = 100, max_time = "90s" }, { pause = true }, { weight = 50 }]
bake = "1.5h"
max_hold = "2d"
[deploy.analysis]
errors_ratio = 2.0
class_shift = "rollback"
max_p99_s = 0.5
[deploy.resources]
cpu = "2"
memory = "1Gi"
[secrets]
TOKEN = { from = "env:TOKEN" }
"""


def wish(text: str, overrides: Overrides = Overrides()) -> Wish:  # noqa: B008
    project = msgspec.convert(tomllib.loads(text), ProjectFile)
    return wish_of(project.deploy, project.secrets, overrides, root=Path("/srv"), mode="thread")


def test_everything_in_the_project_counts() -> None:
    found = wish(FULL)
    assert found.target == "ssh://ml@gpu1"
    assert found.exposure == Exposure(
        8443, "0.0.0.0", "digits.example.com", "/digits", "/srv/tls.pem", "/etc/tls.key", "x-user"
    )
    assert found.settings == Settings(3, "thread", RING, "2", "1Gi", 0, (("TOKEN", "env:TOKEN"),))
    assert found.steps == (Step(5, min_requests=100, max_time_s=90), Step(pause=True), Step(50))
    assert (found.bake_s, found.max_hold_s, found.strategy) == (5400.0, 172800.0, "canary")
    rules = rules_of(found.analysis)
    assert (rules.errors_ratio, rules.class_shift_fails, rules.max_p99_s, rules.max_error_rate) == (
        2.0,
        True,
        0.5,
        0.05,
    )


def test_nothing_in_the_project_is_enough() -> None:
    found = wish("")
    assert (found.target, found.exposure, found.steps) == ("local", Exposure(), DEFAULT_STEPS)
    assert found.settings == Settings(mode="thread", environment=RING)


def test_the_command_line_wins() -> None:
    over = Overrides("sandbox", 1234, "h", "/p", "blue-green", 2, "5s", {"B": "2", "A": "1"})
    found = wish(FULL, over)
    assert (found.target, found.exposure.port, found.exposure.host, found.exposure.path) == ("sandbox", 1234, "h", "/p")
    assert (found.strategy, found.settings.replicas, found.bake_s) == ("blue-green", 2, 5.0)
    assert found.settings.environment == (("A", "1"), ("B", "2"), *RING)


def test_autoscaling_is_told_to_have_no_effect_here() -> None:
    assert "without effect" in wish("[deploy.autoscale]\nmax = 3\n").notices[0]


@pytest.mark.parametrize(
    ("rate", "weights"),
    [(None, []), (0.001, []), (100.0, [5, 25, 50])],
)
def test_auto_is_a_canary_only_where_it_can_be_decided(rate: float | None, weights: list[int]) -> None:
    plan = wish("").plan(first=False, requests_per_s=rate)
    assert [step.weight_percent for step in plan.steps] == weights
    assert plan.bake_s == 1800.0


def test_the_first_revision_has_no_steps_and_a_short_bake() -> None:
    plan = wish(FULL).plan(first=True, requests_per_s=1000.0)
    assert (plan.steps, plan.bake_s <= 5) == ((), True)


def test_steps_that_fall_are_refused() -> None:
    falling = wish('[deploy]\nstrategy = "canary"\nsteps = [{weight = 50}, {weight = 5}]\n')
    with pytest.raises(InputError, match="make no plan"):
        falling.plan(first=False, requests_per_s=None)


def test_times_are_read_and_refused() -> None:
    assert [seconds(text) for text in ("90s", "30m", "1.5h", "2d")] == [90.0, 1800.0, 5400.0, 172800.0]
    for text in ("", "5", "m", "five m", "5 weeks"):
        with pytest.raises(InputError, match="not a time"):
            seconds(text)
    with pytest.raises(InputError):
        wish("", replace(Overrides(), bake="soon"))
    assert Deploy().bake == "30m"
