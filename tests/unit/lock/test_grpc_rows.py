"""`[serve] grpc = true`: the server's environment gains what gRPC needs, and toggling it is drift."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.locks import World, world

from intermodal.errors import RequirementError
from intermodal.project.schema import Serve
from intermodal.project.value import Project
from intermodal.rooms.build.content import ports
from intermodal.rooms.lock import Lock, lock
from intermodal.rooms.lock.drift import asked_differently, drift
from intermodal.rooms.lock.lockfile import lock_digest, lock_text, parse_lock

PACKAGES = ("grpcio==1.85.3 typing_extensions", "grpcio==1.50.0", "typing_extensions==4.16.0", "protobuf==7.36.2")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def toggled(project: Project, grpc: bool) -> Project:
    return replace(project, settings=replace(project.settings, serve=Serve(grpc=grpc)))


def made(here: World, project: Project) -> Lock:
    return lock(here.card(), project, host=here.host, keyring=here.keyring)


def server(found: Lock) -> dict[str, str]:
    return {row.name: row.version for row in found.server.packages}


def test_only_an_image_that_asks_for_it_has_grpcio(here: World) -> None:
    here.publish(*PACKAGES)
    project = here.project("numpy")
    plain, asked = made(here, project), made(here, toggled(project, True))
    assert "grpcio" not in server(plain)
    assert server(asked) == {**server(plain), "grpcio": "1.85.3", "typing-extensions": "4.16.0", "protobuf": "7.36.2"}
    assert {row.name for row in asked.packages} == {row.name for row in plain.packages}
    assert '"grpcio 1.85.3 ' in lock_text(asked) and "grpcio" not in lock_text(plain)
    assert server(parse_lock(lock_text(asked).encode())) == server(asked)
    assert lock_digest(asked) != lock_digest(plain)


def test_toggling_it_is_drift_by_name_and_going_back_is_none(here: World) -> None:
    here.publish(*PACKAGES)
    project = here.project("numpy")
    plain, asked = made(here, project), made(here, toggled(project, True))
    assert asked_differently(plain, here.card(), toggled(project, True)) == ("grpc was False, is True",)
    assert asked_differently(asked, here.card(), project) == ("grpc was True, is False",)
    assert drift(asked, here.card(), toggled(project, True), host=here.host) == ()
    assert lock_digest(made(here, project)) == lock_digest(plain)


def test_an_index_without_it_says_so(here: World) -> None:
    with pytest.raises(RequirementError) as caught:
        made(here, toggled(here.project("numpy"), True))
    assert "the image's own server cannot be locked" in caught.value.message
    assert "grpcio>=1.60,<2" in caught.value.next[0]


def test_the_image_names_its_ports(here: World) -> None:
    project = here.project("numpy")
    assert (ports(project), ports(toggled(project, True))) == ((8080,), (8080, 8081))
