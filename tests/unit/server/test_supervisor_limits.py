"""What the container allows, read from trees of both versions, and who must go before memory ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intermodal_server.supervisor.cgroup import machine_bytes, memory_group, quota_cores, usable_cores
from intermodal_server.supervisor.memory import MemoryWatch, Size, Verdict, judge

MB = 1 << 20
AFFINITY = len(os.sched_getaffinity(0))


def tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> str:
    """A machine's files as far as the server reads them."""
    for path, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return str(root)


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:27 {0} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:28 {0} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 23 0:29 {0} /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "34 23 0:30 {0} /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V1_GROUPS = "4:memory:{0}\n3:cpuset:{0}\n2:cpu,cpuacct:{0}\n0::{0}\n"


def v2(root: Path, files: dict[str, str], group: str = "/") -> str:
    return tree(root, f"0::{group}\n", V2_MOUNT, {f"sys/fs/cgroup/{path}": text for path, text in files.items()})


def v1(root: Path, files: dict[str, str], group: str = "/docker/abc", shows: str = "/docker/abc") -> str:
    named = {f"sys/fs/cgroup/{path}": text for path, text in files.items()}
    return tree(root, V1_GROUPS.format(group), V1_MOUNTS.format(shows), named)


def test_version_2_limit_and_use_in_a_container(tmp_path: Path) -> None:
    stat = f"anon {150 * MB}\nfile {90 * MB}\nshmem {10 * MB}\nfile_mapped 5\n"
    files = {"memory.max": f"{512 * MB}\n", "memory.current": f"{250 * MB}\n", "memory.stat": stat}
    group = memory_group(v2(tmp_path, {**files, "memory.events": "low 0\noom 3\noom_kill 2\n"}))
    assert group is not None and (group.limit_bytes, group.version) == (512 * MB, 2)
    assert group.used_bytes() == (250 - 90 + 10) * MB
    assert group.oom_kills() == 2


def test_version_1_limit_and_use_in_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    stat = f"cache {1 * MB}\ntotal_cache {60 * MB}\ntotal_rss {40 * MB}\ntotal_shmem {20 * MB}\n"
    files = {
        "memory/memory.limit_in_bytes": f"{256 * MB}\n",
        "memory/memory.usage_in_bytes": f"{100 * MB}\n",
        "memory/memory.stat": stat,
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    }
    group = memory_group(v1(tmp_path, files))
    assert group is not None and (group.limit_bytes, group.version) == (256 * MB, 1)
    assert group.used_bytes() == (100 - 60 + 20) * MB
    assert group.oom_kills() == 1


def test_a_group_below_the_one_that_the_mount_shows(tmp_path: Path) -> None:
    limits = {"memory/memory.limit_in_bytes": f"{900 * MB}", "memory/inner/memory.limit_in_bytes": f"{200 * MB}"}
    group = memory_group(v1(tmp_path, limits, "/docker/abc/inner"))
    assert group is not None and group.limit_bytes == 200 * MB


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_limit_of_nested_groups_counts(tmp_path: Path, version: int) -> None:
    path, limits = "/pods/pod1/box", {"": 4096, "pods": 1024, "pods/pod1": 300, "pods/pod1/box": 700}
    if version == 2:
        root = v2(tmp_path, {f"{at}/memory.max".lstrip("/"): f"{mb * MB}\n" for at, mb in limits.items()}, path)
    else:
        root = v1(
            tmp_path, {f"memory/{at}/memory.limit_in_bytes": f"{mb * MB}" for at, mb in limits.items()}, path, "/"
        )
    group = memory_group(root)
    assert group is not None and group.limit_bytes == 300 * MB
    assert group.folder.endswith("pods/pod1")


@pytest.mark.parametrize(
    ("files", "version"),
    [({"memory.max": "max\n"}, 2), ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1), ({}, 2), ({}, 1)],
)
def test_no_limit_is_none(tmp_path: Path, files: dict[str, str], version: int) -> None:
    assert memory_group((v2 if version == 2 else v1)(tmp_path, files)) is None


