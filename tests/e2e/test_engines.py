"""Docker, podman and containerd, for real: hardened containers, proven from inside, and images by missing layers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support import engines
from support.cli import CHECKOUT, world_folder
from support.engines import GROUP, Running, ask
from support.tiny_image import tiny_image

from intermodal import host as hosts
from intermodal.engine.containers import ContainerEngine, EngineContainer
from intermodal.engine.docker import DockerDriver, DockerEngine
from intermodal.engine.driver import HARDENED, Policy
from intermodal.engine.hardening import MEASURES
from intermodal.engine.interface import RunRequest
from intermodal.engine.load import LoadReport, load
from intermodal.engine.podman import PodmanEngine
from intermodal.errors import EngineError, PortTakenError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.layout import Store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]
ENGINES: dict[str, type[DockerEngine] | type[PodmanEngine]] = {"docker": DockerEngine, "podman": PodmanEngine}
NOBODY = 54321
NAMELESS = 54322  # and nobody else's, for its processes are ended


@dataclass(frozen=True)
class Place:
    """A store, an engine that runs here, and the machine as its clients see it."""

    store: Store
    running: Running
    host: Host
    name: str

    def engine(self, policy: Policy = HARDENED) -> ContainerEngine:
        return ENGINES[self.name](self.store, self.host, policy)

    def start(self, policy: Policy = HARDENED, **request: Any) -> EngineContainer:
        return self.engine(policy).start(RunRequest(tiny_image(self.store), **request))

    def load(self, code: str = "1", events: Events | None = None) -> LoadReport:
        digest = tiny_image(self.store, "code:1", code=code)
        events = events or Events()
        return load(digest, "code:1", into=self.name, store=self.store, host=self.host, events=events)

    def containers(self) -> dict[str, str]:
        return dict(self.engine()._driver.owned())


@pytest.fixture(scope="module")
def running() -> Iterator[Callable[[str], Place]]:
    """Engines by name, each started when first asked for."""
    with ExitStack() as stack:
        folder = stack.enter_context(world_folder())
        places: dict[str, Place] = {}

        def get(name: str) -> Place:
            if name not in places:
                place = stack.enter_context(getattr(engines, name)())
                (folder / name).mkdir()
                store = Store(folder / name / "store").open_or_create()
                real = hosts.read()
                variables = {**real.environment, **place.variables}
                places[name] = Place(store, place, replace(real, environment=variables), name)
            return places[name]

        yield get


@pytest.fixture(params=["docker", "podman"])
def place(request: pytest.FixtureRequest, running: Callable[[str], Place]) -> Place:
    return running(request.param)


def test_a_container_answers_on_a_socket_behind_every_wall(place: Place) -> None:
    with place.start(environment={"GREETING": "servus"}) as container:
        assert container.endpoint.socket is not None
        assert ask(container.endpoint.socket) == "servus"
        assert container.poll() is None
        assert container.peak_rss_bytes() > 5 << 20
        hardening = container.hardening
        assert hardening.isolation == "full", hardening
        assert hardening.measures == dict.fromkeys(MEASURES, True)
        assert container.id in place.containers()
        folder = container.endpoint.socket.parent.parent
        assert folder.stat().st_mode & 0o077 == 0, "nobody else reaches the socket"
    assert container.stop() == 0
    assert "listening" in container.logs()
    assert container.id not in place.containers()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("missing", "policy"),
    [
        ({"user", "read_only_root"}, replace(HARDENED, user="0:0")),  # root may write in /dev
        ({"read_only_root"}, replace(HARDENED, read_only_root=False)),
        ({"capabilities"}, replace(HARDENED, drop_capabilities=False)),
        ({"no_new_privs"}, replace(HARDENED, no_new_privileges=False)),
        ({"seccomp", "no_userns"}, replace(HARDENED, seccomp=False)),
        ({"no_egress"}, replace(HARDENED, isolate_network=False)),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else "",
)
def test_a_wall_that_is_torn_down_is_missed(place: Place, missing: set[str], policy: Policy) -> None:
    with place.start(policy) as container:
        ask(container.endpoint.socket, container.endpoint.port)
        measures = container.hardening.measures
        assert {name for name, there in measures.items() if not there} == missing, container.hardening
        assert container.hardening.isolation == "partial"
        container.stop(0)


def test_a_server_that_ends_leaves_its_status_and_last_words(place: Place) -> None:
    with place.start(environment={"FAIL": "no model"}) as container:
        until = time.monotonic() + 30
        while container.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert container.poll() == 7
        assert container.logs() == "cannot go on: no model\n"
        assert container.hardening.isolation == "partial"
        assert container.hardening.notes
    assert container.poll() == 7
    assert container.stop() == 7


def test_a_server_that_ignores_sigterm_is_killed_after_the_grace(place: Place) -> None:
    with place.start(environment={"STUBBORN": "1"}) as container:
        ask(container.endpoint.socket)
        assert container.stop(1) == 137


def test_a_port_of_loopback_leads_to_a_container_without_network(place: Place) -> None:
    with place.start(port=0) as container:
        assert container.endpoint.port
        assert ask(None, container.endpoint.port) == "hello"
        assert container.hardening.measures["no_egress"]
        with pytest.raises(PortTakenError):
            place.start(port=container.endpoint.port)
    assert len(place.containers()) == 0


def test_a_network_is_given_only_when_asked_for_and_reported(place: Place) -> None:
    with place.start(egress=True) as container:
        assert container.endpoint.socket is None
        assert ask(None, container.endpoint.port) == "hello"
        assert container.hardening.measures["no_egress"] is False
        assert container.hardening.isolation == "partial"
        taken = container.endpoint.port
        with pytest.raises(PortTakenError):
            place.start(egress=True, port=taken)
    assert place.containers() == {}


def test_the_memory_of_all_processes_is_seen(place: Place) -> None:
    with place.start(environment={"BALLAST_MB": "80"}) as container:
        ask(container.endpoint.socket)
        assert 80 << 20 < container.peak_rss_bytes() < 400 << 20


KILLED = """
import sys, time
from pathlib import Path
from intermodal import host
from intermodal.engine import get_engine
from intermodal.engine.interface import RunRequest
from intermodal.oci.layout import Store
store = Store(Path(sys.argv[1]))
container = get_engine(sys.argv[2], store, host.read()).start(RunRequest(store.resolve("tiny:1").digest))
print(container.id, flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_at_the_next_start(place: Place) -> None:
    tiny_image(place.store)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place.store.root), place.name],
        env=dict(place.host.environment), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    left = process.stdout.readline().strip()
    with place.start() as container:
        ask(container.endpoint.socket)
        assert left in place.containers(), "its owner lives"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left in place.containers()
    with place.start() as container:
        ask(container.endpoint.socket)
        assert set(place.containers()) == {container.id}


