"""A model that tells which process answered, and connections to the process of one's choice."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from support.serving import Served, echo_settings, infer_body, write_root

WHO = """
import os, time
class Model:
    def predict(self, x):
        if x[0] == 666: os._exit(9)
        if x[0] == 555: time.sleep(600)
        if x[0] == 5: time.sleep(0.005)
        if x[0] == 777: time.sleep(4)
        return {"y": [float(os.getpid())] * len(x)}
"""


def who_root(tmp_path: Path, code: str = WHO) -> Path:
    """A root whose model says which process it is in."""
    return write_root(tmp_path, echo_settings(predictor="who:Model"), app={"who.py": code})


def messages(server: Served, part: str) -> list[str]:
    """What that part has logged."""
    return [line["message"] for line in server.log() if line["part"] == part]


def wait_for_processes(server: Served, count: int = 2) -> None:
    """Return once so many answer."""

    def there() -> bool:
        try:
            return bool(server.watched("/health").json.get("processes") == count)
        except (OSError, http.client.HTTPException):  # while a front is being replaced
            return False

    server.wait(there, f"{count} processes")


def ask(connection: http.client.HTTPConnection, values: Sequence[float] = (1,), name: str = "") -> int:
    """The process that answered; `name` is the request's id."""
    headers = {"x-request-id": name} if name else {}
    connection.request("POST", "/v2/models/echo/infer", json.dumps(infer_body(list(values))), headers)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    assert answer.status == 200, document
    return int(document["outputs"][0]["data"][0])


def connected(server: Served, stack: ExitStack, pid: int) -> http.client.HTTPConnection:
    """A connection that this process serves."""
    for _ in range(100):
        connection = server.connection()
        stack.callback(connection.close)
        if ask(connection) == pid:
            return connection
    raise AssertionError(f"no connection went to {pid}")