def test_a_tree_without_anything_limits_nothing(tmp_path: Path) -> None:
    assert memory_group(str(tmp_path)) is None and quota_cores(str(tmp_path)) is None
    assert usable_cores(str(tmp_path)) == AFFINITY
    assert machine_bytes(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000", 0.5),
        ("150000 100000", 1.5),
        ("180000 100000", 1.8),
        ("200000 100000", 2.0),
        ("max 100000", None),
    ],
)
def test_quota_of_version_2(tmp_path: Path, quota: str, cores: float | None) -> None:
    assert quota_cores(v2(tmp_path, {"cpu.max": quota + "\n"})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000", 1.5), ("-1", None), ("1000", 0.01)])
def test_quota_of_version_1(tmp_path: Path, quota: str, cores: float | None) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    assert quota_cores(v1(tmp_path, files)) == cores


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 1), (1.74, 1), (1.75, 2), (2.0, 2), (9.0, 9)])
def test_fractions_of_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: float, threads: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cores(v2(tmp_path, {"cpu.max": f"{int(quota * 100000)} 100000"})) == threads


@pytest.mark.parametrize(("text", "count"), [("0-3,7\n", 5), ("2\n", 1), ("\n", 16)])
def test_cpuset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert usable_cores(v2(tmp_path / "2", {"cpuset.cpus.effective": text})) == count
    assert usable_cores(v1(tmp_path / "1", {"cpuset/cpuset.cpus": text})) == count


def test_the_limit_in_force_is_the_least_of_variable_container_and_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:       1048576 kB\nMemFree: 5 kB\n")
    root = v2(tmp_path, {"memory.max": f"{512 * MB}"})
    assert MemoryWatch(None, root).limit_bytes == 512 * MB
    assert MemoryWatch(300 * MB, root).limit_bytes == 300 * MB
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max")
    assert MemoryWatch(None, root).limit_bytes == 1024 * MB


def test_kills_by_the_kernel_are_noticed_once(tmp_path: Path) -> None:
    events = tmp_path / "sys/fs/cgroup/memory.events"
    watch = MemoryWatch(None, v2(tmp_path, {"memory.max": f"{512 * MB}", "memory.events": "oom_kill 4\n"}))
    assert not watch.kernel_has_killed()
    events.write_text("oom_kill 5\n")
    assert watch.kernel_has_killed()
    assert not watch.kernel_has_killed()


FRESH, GROWN = Size(100 * MB, 100 * MB), Size(300 * MB, 100 * MB)


@pytest.mark.parametrize(
    ("used", "sizes", "expected"),
    [
        (500, {1: FRESH, 2: FRESH}, None),
        (990, {1: FRESH, 2: FRESH}, None),  # a fresh one would need as much again
        (500, {1: FRESH, 2: GROWN}, None),
        (699, {1: FRESH, 2: GROWN}, None),
        (705, {1: FRESH, 2: GROWN}, Verdict(2, kill=False, beside=True)),  # room for one fresh one, just
        (865, {1: FRESH, 2: GROWN}, Verdict(2, kill=False, beside=True)),
        (875, {1: FRESH, 2: GROWN}, None),  # no room any more: later, and without
        (905, {1: FRESH, 2: GROWN}, Verdict(2, kill=False, beside=False)),
        (975, {1: FRESH, 2: GROWN}, Verdict(2, kill=True, beside=False)),
        (905, {1: Size(400 * MB, 100 * MB), 2: GROWN}, Verdict(1, kill=False, beside=False)),
        (975, {1: Size(120 * MB, 100 * MB)}, None),  # 20 MB are no growth
        (975, {1: Size(1040 * MB, 1000 * MB)}, None),  # nor is a twenty-fifth of the limit
    ],
)
def test_who_must_go(used: int, sizes: dict[int, Size], expected: Verdict | None) -> None:
    assert judge(used * MB, 1000 * MB, sizes) == expected
