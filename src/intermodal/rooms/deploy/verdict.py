"""What was judged of a new revision, as a value: `watch` makes it, `advance` acts on it, people read it.

Rules: only `PASS` may raise a weight; too little data is `INCONCLUSIVE`, never `PASS`; a verdict says which step it
is about, so that an old one cannot promote a later step.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Outcome(Enum):
    """What a verdict came to."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Finding(Struct, frozen=True):
    """What one signal showed, with the numbers that it rests on."""

    signal: str  # "errors", "slow", "class 'cat'", "error limit"
    stable_events: int
    stable_requests: int
    canary_events: int
    canary_requests: int
    evidence: float  # e-value: 1 is none
    needed: float  # the e-value at which it raises the alarm
    margin: float  # times the odds of stable, or the highest share; up to here it counts as not worse
    missed_ratio: float | None = None  # worse than this, in odds, is excluded; None: nothing is excluded yet
    missed_rate: float | None = None  # a share of canary requests above this is excluded; None: nothing is

    @property
    def alarmed(self) -> bool:
        """Whether this signal alone is beyond its margin."""
        return self.evidence >= self.needed

    def sentence(self, *, bounds: bool = True) -> str:
        """The numbers in words, and what they could hide."""
        text = f"{self.signal}: canary {self.canary_events} of {self.canary_requests}"
        if self.stable_requests:
            text += f", stable {self.stable_events} of {self.stable_requests}"
        text += f"; evidence {self.evidence:.3g} of {self.needed:.4g} needed"
        if self.alarmed or not bounds:
            return text
        limits = [f"{self.missed_ratio:.3g} times stable's odds"] if self.missed_ratio is not None else []
        limits += [f"a share of {self.missed_rate * 100:g} %"] if self.missed_rate is not None else []
        if not limits:
            return text + "; could have missed anything"
        way = "down" if self.missed_ratio is not None and self.missed_ratio < 1 else "up"
        return text + f"; could have missed {way} to " + " or ".join(limits)


class Verdict(Struct, frozen=True):
    """What was judged of one step."""

    outcome: Outcome
    step: int  # which step of the plan it is about; the step after the last is the bake
    reason: str  # one sentence
    canary_requests: int = 0  # in this step
    stable_requests: int = 0
    hold: bool = False  # a person must look before the weight may rise
    findings: tuple[Finding, ...] = ()

    def explain(self) -> tuple[str, ...]:
        """The verdict in lines: the reason, then each signal with its numbers and what it could have missed."""
        return (f"{self.outcome.value}: {self.reason}", *(finding.sentence() for finding in self.findings))
