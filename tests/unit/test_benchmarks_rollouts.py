"""What the rollout benchmark rests on that is no measurement: verdicts, its place in the page, its probes."""

from __future__ import annotations

import json
import socket
import sys
import threading
from pathlib import Path

import pytest
from support.cli import CHECKOUT

sys.path.append(str(CHECKOUT))  # the benchmarks are part of the checkout, not of the package

from benchmarks import rollouts
from benchmarks.rollouts.probe import Asker, Knocker

PAGE = CHECKOUT / "docs" / "benchmarks.md"


@pytest.mark.parametrize(
    ("found", "most", "verdict"),
    [([1, 2, 3], 2.0, "holds"), ([1, 3, 4], 2.0, "missed by 50 %"), ([], 2.0, "not measured"), ([9], 0.0, "")],
)
def test_a_row_says_whether_its_limit_holds(found: list[float], most: float, verdict: str) -> None:
    assert rollouts.Row("row", found, "s", most).verdict == verdict


def test_a_new_table_replaces_only_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    before, _, rest = page.read_text().partition(rollouts.START)
    for text in ("| one |", "| two |"):
        rollouts.update(page, text)
        after = rest.partition(rollouts.END)[2]
        assert page.read_text() == f"{before}{rollouts.START}\n{text}\n{rollouts.END}{after}"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no <!--"):
        rollouts.update(page, "| three |")


def _server(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while connection.recv(65536):
                connection.sendall(answer)


def test_probes_tell_answers_from_refusals_and_from_what_breaks() -> None:
    body = json.dumps({"outputs": []}).encode()
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=_server, args=(listener, good), daemon=True).start()
        with Asker("127.0.0.1", port) as asker:
            assert asker.ready() and len(asker.block(5)) == 5
        knocker = Knocker(port)
        knocker._knock(b"x")
        knocker._knock(b"x")
        assert (len(knocker._answered), knocker.refused, knocker.broken) == (2, 0, 0) and knocker.gap_s < 60
        listener.shutdown(socket.SHUT_RDWR)
    knocker._knock(b"x")
    assert (knocker.refused, knocker.broken) == (1, 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broken = good.replace(b"200", b"503")
        threading.Thread(target=_server, args=(listener, broken), daemon=True).start()
        knocker = Knocker(listener.getsockname()[1])
        knocker._knock(b"x")
        assert (knocker._answered, knocker.broken) == ([], 1)
        listener.shutdown(socket.SHUT_RDWR)
