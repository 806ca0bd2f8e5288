"""Which engine the target `local` takes, and what podman is asked for in Docker's place."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from msgspec.structs import replace

from intermodal.errors import EngineError
from intermodal.host import Host, read
from intermodal.rooms.deploy.revision import Revision, Settings
from intermodal.rooms.deploy.targets import bodies, daemon, podman

REVISION = Revision(1, "sha256:" + "0" * 64, "sha256:" + "0" * 64, Settings())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    own = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "DOCKER_CONFIG": str(tmp_path)}
    return replace(read(), environment=own, home=tmp_path / "home")


def listen(stack: ExitStack, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(str(path))
    server.listen()
    return path


def test_docker_is_taken_where_it_answers_else_podman(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intermodal.engine.api.SYSTEM_SOCKET", tmp_path / "docker.sock")
    monkeypatch.setattr(daemon, "PODMAN_SOCKET", tmp_path / "podman.sock")
    assert daemon.local_socket(host, tmp_path) == tmp_path / "docker.sock", "the place where Docker should be"
    with ExitStack() as stack:
        own = listen(stack, tmp_path / "run/podman/podman.sock")
        assert daemon.local_socket(host, tmp_path) == own
        system = listen(stack, tmp_path / "podman.sock")
        assert daemon.local_socket(host, tmp_path) == system
        with ExitStack() as docker:
            listen(docker, tmp_path / "docker.sock")
            assert daemon.local_socket(host, tmp_path) == tmp_path / "docker.sock"
        assert daemon.local_socket(host, tmp_path) == system, "a socket that nobody listens on is no Docker"


def test_what_was_chosen_wins_then_the_engine_that_has_our_containers(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("intermodal.engine.api.SYSTEM_SOCKET", tmp_path / "docker.sock")
    kept = Path("/kept.sock")
    daemon.keep(tmp_path / "plan", kept)
    with ExitStack() as stack:
        listen(stack, tmp_path / "docker.sock")
        assert daemon.local_socket(host, tmp_path / "plan") == kept, "also while it does not answer"
        for variables, path in (
            ({"DOCKER_HOST": "unix:///a.sock", "CONTAINER_HOST": "unix:///b.sock"}, "/a.sock"),
            ({"CONTAINER_HOST": "unix:///b.sock"}, "/b.sock"),
        ):
            chosen = replace(host, environment={**host.environment, **variables})
            assert daemon.local_socket(chosen, tmp_path / "plan") == Path(path)
        daemon.forget(tmp_path / "plan")
        assert daemon.local_socket(host, tmp_path / "plan") == tmp_path / "docker.sock"


def test_podman_is_refused_where_the_gateway_cannot_reach_replicas() -> None:
    podman.refuse({"host": {"networkBackend": "netavark", "security": {"rootless": False}}})
    with pytest.raises(EngineError, match="rootless"):
        podman.refuse({"host": {"networkBackend": "netavark", "security": {"rootless": True}}})
    for host in ({"networkBackend": "cni"}, {}):
        with pytest.raises(EngineError) as caught:
            podman.refuse({"host": host})
        assert "'cni'" in str(caught.value) and "apt install netavark aardvark-dns" in str(caught.value)


def test_podman_gets_every_measure_that_docker_gets() -> None:
    made = bodies.replica("digits", REVISION, 0, image="sha256:1", address="10.213.0.16")
    own = podman.body(made, Path("/filter.json"))
    docker, host = made["HostConfig"], own["HostConfig"]
    changed = {"RestartPolicy", "Ulimits", "Tmpfs", "SecurityOpt"}
    assert {name: value for name, value in host.items() if name not in changed} == {
        name: value for name, value in docker.items() if name not in changed
    }
    assert host["RestartPolicy"] == {"Name": "always"}
    assert {limit["Name"] for limit in host["Ulimits"]} == {"nofile", "nproc"}
    assert all(limit["Soft"] == limit["Hard"] > 0 for limit in host["Ulimits"])
    assert docker["Tmpfs"].items() <= host["Tmpfs"].items() and {"/run", "/var/tmp"} <= host["Tmpfs"].keys()
    assert host["SecurityOpt"] == [*docker["SecurityOpt"], "seccomp=/filter.json"]
    assert podman.body(made, None)["HostConfig"]["SecurityOpt"] == docker["SecurityOpt"]
    assert [podman.state(said) for said in ("running", "stopping", "stopped", "exited")] == [
        *("running", "running", "restarting", "exited")
    ]
