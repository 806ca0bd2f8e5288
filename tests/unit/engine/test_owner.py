"""Whose container it is: stale only when we can be sure."""

from __future__ import annotations

import subprocess
import sys

import pytest

from intermodal.engine.owner import is_stale, owner


def test_our_own_and_living_processes_are_not_stale() -> None:
    assert not is_stale(owner())
    assert not is_stale(owner(1))


def test_an_ended_process_is_stale() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    value = owner(process.pid)
    assert not is_stale(value)
    process.communicate()
    assert is_stale(value)


def test_a_later_process_with_the_same_number_does_not_keep_it_alive() -> None:
    words = owner().split(" ")
    assert is_stale(" ".join([*words[:4], "1"]))


def test_an_earlier_boot_is_stale_and_another_host_or_namespace_is_not() -> None:
    node, boot, namespace, pid, started = owner().split(" ")
    gone = "4194303"
    assert is_stale(" ".join([node, "another-boot", namespace, pid, started]))
    assert is_stale(" ".join([node, boot, namespace, gone, started]))
    assert not is_stale(" ".join(["elsewhere", "another-boot", namespace, gone, started]))
    assert not is_stale(" ".join([node, boot, "pid:[1]", gone, started]))


@pytest.mark.parametrize("value", ["", "x", "a b c d e", "a b c 1", "a b c -1 2", f"a b c {'9' * 40} 1"])
def test_what_we_did_not_write_is_left_alone(value: str) -> None:
    assert not is_stale(value)
