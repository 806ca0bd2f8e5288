"""The room `push`: what is sent, in which order, and how registries with strict habits are told apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.other_registry import Handler, Registry, running
from support.people import quick, somebody
from support.small_image import documents, noise, small_image, two_platforms

from intermodal import pipeline
from intermodal.errors import IntermodalError, RegistryError, RegistryUnreachableError, StoreError
from intermodal.oci.descriptor import Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.export import export
from intermodal.oci.validate import validate_store
from intermodal.registry.reference import parse_remote
from intermodal.rooms.push import PushReport, pull, push


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


def send(registry: Registry, home: Path, image: Descriptor, name: str = "team/x:1") -> PushReport:
    host, store = somebody(home)
    return push(image, parse_remote(f"{registry.address}/{name}"), store=store, host=host, manner=quick())


def test_blobs_then_manifests_then_the_tag(registry: Registry, tmp_path: Path) -> None:
    image = two_platforms(somebody(tmp_path)[1])
    report = send(registry, tmp_path, image)
    puts = [path for method, path, _ in registry.seen if method == "PUT"]
    kinds = ["blob" if "/blobs/" in path else "tag" if path.endswith("/1") else "manifest" for path in puts]
    assert kinds == ["blob"] * 5 + ["manifest"] * 2 + ["tag"]
    assert registry.state.tags["team/x"] == {"1": str(report.digest)} == {"1": str(image.digest)}
    assert registry.visible == []
    assert report.uploaded_bytes == registry.received


def test_unchanged_image_costs_one_question(registry: Registry, tmp_path: Path) -> None:
    image = small_image(somebody(tmp_path)[1])
    send(registry, tmp_path, image)
    registry.seen.clear()
    again = send(registry, tmp_path, image)
    assert (again.unchanged, again.uploaded_bytes, [m for m, _, _ in registry.seen]) == (True, 0, ["HEAD"])


def test_only_what_is_new_is_sent(registry: Registry, tmp_path: Path) -> None:
    _, store = somebody(tmp_path)
    send(registry, tmp_path, small_image(store, "a:1", contents=(noise(500_000, 1), b"one")))
    second = send(registry, tmp_path, small_image(store, "a:2", contents=(noise(500_000, 1), b"two")), "team/x:2")
    assert second.uploaded_bytes < 20_000
    assert (len(second.uploaded), len(second.skipped)) == (2, 1)


def test_neighbours_blobs_are_mounted(registry: Registry, tmp_path: Path) -> None:
    image = small_image(somebody(tmp_path)[1])
    send(registry, tmp_path, image)
    beside = send(registry, tmp_path, image, "team/y:1")
    assert (len(beside.mounted), beside.uploaded) == (3, ())
    manifest = somebody(tmp_path)[1].read_bytes(image.digest)
    assert beside.uploaded_bytes == len(manifest)


def test_push_by_digest_and_of_another_images_digest(registry: Registry, tmp_path: Path) -> None:
    image = small_image(somebody(tmp_path)[1])
    report = send(registry, tmp_path, image, f"team/x@{image.digest}")
    assert report.pinned == f"{registry.address}/team/x@{image.digest}"
    assert registry.state.tags["team/x"] == {}
    with pytest.raises(IntermodalError, match="cannot push"):
        send(registry, tmp_path, image, f"team/x@{Digest('0' * 64)}")


# --- strict registries -------------------------------------------------------------------------------------------
def test_tag_that_may_not_move(registry: Registry, tmp_path: Path) -> None:
    """As ECR says it; the image itself is there, the tag is as it was."""
    registry.habits.immutable_tags = True
    _, store = somebody(tmp_path)
    first = send(registry, tmp_path, small_image(store, "a:1"))
    assert send(registry, tmp_path, store.resolve("a:1")).unchanged
    with pytest.raises(RegistryError, match="does not let it move") as caught:
        send(registry, tmp_path, small_image(store, "a:2", contents=(b"new",)))
    assert "[model] version" in str(caught.value) and not caught.value.retriable
    assert registry.state.tags["team/x"] == {"1": str(first.digest)}


def test_repository_that_must_be_made_first(registry: Registry, tmp_path: Path) -> None:
    registry.habits.create_on_push = False
    with pytest.raises(RegistryError, match="has no repository team/x") as caught:
        send(registry, tmp_path, small_image(somebody(tmp_path)[1]))
    assert "create it there first" in str(caught.value)


def test_ecr_is_told_how_to_make_it() -> None:
    from intermodal.registry.problems import _create
    from intermodal.registry.settings import RegistrySettings, Trust

    name = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    settings = RegistrySettings(name, name, False, False, Trust())
    assert _create(settings, "team/x") == "aws ecr create-repository --region eu-central-1 --repository-name team/x"


def test_registry_that_reports_another_digest(registry: Registry, tmp_path: Path) -> None:
    registry.fault = lambda h: "lie-header" if h.command == "PUT" and "/manifests/" in h.path else ""
    with pytest.raises(RegistryError, match="stored something else"):
        send(registry, tmp_path, small_image(somebody(tmp_path)[1]))


# --- what goes wrong here ----------------------------------------------------------------------------------------
def test_damaged_layer_leaves_the_tag_alone(registry: Registry, tmp_path: Path) -> None:
    _, store = somebody(tmp_path)
    image = small_image(store, contents=(noise(300_000, 2), b"x"))
    layer = Digest.parse(documents(store, image)[0]["layers"][0]["digest"])
    data = bytearray(store.path(layer).read_bytes())
    data[1000] ^= 1
    store.path(layer).write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        send(registry, tmp_path, image)
    assert registry.state.tags.get("team/x", {}) == {} and str(layer) not in registry.state.blobs


def test_missing_layer_is_told_before_anything_is_sent(registry: Registry, tmp_path: Path) -> None:
    _, store = somebody(tmp_path)
    image = small_image(store)
    store.path(Digest.parse(documents(store, image)[0]["layers"][1]["digest"])).unlink()
    with pytest.raises(StoreError, match="not whole"):
        send(registry, tmp_path, image)
    assert registry.received == 0


def test_one_failure_ends_the_other_transfers(registry: Registry, tmp_path: Path) -> None:
    """A refused blob must not wait for another one that stands still, whose time-out is far away."""
    host, store = somebody(tmp_path)
    image = small_image(store, contents=(noise(8_000_000, 3), b"x"))
    small = documents(store, image)[0]["layers"][1]["digest"]
    stands, over, told = threading.Event(), threading.Event(), list[BaseException]()

    def refuse(handler: Handler) -> None:
        assert stands.wait(60)
        handler.refuse(403, "DENIED", "no")

    def stand(handler: Handler) -> None:
        handler.rfile.read(1000)
        stands.set()
        over.wait(120)
        handler.cut()

    def begin(handler: Handler) -> None:
        handler.answer(202, b"", {"Location": "/v2/team/x/blobs/uploads/still"})

    registry.special["HEAD", f"/v2/team/x/blobs/{small}"] = refuse
    registry.special["POST", "/v2/team/x/blobs/uploads/"] = begin
    registry.special["PUT", "/v2/team/x/blobs/uploads/still"] = stand

    def work() -> None:
        try:
            reference = parse_remote(f"{registry.address}/team/x:1")
            push(image, reference, store=store, host=host, manner=quick(read_s=600.0))
        except IntermodalError as error:
            told.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    over.set()
    assert not thread.is_alive(), "it waits for the transfer that stands still"
    assert [type(error) for error in told] == [RegistryError] and "refuses" in str(told[0])
    assert registry.state.tags.get("team/x", {}) == {}


def test_broken_push_is_continued_by_the_next(registry: Registry, tmp_path: Path) -> None:
    _, store = somebody(tmp_path)
    image = small_image(store, contents=tuple(noise(200_000, n) for n in range(4)))
    count = 0

    def fault(handler: Handler) -> str:
        nonlocal count
        count += handler.command == "PUT"
        return "500" if count > 2 else ""

    registry.fault = fault
    with pytest.raises(RegistryUnreachableError):
        send(registry, tmp_path, image)
    assert registry.state.tags.get("team/x", {}) == {}
    registry.fault, there = None, len(registry.state.blobs)
    again = send(registry, tmp_path, image)
    assert len(again.skipped) == there == 2


def test_pulled_image_is_pushed_on_as_it_was(registry: Registry, tmp_path: Path) -> None:
    image = two_platforms(somebody(tmp_path / "one")[1])
    send(registry, tmp_path / "one", image)
    host, store = somebody(tmp_path / "two")
    report = pull(parse_remote(f"{registry.address}/team/x:1"), store=store, host=host, manner=quick(), platform="all")
    assert send(registry, tmp_path / "two", store.resolve(report.name), "else/where:9").digest == image.digest


def test_what_was_pulled_is_mounted_into_a_neighbour(registry: Registry, tmp_path: Path) -> None:
    """A base of the same registry is never sent back to it."""
    base = small_image(somebody(tmp_path / "one")[1], contents=(noise(300_000, 8), b"base"))
    send(registry, tmp_path / "one", base, "bases/python:3")
    host, store = somebody(tmp_path / "two")
    pull(parse_remote(f"{registry.address}/bases/python:3"), store=store, host=host, manner=quick())
    mine = small_image(store, "mine:1", contents=(noise(300_000, 8), b"base", b"code"))
    report = send(registry, tmp_path / "two", mine, "team/mine:1")
    assert (len(report.mounted), len(report.uploaded)) == (2, 2) and report.uploaded_bytes < 10_000


def test_many_at_once_into_one_store_and_one_repository(registry: Registry, tmp_path: Path) -> None:
    image = small_image(somebody(tmp_path / "one")[1], contents=tuple(noise(100_000, n) for n in range(5)))
    failed: list[BaseException] = []

    def at_once(work: Callable[[], object]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=guarded) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    host, store = somebody(tmp_path / "two")
    reference = parse_remote(f"{registry.address}/team/x:1")
    at_once(lambda: send(registry, tmp_path / "one", image))
    at_once(lambda: pull(reference, store=store, host=host, manner=quick()))
    assert failed == [] and registry.visible == []
    assert validate_store(store).faults == () and not any((store.root / "partial").iterdir())
    assert [found.digest for found in store.images()] == [image.digest]


def test_pull_that_broke_is_continued_by_the_next(registry: Registry, tmp_path: Path) -> None:
    image = small_image(somebody(tmp_path / "one")[1], contents=(noise(2_000_000, 5),))
    send(registry, tmp_path / "one", image)
    host, store = somebody(tmp_path / "two")
    reference = parse_remote(f"{registry.address}/team/x:1")
    layer = documents(somebody(tmp_path / "one")[1], image)[0]["layers"][0]["digest"]

    def fault(handler: Handler) -> str:
        if not handler.path.endswith(layer):
            return ""
        return "500" if "Range" in handler.headers else "end-answer"

    registry.fault = fault
    with pytest.raises(RegistryUnreachableError):
        pull(reference, store=store, host=host, manner=quick())
    assert store.listed() == []
    left = (store.root / "partial" / layer.removeprefix("sha256:")).stat().st_size
    assert 0 < left < 2_000_000
    registry.fault, registry.sent = None, 0
    report = pull(reference, store=store, host=host, manner=quick())
    assert report.digest == image.digest and registry.sent < 2_010_000 - left


def test_prune_takes_what_a_broken_pull_left(tmp_path: Path) -> None:
    _, store = somebody(tmp_path)
    (store.root / "partial").mkdir()
    (store.root / "partial" / ("0" * 64)).write_bytes(b"half")
    report = store.prune()
    assert report.count("temporary") == 1 and not any((store.root / "partial").iterdir())


def test_credentials_are_in_no_file_of_the_store(registry: Registry, tmp_path: Path) -> None:
    from support.people import docker_login

    registry.habits.token = True
    docker_login(tmp_path, registry.address, *registry.habits.login)
    send(registry, tmp_path, small_image(somebody(tmp_path)[1]))
    secrets = [registry.habits.login[1], *registry.tokens]
    for path in (tmp_path / ".local").rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets), path
    assert json.loads(next((somebody(tmp_path)[1].root / "reports").iterdir()).read_bytes())["report"]["blobs"]


@pytest.mark.parametrize(("named", "tag"), [("digits:3", "3"), ("3", "3"), ("", "latest")])
def test_layouts_of_others_are_pushed_and_left_as_they_are(
    named: str, tag: str, registry: Registry, tmp_path: Path
) -> None:
    _, layout = somebody(tmp_path / "maker")
    image = small_image(layout, "x:1")
    folder = export(layout, image, f"oci:{tmp_path}/layout:{named or 'gone'}", name="x:1")
    listed = json.loads((folder / "index.json").read_text())
    if not named:
        listed["manifests"][0].pop("annotations")
        (folder / "index.json").write_text(json.dumps(listed))
    for left in ("index.lock", "session.lock"):
        (folder / left).unlink(missing_ok=True)
    before = sorted(path.name for path in folder.rglob("*"))
    host, _ = somebody(tmp_path / "pusher")
    report = pipeline.push(f"oci:{folder}", f"{registry.address}/team/x", host=host)
    assert (report.digest, report.reference.rpartition(":")[2]) == (image.digest, tag)
    assert sorted(path.name for path in folder.rglob("*")) == before
