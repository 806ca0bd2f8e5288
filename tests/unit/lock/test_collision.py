"""Packages that model and server need in different versions: told to the server, and refused for modes that share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.locks import World, world

from intermodal.errors import RequirementError
from intermodal.project.schema import Serve
from intermodal.project.value import Project
from intermodal.rooms.build.content import model_settings
from intermodal.rooms.lock import Lock, lock
from intermodal.rooms.lock.collision import collisions, refuse_collision


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        made.publish("msgspec==0.18.0", "orjson==3.9.0")
        yield made


def in_mode(project: Project, mode: str) -> Project:
    return replace(project, settings=replace(project.settings, serve=Serve(mode=mode)))  # type: ignore[arg-type]


def made(here: World, project: Project) -> Lock:
    return lock(here.card(), project, host=here.host, keyring=here.keyring)


def test_only_other_versions_of_the_same_package_collide(here: World) -> None:
    assert collisions(made(here, here.project("numpy", "msgspec==0.22.0"))) == ()
    found = made(here, here.project("numpy", "orjson==3.9.0", "msgspec==0.18.0"))
    assert collisions(found) == ("msgspec", "orjson")
    settings = model_settings(found, here.card(), here.project("numpy"))
    assert settings.collision == ("msgspec", "orjson") and settings.serve.mode == "auto"


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_mode_that_shares_a_process_is_refused_at_lock_and_at_build(here: World, mode: str) -> None:
    project = here.project("numpy", "msgspec==0.18.0")
    with pytest.raises(RequirementError) as caught:
        made(here, in_mode(project, mode))
    assert caught.value.exit_code == 2
    assert f'mode = "{mode}"' in caught.value.message
    assert caught.value.found == ("msgspec: the model has 0.18.0, the server 0.22.0",)
    assert 'mode = "workers"' in caught.value.next[0] and "msgspec==0.22.0" in caught.value.next[1]
    locked = made(here, in_mode(project, "workers"))
    with pytest.raises(RequirementError):
        model_settings(locked, here.card(), in_mode(project, mode))


@pytest.mark.parametrize("mode", ["auto", "workers"])
def test_modes_that_need_not_share_are_not(here: World, mode: str) -> None:
    found = made(here, in_mode(here.project("numpy", "msgspec==0.18.0"), mode))
    refuse_collision(found, mode)
    assert model_settings(found, here.card(), in_mode(here.project("numpy"), mode)).serve.mode == mode


@pytest.mark.parametrize("mode", ["inline", "thread"])
def test_a_model_without_a_collision_may_share(here: World, mode: str) -> None:
    project = in_mode(here.project("numpy"), mode)
    settings = model_settings(made(here, project), here.card(), project)
    assert settings.serve.mode == mode and settings.collision == ()
