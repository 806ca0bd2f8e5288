"""Attack list 1, 2, 6: what is not there cannot be abused, and what is there treats every body alike.

No module that meets requests can unpickle, evaluate or fetch; no path manages anything; no answer lets a foreign page
read it; every dialect refuses the same nonsense with a 4xx and a sentence.
"""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.requests.raw import exchange, head, statuses
from support.serving import CODE_DIR, Served, echo_root, infer_body, serve

POSTS = ("/v2/models/echo/infer", "/predict", "/v1/models/echo:predict", "/invocations")
MANAGEMENT = (
    "/v2/repository/models/echo/load", "/v2/repository/models/echo/unload", "/v2/repository/models/other/load",
    "/v2/systemsharedmemory/region/a/register", "/v2/cudasharedmemory/region/a/register", "/v2/trace/setting",
    "/v2/models/echo/trace/setting", "/v2/logging", "/models", "/models?url=http://169.254.169.254/", "/workflows",
    "/api/jobs/", "/api/packages", "/metrics", "/sketches", "/predictions", "/debug", "/debug/pprof", "/admin",
    "/quitquitquit", "/config", "/.env", "/server-status", "/actuator", "/v1/models/echo/load", "/docs", "/redoc",
)  # fmt: skip
NEVER = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "msgpack", "xml", "urllib.request",
         "requests", "httpx", "aiohttp", "ftplib", "webbrowser", "ctypes", "subprocess"}  # fmt: skip
EVALUATES = {"eval", "exec", "compile", "__import__"}
BODIES = {
    "nothing": b"",
    "no JSON": b"\x80\x04\x95",
    "no UTF-8": b'{"inputs": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"inputs": {}}'.encode("utf-16"),
    "nesting": b"[" * 200_000,
    "closed nesting": b'{"inputs":' * 100_000 + b"1" + b"}" * 100_000,
    "a number without end": b'{"inputs": {"x": [%s]}}' % (b"1" * 4301),
    "a number beyond doubles": b'{"inputs": {"x": [1e999]}}',
    "a lone surrogate": b'{"inputs": {"x": ["\\ud800"]}}',
    "another type at the top": b"3",
    "null": b"null",
    "an empty object": b"{}",
    "masses of keys": b"{%s}" % b",".join(b'"%d":1' % number for number in range(300_000)),
    "a URL to fetch": b'{"inputs": {"x": {"url": "http://169.254.169.254/latest/meta-data"}}}',
    "a file to read": b'{"instances": [{"b64": {"path": "/etc/passwd"}}]}',
    "two documents": b"{}{}",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root)) as running:
        before = running.children("front"), running.children("worker")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert (running.children("front"), running.children("worker")) == before


def modules() -> list[Path]:
    return [
        *(CODE_DIR / "front").rglob("*.py"),
        *(CODE_DIR / name for name in ("tensors.py", "frames.py", "control.py", "rows.py")),
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(CODE_DIR)))
def test_nothing_that_meets_a_request_can_unpickle_evaluate_or_fetch(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in EVALUATES, f"{path.name}:{node.lineno} {node.func.id}"
        for name in names:
            assert not {name, name.partition(".")[0]} & NEVER, f"{path.name}:{node.lineno} {name}"


@pytest.mark.parametrize("path", MANAGEMENT)
def test_nothing_manages_the_server(server: Served, path: str) -> None:
    for method, body in (("GET", None), ("POST", b"{}"), ("PUT", b"{}"), ("DELETE", None), ("PATCH", b"{}")):
        reply = server.request(method, path, body)
        assert reply.status == 404, (method, path)
        assert set(reply.json) == {"error"}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("case", BODIES)
def test_every_dialect_refuses_nonsense(server: Served, path: str, case: str) -> None:
    for headers in ({"Content-Type": "application/json"}, {}):
        reply = server.request("POST", path, BODIES[case], headers)
        assert 400 <= reply.status < 500, reply.body
        assert set(reply.json) == {"error"} and len(reply.body) < 1000, reply.body
        for secret in (b"Traceback", b".py", b"/etc", b"169.254", b"msgspec", b"orjson", b"object at 0x"):
            assert secret not in reply.body


@pytest.mark.parametrize("path", POSTS)
def test_every_dialect_keeps_the_limits(server: Served, path: str) -> None:
    target = path.encode()
    big = head(b"Content-Length: %d" % (1 << 40), target=target)
    assert statuses(exchange(server, big)) == [413]
    bomb = gzip.compress(b" " * (128 << 20), 1)
    assert server.request("POST", path, bomb, {"Content-Encoding": "gzip"}).status == 413
    for kind in ("application/x-pickle", "application/x-msgpack", "multipart/form-data; boundary=x", "application/xml"):
        assert server.request("POST", path, b"x", {"Content-Type": kind}).status == 415


@pytest.mark.parametrize("path", ["/", "/v2", "/openapi.json", "/nothing", *POSTS])
def test_no_foreign_page_may_read_an_answer(server: Served, path: str) -> None:
    origin = {"Origin": "http://evil.example", "Host": "evil.example", "Access-Control-Request-Private-Network": "true"}
    body = json.dumps(infer_body([1])).encode()
    for method in ("GET", "POST", "OPTIONS", "HEAD"):
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        reply = server.request(method, path, body if method == "POST" else None, asked)
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert b"evil" not in reply.body and "evil" not in str(reply.headers)
        assert "server" not in reply.headers and "set-cookie" not in reply.headers
        if method == "OPTIONS":
            assert reply.status in (404, 405)


def test_the_page_may_not_be_framed_nor_reach_others(server: Served) -> None:
    reply = server.request("GET", "/", headers={"Accept": "text/html"})
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy and "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
