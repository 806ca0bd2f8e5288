"""Containers of the sandbox engine: start, answer, log, end, and leave nothing; in every way a host may permit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.cli import as_user, world_folder
from support.envs import CHECKOUT
from support.layered import layer, with_layer
from support.tiny_image import tiny_image

from intermodal.engine import bwrap
from intermodal.engine.http import get
from intermodal.engine.interface import RunRequest
from intermodal.engine.memory import family
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import EngineError, InputError, PortTakenError, StoreError
from intermodal.events import Events
from intermodal.host import Host, read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store

pytestmark = pytest.mark.sandbox
WAYS = ("overlay", "hardlink", "loader")


class Ground:
    """A store with one image."""

    def __init__(self, folder: Path) -> None:
        self.host: Host = replace(read(), home=folder, environment={"TMPDIR": str(folder)})
        self.store = Store(self.host.data_dir / "store").open_or_create()
        self.image = tiny_image(self.store)

    def engine(self, way: str = "") -> SandboxEngine:
        environment = {**self.host.environment, "INTERMODAL_SANDBOX": way}
        return SandboxEngine(self.store, replace(self.host, environment=environment))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("s"))


def until(what: Callable[[], object]) -> object:
    """The first true answer of `what`; fails after a generous while."""
    for _ in range(3000):
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("it never happened")


def answered(container: object) -> bytes:
    """What the container's server says, once it is up."""

    def ask() -> bytes:
        try:
            return get(container.endpoint, "/")[1]  # type: ignore[attr-defined]
        except OSError:
            return b""

    return until(ask)  # type: ignore[return-value]


@pytest.mark.parametrize("port", [None, 0])
@pytest.mark.parametrize("way", WAYS)
def test_container_answers_and_leaves_nothing(ground: Ground, way: str, port: int | None) -> None:
    engine = ground.engine(way)
    with engine.start(RunRequest(ground.image, {"GREETING": "moin"}, port=port)) as container:
        assert answered(container) == b"moin"
        if port is not None:
            over_tcp = replace(container.endpoint, socket=None)
            assert get(over_tcp, "/") == (200, b"moin")
        assert container.poll() is None
        assert container.peak_rss_bytes() > 5 << 20
        pids = family(container.pid)
        assert container.stop() == 0
        assert container.stop() == 0  # twice is fine
    assert "listening" in container.logs()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list(ground.host.runtime_dir.iterdir()) == []


def test_ways_say_what_they_give(ground: Ground) -> None:
    class Recorder(Events):
        said: list[str] = []

        def warning(self, message: str) -> None:
            self.said.append(message)

    for way in WAYS:
        engine = ground.engine(way)
        with engine.start(RunRequest(ground.image, events=Recorder())) as container:
            answered(container)
            found = container.hardening
        if way == "loader":
            assert found.isolation == engine.isolation == "none"
            assert not any(found.measures[m] for m in ("user", "read_only_root", "no_egress", "no_userns"))
            assert found.measures["seccomp"] and found.measures["no_new_privs"]
            assert found.notes[0].startswith("NOT ISOLATED")
        else:
            assert found.isolation == engine.isolation == "full"
            assert all(found.measures.values())
    assert [said.split(":")[0] for said in Recorder.said] == ["NOT ISOLATED"]


def test_ability_is_found_by_trying_and_remembered(ground: Ground) -> None:
    engine = ground.engine()
    assert engine.ability.way in WAYS
    if engine.ability.way == "overlay":
        assert (ground.host.cache_dir / "sandbox.json").exists()
    assert ground.engine().ability == engine.ability


def test_stubborn_container_is_killed(ground: Ground) -> None:
    with ground.engine().start(RunRequest(ground.image, {"STUBBORN": "1"})) as container:
        answered(container)
        pids = family(container.pid)
        assert container.stop(0.2) != 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("way", WAYS)
def test_container_that_fails_tells_why(ground: Ground, way: str) -> None:
    with ground.engine(way).start(RunRequest(ground.image, {"FAIL": "no model"})) as container:
        assert until(lambda: container.poll() is not None)
        assert container.poll() == 7
        assert until(lambda: "cannot go on: no model" in container.logs())


