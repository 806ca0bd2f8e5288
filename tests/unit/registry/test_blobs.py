"""One blob up and one blob down, over everything that can break on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import machine
from support.other_registry import GoneError, Handler, Registry, digest_of, elsewhere, running
from support.people import Clock, docker_login, quick
from support.small_image import noise

from intermodal.errors import DownloadError, RegistryError, RegistryUnreachableError, StoreError, UnknownImageError
from intermodal.events import Task
from intermodal.oci.descriptor import LAYER_GZIP, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.partial import PartialBlob
from intermodal.registry.client import Registries, Repository
from intermodal.registry.download import download
from intermodal.registry.reference import parse_remote
from intermodal.registry.upload import Sent, upload

DATA = noise(3_000_000, 1)
BLOB = Descriptor(LAYER_GZIP, Digest.of(DATA), len(DATA))


class Counted(Task):
    """How far it is."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        self.done += amount


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    path.write_bytes(DATA)
    return path


def connect(registry: Registry, home: Path, name: str = "a/b", attempts: int = 6) -> Repository:
    registries = Registries(machine(home), quick(attempts=attempts))
    return registries.repository(parse_remote(f"{registry.address}/{name}"))


def send(registry: Registry, stored: Path, mount_from: str = "", attempts: int = 6) -> Sent:
    task = Counted()
    sent = upload(connect(registry, stored.parent, attempts=attempts), stored, BLOB, mount_from=mount_from, task=task)
    assert registry.state.blobs[str(BLOB.digest)] == DATA
    assert task.done == (BLOB.size_bytes if sent.how == "uploaded" else 0)
    return sent


def once(registry: Registry, method: str, plan: str, times: int = 1) -> None:
    """Let the first requests of a method go wrong."""
    left = [times]

    def fault(handler: Handler) -> str:
        if handler.command != method or not left[0]:
            return ""
        left[0] -= 1
        return plan

    registry.fault = fault


# --- up ----------------------------------------------------------------------------------------------------------
def test_one_put_carries_the_whole_blob(registry: Registry, stored: Path) -> None:
    assert send(registry, stored) == Sent("uploaded", BLOB.size_bytes)
    assert [m for m, _, _ in registry.seen] == ["POST", "PUT"]


@pytest.mark.parametrize("absolute", [True, False])
def test_location_in_both_forms(absolute: bool, registry: Registry, stored: Path) -> None:
    registry.habits.absolute_location = absolute
    send(registry, stored)


def test_broken_put_is_continued_not_repeated(registry: Registry, stored: Path) -> None:
    once(registry, "PUT", "drop-request")
    sent = send(registry, stored)
    assert [m for m, _, _ in registry.seen] == ["POST", "PUT", "GET", "PATCH", "PUT"]
    assert registry.received == BLOB.size_bytes, "what had arrived was not sent again"
    assert sent.bytes >= BLOB.size_bytes


def test_broken_again_and_again(registry: Registry, stored: Path) -> None:
    registry.fault = lambda h: "drop-request" if h.command in ("PUT", "PATCH") and h.left else ""
    send(registry, stored)
    assert registry.received == BLOB.size_bytes


def test_forgotten_upload_begins_anew(registry: Registry, stored: Path) -> None:
    registry.habits.resumable = False
    once(registry, "PUT", "drop-request")
    send(registry, stored)
    assert [m for m, _, _ in registry.seen] == ["POST", "PUT", "GET", "HEAD", "POST", "PUT"]


def test_upload_that_is_always_forgotten_is_given_up_with_words(registry: Registry, stored: Path) -> None:
    registry.habits.resumable = False
    registry.fault = lambda h: "drop-request" if h.command == "PUT" else ""
    with pytest.raises(RegistryUnreachableError, match="cannot push blob") as caught:
        upload(connect(registry, stored.parent), stored, BLOB, task=Task())
    assert "lost the upload" in str(caught.value)
    assert registry.state.blobs == {}


def test_lost_last_answer_is_no_second_upload(registry: Registry, stored: Path) -> None:
    """The registry has the blob, and the client never heard of it."""
    paths: list[str] = []

    def fault(handler: Handler) -> str:
        return (
            "drop-answer-only"
            if handler.command == "PUT" and not paths.append(handler.path) and len(paths) == 1
            else ""
        )

    def answer(self: Handler, status: int, body: bytes, headers: object = None) -> None:
        if self.plan == "drop-answer-only":
            self.cut()
        whole(self, status, body, headers)  # type: ignore[arg-type]

    whole = Handler.answer
    registry.fault = fault
    Handler.answer = answer  # type: ignore[method-assign, assignment]
    try:
        send(registry, stored)
    finally:
        Handler.answer = whole  # type: ignore[method-assign]
    assert [m for m, _, _ in registry.seen] == ["POST", "PUT", "GET", "HEAD"]
    assert registry.received == BLOB.size_bytes


