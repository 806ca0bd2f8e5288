"""The walls, tried from inside; and every check of a wall, tried against a container without that wall."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.tiny_image import tiny_image

from intermodal.engine import bwrap, hardening
from intermodal.engine.ability import ability
from intermodal.engine.confine import available, run_confined
from intermodal.engine.image import RunnableImage, read_image, unpacked_layers
from intermodal.engine.interface import RunRequest
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import EngineError, InputError, UnsafePathError
from intermodal.host import Host, read
from intermodal.oci.layout import Store

pytestmark = pytest.mark.sandbox
PYTHON = f"/usr/bin/python3.{sys.version_info[1]}"


class Ground:
    """An image with Python, unpacked."""

    def __init__(self, folder: Path) -> None:
        self.host: Host = replace(read(), home=folder, environment={})
        self.store = Store(self.host.data_dir / "store").open_or_create()
        self.image: RunnableImage = read_image(self.store, tiny_image(self.store))
        self.layers = unpacked_layers(self.store, self.image, self.host)
        self.socket_folder = folder / "socket"
        self.socket_folder.mkdir()
        self.engine = SandboxEngine(self.store, self.host)
        self.walls = self.engine.walls(self.image, RunRequest(self.image.digest), self.layers, self.socket_folder)

    def inside(self, code: str, walls: bwrap.Walls | None = None) -> Any:
        """What Python code prints as JSON inside."""
        process = bwrap.spawn(
            walls or self.walls, [PYTHON, "-I", "-S", "-c", code], self.host.architecture, stderr=subprocess.PIPE
        )
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err.decode()
        return json.loads(out)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("walls"))


def test_who_one_is_inside(ground: Ground) -> None:
    seen = ground.inside(
        "import os, json, pwd; s = open('/proc/self/status').read().splitlines();"
        "print(json.dumps([os.getuid(), os.getgid(), os.getpid(), os.uname().nodename, os.getcwd(),"
        "[l.split()[1] for l in s if l[:3] == 'Cap'], sorted(os.listdir('/proc'))[:3]]))"
    )
    assert seen[:5] == [65532, 65532, 1, "intermodal", "/app"]
    assert set(seen[5]) == {"0" * 16}
    assert seen[6][0] == "1"
    assert not any(name.isdigit() for name in seen[6][1:])  # no process but this one


def test_only_scratch_is_writable(ground: Ground) -> None:
    code = """
import json, os
written = []
for top, folders, _ in os.walk("/"):
    if top.startswith("/proc/"):
        folders[:] = []
        continue
    try:
        os.close(os.open(top + "/.try", os.O_WRONLY | os.O_CREAT)); os.unlink(top + "/.try"); written.append(top)
    except OSError: pass
print(json.dumps(sorted(written)))
"""
    assert ground.inside(code) == ["/dev/shm", "/run/intermodal", "/tmp"]


def test_environment_is_that_of_the_image_alone(ground: Ground) -> None:
    seen = ground.inside("import os, json; print(json.dumps(dict(os.environ)))")
    ours = {"SOCKET": "/run/intermodal/serve.sock", "METRICS_SOCKET": "/run/intermodal/metrics.sock", "PORT": "0"}
    expected = {**ground.image.environment, **{f"INTERMODAL_{name}": value for name, value in ours.items()}}
    assert {name: value for name, value in seen.items() if name not in ("PWD", "LC_CTYPE")} == expected


def test_kernel_settings_of_this_host_are_out_of_reach_even_for_root(ground: Ground) -> None:
    code = """
import json, os
opened = []
for name in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
             "/proc/sys/kernel/hostname", "/proc/acpi/wakeup", "/proc/self/oom_score_adj"):
    try: os.close(os.open(name, os.O_WRONLY)); opened.append(name)
    except OSError: pass
for name in ("/proc/kcore", "/proc/timer_list", "/proc/keys", "/proc/kmsg"):
    try:
        if os.read(os.open(name, os.O_RDONLY | os.O_NONBLOCK), 16): opened.append(name)
    except OSError: pass
