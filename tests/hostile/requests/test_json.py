"""Attack list 1, 2, 4: what is not JSON, or JSON meant to hurt, is a 400 or 415 and the server goes on."""

from __future__ import annotations

import json
import pickle
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile.requests.raw import LIVE, head
from support.serving import Served, echo_root, infer_body, serve

INFER = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root: Path = tmp_path_factory.mktemp("root")
    with serve(echo_root(root)) as running:
        front, worker = running.children("front"), running.children("worker")
        yield running
        assert running.infer([1]).json["outputs"][0]["data"] == [2.0]
        assert (running.children("front"), running.children("worker")) == (front, worker)


def data(text: bytes, shape: bytes = b"1") -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP64","shape":[%s],"data":%s}]}' % (shape, text)


def refused(server: Served, body: bytes, status: int = 400, path: str = INFER) -> str:
    reply = server.request("POST", path, body)
    assert reply.status == status, reply.body
    assert set(reply.json) == {"error"}
    return str(reply.json["error"])


@pytest.mark.parametrize(
    "kind", ["application/x-pickle", "application/python-pickle", "application/vnd.python.cloudpickle",
             "application/msgpack", "application/x-msgpack", "multipart/form-data; boundary=x", "text/html"],
)  # fmt: skip
def test_serialized_objects_are_415_unread(server: Served, kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (open, (str(marker), "w"))

    for path in (INFER, "/predict"):
        reply = server.request("POST", path, pickle.dumps(Bomb()), {"Content-Type": kind})
        assert reply.status == 415
    assert not marker.exists()


def test_pickle_under_a_json_type_is_just_bad_json(server: Served) -> None:
    refused(server, pickle.dumps({"inputs": []}))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("frame", [b"%s", b'{"inputs":%s}', b'{"zz":%s}', data(b"%s")])
@pytest.mark.parametrize("path", [INFER, "/predict"])
def test_depth_of_200000_is_refused(server: Served, opening: bytes, frame: bytes, path: str) -> None:
    assert "error" in server.request("POST", path, frame % (opening * 200_000)).json
    closing = opening.replace(b'"a":', b"")[::-1].translate(bytes.maketrans(b"[{", b"]}"))
    refused(server, frame % (opening * 200_000 + b"1" + closing * 200_000), path=path)


@pytest.mark.parametrize(
    "value",
    [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1" * 4301, b"1" * 100_000, b"1" * 400, b"0x1", b"01",
     b"1.", b"tru", b"'1'", b"\xff", b'"\\ud800"', b'"\xff"', b"\xef\xbb\xbf1"],
)  # fmt: skip
@pytest.mark.parametrize("path", [INFER, "/predict"])
def test_number_or_text_outside_json_is_refused(server: Served, value: bytes, path: str) -> None:
    body = data(b"[%s]" % value) if path == INFER else b'{"inputs":{"x":[%s]}}' % value
    refused(server, body, path=path)


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"[]", b"3", b'"a"', b"{}", b"{", b"\0", b"\xef\xbb\xbf{}",
                                  b"{}{}", b'{"inputs":null}', b'{"inputs":{}}', b'{"inputs":[1]}',
                                  b'{"inputs":[]}', b'{"inputs":[{}]}'])  # fmt: skip
def test_body_that_is_no_request_is_refused(server: Served, body: bytes) -> None:
    refused(server, body)
    refused(server, body, path="/predict")


def test_of_a_repeated_key_the_last_counts_and_repeated_inputs_are_refused(server: Served) -> None:
    twice = b'{"inputs":[{"name":"x","name":"x","datatype":"FP64","shape":[1],"data":[1],"data":[5]}]}'
    assert server.request("POST", INFER, twice).json["outputs"][0]["data"] == [10.0]
    item = infer_body([1])["inputs"][0]
    assert refused(server, json.dumps({"inputs": [item, item]}).encode()) == "input 'x' is given twice"


MANY = b",".join(b'"%d":1' % number for number in range(1_000_000))
PATHS = [INFER, "/predict", "/v1/models/echo:predict", "/invocations"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "form", [b"{%s}", b'{"inputs":{%s}}', b'{"instances":[{%s}]}', b'{"dataframe_records":[{%s}]}']
)
def test_a_million_keys_are_refused(server: Served, path: str, form: bytes) -> None:
    assert refused(server, form % MANY, 413, path=path) == "the JSON has more than 131072 different keys"


def answers_meanwhile(server: Served, path: str, body: bytes) -> int:
    """How many probes, sent after the last byte of a body, were answered before the body was."""
    with server.raw() as hostile, server.raw() as probe:
        hostile.sendall(
            head(b"Content-Type: application/json", b"Content-Length: %d" % len(body), target=path.encode())
        )
        hostile.sendall(body[:-1])
        poll = select.poll()
        poll.register(hostile, select.POLLIN)
        hostile.sendall(body[-1:])
        count = 0
        while not poll.poll(0):
            probe.sendall(head(target=LIVE, method=b"GET"))
            assert probe.recv(65536).startswith(b"HTTP/1.1 200 ")
            count += not poll.poll(0)
        return count


@pytest.mark.parametrize("path", PATHS)
def test_others_are_answered_while_keys_are_counted(server: Served, path: str) -> None:
    body = b'{"inputs":{%s}}' % MANY
    # one answer may slip in before it begins, so several are wanted; a crowded machine gets more than one try
    assert any(answers_meanwhile(server, path, body) >= 5 for _ in range(10))


@pytest.mark.parametrize("path", PATHS[1:])
def test_a_long_table_of_records_is_no_attack(server: Served, path: str) -> None:
    rows = {"/invocations": "dataframe_records"}.get(path, "instances")
    body = json.dumps({rows: [{"x": value * 0.5} for value in range(200_000)]}).encode()
    reply = server.request("POST", path, body)
    assert reply.status == 200, reply.body[:200]


@pytest.mark.parametrize("path", ["/v2/models/%2e%2e/etc/infer", "/v2/models/echo%20/infer", "/v2/models//infer",
                                  "/v2/models/echo/versions/%2e%2e/infer", "/%2e%2e/etc/passwd", "/v2x", "//v2",
                                  "/v2/models/echo/infer/more", "/v2/health/other", "/" + "a" * 5000])  # fmt: skip
def test_odd_paths_are_404(server: Served, path: str) -> None:
    assert refused(server, b"{}", 404, path) in ("there is nothing at this path", "there is no model of this name",
                                                 "there is no such version of this model")  # fmt: skip


def test_wrong_method_is_405_with_allow(server: Served) -> None:
    reply = server.request("GET", INFER)
    assert reply.status == 405 and reply.headers["allow"] == "POST"
    assert server.request("DELETE", "/v2/models/echo").status == 405
    assert server.request("TRACE", "/predict").status == 405