def test_small_limit_of_a_proxy_means_chunks(registry: Registry, stored: Path) -> None:
    registry.habits.most_body_bytes = 1_100_000
    send(registry, stored)
    patches = [h for m, _, h in registry.seen if m == "PATCH" and int(h["Content-Length"]) <= 1_100_000]
    assert len(patches) == 8
    assert [h["Content-Range"].partition("-")[0] for h in patches] == [str(n * 375_000) for n in range(8)]


def test_the_next_blob_knows_the_limit(registry: Registry, stored: Path) -> None:
    registry.habits.most_body_bytes = 1_100_000
    repository = connect(registry, stored.parent)
    for _ in range(2):
        upload(repository, stored, BLOB, task=Task())
    lengths = [int(h["Content-Length"]) for m, _, h in registry.seen if m in ("PUT", "PATCH")]
    assert sum(length > 1_100_000 for length in lengths) == 2, "all at once, then the half; then never again"


def test_limit_that_nothing_passes_is_told(registry: Registry, stored: Path) -> None:
    registry.habits.most_body_bytes = 1000
    with pytest.raises(RegistryError, match="cannot push blob") as caught:
        upload(connect(registry, stored.parent), stored, BLOB, task=Task())
    assert "client_max_body_size" in str(caught.value)


@pytest.mark.parametrize("damage", ["changed", "short", "long"])
def test_damaged_file_is_never_pushed(damage: str, registry: Registry, stored: Path) -> None:
    data = bytearray(DATA)
    data[-1] ^= 1
    stored.write_bytes({"changed": data, "short": DATA[:-1], "long": b"x" + DATA}[damage])
    with pytest.raises(StoreError, match="damaged"):
        upload(connect(registry, stored.parent), stored, BLOB, task=Task())
    assert registry.state.blobs == {}
    assert "DELETE" in [m for m, _, _ in registry.seen], "the upload is called off"