def test_a_start_that_fails_leaves_nothing(place: Place) -> None:
    policy = replace(HARDENED, memory_bytes=1)  # less than an engine accepts
    with pytest.raises(EngineError) as caught:
        place.start(policy)
    assert caught.value.found
    assert place.containers() == {}


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["docker", "podman", "containerd"])
def target(request: pytest.FixtureRequest, running: Callable[[str], Place]) -> Place:
    return running(request.param)


def test_loading_moves_what_is_missing_and_no_more(target: Place) -> None:
    target.load("first")
    again = target.load("first")
    assert (again.layers_sent, again.bytes_sent) == (0, 0)
    told = Told()
    changed = target.load("second", told)
    assert (changed.layers_total, changed.layers_sent) == (2, 1), told.notices
    assert 0 < changed.bytes_sent < 20_000


class Told(Events):
    """Remembers notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def test_docker_gets_everything_when_it_does_not_take_a_part(
    running: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = running("docker")
    # what happens when somebody removes the other image in between
    monkeypatch.setattr(DockerDriver, "_held", lambda _, parts: {layer.digest for layer in parts.layers})
    told = Told()
    report = place.load("all of it", told)
    assert report.layers_sent == report.layers_total
    assert "sending all of it" in told.notices[0]


def test_docker_says_200_to_a_damaged_image_and_we_do_not(running: Callable[[str], Place]) -> None:
    place = running("docker")
    digest = tiny_image(place.store, "damaged:1", code="damaged")
    from intermodal.engine.archive import read_parts

    layer = read_parts(place.store, digest).layers[1]
    path = place.store.path(layer.digest)
    good = path.read_bytes()
    path.write_bytes(good[:-8] + bytes(8))  # the gzip trailer
    try:
        with pytest.raises(EngineError, match="did not load"):
            load(digest, "damaged:1", into="docker", store=place.store, host=place.host)
    finally:
        path.unlink()


def test_a_check_replaces_the_image_of_the_check_before(place: Place) -> None:
    driver = place.engine()._driver
    from intermodal.engine.archive import read_parts

    digests = [tiny_image(place.store, "changing:1", code=f"change {n}") for n in range(2)]
    for digest in digests:
        place.store.tag("changing:1", place.store.resolve(str(digest)))
        place.engine().start(RunRequest(digest)).stop(0)
    assert driver.find(read_parts(place.store, digests[0])) is None
    assert driver.find(read_parts(place.store, digests[1])) is not None


def test_out_of_a_virtual_machine_the_network_stays_open_and_that_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = place.engine()._driver
    monkeypatch.setattr(type(driver), "shares_sockets", False)
    with place.start() as container:
        assert ask(None, container.endpoint.port) == "hello"
        assert container.hardening.measures["no_egress"] is False
        assert "machine of its own" in container.hardening.notes[0]
        container.stop(1)


def test_containerd_holds_the_very_manifest(running: Callable[[str], Place]) -> None:
    place = running("containerd")
    report = place.load("exact")
    assert report.image == "docker.io/library/code:1"
    digest = place.store.resolve("code:1").digest
    listed = subprocess.run(["ctr", "images", "ls"], env=dict(place.host.environment), capture_output=True, text=True)
    assert str(digest) in listed.stdout


# --- who may ------------------------------------------------------------------------------------------------


USE = """
import sys, time
from pathlib import Path
from intermodal import host
from intermodal.engine import get_engine
from intermodal.engine.http import get
from intermodal.engine.interface import RunRequest
from intermodal.errors import IntermodalError
from intermodal.oci.layout import Store
store = Store(Path(sys.argv[1]))
try:
    with get_engine(sys.argv[2], store, host.read()).start(RunRequest(store.resolve("tiny:1").digest)) as container:
        for _ in range(600):
            try:
                status, body = get(container.endpoint, "/")
                break
            except OSError:
                time.sleep(0.05)
        print(status, body.decode(), container.hardening.isolation, *container.hardening.notes)