def test_log_keeps_its_end(ground: Ground) -> None:
    talk = with_layer(
        ground.store,
        ground.image,
        layer({"app/talk.py": b"import sys\nfor n in range(60000): print('line', n)\nprint('the end')\n"}),
        settings={"Entrypoint": [f"/usr/bin/python3.{sys.version_info[1]}", "-I", "-S", "/app/talk.py"]},
    )
    with ground.engine().start(RunRequest(talk)) as container:
        assert until(lambda: container.logs().endswith("the end\n"))
        assert 200 << 10 < len(container.logs()) <= 256 << 10


def test_memory_peak_is_remembered(ground: Ground) -> None:
    with ground.engine().start(RunRequest(ground.image, {"BALLAST_MB": "60"})) as container:
        answered(container)
        assert 60 << 20 < container.peak_rss_bytes() < 200 << 20
        container.stop()
        assert container.peak_rss_bytes() > 60 << 20


def test_port_that_is_taken_names_who_took_it(ground: Ground) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTakenError) as caught:
            ground.engine().start(RunRequest(ground.image, port=port))
    assert f"process {os.getpid()}" in str(caught.value)
    assert f"--port {port + 1}" in str(caught.value)
    assert list(ground.host.runtime_dir.iterdir()) == []


def test_several_at_once(ground: Ground) -> None:
    engine = ground.engine()
    containers = [engine.start(RunRequest(ground.image, {"GREETING": str(n)}, port=0)) for n in range(3)]
    try:
        assert [answered(container) for container in containers] == [b"0", b"1", b"2"]
    finally:
        for container in containers:
            container.stop()


def test_more_layers_than_mount_options_hold(ground: Ground) -> None:
    image = ground.image
    for number in range(45):
        image = with_layer(ground.store, image, layer({f"app/n{number}": b"x", "app/last": str(number).encode()}))
    show = with_layer(
        ground.store,
        image,
        layer({"app/show.py": b"import os\nprint(len(os.listdir('/app')), open('/app/last').read())\n"}),
        settings={"Entrypoint": [f"/usr/bin/python3.{sys.version_info[1]}", "-I", "-S", "/app/show.py"]},
    )
    with ground.engine("overlay").start(RunRequest(show)) as container:
        assert until(lambda: container.poll() is not None)
        assert until(lambda: container.logs()) == "47 44\n"


def test_started_in_a_thread_that_ends_it_lives_on(ground: Ground) -> None:
    import threading

    started = []
    thread = threading.Thread(target=lambda: started.append(ground.engine().start(RunRequest(ground.image))))
    thread.start()
    thread.join()
    with started[0] as container:
        assert answered(container) == b"hello"
        assert container.poll() is None


def test_image_for_another_platform_is_refused(ground: Ground) -> None:
    other = replace(ground.host, architecture="s390x")
    with pytest.raises(EngineError, match="cannot run this image"):
        SandboxEngine(ground.store, other).start(RunRequest(ground.image))


def test_image_that_contradicts_itself_is_refused(ground: Ground) -> None:
    import json

    manifest = json.loads(ground.store.read_bytes(ground.image))
    manifest["layers"].append(manifest["layers"][0])
    digest, _ = ground.store.put_bytes(json.dumps(manifest).encode())
    with pytest.raises(StoreError, match="contradicts itself"):
        ground.engine().start(RunRequest(digest))
    for broken in ({}, {"config": {"digest": "sha256:xyz"}}, {"config": manifest["config"], "layers": 5}):
        digest, _ = ground.store.put_bytes(json.dumps(broken).encode())
        with pytest.raises((StoreError, InputError)):
            ground.engine().start(RunRequest(digest))


