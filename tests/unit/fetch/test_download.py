from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from support.hosts import empty_host
from support.loopback import Handler, Site, serving

from intermodal.errors import DownloadError, IndexUnreachableError, StoreError
from intermodal.fetch import Request, cache, fetch_all, fetch_bytes, transfer
from intermodal.oci.digest import Digest

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)


def request_for(site: Site, name: str = "a.whl", data: bytes = CONTENT, size: int | None = None) -> Request:
    (site.root / name).write_bytes(data)
    size = len(data) if size is None else size
    return Request(Digest.of(data), size, name, (f"{site.url}/{name}",))


def test_fetches_once_and_then_asks_nobody(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site)
        first = fetch_all([wanted], host=host)
        second = fetch_all([wanted], host=host)
    assert first == second
    assert first[wanted.digest].read_bytes() == CONTENT
    assert site.paths == ["/a.whl"]
    assert first[wanted.digest].parent.name == wanted.digest.hex


def test_many_files_and_duplicates(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = [request_for(site, f"{i}.whl", str(i).encode() * 1000) for i in range(20)]
        found = fetch_all([*wanted, *wanted], host=host)
    assert {digest: Digest.of(path.read_bytes()) for digest, path in found.items()} == {d: d for d in found}
    assert sorted(site.paths) == sorted(f"/{i}.whl" for i in range(20))


def test_a_file_address_is_fetched_too(tmp_path: Path) -> None:
    source = tmp_path / "with space.whl"
    source.write_bytes(CONTENT)
    wanted = Request(Digest.of(CONTENT), 0, "x.whl", (source.as_uri(),))
    assert fetch_all([wanted], host=empty_host(tmp_path))[wanted.digest].read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), 0])
def test_other_bytes_are_refused_and_leave_nothing(tmp_path: Path, size: int) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site, size=size)
        (tmp_path / "a.whl").write_bytes(CONTENT[::-1])
        with pytest.raises(DownloadError, match=r"a\.whl is not the file that was asked for") as caught:
            fetch_all([wanted], host=host)
    assert caught.value.exit_code == 3
    assert wanted.digest.short in caught.value.found[0]
    assert not [p for p in (host.cache_dir / "files").rglob("*.whl*") if p.is_file()]


def test_the_next_address_is_tried(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        good = request_for(site)
        (tmp_path / "bad.whl").write_bytes(b"other")
        urls = (f"{site.url}/gone.whl", f"{site.url}/bad.whl", *good.urls)
        fetch_all([Request(good.digest, good.size_bytes, "a.whl", urls)], host=host)
    assert site.paths[0] == "/gone.whl"
    assert site.paths[-1] == "/a.whl"


def test_a_file_that_is_gone_everywhere_names_the_way_on(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        wanted = Request(Digest.of(b"x"), 1, "libc6.deb", (f"{site.url}/x/libc6.deb",), "", "intermodal lock --upgrade")
        with pytest.raises(DownloadError, match=r"cannot find libc6\.deb any more") as caught:
            fetch_all([wanted], host=empty_host(tmp_path))
    assert caught.value.next == ("intermodal lock --upgrade",)
    assert "answered 404" in caught.value.found[0]


def test_endless_data_is_cut_off(tmp_path: Path) -> None:
    sent = 0

    def endless(handler: Handler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while sent < 1 << 30:
                handler.wfile.write(bytes(1 << 16))
                sent += 1 << 16
        except OSError:
            pass

    with serving(tmp_path) as site:
        site.special["/a.whl"] = endless
        wanted = request_for(site, data=b"small")
        with pytest.raises(DownloadError, match="larger than the lock says"):
            fetch_all([wanted], host=empty_host(tmp_path))
    assert sent < 64 << 20


def test_a_broken_transfer_is_continued(tmp_path: Path) -> None:
    def broken(handler: Handler) -> None:
        del handler.site.special["/a.whl"]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:500_000])
        handler.close_connection = True

    with serving(tmp_path) as site:
        wanted = request_for(site)
        site.special["/a.whl"] = broken
        path = fetch_all([wanted], host=empty_host(tmp_path))[wanted.digest]
    assert path.read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in site.seen]
    assert ranges[0] is None
    assert ranges[1] is not None and 0 < int(ranges[1][6:-1]) <= 500_000, "it started over"


