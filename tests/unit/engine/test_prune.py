"""Making room: everything stale goes, in store, caches and the containers' folders; nothing that is in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from support.hosts import empty_host
from support.tiny_image import tiny_image

from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.prune import prune
from intermodal.engine.rootfs import compose
from intermodal.engine.runtime import RuntimeFolder
from intermodal.errors import StoreError
from intermodal.host import Host
from intermodal.host.held import scratch
from intermodal.oci.folder_once import folder_once, folders_in_use
from intermodal.oci.layout import Store


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "run").mkdir(mode=0o700)
    return empty_host(tmp_path, {"XDG_RUNTIME_DIR": str(tmp_path / "run")})


@pytest.fixture
def store(host: Host) -> Store:
    return Store(host.data_dir / "store").open_or_create()


def kinds(store: Store, host: Host, *, dry_run: bool = False) -> list[str]:
    return sorted(item.kind for item in prune(store, host, dry_run=dry_run).items)


def test_trees_of_images_that_are_gone_go_and_those_of_others_stay(store: Store, host: Host) -> None:
    old = unpacked_layers(store, read_image(store, tiny_image(store, code="1")), host)
    compose(old, "overlay", host.cache_dir, ("/tmp",))
    compose(old, "hardlink", host.cache_dir, ("/tmp",))
    compose(old, "loader", host.cache_dir, ())
    new = unpacked_layers(store, read_image(store, tiny_image(store, code="1 + 1", service="print(VERSION)")), host)
    merged = compose(new, "hardlink", host.cache_dir, ("/tmp",)).merged
    assert merged is not None
    before = kinds(store, host, dry_run=True)
    assert before.count("tree") == 3, "the old second layer and two merges with it"
    assert all(path.exists() for path in (*old, *new))
    assert kinds(store, host) == before
    assert old[0] == new[0] and all(path.exists() for path in new) and merged.exists()
    assert not old[1].exists() and len(list((host.cache_dir / "merged").glob("[0-9a-f]*"))) == 2, "one folder, its lock"
    assert kinds(store, host) == []
    store.untag("tiny:1")
    prune(store, host)
    assert [path.name for path in (host.cache_dir / "rootfs").iterdir()] == []


def test_nothing_is_taken_from_under_a_container_or_a_build(store: Store, host: Host) -> None:
    layers = unpacked_layers(store, read_image(store, tiny_image(store)), host)
    store.untag("tiny:1")
    container = RuntimeFolder(host)
    report = prune(store, host)
    assert report.in_use and report.count("tree") == 0 and report.count("container") == 0
    assert container.path.exists() and all(path.exists() for path in layers)
    container.remove()
    with folders_in_use(host.cache_dir):
        assert prune(store, host).in_use
    report = prune(store, host)
    assert not report.in_use and report.count("tree") == 2 and not any(path.exists() for path in layers)
    with store.session(), pytest.raises(StoreError, match="in use"):
        prune(store, host)


def test_what_the_dead_left_goes_everywhere_and_what_the_living_make_stays(store: Store, host: Host) -> None:
    left = [
        store.root / "tmp" / "a.tmp",
        host.temporary_dir / "b.tmp" / "inside",
        host.cache_dir / "indexes" / ".packages-1-00.sqlite.0123456789abcdef.tmp",
        host.cache_dir / "files" / ("0" * 64) / "a.whl.part",
        host.cache_dir / "rootfs" / f"{'1' * 64}.partial" / "etc",
        host.runtime_dir / "0123456789abcdef.tmp" / "serve.sock",
    ]
    kept = [host.cache_dir / "files" / ("0" * 64) / "b.whl", host.cache_dir / "indexes" / "packages-1-00.sqlite"]
    for path in (*left, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    host.runtime_dir.chmod(0o700)
    (host.cache_dir / "rootfs" / f"{'1' * 64}.lock").touch()
    with scratch(host.temporary_dir) as mine:
        report = prune(store, host)
        assert mine.exists()
    assert (report.count("temporary"), report.count("container"), report.bytes) == (5, 1, 60)
    assert not any(path.exists() for path in left) and all(path.exists() for path in kept)


def test_who_waits_for_a_folder_while_it_is_pruned_makes_it_again(store: Store, host: Host) -> None:
    final = host.cache_dir / "rootfs" / ("2" * 64)

    def fill(folder: Path) -> None:
        (folder / "file").touch()

    folder_once(final, fill, ("2" * 64,))
    assert kinds(store, host) == ["tree"] and not final.with_name(f"{final.name}.lock").exists()
    assert (folder_once(final, fill, ("2" * 64,)) / "file").exists()


def test_a_full_folder_name_still_fits_a_socket(host: Host) -> None:
    deep = replace(host, environment={**host.environment, "XDG_RUNTIME_DIR": ""}, uid=host.uid)
    container = RuntimeFolder(deep)
    assert len(str(container.socket)) <= 107
    container.remove()


def test_what_is_deployed_stays_whole_without_a_name_and_goes_without_its_need(store: Store, host: Host) -> None:
    manifest = tiny_image(store, code="1")
    blobs = {path.name for path in store.blobs.iterdir()}
    store.untag("tiny:1")
    store.change_index(lambda _: [])
    prune(store, host, keep=[manifest])
    assert {path.name for path in store.blobs.iterdir()} == blobs
    prune(store, host)
    assert list(store.blobs.iterdir()) == []
