from __future__ import annotations

import base64
from pathlib import Path

import pytest
from support.hosts import empty_host
from support.loopback import Handler, Site, serving

from intermodal.errors import DownloadError
from intermodal.fetch import fetch_bytes, transfer
from intermodal.fetch.credentials import find
from intermodal.fetch.proxies import proxy_for

SECRET = ("me", "hunter2")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)


def redirect(to: str, status: int = 302) -> object:
    def answer(handler: Handler) -> None:
        handler.answer(status, b"", {"Location": to})

    return answer


def sent_to(site: Site, path: str) -> list[str | None]:
    return [headers.get("Authorization") for seen, headers in site.seen if seen == path]


def with_login(site: Site) -> str:
    return site.url.replace("://", "://me:hunter2@")


@pytest.mark.parametrize("how", ["address", "index", "named", "netrc"])
def test_credentials_are_found_wherever_they_are(tmp_path: Path, how: str) -> None:
    (tmp_path / "doc").write_bytes(b"yes")
    with serving(tmp_path, SECRET) as site:
        variables, url = {}, site.url
        if how == "address":
            url = with_login(site)
        elif how == "index":
            variables = {"PIP_INDEX_URL": f"{with_login(site)}/simple"}
        elif how == "named":
            index = f"team-1={site.url}/simple"
            variables = {"UV_INDEX": index, "UV_INDEX_TEAM_1_USERNAME": "me", "UV_INDEX_TEAM_1_PASSWORD": "hunter2"}
        host = empty_host(tmp_path, variables)
        if how == "netrc":
            (host.home / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
            (host.home / ".netrc").chmod(0o600)
        assert fetch_bytes(f"{url}/doc", 10, host=host) == b"yes"


def test_missing_credentials_say_where_to_put_them(tmp_path: Path) -> None:
    with serving(tmp_path, SECRET) as site, pytest.raises(DownloadError, match="cannot fetch doc") as caught:
        fetch_bytes(f"{site.url}/doc", 10, host=empty_host(tmp_path))
    assert "credentials are missing" in caught.value.found[0]
    assert "netrc" in caught.value.next[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_gets_no_credentials(tmp_path: Path, status: int) -> None:
    (tmp_path / "doc").write_bytes(b"yes")
    with serving(tmp_path) as thief, serving(tmp_path, SECRET) as site:
        site.special["/away"] = redirect(f"{thief.url}/doc", status)  # type: ignore[assignment]
        assert fetch_bytes(f"{with_login(site)}/away", 10, host=empty_host(tmp_path)) == b"yes"
    assert sent_to(site, "/away") == ["Basic " + base64.b64encode(b"me:hunter2").decode()]
    assert sent_to(thief, "/doc") == [None]


def test_a_redirect_cannot_bring_its_own_credentials(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(b"yes")
    with serving(tmp_path) as other, serving(tmp_path) as site:
        target = other.url.replace("://", "://planted:x@")
        site.special["/away"] = redirect(f"{target}/doc")  # type: ignore[assignment]
        fetch_bytes(f"{site.url}/away", 10, host=empty_host(tmp_path))
    assert sent_to(other, "/doc") == [None]


def test_a_redirect_within_the_host_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(b"yes")
    with serving(tmp_path, SECRET) as site:
        site.special["/moved"] = redirect("/doc")  # type: ignore[assignment]
        assert fetch_bytes(f"{with_login(site)}/moved", 10, host=empty_host(tmp_path)) == b"yes"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.com/x", "gopher://example.com/"])
def test_a_redirect_never_leaves_http(tmp_path: Path, target: str) -> None:
    with serving(tmp_path) as site:
        site.special["/away"] = redirect(target)  # type: ignore[assignment]
        with pytest.raises(DownloadError, match="will not follow a redirect"):
            fetch_bytes(f"{site.url}/away", 1 << 20, host=empty_host(tmp_path))


def test_redirects_end(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        site.special["/round"] = redirect("/round")  # type: ignore[assignment]
        with pytest.raises(DownloadError, match="cannot fetch") as caught:
            fetch_bytes(f"{site.url}/round", 10, host=empty_host(tmp_path))
    assert "redirects" in caught.value.found[0]
    assert len(site.seen) == 6


def test_another_port_is_another_place(tmp_path: Path) -> None:
    host = empty_host(tmp_path, {"PIP_INDEX_URL": "https://me:hunter2@index.example/simple"})
    assert find(host, "https://index.example/files/a.whl") == SECRET
    assert find(host, "https://index.example:8443/files/a.whl") is None
    assert find(host, "http://index.example/files/a.whl") is None
    assert find(host, "https://index.example.evil/files/a.whl") is None


def test_a_named_index_over_https_gives_nothing_to_http(tmp_path: Path) -> None:
    variables = {
        "UV_INDEX": "team=https://index.example/simple",
        "UV_INDEX_TEAM_USERNAME": "me",
        "UV_INDEX_TEAM_PASSWORD": "hunter2",
    }
    host = empty_host(tmp_path, variables)
    assert find(host, "https://index.example/a.whl") == SECRET
    assert find(host, "http://index.example/a.whl") is None


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({"http_proxy": "http://p:1"}, "http://example.com/", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://example.com/", ""),
        ({"HTTPS_PROXY": "p:1"}, "https://example.com/", "http://p:1"),
        ({"all_proxy": "http://p:1"}, "https://example.com/", "http://p:1"),
        ({"https_proxy": "http://p:1", "NO_PROXY": "other,example.com"}, "https://a.example.com/", ""),
        ({"https_proxy": "http://p:1", "no_proxy": "ample.com"}, "https://example.com/", "http://p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, "https://example.com/", ""),
        ({"https_proxy": "http://p:1"}, "https://127.0.0.1:8080/", ""),
    ],
)
def test_proxies(variables: dict[str, str], url: str, expected: str) -> None:
    assert proxy_for(variables, url) == expected