def test_a_server_without_ranges_starts_over(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site)
        part = cache.path_of(host, wanted.digest, "a.whl.part")
        part.parent.mkdir(parents=True)
        part.write_bytes(b"rubbish from before")
        site.special["/a.whl"] = lambda handler: handler.answer(200, CONTENT)
        assert fetch_all([wanted], host=host)[wanted.digest].read_bytes() == CONTENT


def test_rubbish_left_over_is_discarded_after_one_try(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site)
        part = cache.path_of(host, wanted.digest, "a.whl.part")
        part.parent.mkdir(parents=True)
        part.write_bytes(b"rubbish from before")
        assert fetch_all([wanted], host=host)[wanted.digest].read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in site.seen] == ["bytes=19-", None]


def test_a_whole_file_left_over_is_not_fetched_again(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site, size=0)
        part = cache.path_of(host, wanted.digest, "a.whl.part")
        part.parent.mkdir(parents=True)
        part.write_bytes(CONTENT)
        assert fetch_all([wanted], host=host)[wanted.digest].read_bytes() == CONTENT
    assert site.seen == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(tmp_path: Path, status: int) -> None:
    left = [status, status]

    def troubled(handler: Handler) -> None:
        if left:
            handler.answer(left.pop(), b"later")
        else:
            handler.answer(200, CONTENT)

    with serving(tmp_path) as site:
        wanted = request_for(site)
        site.special["/a.whl"] = troubled
        fetch_all([wanted], host=empty_host(tmp_path))
    assert len(site.seen) == 3


def test_a_server_that_stays_in_trouble_is_unreachable(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        wanted = request_for(site)
        site.special["/a.whl"] = lambda handler: handler.answer(503, b"")
        with pytest.raises(IndexUnreachableError, match="does not answer properly"):
            fetch_all([wanted], host=empty_host(tmp_path))


def test_nobody_listens(tmp_path: Path) -> None:
    wanted = Request(Digest.of(b"x"), 0, "a.whl", ("http://me:hunter2@127.0.0.1:9/simple/a.whl?token=hunter2",))
    with pytest.raises(IndexUnreachableError) as caught:
        fetch_all([wanted], host=empty_host(tmp_path))
    told = str(caught.value)
    assert "127.0.0.1:9/simple/a.whl" in told
    assert "hunter2" not in told
    assert caught.value.exit_code == 3


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        wanted = request_for(site)
        workers = [threading.Thread(target=fetch_all, args=([wanted],), kwargs={"host": host}) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert site.paths == ["/a.whl"]


def test_a_full_disk_is_told_apart_from_a_broken_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("intermodal.fetch.download.os.fsync", full)
    with serving(tmp_path) as site:
        wanted = request_for(site)
        with pytest.raises(StoreError, match="the disk is full") as caught:
            fetch_all([wanted], host=empty_host(tmp_path))
    assert "No space left on device" in caught.value.found[0]
    assert site.paths == ["/a.whl"], "a full disk is no reason to fetch again"


@pytest.mark.parametrize("name", ["../a.whl", "/etc/passwd", "", ".hidden", "a\nb.whl", "x" * 300])
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(Exception, match="not a file name"):
        fetch_all([Request(Digest.of(b""), 0, name)], host=empty_host(tmp_path))


def test_a_small_document_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(bytes(1000))
    host = empty_host(tmp_path)
    with serving(tmp_path) as site:
        assert fetch_bytes(f"{site.url}/doc", 1000, host=host) == bytes(1000)
        with pytest.raises(DownloadError, match="larger than it may be"):
            fetch_bytes(f"{site.url}/doc", 999, host=host)
