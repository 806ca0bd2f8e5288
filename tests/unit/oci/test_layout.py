import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from intermodal.errors import InputError, StoreError, UnknownImageError
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, layer_descriptor, manifest_bytes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open_or_create()


def put_image(store: Store, text: str, name: str | None = None, platform: str = "linux/amd64") -> Descriptor:
    digest, size = store.put_bytes(f"layer {text}".encode())
    layer = LayerInfo(digest, Digest.of(text.encode()), size, 1024, "app", "application")
    architecture = platform.partition("/")[2]
    config = Descriptor(
        CONFIG,
        *store.put_bytes(config_bytes(layers=[layer], architecture=architecture, python="3.11", labels={"t": text})),
    )
    descriptor = Descriptor(
        MANIFEST, *store.put_bytes(manifest_bytes(config, [layer_descriptor(layer)])), platform=platform
    )
    if name:
        store.tag(name, descriptor)
    return descriptor


def test_a_new_store_is_an_image_layout(store: Store) -> None:
    assert json.loads((store.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_bytes())["manifests"] == []
    before = (store.root / "index.json").read_bytes()
    store.open_or_create()
    assert (store.root / "index.json").read_bytes() == before


def test_a_blob_appears_only_when_it_is_committed(store: Store) -> None:
    with pytest.raises(RuntimeError), store.writer() as writer:
        writer.write(b"half")
        raise RuntimeError
    with store.writer() as writer:
        writer.write(b"never committed")
    assert list(store.blobs.iterdir()) == [] and list((store.root / "tmp").iterdir()) == []
    with store.writer() as writer:
        writer.write(b"he")
        writer.write(memoryview(b"llo"))
        digest, size = writer.commit()
    assert store.read_bytes(digest) == b"hello" and size == 5
    assert store.path(digest).stat().st_mode & 0o777 == 0o644


def test_commit_refuses_bytes_of_another_digest(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot store"), store.writer() as writer:
        writer.write(b"x")
        writer.commit(Digest.of(b"y"))
    assert list(store.blobs.iterdir()) == []


def test_damaged_and_oversized_blobs_are_errors(store: Store) -> None:
    digest, _ = store.put_bytes(b"good")
    with pytest.raises(StoreError, match="too large"):
        store.read_bytes(digest, limit=3)
    store.path(digest).write_bytes(b"evil")
    with pytest.raises(StoreError, match="damaged"):
        store.read_bytes(digest)
    with pytest.raises(StoreError, match="cannot read blob"):
        store.read_bytes(Digest.of(b"absent"))


def test_every_form_of_reference_finds_the_image(store: Store) -> None:
    one = put_image(store, "one", "digits:1.0.0")
    two = put_image(store, "two", "digits:2.0.0")
    latest = put_image(store, "three", "other:latest")
    assert store.resolve("digits:1.0.0").digest == one.digest
    assert store.resolve("other").digest == latest.digest
    assert store.resolve(str(two.digest)).digest == two.digest
    assert store.resolve(f"digits@{two.digest}").digest == two.digest
    assert store.resolve(two.digest.hex[:12]).digest == two.digest
    assert store.resolve(f"sha256:{two.digest.hex[:8]}").digest == two.digest
    assert store.resolve("digits:2.0.0") == Descriptor(MANIFEST, two.digest, two.size_bytes, {}, "linux/amd64")


def test_a_name_alone_means_its_only_tag_and_is_refused_for_several(store: Store) -> None:
    one = put_image(store, "one", "digits:1.0.0")
    assert store.resolve("digits").digest == one.digest
    put_image(store, "two", "digits:2.0.0")
    with pytest.raises(UnknownImageError, match="could be 2 images"):
        store.resolve("digits")


def test_an_unknown_image_names_near_ones(store: Store) -> None:
    put_image(store, "one", "digits:1.0.0")
    with pytest.raises(UnknownImageError) as caught:
        store.resolve("digts:1.0.0")
    assert "digits:1.0.0" in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(UnknownImageError):
        store.resolve(f"elsewhere@{store.resolve('digits').digest}")
    for text in ("UPPER", "a:b:c", "../x", "a/../b", "a@md5:00", "sha256:xyz", "", "name:" + "t" * 129):
        with pytest.raises(InputError):
            store.resolve(text)


def test_a_moved_tag_leaves_the_old_image_reachable_until_prune(store: Store) -> None:
    old = put_image(store, "old", "digits:1")
    new = put_image(store, "new", "digits:1")
    assert store.resolve("digits:1").digest == new.digest
    assert store.resolve(f"digits@{old.digest}").digest == old.digest
    assert [(i.name, i.former) for i in store.images()] == [("digits:1", ""), ("", "digits")]
    report = store.prune(dry_run=True)
    assert report.images == (old.digest,) and report.count("blob") == 3 and store.has(old.digest)
    assert store.prune(keep=[old.digest]).items == ()
    report = store.prune()
    assert report.images == (old.digest,) and not store.has(old.digest) and report.bytes > 0
    assert store.resolve("digits:1").digest == new.digest and store.config(new)["os"] == "linux"
    with pytest.raises(UnknownImageError):
        store.resolve(str(old.digest))


def test_tagging_back_and_forth_lists_each_image_once(store: Store) -> None:
    one, two = put_image(store, "one", "m:1"), put_image(store, "two", "m:1")
    store.tag("m:1", one)
    assert sorted((i.name, i.digest) for i in store.images()) == sorted([("m:1", one.digest), ("", two.digest)])
    store.tag("m:2", one)
    assert {i.name for i in store.images()} == {"m:1", "m:2", ""}
    assert store.untag("m:2") and not store.untag("m:2")


def test_prune_keeps_shared_blobs_and_sweeps_what_killed_processes_left(store: Store) -> None:
    shared = put_image(store, "same", "a:1")
    (store.root / "tmp" / "123-left").write_bytes(b"x" * 100)
    orphan, _ = store.put_bytes(b"nobody wants this")
    report = store.prune()
    assert [item.kind for item in report.items] == ["temporary", "blob"] and report.bytes == 117
    assert not store.has(orphan)
    assert store.manifest(shared)["layers"]


def test_prune_waits_for_nobody_and_touches_nothing_while_a_session_runs(store: Store) -> None:
    orphan, _ = store.put_bytes(b"fresh")
    with store.session(), Store(store.root).session(), pytest.raises(StoreError, match="in use"):
        store.prune()
    assert store.has(orphan)
    store.prune()
    assert not store.has(orphan)


def test_prune_stops_before_removing_anything_when_a_manifest_is_damaged(store: Store) -> None:
    image = put_image(store, "one", "a:1")
    orphan, _ = store.put_bytes(b"orphan")
    store.path(image.digest).write_bytes(b"{}")
    with pytest.raises(StoreError, match="a:1 is damaged"):
        store.prune()
    assert store.has(orphan)


def test_an_index_of_platforms_gives_the_manifest_of_each(store: Store) -> None:
    amd, arm = put_image(store, "amd"), put_image(store, "arm", platform="linux/arm64")
    index = Descriptor(INDEX, *store.put_bytes(index_bytes([amd, arm])))
    store.tag("multi:1", index)
    assert store.manifest_for(store.resolve("multi:1"), "linux/arm64") == arm.digest
    assert store.manifest_for(amd, "linux/s390x") == amd.digest
    with pytest.raises(UnknownImageError, match="s390x"):
        store.manifest_for(index, "linux/s390x")
    (image,) = [i for i in store.images() if i.name]
    assert image.platforms == ("linux/amd64", "linux/arm64") and image.layers == 2
    store.prune()
    assert store.has(arm.digest)


def test_threads_tagging_at_once_lose_nothing(store: Store) -> None:
    images = [put_image(store, f"n{i}") for i in range(12)]
    threads = [threading.Thread(target=Store(store.root).tag, args=(f"n:{i}", d)) for i, d in enumerate(images)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {store.resolve(f"n:{i}").digest for i in range(12)} == {d.digest for d in images}


WRITER = """
import sys
from pathlib import Path
from intermodal.oci.layout import Store
store = Store(Path(sys.argv[1])).open_or_create()
with store.session(), store.writer() as writer:
    writer.write(b"x" * 3_000_000)
    print("half way", flush=True)
    sys.stdin.read()
"""


def test_kill_9_in_the_middle_leaves_a_sound_store_and_frees_its_lock(store: Store) -> None:
    image = put_image(store, "one", "a:1")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"half way\n"
    with pytest.raises(StoreError, match="in use"):
        store.prune()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    assert store.prune().bytes > 0
    assert store.resolve("a:1").digest == image.digest and list((store.root / "tmp").iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_a_store_error_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        store = Store(small / "store").open_or_create()
        with pytest.raises(StoreError, match="disk is full"), store.writer() as writer:
            for _ in range(40):
                writer.write(os.urandom(100_000))
            writer.commit()
        assert list((store.root / "tmp").iterdir()) == []
        assert store.put_bytes(b"small enough")[1] == 12
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "file" / "store").open_or_create()
    assert caught.value.exit_code == 3 and "XDG_DATA_HOME" in str(caught.value)


def test_a_damaged_list_is_named(store: Store) -> None:
    (store.root / "index.json").write_text('{"manifests": [{"digest": 1}]}')
    with pytest.raises(StoreError):
        store.images()
    (store.root / "index.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        store.resolve("a:1")


def test_reports_come_back_under_their_key_only(store: Store) -> None:
    assert store.get_report("image+golden") is None
    store.put_report("image+golden", {"passed": True})
    store.put_report("image+golden", {"passed": False})
    assert store.get_report("image+golden") == {"passed": False}
    assert store.get_report("image") is None
    next((store.root / "reports").iterdir()).write_text("not json")
    assert store.get_report("image+golden") is None


def test_importing_the_store_stays_cheap() -> None:
    listed = subprocess.run(
        [sys.executable, "-I", "-c", "import sys, intermodal.oci.layout; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    heavy = {
        "urllib3",
        "rich",
        "ssl",
        "http",
        "asyncio",
        "email",
        "packaging",
        "tempfile",
        "concurrent.futures",
    }
    assert heavy & set(listed) == set()
