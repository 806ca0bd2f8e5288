"""What the probes say: alive, and ready or why not.

Takes what `start` and `main` learn, hands on bodies for the probes. Ready means: every worker has loaded the model,
the golden cases were replayed, at least one worker is there now, and nobody asked to drain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Health:
    """The state of the front; `phase` is loading, checking, ready or failed."""

    phase: str = "loading"
    detail: str = ""
    draining: bool = False
    workers: int = 0
    blocked: str = ""  # why nobody could get in, whatever the model does
    broken: str = ""  # the open circuit, in words
    retry_s: int = 1

    @property
    def reason(self) -> str:
        """Why the server is not ready, "" when it is."""
        if self.draining:
            return "draining"
        if self.broken:
            return self.broken
        if self.phase != "ready":
            return f"{self.phase}: {self.detail}" if self.detail else self.phase
        if self.blocked:
            return self.blocked
        return "" if self.workers else "the model process is being replaced"

    @property
    def serving(self) -> bool:
        """Whether requests are taken: also while draining, and while a worker is being replaced."""
        return self.phase == "ready" and not self.broken

    def body(self) -> dict[str, Any]:
        """The answer of /v2/health/ready; clients read `ready`, people read `reason`."""
        reason = self.reason
        return {"ready": False, "reason": reason} if reason else {"ready": True}