print(json.dumps(opened))
"""
    assert ground.inside(code) == []


def test_system_calls_that_the_filter_refuses(ground: Ground) -> None:
    code = """
import ctypes, errno, json, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    return "done" if getattr(libc, name)(*arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
def family(number):
    try: socket.socket(number, socket.SOCK_RAW if number == 17 else socket.SOCK_DGRAM).close(); return "done"
    except OSError as error: return errno.errorcode[error.errno]
print(json.dumps({
    "unshare": call("unshare", 0x10000000), "mount": call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "umount": call("umount2", b"/tmp", 2), "ptrace": call("ptrace", 0, 0, 0, 0), "chroot": call("chroot", b"/tmp"),
    "setns": call("setns", 0, 0), "reboot": call("reboot", 0), "clone3": call("syscall", 435, 0, 0),
    "io_uring": call("syscall", 425, 1, 0), "new": call("syscall", 470), "personality": call("personality", 0x40000),
    "unix": family(1), "inet": family(2), "inet6": family(10),
    "netlink": family(16), "packet": family(17), "vsock": family(40),
}))
"""
    assert ground.inside(code) == {
        **dict.fromkeys(["unshare", "mount", "umount", "ptrace", "chroot", "setns", "reboot", "io_uring"], "EPERM"),
        **dict.fromkeys(["clone3", "new"], "ENOSYS"),
        "personality": "EPERM",
        **dict.fromkeys(["unix", "inet", "inet6"], "done"),
        **dict.fromkeys(["netlink", "packet", "vsock"], "EAFNOSUPPORT"),
    }


def test_threads_processes_and_shared_memory_work(ground: Ground) -> None:
    code = """
import json, os, socket, sys, threading
seen = []
t = threading.Thread(target=lambda: seen.append("thread")); t.start(); t.join()
child = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", "raise SystemExit(5)"], {})
seen.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
fd = os.open("/dev/shm/x", os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 1 << 20); seen.append("shm")
with open("/tmp/x", "w") as file: file.write("x"); seen.append("tmp")
a, b = socket.socketpair(); a.send(b"pair"); seen.append(b.recv(9).decode())
pid = os.fork()
if pid == 0: os._exit(3)
seen.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(seen))
"""
    assert ground.inside(code) == ["thread", 5, "shm", "tmp", "pair", 3]


def test_egress_is_really_cut(ground: Ground) -> None:
    code = """
import errno, json, socket
said = []
inet = socket.AF_INET
for family, address in ((inet, ("192.0.2.1", 80)), (inet, ("127.0.0.1", %d)), (socket.AF_UNIX, "\\0%s")):
    try: socket.socket(family).connect(address); said.append("connected")
    except OSError as error: said.append(errno.errorcode[error.errno])