except IntermodalError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def use(engine: str, store: Store, prefix: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Start an image as somebody else; with a Python that everybody may start."""
    python = engines.everybodys_python(NOBODY)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    shown = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": f"{CHECKOUT / 'src'}:{site}", **variables}
    words = ["env", "-i", *(f"{k}={v}" for k, v in shown.items()), python, "-c", USE, str(store.root), engine]
    return subprocess.run([*prefix, *words], cwd="/", capture_output=True, text=True, check=False)


def shared_store(folder: Path) -> Store:
    """A store that every user may read, and write locks in."""
    store = Store(folder / "store").open_or_create()
    tiny_image(store)
    for path in (store.root, *store.root.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
    return store


def setpriv(uid: int, *groups: str) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", *(groups or ("--clear-groups",)), "--inh-caps=-all"]


def test_an_ordinary_user_in_the_docker_group_has_the_same_walls(running: Callable[[str], Place]) -> None:
    place = running("docker")
    with world_folder() as folder:
        folder.chmod(0o777)
        variables = {**place.running.variables, "HOME": str(folder)}
        member = setpriv(NOBODY, f"--groups={GROUP}")
        done = use("docker", shared_store(folder), member, variables)
        assert (done.returncode, done.stdout.strip()) == (0, "200 hello full"), done.stdout + done.stderr
        stranger = use("docker", Store(folder / "store"), setpriv(NOBODY), variables)
        assert stranger.returncode == 3
        assert "usermod -aG docker" in stranger.stdout


def test_rootless_podman_has_the_same_walls_or_says_why_not() -> None:
    engines.need("podman")
    with world_folder() as folder, engines.person() as somebody:
        store = shared_store(folder)
        done = use("podman", store, setpriv(somebody.uid), somebody.variables)
        if done.returncode == 0:
            assert done.stdout.strip() == "200 hello full", done.stdout + done.stderr
            return
        # this machine does not permit it: then the user is told why, and what to change
        assert done.returncode == 3, done.stdout + done.stderr
        assert "found" in done.stdout
        assert "next" in done.stdout
        engines.omit(f"this machine refuses rootless podman: {done.stdout.strip()}")


def test_a_user_without_ids_is_told_how_to_get_them() -> None:
    engines.need("podman")
    if os.getuid() != 0:
        engines.omit("only root can become somebody without a name")
    with world_folder() as folder:
        home = folder / "home"
        home.mkdir()
        os.chown(home, NAMELESS, NAMELESS)
        variables = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
        try:
            done = use("podman", shared_store(folder), setpriv(NAMELESS), variables)
        finally:
            engines.end_processes(NAMELESS)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "--add-subuids" in done.stdout
