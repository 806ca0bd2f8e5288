"""`judge`: is the canary worse than stable, beyond what an honest retrain may be?

Takes the counts of a rollout and the margins of the project, hands on a `Verdict` that explains itself.

Rules, in this order:
1. No healthy endpoint, or half of the last 20 requests or more failed while stable's did not: fail, without statistics.
2. Errors, slow requests, requests that came in the usual time, answers that labels prove wrong, and the absolute
   limits: evidence beyond the margin fails.
   Predicted classes, and copied requests answered otherwise: evidence beyond the margin holds for a person, or fails
   where the project says so.
   None of it is believed where requests were not divided as the weight says: then the comparison is biased, except
   that a canary with less than its share that still looks worse is worse.
3. All alarms together are wrong in at most `alpha` of the rollouts of a canary within its margins, however often one
   looks: each signal has a share of it.
4. Fewer requests of the canary than the step demands, or none of stable where the two are compared: inconclusive. So
   is evidence that leans towards worse without being enough, unless it is about a few errors of very many requests;
   and so are latencies of which so few were seen at this weight, or which scatter so far, that a much slower canary
   could hide.
5. Else pass; and the verdict says what could still have been missed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from intermodal.rooms.deploy.verdict import Finding, Outcome, Verdict
from intermodal.rooms.watch.counts import Arm, Evidence, Split
from intermodal.rooms.watch.evidence import (
    FEWER,
    MORE,
    SLOWER,
    WORSE,
    Count,
    e_value,
    excludes_rate,
    excludes_ratio,
    highest_rate,
    highest_ratio,
    lowest_ratio,
    rate_e_value,
    stepwise_e_value,
)

ERRORS_SHARE, SLOW_SHARE, USUAL_SHARE, CLASSES_SHARE, LIMITS_SHARE = 0.3, 0.2, 0.1, 0.3, 0.04  # of alpha
WRONG_SHARE, DISAGREEMENTS_SHARE = 0.04, 0.02
LEANING = 5.0  # evidence that is not enough, and yet too much to pass
FEW_ERRORS = 0.01  # a share of errors that is surely below this may pass while evidence leans
# What a pass has excluded: slow requests beyond so many times their margin, or such a share of them, and
SLOW_MISSED, SLOW_RATE_MISSED, USUAL_MISSED = 2.0, 0.15, 4 / 3  # fewer in the usual time than this part of its margin
P99 = 0.01
SLOW, USUAL = "slow", "in the usual time"
WRONG, DISAGREEMENTS = "wrong answers", "disagreements"  # signals that come from beside
SHIFTS = ("class ", DISAGREEMENTS)  # other predictions, which need not be worse ones
DIVIDED_RATIO = 1.1  # times the weight's odds; scrapes and requests under way make some difference
DIVIDED_NEEDED = 1000.0


class Rules(Struct, frozen=True):
    """What still counts as not worse."""

    errors_ratio: float = 1.5
    slow_ratio: float = 1.5  # of those in the usual time, the same part is still fine
    class_ratio: float = 1.5
    class_shift_fails: bool = False
    max_error_rate: float | None = 0.05
    max_p99_s: float | None = None
    wrong_ratio: float = 1.5  # of answers that labels prove wrong
    disagreement: float = 0.05  # share of copied requests that the canary may answer otherwise
    classes: tuple[str, ...] = ()  # chosen before the rollout, from stable; empty: not judged
    alpha: float = 0.01


def judge(evidence: Evidence, rules: Rules, *, min_requests: int, beside: tuple[Finding, ...] = ()) -> Verdict:
    """Return the verdict on the step that the evidence is at.

    Args:
        evidence: all windows of the rollout, `at_step` of the running one.
        rules: margins, limits and classes; the same from the first request to the last.
        min_requests: of the canary in this step, below which nothing passes; at least 1.
        beside: what labels and copied requests showed (`labels.wrong_answers`, `copies.disagreements`).
    """
    findings = signals(evidence, rules)
    outcome, reason, hold = _decide(evidence, rules, findings + beside, max(1, min_requests))
    return Verdict(
        outcome=outcome,
        step=evidence.step,
        reason=reason,
        canary_requests=evidence.step_canary,
        stable_requests=evidence.step_stable,
        hold=hold,
        findings=tuple(_with_bounds(evidence, rules, finding) for finding in findings) + beside,
    )


def outcome_of(evidence: Evidence, rules: Rules, *, min_requests: int) -> tuple[Outcome, bool]:
    """Return outcome and hold as `judge` does, without the bounds, which take most of its time."""
    outcome, _, hold = _decide(evidence, rules, signals(evidence, rules), max(1, min_requests))
    return outcome, hold


def _decide(
    evidence: Evidence, rules: Rules, findings: tuple[Finding, ...], min_requests: int
) -> tuple[Outcome, str, bool]:
    if not evidence.canary_healthy:
        return Outcome.FAIL, "the canary has no healthy endpoint", False
    if evidence.circuit_open:
        return Outcome.FAIL, "half or more of 20 or more requests of the canary failed, and stable's did not", False
    more, fewer = _divided(evidence, _requests)
    alarms = [finding for finding in findings if finding.alarmed and _believed(evidence, finding, more, fewer)]
    for finding in alarms:
        if not finding.signal.startswith(SHIFTS) or rules.class_shift_fails:
            return Outcome.FAIL, f"beyond the margin, {finding.sentence()}", False
    if alarms:
        return Outcome.INCONCLUSIVE, f"predictions shifted, a person decides: {alarms[0].sentence()}", True
    if evidence.step_stable == 0 and evidence.comparing:
        return Outcome.INCONCLUSIVE, "no requests of stable to compare with", False
    if more or fewer:
        text = f"the canary got {'more' if more else 'fewer'} requests than its weight: the two cannot be compared"
        return Outcome.INCONCLUSIVE, text, False
    if evidence.step_canary < min_requests:
        text = f"{evidence.step_canary} requests of the canary, {min_requests} are needed"
        return Outcome.INCONCLUSIVE, text, False
    if evidence.comparing and (why := _undecided(evidence, rules, findings)):
        return Outcome.INCONCLUSIVE, why, False
    return Outcome.PASS, f"nothing beyond its margin in {evidence.step_canary} requests of the canary", False


def _undecided(evidence: Evidence, rules: Rules, findings: tuple[Finding, ...]) -> str:
    """Why more requests are needed than the step demands; "" where they are not."""
    slow = next(finding for finding in findings if finding.signal == SLOW)
    if not slow.canary_requests:
        return "how long the canary takes was not seen yet"
    if any(_divided(evidence, _timed)):
        return "how long requests take was not seen of both revisions alike"
    for finding in findings:
        few = finding.signal == "errors" and excludes_rate(finding.canary_events, finding.canary_requests, FEW_ERRORS)
        if finding.evidence >= LEANING and not few:
            return f"more requests must decide: {finding.sentence(bounds=False)}"
    now = replace(evidence, rows=evidence.rows[-1:])  # at this weight: with fewer requests it had less to carry
    steady = excludes_ratio(_counts(now, _slow), SLOW_MISSED * rules.slow_ratio)
    timed = sum(row.canary.timed for row in now.rows)
    steady = steady or excludes_rate(sum(row.canary.slow for row in now.rows), timed, SLOW_RATE_MISSED)
    if not (steady and excludes_ratio(_counts(now, _usual), 1 / (USUAL_MISSED * rules.slow_ratio))):
        return f"in {timed} requests of the canary much slower ones could hide: more are needed"
    return ""


# --- rule 2: the signals


def _errors(arm: Arm) -> int:
    return arm.errors


def _slow(arm: Arm) -> int:
    return arm.slow


def _usual(arm: Arm) -> int:
    return arm.usual


def _timed(arm: Arm) -> int:
    return arm.timed


def _requests(arm: Arm) -> int:
    return arm.requests


def signals(evidence: Evidence, rules: Rules) -> tuple[Finding, ...]:
    """Return each signal's numbers and evidence, without bounds."""
    found = [
        _compared(evidence, "errors", _errors, rules.errors_ratio, rules.alpha * ERRORS_SHARE),
        _compared(evidence, SLOW, _slow, rules.slow_ratio, rules.alpha * SLOW_SHARE),
        _compared(evidence, USUAL, _usual, 1 / rules.slow_ratio, rules.alpha * USUAL_SHARE),
    ]
    if rules.classes:
        found.append(_shifted(evidence, rules))
    limit_share = rules.alpha * LIMITS_SHARE / 2
    if rules.max_error_rate is not None:
        found.append(_limited(evidence, "error limit", _errors, rules.max_error_rate, limit_share))
    if rules.max_p99_s is not None:
        name = f"over {rules.max_p99_s:g} s"
        found.append(_limited(evidence, name, lambda arm: arm.over_limit, P99, limit_share))
    return tuple(found)