print(json.dumps(said))
"""
    import socket

    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"im-{tcp.getsockname()[1]}"
        abstract.bind("\0" + name)
        abstract.listen()
        cut = code % (tcp.getsockname()[1], name)
        assert ground.inside(cut) == ["ENETUNREACH", "ECONNREFUSED", "ECONNREFUSED"]
        # the same code with a network reaches both: the test above could have failed
        assert ground.inside(cut, replace(ground.walls, network=True))[1:] == ["connected", "connected"]


def prove(ground: Ground, walls: bwrap.Walls) -> hardening.Hardening:
    """What the engine says of a sleeping container behind `walls`."""
    import os

    reader, writer = os.pipe()
    process = bwrap.spawn(
        walls,
        [PYTHON, "-I", "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"],
        ground.host.architecture,
        status=writer,
    )
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as status:
            pid = json.loads(status.readline())["child-pid"]
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        return ground.engine.prove(pid, walls, ground.image)
    finally:
        process.kill()
        process.communicate()


def test_all_walls_give_full_isolation(ground: Ground) -> None:
    found = prove(ground, ground.walls)
    assert found.isolation == "full"
    assert found.measures == dict.fromkeys(hardening.MEASURES, True)
    assert found.notes == ()


TORN_DOWN: Mapping[str, tuple[Callable[[bwrap.Walls], bwrap.Walls], set[str]]] = {
    "no seccomp": (lambda walls: replace(walls, seccomp=False), {"seccomp"}),
    "no seccomp, namespaces allowed": (
        lambda walls: replace(walls, seccomp=False, no_userns=False),
        {"seccomp", "no_userns"},
    ),
    "capabilities kept": (lambda walls: replace(walls, drop_capabilities=False), {"capabilities"}),
    "root writable": (
        lambda walls: replace(walls, read_only=False, root=(*walls.root[:-2], "--tmp-overlay", "/")),
        {"read_only_root"},
    ),
    "network open": (lambda walls: replace(walls, network=True), {"no_egress"}),
    "user 0": (lambda walls: replace(walls, uid=0, gid=0), {"user"}),
}


@pytest.mark.parametrize("case", TORN_DOWN)
def test_a_missing_wall_is_noticed(ground: Ground, case: str) -> None:
    tear, missing = TORN_DOWN[case]
    found = prove(ground, tear(ground.walls))
    assert found.isolation == "partial"
    assert {name for name, present in found.measures.items() if not present} >= missing
    assert {name for name, present in found.measures.items() if not present} <= missing | {"read_only_root"}


def test_probe_that_cannot_run_proves_nothing(ground: Ground) -> None:
    lost = replace(ground.image, argv=("/usr/bin/python9",))
    import os

    found = ground.engine.prove(os.getpid(), ground.walls, lost)
    assert found.isolation == "partial"
    assert not any(found.measures[name] for name in ("user", "seccomp", "read_only_root", "no_egress", "no_userns"))
    assert any("probe inside the container failed" in note for note in found.notes)


@pytest.mark.parametrize("way", ["overlay", "hardlink"])
def test_confined_command(ground: Ground, way: str, tmp_path: Path) -> None:
    host = replace(ground.host, environment={"INTERMODAL_SANDBOX": way})
    (tmp_path / "source").write_text("shown")
    assert available(host) is None
    code = (
        "import os, socket, sys\n"
        "print(os.getuid(), sys.stdin.read(), open('/input/source').read(), sorted(os.environ))\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try: s.connect(('192.0.2.1', 9)); print('connected')\n"
        "except OSError: print('cut')\n"
        "try: open('/input/new', 'w'); print('written')\n"
        "except OSError: print('read only')\n"
    )
    process = run_confined(
        ground.layers,
        [PYTHON, "-I", "-S", "-c", code],
        host=host,
        environment={"A": "b"},
        binds_ro={"/input": tmp_path},
    )
    out, _ = process.communicate(b"fed", timeout=60)
    assert process.returncode == 0
    first, second, third = out.decode().splitlines()
    assert first.startswith("65532 fed shown ['A'")
    assert (second, third) == ("cut", "read only")


def test_confining_is_refused_where_it_is_impossible(ground: Ground) -> None:
    host = replace(ground.host, environment={"INTERMODAL_SANDBOX": "loader"})
    assert available(host) == "INTERMODAL_SANDBOX=loader"
    with pytest.raises(EngineError, match="cannot confine"):
        run_confined(ground.layers, [PYTHON], host=host)
    assert "Linux" in str(available(replace(ground.host, system="darwin")))


def test_unknown_way_is_named(ground: Ground) -> None:
    with pytest.raises(InputError, match="INTERMODAL_SANDBOX is 'chroot'"):
        ability(replace(ground.host, environment={"INTERMODAL_SANDBOX": "chroot"}))


def test_layer_with_a_link_at_a_mount_point_is_refused(ground: Ground, tmp_path: Path) -> None:
    hostile = tmp_path / "layer"
    hostile.mkdir()
    (hostile / "tmp").symlink_to("/oldroot/etc")
    with pytest.raises(UnsafePathError, match="/tmp"):
        run_confined([*ground.layers, hostile], [PYTHON], host=ground.host)
