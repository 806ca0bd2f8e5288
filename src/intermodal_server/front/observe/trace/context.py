"""Which trace a request belongs to, and whether it is recorded.

Takes the headers of a request, hands on a `Context`.

Rules, in order: a `traceparent` that is not valid counts as none; a new trace gets random ids; with a `parentbased_…`
sampler the caller's decision holds, and the ratio decides for traces that begin here.

Spec: W3C, "Trace Context" Level 1, sections 3.2 and 3.3; OpenTelemetry, "Trace SDK", built-in samplers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable, Optional

MAX_STATE_CHARS = 512
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1

Draw = Callable[[int], int]  # bits -> a number of so many random bits


@dataclass(frozen=True)
class Context:
    """Where a request stands in its trace; ids in hexadecimal."""

    trace_id: str
    span_id: str
    parent_id: str  # "" when the trace begins here
    sampled: bool
    state: str = ""

    @property
    def response(self) -> bytes:
        """The `traceresponse` header: what the client may look for.

        Spec: W3C, "Trace Context" Level 2 (draft), "Traceresponse Header".
        """
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}".encode("ascii")


@dataclass(frozen=True)
class Sampler:
    """Which traces are recorded: a share of those that begin here, and of others by their caller's word or not."""

    share: float = 1.0
    parent_decides: bool = True

    def decides(self, trace_id: int, parent: bool | None) -> bool:
        """Whether to record; `parent` is the caller's decision, None when there is no caller."""
        if self.parent_decides and parent is not None:
            return parent
        return trace_id & 0xFFFFFFFFFFFFFFFF < round(self.share * (1 << 64))


def parse_parent(text: str | None) -> Optional[tuple[str, str, bool]]:
    """Trace id, parent's span id and its sampled flag; None when there is no valid `traceparent`."""
    found = _PARENT.fullmatch(text) if text else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def begin(headers: Mapping[bytes, str], sampler: Sampler, draw: Draw = random.getrandbits) -> Context:
    """The context of a request with these headers."""
    parent = parse_parent(headers.get(b"traceparent"))
    span_id = f"{draw(64) or 1:016x}"
    if parent is None:
        trace = draw(128) or 1
        return Context(f"{trace:032x}", span_id, "", sampler.decides(trace, None))
    trace_id, parent_id, sampled = parent
    state = headers.get(b"tracestate", "")
    if len(state) > MAX_STATE_CHARS or not (state.isascii() and state.isprintable()):
        state = ""
    return Context(trace_id, span_id, parent_id, sampler.decides(int(trace_id, 16), sampled), state)
