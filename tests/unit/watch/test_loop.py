"""The watcher in a world of memory: whole rollouts, and death at any moment between any two things it does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.worlds import HandClock, Nature, World, steady

from intermodal.rooms.deploy.rollout import Command, Hold, Phase, Plan, Step
from intermodal.rooms.deploy.target import Traffic

CANARY = Plan((Step(10, min_requests=50), Step(50, min_requests=50)), bake_s=3, start_max_s=30)
PAUSED = Plan((Step(10, min_requests=50), Step(pause=True)), bake_s=3, start_max_s=30)
SHADOW = Plan((Step(mirror=True, min_requests=50), Step(50, min_requests=50)), bake_s=3, start_max_s=30)
FIRST = Plan((), bake_s=2, start_max_s=30)


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    try:
        yield found
    finally:
        found.close()


def first(world: World) -> None:
    world.deploy(FIRST)
    assert world.watch(30)
    assert (world.rollout.phase, world.traffic_now.weights) == (Phase.PROMOTED, ((1, 100),))


def test_the_first_revision_has_traffic_once_its_golden_cases_pass(world: World) -> None:
    first(world)
    assert set(world.containers) == {1}
    assert world.state.verify_log() == ""


def test_a_good_canary_gets_everything_and_the_old_one_goes(world: World) -> None:
    first(world)
    world.deploy(CANARY)
    assert world.watch(60)
    assert (world.rollout.phase, world.traffic_now.percent(2)) == (Phase.PROMOTED, 100)
    assert set(world.containers) == {2}


@pytest.mark.parametrize(
    ("nature", "reason"),
    [
        (Nature(errors=0.4), "beyond the margin, errors"),
        (Nature(golden=False), "golden cases failed"),
        (Nature(crashes=True), "does not keep running: ended 3 times"),
        (Nature(starts_in=10**6), "did not become ready in 30 s"),
        (Nature(golden=None), "golden cases got no answer"),
    ],
)
def test_a_bad_canary_goes_back_by_itself(world: World, nature: Nature, reason: str) -> None:
    first(world)
    world.natures[2] = nature
    world.deploy(CANARY)
    assert world.watch(100)
    assert world.rollout.phase is Phase.ROLLED_BACK and reason in world.rollout.reason
    assert (world.traffic_now.percent(1), set(world.containers)) == (100, {1})
    if not nature.errors:
        assert world.counted.get(2, [0, 0]) == [0, 0], "it never had traffic"


def test_golden_cases_that_fail_later_send_it_back(world: World) -> None:
    first(world)
    world.deploy(CANARY)
    world.watch(40, until=lambda: world.rollout.weight_percent == 50)
    world.natures[2].golden = False
    assert world.watch(30)
    assert world.rollout.phase is Phase.ROLLED_BACK and "golden cases failed" in world.rollout.reason


def test_without_users_it_is_held_and_goes_on_when_they_come(world: World) -> None:
    first(world)
    world.requests_per_tick = 0
    world.deploy(Plan((Step(10, min_requests=50, max_time_s=10),), bake_s=3))
    assert not world.watch(30)
    assert (world.rollout.phase, world.rollout.held) == (Phase.HELD, Hold.NO_DATA)
    assert world.traffic_now.percent(2) == 10
    world.requests_per_tick = 200
    assert world.watch(60)
    assert world.rollout.phase is Phase.PROMOTED


def test_copies_are_judged_before_anybody_gets_an_answer(world: World) -> None:
    first(world)
    world.natures[2] = Nature(errors=0.5)
    world.deploy(SHADOW)
    world.watch(40, until=lambda: world.traffic_now.mirror == 2)
    assert world.traffic_now == Traffic(((1, 100),), 2)
    assert world.watch(40)
    assert world.rollout.phase is Phase.ROLLED_BACK and world.counted.get(2, [0, 0]) == [0, 0]
    assert (world.traffic_now.percent(1), world.traffic_now.mirror) == (100, None)
    world.natures[3] = Nature()
    world.deploy(SHADOW)
    assert world.watch(60) and world.rollout.phase is Phase.PROMOTED


def test_who_lost_the_traffic_is_not_stopped_at_once(world: World) -> None:
    first(world)
    world.natures[2] = Nature(errors=0.4)
    world.deploy(CANARY)
    world.watch(200, until=lambda: world.rollout.phase is Phase.ROLLING_BACK, seconds=0.5)
    assert world.traffic_now.percent(2) == 0 and not world.containers[2].ending
    assert world.watch(20, seconds=0.25) and set(world.containers) == {1}


def test_people_are_obeyed(world: World) -> None:
    first(world)
    world.deploy(PAUSED)
    assert not world.watch(30)
    assert world.rollout.phase is Phase.PAUSED
    world.ask(Command.PROMOTE)
    assert world.watch(30) and world.rollout.phase is Phase.PROMOTED
    world.deploy(PAUSED)
    world.watch(8)
    world.ask(Command.ABORT)
    assert world.watch(30) and world.rollout.phase is Phase.ROLLED_BACK
    assert world.traffic_now.percent(2) == 100


def test_a_command_is_not_lost_with_its_watcher(world: World) -> None:
    for dies_after in range(12):
        if world.state.model("memory", "digits") is None:
            first(world)
        world.deploy(PAUSED)
        world.watch(8)
        world.ask(Command.ABORT)
        world.watch(1, dies_after=dies_after)
        assert world.watch(30) and world.rollout.phase is Phase.ROLLED_BACK, dies_after


def test_on_a_full_disk_nothing_is_done_and_it_goes_on_when_there_is_room(world: World) -> None:
    first(world)
    world.deploy(CANARY)
    world.watch(40, until=lambda: world.rollout.weight_percent == 10)
    before, world.disk_full = (world.rollout, world.traffic_now, set(world.containers)), True
    world.natures[2].errors = 0.4
    assert not world.watch(10)
    assert (world.rollout, world.traffic_now, set(world.containers)) == before
    world.disk_full = False
    assert world.watch(60) and world.rollout.phase is Phase.ROLLED_BACK


def test_a_gateway_that_dies_comes_back_and_its_counters_are_not_believed(world: World) -> None:
    first(world)
    world.deploy(CANARY)
    world.watch(40, until=lambda: world.rollout.weight_percent == 10)
    world.gateway = False
    assert world.watch(60)
    assert world.rollout.phase is Phase.PROMOTED


def test_a_watcher_that_dies_at_the_end_stops_nobody_while_the_new_one_is_ill(world: World) -> None:
    died_promoted = 0
    for dies_after in range(24):
        if world.state.model("memory", "digits") is None:
            first(world)
        stable = world.traffic_now.weights[-1][0] if len(world.traffic_now.weights) == 1 else world.rollout.candidate
        world.deploy(Plan((), bake_s=1, start_max_s=30))
        new = world.rollout.candidate
        world.watch(40, until=lambda: world.rollout.phase is Phase.BAKING)
        world.watch(4, dies_after=dies_after)
        if stable in world.containers and not world.containers[stable].ending and world.rollout.over:
            died_promoted += 1
            world.containers[new].ready, world.containers[new].age = False, -5
            world.watch(3)
            assert not world.containers[stable].ending
        assert world.watch(60)
        assert set(world.containers) == {new}
    assert died_promoted, "no death fell between storing the end and stopping the old revision"


def test_what_died_is_started_again_after_the_end(world: World) -> None:
    first(world)
    world.containers.clear()
    world.traffic_now = type(world.traffic_now)()
    assert world.watch(20)
    assert (set(world.containers), world.traffic_now.weights) == ({1}, ((1, 100),))


class DyingWatchers(RuleBasedStateMachine):
    """Anything may happen to replicas, gateway, users and watchers; the rules hold at every call (see `worlds`)."""

    @initialize()
    def begin(self) -> None:
        self.world = World()
        first(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.settle()
            self.world.close()

    @property
    def over(self) -> bool:
        return self.world.rollout.over

    @precondition(lambda self: self.over)
    @rule(
        plan=strategies.sampled_from([CANARY, PAUSED, SHADOW, FIRST]),
        nature=strategies.sampled_from(
            [Nature(), Nature(3), Nature(errors=0.4), Nature(golden=False), Nature(golden=None), Nature(crashes=True)]
        ),
    )
    def deploy(self, plan: Plan, nature: Nature) -> None:
        self.settle()
        number = max(self.world.natures) + 1
        self.world.natures[number] = Nature(nature.starts_in, nature.golden, nature.errors, nature.crashes)
        self.world.deploy(plan)

    @rule(ticks=strategies.integers(1, 6), seconds=strategies.sampled_from([0.5, 1.0, 20.0]))
    def live(self, ticks: int, seconds: float) -> None:
        self.world.watch(ticks, seconds=seconds)

    @rule(ticks=strategies.integers(1, 4), effects=strategies.integers(0, 25))
    def die(self, ticks: int, effects: int) -> None:
        self.world.watch(ticks, dies_after=effects)

    @rule(ticks=strategies.integers(1, 3))
    def nobody_watches(self, ticks: int) -> None:
        for _ in range(ticks):
            self.world.pass_time()

    @rule(command=strategies.sampled_from(Command))
    def ask(self, command: Command) -> None:
        if not self.over:
            self.world.ask(command)

    @rule()
    def gateway_dies(self) -> None:
        self.world.gateway = False

    @rule(which=strategies.integers(0, 1))
    def replica_dies(self, which: int) -> None:
        """A restart policy starts it again; for a moment it is not ready."""
        numbers = sorted(self.world.containers)
        if numbers:
            container = self.world.containers[numbers[which % len(numbers)]]
            container.ready, container.age = False, -1

    @rule(which=strategies.integers(0, 1))
    def replica_is_taken_away(self, which: int) -> None:
        numbers = sorted(self.world.containers)
        if numbers:
            del self.world.containers[numbers[which % len(numbers)]]

    @rule(seconds=strategies.sampled_from([-500.0, 5000.0]))
    def clock_is_set(self, seconds: float) -> None:
        """Between two watchers; within one it counts for nothing (see `Clock`)."""
        HandClock.wall_s += seconds

    @invariant()
    def somebody_has_the_traffic(self) -> None:
        if hasattr(self, "world"):
            assert sum(share for _, share in self.world.traffic_now.weights) == 100

    def settle(self) -> None:
        """When everybody behaves, stored state, weights and containers agree soon."""
        world = self.world
        steady(world)
        for _ in range(6):
            if world.watch(60):
                break
            if world.rollout.phase in (Phase.PAUSED, Phase.HELD):
                world.ask(Command.PROMOTE if world.rollout.candidate not in world.failed else Command.ABORT)
        rollout = world.rollout
        assert rollout.over, rollout
        winner = rollout.candidate if rollout.phase is Phase.PROMOTED else rollout.stable
        assert world.traffic_now.percent(winner) == 100 and world.traffic_now.mirror is None
        assert set(world.containers) == {winner}
        model = world.state.model("memory", "digits")
        assert model is not None and model.current == winner
        assert world.state.verify_log() == ""


TestDyingWatchers = DyingWatchers.TestCase
TestDyingWatchers.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