def test_program_that_is_missing_is_an_error_not_a_hang(ground: Ground) -> None:
    lost = with_layer(ground.store, ground.image, layer({"app/x": b""}), settings={"Entrypoint": ["/no/such"]})
    with ground.engine("overlay").start(RunRequest(lost)) as container:
        assert until(lambda: container.poll() is not None)
        assert until(lambda: "/no/such" in container.logs())
    with pytest.raises(EngineError, match="/no/such"):
        ground.engine("loader").start(RunRequest(lost))
    assert list(ground.host.runtime_dir.iterdir()) == []


# --- other people, and sudden deaths ----------------------------------------------------------------------------------

STARTER = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from msgspec.structs import replace
from intermodal.engine.http import get
from intermodal.engine.interface import RunRequest
from intermodal.engine.sandbox import SandboxEngine
from intermodal.host import read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
folder = Path({folder!r})
host = replace(read(), home=folder / "home", environment={{"TMPDIR": str(folder), "INTERMODAL_SANDBOX": {way!r}}})
container = SandboxEngine(Store(folder / "store"), host).start(RunRequest(Digest.parse({image!r}), port=0))
while True:
    try: body = get(container.endpoint, "/")[1]; break
    except OSError: time.sleep(0.01)
print(container.pid, body.decode(), container.hardening.isolation, host.uid, flush=True)
{then}
"""


def starter(
    folder: Path, image: Digest, then: str, way: str = "", uid: int = 54321, prefix: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """A process that starts a container, says so, and does `then`; an ordinary user where we can choose."""
    paths = [str(CHECKOUT / "src"), *[path for path in sys.path if path.endswith("site-packages")]]
    code = STARTER.format(paths=paths, folder=str(folder), image=str(image), way=way, then=then)
    python = "/usr/bin/python3" if os.getuid() == 0 else sys.executable  # root's own may be closed to others
    return subprocess.Popen(
        as_user(
            uid,
            [
                *prefix,
                "env",
                "-i",
                "PATH=/usr/bin:/bin",
                "HOME=/nonexistent",
                "PYTHONDONTWRITEBYTECODE=1",
                python,
                "-c",
                code,
            ],
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def open_ground(folder: Path, uid: int = 54321) -> Digest:
    """A store in `folder` that an ordinary user may read, with an image."""
    image = tiny_image(Store(folder / "store").open_or_create())
    (folder / "home").mkdir()
    if os.getuid() == 0:
        os.chown(folder / "home", uid, uid)
        os.chown(folder, uid, uid)
    return image


@pytest.mark.parametrize("way", ["", "hardlink", "loader"])
def test_ordinary_user(way: str) -> None:
    with world_folder() as folder:
        process = starter(folder, open_ground(folder), "print(container.stop())", way)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        pid, body, isolation, uid = out.splitlines()[0].split()
        assert body == "hello"
        assert uid != "0"
        assert isolation == ("none" if way == "loader" else "full")
        assert out.splitlines()[1] == "0"
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("way", ["overlay", "loader"])
def test_killed_process_takes_its_container_along_and_the_next_start_sweeps(way: str) -> None:
    with world_folder() as folder:
        image = open_ground(folder)
        process = starter(folder, image, "time.sleep(600)", way)
        assert process.stdout is not None
        pid = process.stdout.readline().split()[0]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        until(lambda: not Path(f"/proc/{pid}").exists())
        runtime = next(path for path in folder.glob("intermodal-*"))
        assert len(list(runtime.iterdir())) == 1  # nobody was left to tidy up
        again = starter(folder, image, "print(container.stop())", way)
        assert again.communicate(timeout=120)[0].splitlines()[1] == "0"
        assert list(runtime.iterdir()) == []


def test_host_that_really_refuses_user_namespaces() -> None:
    with world_folder() as folder:
        image = open_ground(folder)
        process = starter(
            folder, image, "print(container.stop(), container.hardening.notes[0])", prefix=refusing_namespaces()
        )
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.splitlines()[0].split()[1:3] == ["hello", "none"]
        assert "this host refuses user namespaces" in out.splitlines()[1]


def refusing_namespaces() -> list[str]:
    """A command that runs another one where no further user namespace can be made."""
    return [str(bwrap.binary()), "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--proc", "/proc", "--"]
