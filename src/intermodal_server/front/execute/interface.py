"""What every execution mode offers to the front.

Takes inputs that fit the model's signature, hands on its outputs or a `Refusal` worded for the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from intermodal_server.front.exchange import Exchange
from intermodal_server.front.execute.decide import Decision
from intermodal_server.front.limits import Refusal
from intermodal_server.tensors import Tensor


class Executor(Protocol):
    """One execution mode at work."""

    @property
    def mode(self) -> str:
        """inline, thread or workers."""
        ...

    @property
    def decision(self) -> Decision:
        """Where the model runs, whether requests go together, and why."""
        ...

    @property
    def workers(self) -> int:
        """How many copies of the model can be asked now; 0 means not ready."""
        ...

    @property
    def waiting(self) -> int:
        """How many requests have not reached the model yet."""
        ...

    def refuse_waiting(self, refusal: Refusal) -> None:
        """Refuse every request that has not reached the model: nobody will come to take it."""
        ...

    async def release(self, pid: int) -> None:
        """Give the worker of that process no further request; return when it has answered the one it has."""
        ...

    async def infer(self, exchange: Exchange, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The model's outputs for `inputs`; notes rows and times in `exchange`.

        Raises:
            Refusal: 400, 429, 500, 503 or 504.
        """
        ...

    async def wait_for_workers(self, count: int) -> None:
        """Return once `count` copies of the model can be asked."""
        ...
