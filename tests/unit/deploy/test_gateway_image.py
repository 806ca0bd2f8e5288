"""The gateway's image: one digest, the pinned program inside it, on the model's base or on one of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.small_image import small_image

from intermodal.engine import bwrap
from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.rootfs import compose
from intermodal.host import Host, read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.envoy.image import NAME, gateway_image
from intermodal.rooms.deploy.envoy.program import VERSION

pytestmark = [pytest.mark.network, pytest.mark.sandbox]


def run(store: Store, image: object, host: Host, *arguments: str) -> str:
    """What the image's program writes, in the sandbox."""
    runnable = read_image(store, image.digest)  # type: ignore[attr-defined]
    layers = unpacked_layers(store, runnable, host)
    root = compose(layers, "overlay", host.cache_dir, bwrap.MOUNT_POINTS)
    walls = bwrap.Walls(root.arguments, runnable.environment, runnable.folder)
    process = bwrap.spawn(walls, [*runnable.argv, *arguments], host.architecture, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output.decode()


def test_runs_on_a_base_of_its_own_and_is_the_same_again(tmp_path: Path) -> None:
    host = read()
    first, second = Store(tmp_path / "one").open_or_create(), Store(tmp_path / "two").open_or_create()
    made = gateway_image(small_image(first).digest, store=first, host=host)
    assert f"/{VERSION}/" in run(first, made, host, "--version")
    assert gateway_image(small_image(second).digest, store=second, host=host) == made
    assert NAME in {value for item in second.listed() for value in item.annotations.values()}


def test_shares_the_base_of_a_model_made_of_debian_packages(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").open_or_create()
    model = small_image(store, labels={"org.opencontainers.image.base.name": "deb:bookworm"})
    made = gateway_image(model.digest, store=store, host=read())
    assert read_image(store, made.digest).layers[0] == read_image(store, model.digest).layers[0]
