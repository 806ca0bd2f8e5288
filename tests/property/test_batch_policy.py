"""The batching policy under any sequence of arrivals, departures, answers and deaths: its rules hold at every step."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal_server.front.execute.policy import Limits, Policy, Request

LIMITS = Limits(max_rows=8, max_bytes=1000, fixed_s=0.004)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 10), st.integers(1, 400), st.sampled_from(["a", "b", None])),
        st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([0.00001, 0.001, 0.01, 1.0])),
        st.tuples(st.just("fail"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("withdraw"), st.integers(0, 20)),
        st.tuples(st.just("die"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.sampled_from([0.0001, 0.004, 0.2])),
    ),
    max_size=60,
)


@dataclass
class World:
    """A driver of the policy that keeps its own books."""

    copies: int
    now_s: float = 0.0
    queued: list[Request] = field(default_factory=list)
    busy: dict[int, list[Request]] = field(default_factory=dict)
    ended: list[Request] = field(default_factory=list)
    windows: dict[int, float] = field(default_factory=dict)  # copy -> when its window began
    last_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy: Policy[Request] = Policy(LIMITS)
        self.alive = set(range(self.copies))
        for copy in self.alive:
            self.policy.free(copy)

    def pump(self) -> None:
        while True:
            before = list(self.queued)
            batch = self.policy.take(self.now_s)
            if batch is None:
                break
            for request in batch.late:
                assert request.deadline_s <= self.now_s
                self.queued.remove(request)
                self.ended.append(request)
            if not batch.requests:
                continue
            assert batch.copy in self.alive and batch.copy not in self.busy
            self._check(batch.requests, before)
            for request in batch.requests:
                self.queued.remove(request)
            assert batch.rows == sum(request.rows for request in batch.requests)
            self.busy[batch.copy] = batch.requests
        self._waiting_is_justified()

    def _check(self, chosen: list[Request], before: list[Request]) -> None:
        first = chosen[0]
        fresh = [request for request in before if request.deadline_s > self.now_s]
        assert first is fresh[0], "the oldest goes first"
        assert all(request.deadline_s > self.now_s and not request.withdrawn for request in chosen)
        if len(chosen) > 1:
            assert first.key is not None and {request.key for request in chosen} == {first.key}
            assert sum(request.rows for request in chosen) <= LIMITS.max_rows
            assert sum(request.size_bytes for request in chosen) <= LIMITS.max_bytes
        same = [request for request in fresh if request.key == first.key]
        assert chosen == same[: len(chosen)], "nobody of the same key is overtaken"

    def _waiting_is_justified(self) -> None:
        idle = self.alive - set(self.busy)
        assert self.policy.queued_rows == sum(request.rows for request in self.queued)
        assert self.policy.queued_bytes == sum(request.size_bytes for request in self.queued)
        assert len(self.policy) == len(self.queued)
        if not self.queued or not idle:
            return
        wake_s = self.policy.wake_s
        assert wake_s is not None, "a free copy and no reason to wait"
        longest = min(LIMITS.fixed_s, self.policy.predict_s, LIMITS.window_most_s)
        assert self.now_s < wake_s <= self.now_s + longest + 1e-12


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3), STEPS)
def test_every_request_goes_once_in_order_within_limits_and_waits_only_in_a_window(copies: int, steps: list) -> None:
    world = World(copies)
    everybody: list[Request] = []
    for step in steps:
        kind, *values = step
        if kind == "arrive":
            request = Request(values[0], values[1], values[2], world.now_s + 0.3)
            everybody.append(request)
            world.queued.append(request)
            world.policy.arrive(request)
        elif kind == "answer" and values[0] in world.busy:
            done = world.busy.pop(values[0])
            world.ended += done
            world.policy.done(values[0], len(done), values[1], world.now_s)
        elif kind == "fail" and values[0] in world.busy:
            failed = world.busy.pop(values[0])
            if len(failed) > 1:
                groups = [failed[:1], failed[1:]] if values[1] else [[request] for request in failed]
                world.policy.again(groups)
                assert failed[0].key is None
                assert len({id(request.key) for request in failed[1:]}) == 1 or not values[1]
                world.queued = failed + world.queued
            else:
                world.ended += failed
            world.policy.done(values[0], 1, 0.01, world.now_s)
        elif kind == "withdraw" and values[0] < len(everybody):
            request = everybody[values[0]]
            world.policy.withdraw(request)
            if request in world.queued:
                world.queued.remove(request)
                world.ended.append(request)
        elif kind == "die" and values[0] in world.alive and len(world.alive) > 1:
            world.policy.gone(values[0])
            world.alive.discard(values[0])
            world.ended += world.busy.pop(values[0], [])
        elif kind == "wait":
            world.now_s += values[0]
        world.pump()
    running = [request for batch in world.busy.values() for request in batch]
    assert sorted(map(id, everybody)) == sorted(map(id, world.queued + running + world.ended)), "lost or doubled"


def test_a_lone_caller_never_waits_however_slow_the_model() -> None:
    policy: Policy[Request] = Policy(LIMITS)
    policy.free(1)
    for round_s in range(5):
        policy.arrive(Request(1, 8, "a", 100.0))
        batch = policy.take(float(round_s))
        assert batch is not None and len(batch.requests) == 1
        policy.done(1, 1, 0.5, round_s + 0.5)


def _two_callers(predict_s: float, limits: Limits = LIMITS) -> Policy[Request]:
    """A model that has just answered two callers in `predict_s`, at time 1."""
    policy: Policy[Request] = Policy(limits)
    policy.free(1)
    policy.arrive(Request(1, 8, "a", 100.0))
    assert policy.take(0.0) is not None
    policy.done(1, 2, predict_s, 1.0)
    return policy


def test_callers_just_answered_are_waited_for_and_no_longer_than_they_need() -> None:
    policy = _two_callers(0.01)
    policy.arrive(Request(1, 8, "a", 100.0))
    assert policy.take(1.0001) is None
    assert policy.wake_s is not None and abs(policy.wake_s - 1.004) < 1e-9
    policy.arrive(Request(1, 8, "a", 100.0))
    batch = policy.take(1.0002)
    assert batch is not None and len(batch.requests) == 2


def test_the_window_ends_without_them() -> None:
    policy = _two_callers(0.01)
    policy.arrive(Request(1, 8, "a", 100.0))
    assert policy.take(1.0039) is None
    batch = policy.take(1.0041)
    assert batch is not None and len(batch.requests) == 1


def _turn(policy: Policy[Request], now_s: float, come: int) -> float:
    """Answer two callers, of whom `come` ask again in time; how long they were waited for at most, in seconds."""
    for count, answered, ended_s in ((2, 2, now_s), (come, 1, now_s + 1)):
        for _ in range(count):
            policy.arrive(Request(1, 8, "a", 1e9))
        end_s = policy.wake_s
        batch = policy.take(ended_s)
        assert batch is not None and len(batch.requests) == count
        policy.done(1, answered, 0.01, ended_s)
    return (end_s or now_s) - now_s


def test_callers_who_do_not_come_again_are_waited_for_ever_less_and_those_who_do_as_long_as_before() -> None:
    policy: Policy[Request] = Policy(LIMITS)
    policy.free(1)
    alone = [round(_turn(policy, 10.0 * turn, 1), 6) for turn in range(40)]
    assert alone[0] == 0.004 and alone[1] < 0.003
    assert alone.count(0.0) > len(alone) / 2, "mostly nobody is waited for"
    assert any(0 < length < 0.001 for length in alone[20:]), "it is tried again"
    both = [round(_turn(policy, 1000.0 + 10.0 * turn, 2), 6) for turn in range(20)]
    assert both[-1] == 0.004


def test_a_model_without_fixed_cost_opens_no_window_and_a_slow_one_at_most_five_milliseconds() -> None:
    light = _two_callers(0.001, Limits(max_rows=8, fixed_s=0.0004))
    light.arrive(Request(1, 8, "a", 100.0))
    assert light.take(1.0) is not None
    linear = _two_callers(10.0, Limits(max_rows=8))
    linear.arrive(Request(1, 8, "a", 100.0))
    assert linear.take(1.0) is not None
    slow = _two_callers(10.0, Limits(max_rows=8, fixed_s=9.0))
    slow.arrive(Request(1, 8, "a", 100.0))
    assert slow.take(1.0049) is None
    assert slow.take(1.0051) is not None


def test_a_request_larger_than_a_batch_goes_by_itself() -> None:
    policy: Policy[Request] = Policy(LIMITS)
    for rows in (50, 1, 1):
        policy.arrive(Request(rows, 8, "a", 100.0))
    policy.free(1)
    first = policy.take(0.0)
    assert first is not None and [request.rows for request in first.requests] == [50]
    policy.done(1, 1, 0.01, 1.0)
    second = policy.take(1.01)
    assert second is not None and [request.rows for request in second.requests] == [1, 1]


def test_late_ones_are_handed_back_and_the_rest_goes() -> None:
    policy: Policy[Request] = Policy(LIMITS)
    late, fresh = Request(1, 8, "a", 1.0), Request(1, 8, "a", 9.0)
    policy.arrive(late)
    policy.arrive(fresh)
    policy.free(1)
    batch = policy.take(2.0)
    assert batch is not None and batch.late == [late] and batch.requests == [fresh]
    policy.arrive(Request(1, 8, "a", 3.0))
    assert [request.deadline_s for request in policy.late(4.0)] == [3.0]
    assert len(policy) == policy.queued_rows == policy.queued_bytes == 0
