"""Telling others: a real webhook and a real command, and what happens when they do not listen."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.hosts import empty_host

from intermodal.events import Events
from intermodal.rooms.watch.notify import Notifier


class Heard(Events):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


@contextmanager
def webhook(*, refuses: int = 0) -> Iterator[tuple[str, list[dict[str, object]]]]:
    got: list[dict[str, object]] = []
    left = [refuses]

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            left[0] -= 1
            if left[0] >= 0:
                self.send_response(503)
            else:
                got.append(data)
                self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    finally:
        server.shutdown()
        server.server_close()


def test_both_get_every_document_in_order(tmp_path: Path) -> None:
    heard, host = Heard(), empty_host(tmp_path)
    written = tmp_path / "written"
    command = f"sh -c 'cat >> {written}; echo >> {written}'"
    with webhook() as (url, got):
        notifier = Notifier(url, command, host=host, events=heard)
        documents = [{"model": "digits", "phase": phase} for phase in ("judging", "rolling back", "rolled back")]
        for document in documents:
            notifier.tell(document)
        notifier.close()
    assert got == documents
    assert [json.loads(line) for line in written.read_text().splitlines()] == documents
    assert heard.warnings == []


def test_a_busy_webhook_is_asked_again(tmp_path: Path) -> None:
    with webhook(refuses=2) as (url, got):
        notifier = Notifier(url, "", host=empty_host(tmp_path), events=(heard := Heard()))
        notifier.tell({"phase": "judging"})
        notifier.close()
    assert (got, heard.warnings) == ([{"phase": "judging"}], [])


def test_who_does_not_listen_is_a_warning_that_keeps_secrets(tmp_path: Path) -> None:
    heard = Heard()
    for url, command in (
        ("http://127.0.0.1:1/hook?token=secret", ""),
        ("file:///etc/passwd", ""),
        ("", "false"),
        ("", "/nowhere/to/be/found secret"),
    ):
        notifier = Notifier(url, command, host=empty_host(tmp_path), events=heard)
        notifier.tell({"phase": "judging"})
        notifier.close()
    kinds = [warning.split("'s ")[1].split(" ")[0] for warning in heard.warnings]
    assert kinds == ["webhook", "webhook", "command", "command"]
    assert "secret" not in str(heard.warnings)


def test_nobody_to_tell_costs_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    notifier = Notifier("", "", host=empty_host(tmp_path), events=Heard())
    notifier.tell({"phase": "judging"})
    assert threading.active_count() == before
    notifier.close()
