"""Seeds of the front: requests of every dialect on connections, and bodies alone; well-formed and hostile ones."""

from __future__ import annotations

import gzip
import json
import struct

V2 = {
    "inputs": [
        {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [1, 2.5, None, -4]},
        {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]},
        {"name": "n", "datatype": "INT32", "shape": [2], "data": [1, -2]},
    ],
    "id": "7",
}
COLUMNS = {"x": [[1, 2], [3, 4]], "s": ["a", "b"], "n": [1, 2]}
ROWS = [{"x": [1, 2], "s": "a", "n": 1}, {"x": [3, 4], "s": {"b64": "AAA="}, "n": 2}]
CSV = b"x,s,n\n1,a,2\n"


def _text(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _binary() -> tuple[bytes, bytes]:
    """Head and tail of a V2 body whose tensors are binary."""
    parts = [struct.pack("<4d", 1, 2, 3, 4), b"\1\0\0\0a\2\0\0\0bc", struct.pack("<2i", 1, 2)]
    inputs = [
        {"name": one["name"], "datatype": one["datatype"], "shape": one["shape"],
         "parameters": {"binary_data_size": len(part)}}
        for one, part in zip(V2["inputs"], parts, strict=True)  # type: ignore[arg-type,index]
    ]  # fmt: skip
    return _text({"inputs": inputs, "parameters": {"binary_data_output": True}}), b"".join(parts)


def _post(path: bytes, body: bytes, *lines: bytes, length: bool = True) -> bytes:
    found = [b"POST %b HTTP/1.1" % path, b"Host: a", *([b"Content-Length: %d" % len(body)] if length else []), *lines]
    return b"\r\n".join([*found, b"", body])


def _chunked(body: bytes, size: int = 40) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def connections() -> dict[str, bytes]:
    """Streams; the first byte says how they are cut into packets."""
    v2, predict = _text(V2), _text({"inputs": COLUMNS})
    head, tail = _binary()
    live, h2c = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", (b"Connection: Upgrade", b"Upgrade: h2c")
    packed = gzip.compress(v2, mtime=0)
    found = {
        "live": live,
        "pipeline": live + _post(b"/v2/models/m/infer", v2) + live + _post(b"/predict", predict),
        "v2": _post(b"/v2/models/m/infer", v2, b"Content-Type: application/json"),
        "binary": _post(b"/v2/models/m/infer", head + tail, b"Inference-Header-Content-Length: %d" % len(head)),
        "chunked": _post(b"/predict", _chunked(predict), b"Transfer-Encoding: chunked", length=False) + live,
        "trailer": _post(
            b"/predict", _chunked(predict)[:-2] + b"a: b\r\n\r\n", b"Transfer-Encoding: chunked", length=False
        ),
        "gzip": _post(b"/v2/models/m/infer", packed, b"Content-Encoding: gzip") + live,
        "v1": _post(b"/v1/models/m:predict", _text({"instances": ROWS})),
        "records": _post(b"/invocations", _text({"dataframe_records": ROWS}), b"Content-Type: application/json"),
        "csv": _post(b"/invocations", CSV, b"Content-Type: text/csv"),
        "upgrade": live.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") + live,
        "upgrade-body": _post(b"/predict", predict, *h2c) + live,
        "upgrade-chunks": _post(b"/predict", _chunked(predict), *h2c, b"Transfer-Encoding: chunked", length=False)
        + live,
        "old": live.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n") + live,
        "close": live.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + live,
        "head": live.replace(b"GET", b"HEAD") + live,
        "expect": _post(b"/predict", predict, b"Expect: 100-continue") + live,
        "both": _post(b"/predict", _chunked(predict), b"Transfer-Encoding: chunked") + live,
        "half": _post(b"/predict", predict)[:-20],
        "large": _post(b"/nothing", b" " * 300) + _post(b"/predict", b"", b"Content-Length: 70000", length=False),
        "page": b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n\r\n" + live,
    }
    return {name: bytes([number * 13 % 256]) + data for number, (name, data) in enumerate(found.items())}


def bodies() -> dict[str, bytes]:
    """Bodies; before the first line feed stands a path, the length of V2's head, or nothing."""
    head, tail = _binary()
    wanted = {**V2, "outputs": [{"name": "n"}, {"name": "x", "parameters": {"binary_data": True}}]}
    nested = {"inputs": [{**one, "data": [[1, 2], [3, 4]]} for one in V2["inputs"][:1]]}  # type: ignore[index,dict-item]
    return {
        "v2": b"\n" + _text(V2),
        "v2-outputs": b"\n" + _text(wanted),
        "v2-nested": b"\n" + _text(nested),
        "v2-binary": b"%d\n" % len(head) + head + tail,
        "predict": b"/predict\n" + _text({"inputs": COLUMNS}),
        "predict-rows": b"/predict\n" + _text({"instances": [{**row, "s": "a"} for row in ROWS]}),
        "v1": b"/v1/models/m:predict\n" + _text({"instances": ROWS, "signature_name": "serving_default"}),
        "v1-columns": b"/v1/models/m:predict\n" + _text({"inputs": COLUMNS}),
        "split": b"/invocations application/json\n"
        + _text({"dataframe_split": {"columns": ["x", "s", "n"], "index": [0], "data": [[[1, 2], "a", 1]]}}),
        "records": b"/invocations application/json\n" + _text({"dataframe_records": ROWS}),
        "csv": b"/invocations text/csv\n" + CSV,
    }
