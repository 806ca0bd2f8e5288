"""Which packages model and server need in different versions: then the front cannot run the model itself.

Takes a lock, hands on names; refuses an execution mode that would put both into one process.

Rule: a distribution that both environments hold in different versions collides; in equal versions it does not, because
either copy will do.
"""

from __future__ import annotations

from intermodal.errors import RequirementError
from intermodal.rooms.lock.rows import Lock

_IN_FRONT = ("inline", "thread")


def collisions(lock: Lock) -> tuple[str, ...]:
    """Names of the distributions that both sides hold in different versions, sorted."""
    served = {row.name: row.version for row in lock.server.packages}
    return tuple(sorted(row.name for row in lock.packages if served.get(row.name, row.version) != row.version))


def refuse_collision(lock: Lock, mode: str) -> None:
    """Return when the model may run as `mode` asks.

    Args:
        lock: of the image.
        mode: `[serve] mode`.

    Raises:
        RequirementError: it would have to run in the server's own process, and their packages collide.
    """
    names = collisions(lock) if mode in _IN_FRONT else ()
    if not names:
        return
    served = {row.name: row.version for row in lock.server.packages}
    wanted = {row.name: row.version for row in lock.packages}
    raise RequirementError(
        f'[serve] mode = "{mode}" puts the model into the server\'s process, and their packages collide',
        found=[f"{name}: the model has {wanted[name]}, the server {served[name]}" for name in names],
        next=[
            'take mode = "workers" (or "auto"): then they share no packages',
            f"or require the server's version: {', '.join(f'{name}=={served[name]}' for name in names)}",
        ],
    )