def _counts(evidence: Evidence, events: Callable[[Arm], int]) -> list[Count]:
    return [
        Count(row.weight, events(row.canary), events(row.canary) + events(row.stable))
        for row in evidence.rows
        if row.weight is not None
    ]


def _finding(
    evidence: Evidence, signal: str, events: Callable[[Arm], int], value: float, *, margin: float, alpha: float
) -> Finding:
    compared = [row for row in evidence.rows if row.weight is not None]
    every = evidence.rows if signal.startswith(("error limit", "over ")) else compared
    asked = _timed if signal in (SLOW, USUAL) else _requests
    return Finding(
        signal=signal,
        stable_events=sum(events(row.stable) for row in every),
        stable_requests=sum(asked(row.stable) for row in every),
        canary_events=sum(events(row.canary) for row in every),
        canary_requests=sum(asked(row.canary) for row in every),
        evidence=value,
        needed=1 / alpha,
        margin=margin,
    )


def _compared(evidence: Evidence, signal: str, events: Callable[[Arm], int], margin: float, alpha: float) -> Finding:
    value = stepwise_e_value(_counts(evidence, events), margin, SLOWER if signal == USUAL else WORSE)
    return _finding(evidence, signal, events, value, margin=margin, alpha=alpha)


def _limited(evidence: Evidence, signal: str, events: Callable[[Arm], int], limit: float, alpha: float) -> Finding:
    bare = _finding(evidence, signal, events, 1.0, margin=limit, alpha=alpha)
    return replace(bare, evidence=rate_e_value(bare.canary_events, bare.canary_requests, limit))


