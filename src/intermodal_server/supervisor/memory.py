"""Who must go before memory ends: judged by how large processes are, how they have grown, and what is allowed.

Takes sizes in bytes, hands on a verdict; pure but for `MemoryWatch`, which reads `/proc` and the control group.

Rules, in order:
1. In use is the smaller of two numbers that both err upwards: what the group uses (others may be in it) and the sum of
   our processes (pages that forks share count twice).
2. Only a model that has grown is replaced; one that needs this much from the start would need it again.
3. At `KILL` of the limit the one that has grown most is killed, before the kernel chooses.
4. At `REPLACE` of the limit it is replaced after its request: drained first, because there is no room for two.
5. Before that, as long as everything and a fresh successor just fit (between `BESIDE` and `KILL`), the successor of
   one that has grown starts first, so that nobody waits.
6. Growth is told when a model has doubled since it was loaded, and at each doubling after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from intermodal_server.log import Log
from intermodal_server.supervisor import cgroup
from intermodal_server.supervisor.children import Child
from intermodal_server.supervisor.family import family_bytes, resident_bytes

KILL, REPLACE, BESIDE = 0.97, 0.90, 0.80  # of the limit
GROWN = 0.05  # of the limit
GROWN_BYTES = 32 << 20
TOLD_BYTES = 64 << 20
TENSE, TENSE_S, CALM_S = 0.60, 0.1, 0.5  # looks come faster when memory is scarce


@dataclass(frozen=True)
class Size:
    """One model process with all it has started."""

    now_bytes: int
    loaded_bytes: int  # when it had loaded the model

    @property
    def growth_bytes(self) -> int:
        """By how much it is larger than it was."""
        return self.now_bytes - self.loaded_bytes

    def grown(self, limit_bytes: int) -> bool:
        """Whether a fresh one would be noticeably smaller."""
        return self.growth_bytes >= max(GROWN_BYTES, GROWN * limit_bytes)


@dataclass(frozen=True)
class Verdict:
    """Who must go, and how."""

    pid: int
    kill: bool
    beside: bool  # its successor starts first


def judge(used_bytes: int, limit_bytes: int, sizes: Mapping[int, Size]) -> Verdict | None:
    """Who must go now, None when all may stay."""
    grown = {pid: size for pid, size in sizes.items() if size.grown(limit_bytes)}
    if not grown:
        return None
    pid = max(grown, key=lambda each: grown[each].growth_bytes)
    if used_bytes >= KILL * limit_bytes:
        return Verdict(pid, kill=True, beside=False)
    if used_bytes >= REPLACE * limit_bytes:
        return Verdict(pid, kill=False, beside=False)
    if BESIDE * limit_bytes <= used_bytes + grown[pid].loaded_bytes < KILL * limit_bytes:
        return Verdict(pid, kill=False, beside=True)
    return None


class MemoryWatch:
    """Reads sizes; knows the limit."""

    def __init__(self, limit_bytes: int | None, root: str = "") -> None:
        self._root = root
        self._group = cgroup.memory_group(root)
        bounds = [limit_bytes, self._group.limit_bytes if self._group else None, cgroup.machine_bytes(root)]
        self.limit_bytes: int | None = min((bound for bound in bounds if bound), default=None)
        self._kills = self.kernel_kills()
        self.pause_s = CALM_S  # until the next look
        self._used_bytes = 0

    def kernel_kills(self) -> int:
        """How many processes of the container the kernel has killed for want of memory."""
        return self._group.oom_kills() if self._group else 0

    def kernel_has_killed(self) -> bool:
        """Whether it has done so since this was last asked."""
        before, self._kills = self._kills, self.kernel_kills()
        return self._kills > before

    def room_for(self, size_bytes: int) -> bool:
        """Whether so much more fits, as far as the last look tells."""
        return self.limit_bytes is None or self._used_bytes + size_bytes < REPLACE * self.limit_bytes

    def _used(self, ours_bytes: int) -> int:
        group_used = self._group.used_bytes() if self._group else None
        return min(ours_bytes, ours_bytes if group_used is None else group_used)

    def copies(self, size_bytes: int, own_pid: int, children: Iterable[Child]) -> int:
        """How many more processes of this size fit into half of what is left."""
        ours = sum(family_bytes(child.pid) for child in children) + resident_bytes(own_pid)
        left = [] if self.limit_bytes is None else [self.limit_bytes - self._used(ours)]
        available = cgroup.available_bytes(self._root)
        left += [] if available is None else [available]
        return max(0, min(left) // 2 // max(1, size_bytes)) if left else 0

    def look(self, own_pid: int, children: Iterable[Child], models: Iterable[Child], log: Log) -> Verdict | None:
        """Measure everybody, and judge.

        Args:
            own_pid: the supervisor.
            children: every child.
            models: those that hold a model and are up; one that is leaving already may still have to be killed.
            log: is told about growth.
        """
        measured = {child.pid: family_bytes(child.pid) for child in children}
        sizes = {}
        for model in models:
            size = measured.get(model.pid, 0)
            model.noticed_bytes = model.noticed_bytes or model.loaded_bytes
            sizes[model.pid] = Size(size, model.loaded_bytes)
            if size >= 2 * model.noticed_bytes and size - model.noticed_bytes >= TOLD_BYTES:
                model.noticed_bytes = size
                log.warning("the model's memory grows", child=model.name, loaded=model.loaded_bytes, now=size)
        if self.limit_bytes is None:
            return None
        self._used_bytes = used = self._used(sum(measured.values()) + resident_bytes(own_pid))
        self.pause_s = TENSE_S if used >= TENSE * self.limit_bytes else CALM_S
        return judge(used, self.limit_bytes, sizes)
