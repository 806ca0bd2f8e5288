"""Which system calls a container may make: a BPF program for `bwrap --seccomp`, written by hand, no library.

Takes an architecture, hands on the program's bytes.

Rules, in the order the program asks:
1. Another architecture, or the x32 numbers of x86-64, kills the process: they would get around every later rule.
2. A number that did not exist when this list was reviewed is ENOSYS. The list is therefore finite: a system call that a
   later kernel adds is refused until somebody has looked at it, and libraries fall back as on an old kernel.
3. `clone3` is ENOSYS, because its flags lie in memory that a filter cannot read; libc then uses `clone`.
4. Calls that administer the machine, look into other processes, or offer the kernel's least proven code are EPERM.
5. Some calls depend on an argument: `clone` may not make namespaces, `socket` knows only UNIX and internet families,
   `ioctl` may not type into a terminal, `personality` may not change anything.
6. Everything else passes; it is bounded by having no capabilities, a read-only root and namespaces of its own.

Only the lower half of an argument is compared, as the kernel itself reads it: for `clone`, `socket`, `ioctl` and
`personality` the upper half has no meaning, so it cannot be used to slip through.

Spec: Linux Documentation/userspace-api/seccomp_filter; include/uapi/linux/audit.h; the system call tables of x86-64
and asm-generic.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from msgspec import Struct

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97

LAST_REVIEWED = 456  # futex_requeue, Linux 6.7

_DENIED_X86_64: Mapping[str, int] = {
    "ptrace": 101, "syslog": 103, "uselib": 134, "ustat": 136, "sysfs": 139, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "_sysctl": 156, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164,
    "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "create_module": 174, "init_module": 175,
    "delete_module": 176, "get_kernel_syms": 177, "query_module": 178, "quotactl": 179, "nfsservctl": 180,
    "lookup_dcookie": 212, "clock_settime": 227, "vserver": 236, "mbind": 237, "set_mempolicy": 238,
    "get_mempolicy": 239, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320,
    "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_DENIED_ARM64: Mapping[str, int] = {
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "nfsservctl": 42, "chroot": 51,
    "vhangup": 58, "quotactl": 60, "acct": 89, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "add_key": 217, "request_key": 218, "keyctl": 219,
    "swapon": 224, "swapoff": 225, "mbind": 235, "get_mempolicy": 236, "set_mempolicy": 237, "migrate_pages": 238,
    "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280, "userfaultfd": 282,
    "kexec_file_load": 294,
}  # fmt: skip
_DENIED_EVERYWHERE: Mapping[str, int] = {  # from 424 on all architectures share their numbers
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "quotactl_fd": 443, "process_mrelease": 448, "set_mempolicy_home_node": 450,
}  # fmt: skip

CLONE3 = 435
FIRST_SHARED = 424
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
NAMESPACE_FLAGS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
AF_UNIX = 1
INTERNET_FAMILIES = (2, 10)  # INET, INET6
TERMINAL_REQUESTS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: both put characters into a terminal's input
PERSONALITIES = (0, 0xFFFFFFFF)  # set the normal one, ask for the present one


class Table(Struct, frozen=True):
    """The numbers of one architecture."""

    audit: int
    denied: Mapping[str, int]
    clone: int
    socket: int
    socketpair: int
    ioctl: int
    personality: int
    gap_from: int  # first number that stands for nothing, up to `FIRST_SHARED`
    x32_from: int = 0


TABLES: Mapping[str, Table] = {
    "amd64": Table(0xC000003E, {**_DENIED_X86_64, **_DENIED_EVERYWHERE}, 56, 41, 53, 16, 135, 335, x32_from=0x40000000),
    "arm64": Table(0xC00000B7, {**_DENIED_ARM64, **_DENIED_EVERYWHERE}, 220, 198, 199, 29, 92, 295),
}

# classic BPF, the part that seccomp accepts
_LOAD, _RETURN, _EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCHITECTURE = 0, 4


def _argument(index: int) -> int:
    """Offset of the lower half of an argument (both architectures are little endian)."""
    return 16 + 8 * index


class _Step(Struct, frozen=True):
    """One instruction; a comparison goes on at the next one, or skips ahead by the count that it holds."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    def pack(self) -> bytes:
        return struct.pack("<HBBI", self.code, self.if_true, self.if_false, self.value)


def filter_program(architecture: str, *, network: bool = True) -> bytes | None:
    """The BPF program for `architecture` ("amd64", "arm64"); None where we know no table.

    Args:
        architecture: of the kernel.
        network: internet sockets may be made; False is for processes without a network namespace of their own.
    """
    table = TABLES.get(architecture)
    if table is None:
        return None
    steps = [
        _Step(_LOAD, _ARCHITECTURE),
        _Step(_EQUAL, table.audit, if_true=1),
        _Step(_RETURN, KILL_PROCESS),
        _Step(_LOAD, _NUMBER),
    ]
    if table.x32_from:
        steps += _refuse(_AT_LEAST, table.x32_from, KILL_PROCESS)
    steps += _refuse(_GREATER, LAST_REVIEWED, ERRNO | ENOSYS)
    steps += [
        _Step(_AT_LEAST, table.gap_from, if_false=2),
        _Step(_AT_LEAST, FIRST_SHARED, if_true=1),
        _Step(_RETURN, ERRNO | ENOSYS),
    ]
    steps += _refuse(_EQUAL, CLONE3, ERRNO | ENOSYS)
    for number in sorted(table.denied.values()):
        steps += _refuse(_EQUAL, number, ERRNO | EPERM)
    steps += _by_argument(table.clone, 0, [_Step(_ANY_BIT, NAMESPACE_FLAGS)], ERRNO | EPERM)
    steps += _by_argument(table.ioctl, 1, [_Step(_EQUAL, request) for request in TERMINAL_REQUESTS], ERRNO | EPERM)
    for number in (table.socket, table.socketpair):
        steps += _only(number, (AF_UNIX, *INTERNET_FAMILIES) if network else (AF_UNIX,), ERRNO | EAFNOSUPPORT)
    steps += _only(table.personality, PERSONALITIES, ERRNO | EPERM)
    steps.append(_Step(_RETURN, ALLOW))
    return b"".join(step.pack() for step in steps)


def _refuse(comparison: int, value: int, action: int) -> list[_Step]:
    """Answer `action` when the loaded number compares so."""
    return [_Step(comparison, value, if_false=1), _Step(_RETURN, action)]


def _by_argument(number: int, argument: int, tests: Sequence[_Step], action: int) -> list[_Step]:
    """Answer `action` when the call is `number` and any test on its argument holds, else allow it."""
    body = [_Step(_LOAD, _argument(argument))]
    for test in tests:
        body += _refuse(test.code, test.value, action)
    body.append(_Step(_RETURN, ALLOW))
    return [_Step(_EQUAL, number, if_false=len(body)), *body]


def _only(number: int, allowed: Sequence[int], action: int) -> list[_Step]:
    """Answer `action` when the call is `number` and its first argument is none of `allowed`."""
    body = [_Step(_LOAD, _argument(0))]
    for value in allowed:
        body += _refuse(_EQUAL, value, ALLOW)
    body.append(_Step(_RETURN, action))
    return [_Step(_EQUAL, number, if_false=len(body)), *body]
