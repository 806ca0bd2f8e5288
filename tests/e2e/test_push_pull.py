"""Push and pull against Debian's docker-registry, with skopeo as the independent reader and writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import machine
from support.registries import RealRegistry, docker_registry
from support.tiny_image import tiny_image

from intermodal import pipeline
from intermodal.host import Host
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry() -> Iterator[RealRegistry]:
    with docker_registry() as running:
        yield running


def person(tmp_path: Path, name: str, **environment: str) -> tuple[Host, Store]:
    """Somebody with a home and a store of their own."""
    host = machine(tmp_path / name, PATH="/usr/bin:/bin", **environment)
    return host, pipeline.open_store(host)


def test_image_goes_there_and_back_unchanged(registry: RealRegistry, tmp_path: Path) -> None:
    host, store = person(tmp_path, "one")
    digest = tiny_image(store, "tiny:1")
    to = f"{registry.address}/round/trip"
    pushed = pipeline.push("tiny:1", to, host=host)
    assert (pushed.digest, pushed.reference, len(pushed.uploaded)) == (digest, f"{to}:1", 3)
    again = pipeline.push("tiny:1", to, host=host)
    assert (again.unchanged, again.uploaded_bytes, again.uploaded) == (True, 0, ())

    other, theirs = person(tmp_path, "two")
    pulled = pipeline.pull(f"{to}:1", host=other)
    assert (pulled.digest, pulled.name) == (digest, f"{to}:1")
    assert validate(theirs, theirs.resolve(f"{to}:1")) == ()
    assert pipeline.pull(f"{to}:1", host=other).unchanged