def test_file_that_cannot_be_read(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read blob"):
        upload(connect(registry, tmp_path), tmp_path / "absent", BLOB, task=Task())


@pytest.mark.parametrize("supported", [True, False])
def test_mount_from_a_neighbour(supported: bool, registry: Registry, stored: Path) -> None:
    registry.habits.mount = supported
    registry.state.blobs[str(BLOB.digest)] = DATA
    registry.state.members["neighbour"] = {str(BLOB.digest)}
    sent = send(registry, stored, "neighbour")
    assert sent == (Sent("mounted", 0) if supported else Sent("uploaded", BLOB.size_bytes))


def test_neighbour_that_may_not_be_read_is_no_obstacle(registry: Registry, stored: Path) -> None:
    registry.habits.mount = False

    def deny(handler: Handler) -> None:
        if "mount" in handler.query:
            handler.refuse(403, "DENIED", "not yours")
        else:
            handler.begin_upload("a/b")

    registry.special["POST", "/v2/a/b/blobs/uploads/"] = deny
    assert send(registry, stored, "neighbour").how == "uploaded"


def test_token_that_expires_between_post_and_put(registry: Registry, stored: Path) -> None:
    registry.habits.token = True
    docker_login(stored.parent, registry.address, *registry.habits.login)
    once(registry, "PUT", "expired")
    assert send(registry, stored).how == "uploaded"
    assert registry.paths().count("/token") == 2


def test_upload_location_on_another_host_sees_no_credentials(registry: Registry, stored: Path) -> None:
    registry.habits.basic = True
    docker_login(stored.parent, registry.address, *registry.habits.login)
    with running() as other:

        def lead_away(handler: Handler) -> None:
            if handler.allowed("/v2/"):
                other.state.uploads["0-0"] = bytearray()
                place = other.address.replace("127.0.0.1", "localhost")
                handler.answer(202, b"", {"Location": f"http://{place}/v2/a/b/blobs/uploads/0-0?x=y"})

        registry.special["POST", "/v2/a/b/blobs/uploads/"] = lead_away
        upload(connect(registry, stored.parent), stored, BLOB, task=Task())
        assert other.state.blobs[str(BLOB.digest)] == DATA
        assert all("Authorization" not in headers for _, _, headers in other.seen)


def test_patience_of_an_upload_ends(registry: Registry, stored: Path) -> None:
    registry.fault = lambda h: "500" if h.command == "PUT" else ""
    with pytest.raises(RegistryUnreachableError, match="not well"):
        send(registry, stored, attempts=3)
    assert [m for m, _, _ in registry.seen].count("PUT") == 3


def test_registry_that_reads_too_slowly_is_left(registry: Registry, stored: Path) -> None:
    """Time is turned by hand: each piece takes a minute."""
    from intermodal.registry.pace import Speed, keep_pace

    now = iter(range(0, 10_000, 60))
    speed = Speed(least_bytes=1 << 20, window_s=30.0, now_s=lambda: float(next(now)))
    with pytest.raises(RegistryUnreachableError, match="too slow"):
        list(keep_pace(iter([b"x" * 10] * 5), speed, "there"))
    assert len(list(keep_pace(iter([b"x" * (1 << 20)] * 5), speed, "there"))) == 5


# --- down --------------------------------------------------------------------------------------------------------
def fetch(registry: Registry, root: Path, attempts: int = 6) -> bytes:
    (root / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    task = Counted()
    with PartialBlob(root, BLOB) as part:
        task.advance(part.have)
        download([connect(registry, root, attempts=attempts)], BLOB, part, task)
        part.commit()
    assert task.done == BLOB.size_bytes
    assert not (root / "partial" / BLOB.digest.hex).exists()
    return (root / "blobs/sha256" / BLOB.digest.hex).read_bytes()


@pytest.fixture
def holding(registry: Registry) -> Registry:
    registry.state.blobs[str(BLOB.digest)] = DATA
    registry.state.members["a/b"] = {str(BLOB.digest)}
    return registry


def test_whole_blob_in_one_answer(holding: Registry, tmp_path: Path) -> None:
    assert fetch(holding, tmp_path) == DATA
    assert len(holding.seen) == 1


def test_broken_answer_is_continued(holding: Registry, tmp_path: Path) -> None:
    once(holding, "GET", "end-answer", times=3)
    assert fetch(holding, tmp_path) == DATA
    assert [h.get("Range") for _, _, h in holding.seen] == [None, *(f"bytes={n}-" for n in (1500000, 2250000, 2625000))]
    assert holding.sent == BLOB.size_bytes


def test_reset_connection_is_continued(holding: Registry, tmp_path: Path) -> None:
    """What was on its way is lost with it, so only the result is sure."""
    once(holding, "GET", "drop-answer", times=3)
    assert fetch(holding, tmp_path) == DATA


def test_registry_without_ranges(holding: Registry, tmp_path: Path) -> None:
    holding.habits.ranges = False
    once(holding, "GET", "drop-answer")
    assert fetch(holding, tmp_path) == DATA


def test_next_call_continues_what_a_dead_one_left(holding: Registry, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / BLOB.digest.hex).write_bytes(DATA[:2_000_000])
    assert fetch(holding, tmp_path) == DATA
    assert holding.sent == 1_000_000
    (tmp_path / "blobs/sha256" / BLOB.digest.hex).unlink()
    (tmp_path / "partial" / BLOB.digest.hex).write_bytes(b"x" * 2_000_000)
    assert fetch(holding, tmp_path) == DATA, "what was left is hashed before it counts"
    (tmp_path / "blobs/sha256" / BLOB.digest.hex).unlink()
    (tmp_path / "partial" / BLOB.digest.hex).write_bytes(DATA + b"more")
    assert fetch(holding, tmp_path) == DATA


@pytest.mark.parametrize("lie", ["lie-digest", "lie-size"])
def test_lie_is_asked_again_once_and_then_named(lie: str, holding: Registry, tmp_path: Path) -> None:
    once(holding, "GET", lie)
    assert fetch(holding, tmp_path / "once") == DATA
    holding.fault = lambda _: lie
    with pytest.raises(DownloadError, match="something else than blob") as caught:
        fetch(holding, tmp_path / "always")
    assert str(BLOB.digest) in str(caught.value)
    assert not any((tmp_path / "always" / "blobs/sha256").iterdir())


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 5-9/10"},
        {"Content-Range": "junk"},
        {},
        {"Content-Range": f"bytes 1000000-1/{len(DATA) + 1}"},
        {"Content-Range": f"bytes 5-9/{len(DATA)}"},
    ],
)
def test_range_that_was_not_asked_for(headers: dict[str, str], holding: Registry, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / BLOB.digest.hex).write_bytes(DATA[:1_000_000])

    def wrong(handler: Handler) -> None:
        if "Range" in handler.headers:
            handler.answer(206, DATA[:5], headers)
        else:
            handler.send_blob(DATA, str(BLOB.digest))

    holding.special["GET", f"/v2/a/b/blobs/{BLOB.digest}"] = wrong
    assert fetch(holding, tmp_path) == DATA
    assert len(holding.seen) == 2


