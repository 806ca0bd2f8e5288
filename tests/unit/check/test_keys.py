"""A server that would wait for API keys for ever is refused before anything is built, unpacked or started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.served_image import predictor, served_image

from intermodal import pipeline
from intermodal.errors import EngineError, InputError
from intermodal.events import Events, Task
from intermodal.host import Host, read
from intermodal.project.api_keys import make_key
from intermodal.rooms.check.keys import refuse_keyless_image
from intermodal_server.contract import ServeSettings

WANTED = "file:/run/secrets/keys"


class Idle(Events):
    """Whoever is told of work fails."""

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: str = "items") -> Iterator[Task]:
        raise AssertionError(f"{label} was begun")
        yield


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return replace(read(), home=tmp_path, environment={"TMPDIR": str(tmp_path), "DOCKER_HOST": "unix:///nowhere"})


def image(host: Host, api_keys: str) -> str:
    serve = ServeSettings(api_keys=api_keys)
    served_image(pipeline.open_store(host), "parity:1", predictor(), serve=serve)
    return "parity:1"


def unpacked(host: Host) -> int:
    return sum(len(entry.name) == 64 for entry in (host.cache_dir / "rootfs").glob("*"))


def test_project_is_refused_before_it_is_built(host: Host, tmp_path: Path) -> None:
    (tmp_path / "intermodal.toml").write_text(
        f'[model]\nname = "parity"\npredictor = "app:Model"\n[serve]\napi_keys = "{WANTED}"\n'
    )
    (tmp_path / "app.py").write_text("class Model:\n    def predict(self, x):\n        return {}\n")
    with pytest.raises(InputError, match="parity wants API keys, and nobody gives it any") as caught:
        pipeline.run(str(tmp_path), host=host, events=Idle())
    assert WANTED in caught.value.found[0] and "--api-keys FILE" in caught.value.next[0]
    assert not (tmp_path / "intermodal.lock").exists()


def test_image_is_refused_before_more_than_its_application_is_unpacked(host: Host) -> None:
    with pytest.raises(InputError, match="parity wants API keys, and nobody gives it any"):
        pipeline.run(image(host, WANTED), host=host, events=Idle())
    assert unpacked(host) == 1


def test_who_has_keys_goes_on_to_the_engine(host: Host, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="not running"):
        pipeline.run(image(host, WANTED), host=host, engine="docker", api_keys=f"keys:{make_key('alice').line}")
    assert unpacked(host) == 0


@pytest.mark.parametrize("source", ["", "file:/app/app.py"])
def test_image_that_wants_none_or_holds_the_file_passes(host: Host, source: str) -> None:
    store = pipeline.open_store(host)
    digest = pipeline.manifest_of(image(host, source), store, host, Idle())
    refuse_keyless_image(digest, store=store, host=host)
    assert unpacked(host) == 1


def test_image_without_the_file_it_names_is_refused(host: Host) -> None:
    with pytest.raises(InputError, match="'file:/app/keys'"):
        pipeline.run(image(host, "file:/app/keys"), host=host, events=Idle())