def _shifted(evidence: Evidence, rules: Rules) -> Finding:
    """The mean over the classes and both directions is one e-value; the class that carries it is named."""
    values: list[float] = []
    for index in range(len(rules.classes)):
        counts = _counts(evidence, _of_class(index))
        more = stepwise_e_value(counts, rules.class_ratio, MORE)
        fewer = stepwise_e_value(counts, 1 / rules.class_ratio, FEWER)
        values.append((more + fewer) / 2)
    worst = max(range(len(values)), key=values.__getitem__)
    return _finding(
        evidence,
        f"class {rules.classes[worst]!r}",
        _of_class(worst),
        sum(values) / len(values),
        margin=rules.class_ratio,
        alpha=rules.alpha * CLASSES_SHARE,
    )


def _of_class(index: int) -> Callable[[Arm], int]:
    return lambda arm: arm.classes[index] if index < len(arm.classes) else 0


def _divided(evidence: Evidence, asked: Callable[[Arm], int]) -> tuple[bool, bool]:
    """Whether the canary got more, or fewer, requests than its weight says."""
    counts = [
        Count(row.weight, asked(row.canary), asked(row.canary) + asked(row.stable))
        for row in evidence.rows
        if row.weight is not None and row.split is not Split.PAIRS
    ]
    more = e_value(counts, DIVIDED_RATIO, MORE) >= DIVIDED_NEEDED
    return more, e_value(counts, 1 / DIVIDED_RATIO, FEWER) >= DIVIDED_NEEDED


def _believed(evidence: Evidence, finding: Finding, more: bool, fewer: bool) -> bool:
    if finding.signal in (SLOW, USUAL):
        more, fewer = _divided(evidence, _timed)
    if finding.signal.startswith("class "):
        return not more and not fewer
    if finding.signal == USUAL:  # events that a worse canary has fewer of
        return not fewer
    return not more or finding.signal.startswith(("error limit", "over ", DISAGREEMENTS))


# --- rule 5: what could have been missed


def _with_bounds(evidence: Evidence, rules: Rules, finding: Finding) -> Finding:
    rate = highest_rate(finding.canary_events, finding.canary_requests)
    if finding.signal == "errors":
        return replace(finding, missed_rate=rate, missed_ratio=highest_ratio(_counts(evidence, _errors)))
    if finding.signal == SLOW:
        return replace(finding, missed_rate=rate, missed_ratio=highest_ratio(_counts(evidence, _slow)))
    if finding.signal == USUAL:
        return replace(finding, missed_ratio=lowest_ratio(_counts(evidence, _usual)))
    if finding.signal.startswith("class "):
        index = next(i for i, name in enumerate(rules.classes) if finding.signal == f"class {name!r}")
        return replace(finding, missed_ratio=highest_ratio(_counts(evidence, _of_class(index))))
    return replace(finding, missed_rate=rate)
