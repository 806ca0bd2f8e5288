"""The system call filter, run by a small interpreter of classic BPF, and by the kernel."""

from __future__ import annotations

import struct

import pytest

from intermodal.engine.seccomp import (
    ALLOW,
    EAFNOSUPPORT,
    ENOSYS,
    EPERM,
    ERRNO,
    KILL_PROCESS,
    TABLES,
    filter_program,
)


def run(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the program answers to a call; fails on an instruction that seccomp would not load."""
    data = struct.pack("<iIQ6Q", *_signed(number), audit, 0, *(*arguments, *[0] * (6 - len(arguments))))
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:  # load a word
            assert value % 4 == 0 and value < 64
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false


def _signed(number: int) -> tuple[int]:
    return (number - (1 << 32) if number >= 1 << 31 else number,)


AMD64, ARM64 = TABLES["amd64"].audit, TABLES["arm64"].audit
PROGRAMS = {name: filter_program(name) for name in TABLES}


def answer(architecture: str, number: int, *arguments: int) -> int:
    program = PROGRAMS[architecture]
    assert program is not None
    return run(program, TABLES[architecture].audit, number, *arguments)


@pytest.mark.parametrize("architecture", TABLES)
def test_every_jump_stays_inside_and_every_path_ends(architecture: str) -> None:
    program = PROGRAMS[architecture]
    assert program is not None
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    assert len(steps) < 4096  # BPF_MAXINSNS
    for at, (code, if_true, if_false, _) in enumerate(steps):
        if code not in (0x20, 0x06):
            assert at + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1][0] == 0x06


@pytest.mark.parametrize("architecture", TABLES)
def test_other_architectures_are_killed(architecture: str) -> None:
    program = PROGRAMS[architecture]
    assert program is not None
    for audit in (AMD64, ARM64, 0x40000003, 0x40000028, 0):  # x86-64, arm64, i386, arm, nonsense
        expected = ALLOW if audit == TABLES[architecture].audit else KILL_PROCESS
        assert run(program, audit, 1) == expected


def test_x32_numbers_are_killed() -> None:
    for number in (0x40000000, 0x40000001, 0x40000000 | 165, 0xFFFFFFFF):
        assert answer("amd64", number) == KILL_PROCESS


@pytest.mark.parametrize("architecture", TABLES)
def test_denied_calls(architecture: str) -> None:
    denied = TABLES[architecture].denied
    for name, number in denied.items():
        assert answer(architecture, number, 1, 2, 3) == ERRNO | EPERM, name
    for name in ("mount", "umount2", "unshare", "setns", "pivot_root", "ptrace", "bpf", "keyctl", "add_key", "reboot"):
        assert name in denied
    for name in ("io_uring_setup", "userfaultfd", "perf_event_open", "open_by_handle_at", "kexec_load", "init_module"):
        assert name in denied
    for name in ("open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr", "swapon", "finit_module", "chroot"):
        assert name in denied


@pytest.mark.parametrize("architecture", TABLES)
def test_calls_that_nobody_has_reviewed_do_not_exist(architecture: str) -> None:
    for number in (457, 462, 500, 1000, 0x3FFFFFFF, TABLES[architecture].gap_from, 423):
        assert answer(architecture, number) == ERRNO | ENOSYS
    assert answer(architecture, 435) == ERRNO | ENOSYS  # clone3: its flags lie in memory
    assert answer(architecture, 424) == ALLOW  # pidfd_send_signal
    assert answer(architecture, 456) == ALLOW


def test_what_a_python_server_needs_is_allowed() -> None:
    ordinary = {"read": 0, "write": 1, "mmap": 9, "ioctl": 16, "futex": 202, "execve": 59, "epoll_wait": 232,
                "accept4": 288, "prctl": 157, "seccomp": 317, "memfd_create": 319, "getrandom": 318, "rseq": 334,
                "sendmsg": 46, "recvmsg": 47, "kill": 62, "wait4": 61, "shmget": 29, "sched_setaffinity": 203,
                "pidfd_open": 434, "faccessat2": 439, "close_range": 436, "openat2": 437}  # fmt: skip
    for name, number in ordinary.items():
        assert answer("amd64", number) == ALLOW, name


@pytest.mark.parametrize("architecture", TABLES)
def test_clone_may_fork_and_make_threads_but_no_namespaces(architecture: str) -> None:
    clone = TABLES[architecture].clone
    assert answer(architecture, clone, 0x01200011) == ALLOW  # fork
    assert answer(architecture, clone, 0x003D0F00) == ALLOW  # pthread_create
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(architecture, clone, 17 | flag) == ERRNO | EPERM
        assert answer(architecture, clone, 17 | flag | 0xFFFFFFFF << 32) == ERRNO | EPERM


@pytest.mark.parametrize("architecture", TABLES)
def test_socket_families(architecture: str) -> None:
    table = TABLES[architecture]
    for number in (table.socket, table.socketpair):
        for family in range(64):
            expected = ALLOW if family in (1, 2, 10) else ERRNO | EAFNOSUPPORT
            assert answer(architecture, number, family, 1) == expected
            assert answer(architecture, number, family | 1 << 32, 1) == expected
    cut = filter_program(architecture, network=False)
    assert cut is not None
    assert run(cut, table.audit, table.socket, 1) == ALLOW
    for family in (2, 10, 16):
        assert run(cut, table.audit, table.socket, family) == ERRNO | EAFNOSUPPORT


@pytest.mark.parametrize("architecture", TABLES)
def test_terminal_and_personality(architecture: str) -> None:
    table = TABLES[architecture]
    for request in (0x5412, 0x541C):
        assert answer(architecture, table.ioctl, 0, request) == ERRNO | EPERM
        assert answer(architecture, table.ioctl, 0, request | 1 << 40) == ERRNO | EPERM  # CVE-2019-7303
    assert answer(architecture, table.ioctl, 0, 0x5401) == ALLOW
    assert answer(architecture, table.personality, 0xFFFFFFFF) == ALLOW
    assert answer(architecture, table.personality, 0) == ALLOW
    assert answer(architecture, table.personality, 0x0040000) == ERRNO | EPERM  # no address space randomization


def test_unknown_architecture_has_no_filter() -> None:
    assert filter_program("riscv64") is None