def test_answer_without_end_is_cut(holding: Registry, tmp_path: Path) -> None:
    """Chunked, without a length: only counting helps."""

    def flood(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(10_000):
            handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            holding.sent += 0x10000
        raise GoneError

    holding.special["GET", f"/v2/a/b/blobs/{BLOB.digest}"] = flood
    with pytest.raises(DownloadError, match="something else"):
        fetch(holding, tmp_path)
    assert holding.sent < 80 << 20


def test_trickle_is_left_and_continued_elsewhere(holding: Registry, tmp_path: Path) -> None:
    once(holding, "GET", "trickle")
    assert fetch(holding, tmp_path) == DATA


def test_redirect_to_another_host_carries_no_credentials(holding: Registry, tmp_path: Path) -> None:
    holding.habits.basic = True
    docker_login(tmp_path, holding.address, *holding.habits.login)
    with elsewhere(holding) as other:
        holding.habits.redirect_blobs = f"http://{other.address.replace('127.0.0.1', 'localhost')}"
        assert fetch(holding, tmp_path) == DATA
        assert other.seen and all("Authorization" not in headers for _, _, headers in other.seen)
        holding.habits.redirect_blobs = f"http://{other.address}"  # the same host, another port
        (tmp_path / "blobs/sha256" / BLOB.digest.hex).unlink()
        assert fetch(holding, tmp_path) == DATA
        assert all("Authorization" not in headers for _, _, headers in other.seen)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://x/y", "http://registry.example/y", "gopher://x"])
def test_redirect_that_is_not_followed(target: str, holding: Registry, tmp_path: Path) -> None:
    path = f"/v2/a/b/blobs/{BLOB.digest}"
    holding.special["GET", path] = lambda handler: handler.answer(302, b"", {"Location": target})
    with pytest.raises(RegistryError, match="will not follow"):
        fetch(holding, tmp_path)


def test_redirects_in_a_circle(holding: Registry, tmp_path: Path) -> None:
    path = f"/v2/a/b/blobs/{BLOB.digest}"
    holding.special["GET", path] = lambda handler: handler.answer(302, b"", {"Location": path})
    with pytest.raises(RegistryError, match="cannot pull") as caught:
        fetch(holding, tmp_path)
    assert "more than 5 redirects" in str(caught.value)


def test_blob_that_is_not_there(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UnknownImageError):
        fetch(registry, tmp_path)
    assert len(registry.seen) == 1


def test_from_the_mirror_that_breaks_to_the_registry_itself(holding: Registry, tmp_path: Path) -> None:
    with running() as mirror:
        mirror.state = holding.state
        mirror.fault = lambda _: "drop-answer"
        (tmp_path / "blobs/sha256").mkdir(parents=True)
        clock = Clock()
        registries = Registries(machine(tmp_path), quick(clock.sleep))
        sources = [registries.repository(parse_remote(f"{r.address}/a/b")) for r in (mirror, holding)]
        with PartialBlob(tmp_path, BLOB) as part:
            download(sources, BLOB, part, Task())
            part.commit()
        assert len(mirror.seen) == 1 and clock.slept == []
        assert digest_of((tmp_path / "blobs/sha256" / BLOB.digest.hex).read_bytes()) == str(BLOB.digest)


def test_two_at_once_share_one_download(holding: Registry, tmp_path: Path) -> None:
    import threading

    (tmp_path / "blobs/sha256").mkdir(parents=True)
    came: list[bool] = []

    def one() -> None:
        with PartialBlob(tmp_path, BLOB) as part:
            came.append(part.present)
            if not part.present:
                download([connect(holding, tmp_path)], BLOB, part, Task())
                part.commit()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == [False, True, True, True]
    assert holding.sent == BLOB.size_bytes
    assert not (tmp_path / "partial" / BLOB.digest.hex).exists()
