"""The ring of predictions where several processes answer: real servers, read by the reader that the watcher has."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from support.collector import collect
from support.exposed import read_metrics
from support.processes import ask, connected, wait_for_processes, who_root
from support.serving import PATIENCE_S, Served, infer_body, serve

from intermodal.rooms.deploy.target import RingPage, ring_path
from intermodal.rooms.watch.rings import Predicted, Ring


class One:
    """A target of one server."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self.numbers: list[int] = []

    def predictions(self, _: int, after: Mapping[str, int]) -> tuple[RingPage, ...]:
        document = self._server.watched(ring_path(after, "one")).json
        self.numbers += [entry["number"] for entry in document["predictions"]]
        return (RingPage("one", document),)


def entries(server: Served, after: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.watched(f"/predictions?limit=1000&after={after}").json["predictions"]
    return found


def pid_of(one: Predicted) -> int:
    assert one.outputs is not None
    return int(one.outputs[0]["data"][0])


def _ask_often(server: Served, names: list[str]) -> None:
    connection = server.connection()
    for name in names:
        connection.request("POST", "/v2/models/echo/infer", json.dumps(infer_body([1])), {"x-request-id": name})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
    connection.close()


def test_a_reader_who_goes_on_from_where_he_was_sees_every_prediction_of_every_process_once(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=3, ring=3000) as server:
        wait_for_processes(server, 3)
        names = [[f"{client}-{number}" for number in range(300)] for client in range(9)]
        threads = [threading.Thread(target=_ask_often, args=(server, each)) for each in names]
        place = One(server)
        ring = Ring(place, 1, everything=True)  # type: ignore[arg-type]
        found = ring.new()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found += ring.new()
        server.wait(lambda: found.extend(ring.new()) or len(found) >= 2700, "those of a twin that was late")
        assert Counter(one.request_id for one in found) == Counter(name for each in names for name in each)
        assert place.numbers == list(range(1, 2701)) and ring.lost == 0
        assert len({pid_of(one) for one in found}) == 3
        assert {one.request_id for one in Ring(place, 1, everything=True).new()} == {n for each in names for n in each}  # type: ignore[arg-type]
        assert server.stop() == 0


def told_in_time(server: Served, answer: Callable[[], int]) -> dict[str, Any]:
    """The page after as many answers, once no twin was too late for it, which a crowded machine may make it."""
    page: dict[str, Any] = {}

    def told() -> bool:
        before = server.watched("/predictions").json["last"]
        count = answer()
        page.update(server.watched(f"/predictions?after={before}").json)
        return bool(page["last"] == before + count)

    server.wait(told, "a twin that tells in time")
    return page


def test_the_newest_of_all_processes_are_kept_in_order_of_time_and_what_is_lost_has_numbers(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, ring=10) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)

        def both() -> int:
            for number in range(15):
                assert ask(here, name=f"h{number}") == front
                assert ask(there, name=f"t{number}") == twin
            return 30

        def more_than_one_can_keep() -> int:
            for number in range(12):
                ask(there, name=f"u{number}")
            return 12

        page = told_in_time(server, both)
        assert page["first"] == page["last"] - 9
        wanted = [f"{who}{number}" for number in range(10, 15) for who in "ht"]
        assert [one["request_id"] for one in page["predictions"]] == wanted
        page = told_in_time(server, more_than_one_can_keep)
        assert page["first"] == page["last"] - 9
        assert [one["request_id"] for one in page["predictions"]] == [f"u{number}" for number in range(2, 12)]


def test_a_twin_that_does_not_answer_is_left_out_and_its_predictions_come_later(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, ring=50) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)
        after = server.watched("/predictions").json["last"]
        ask(there, name="early")
        os.kill(twin, signal.SIGSTOP)
        try:
            ask(here, name="late")
            assert [one["request_id"] for one in entries(server, after)] == ["late"]
        finally:
            os.kill(twin, signal.SIGCONT)
        server.wait(lambda: len(entries(server, after)) == 2, "what the twin has kept")
        late, early = entries(server, after)
        assert (late["number"], early["number"]) == (after + 1, after + 2)
        assert (late["request_id"], early["request_id"]) == ("late", "early")
        assert early["time_s"] < late["time_s"]


def test_large_predictions_are_handed_on_in_pieces_within_the_memory_for_them(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, ring=100) as server, ExitStack() as stack:
        wait_for_processes(server)
        there = connected(server, stack, server.children("twin")[0])
        for number in range(9):
            ask(there, [1.0] * 100_000, name=f"n{number}")  # 800 kB each
        found: list[dict[str, Any]] = []

        def all_there() -> bool:
            found.extend(entries(server, found[-1]["number"] if found else 0))
            return bool(found) and found[-1]["request_id"] == "n8"

        server.wait(all_there, "the last")
        assert [one["request_id"] for one in found[-9:]] == [f"n{number}" for number in range(9)]
        assert {len(one["outputs"][0]["data"]) for one in found[-9:]} == {100_000}


def test_a_twin_that_goes_leaves_its_predictions_and_the_count_of_its_last_spans(tmp_path: Path) -> None:
    with collect() as collector, ExitStack() as stack:
        endpoint = f"http://127.0.0.1:{collector.port}"
        late = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "60000"}  # sent at the end alone
        server = stack.enter_context(serve(who_root(tmp_path), mode="inline", processes=2, ring=50, exact=late))
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)
        ask(there, name="last")
        body = json.dumps(infer_body([1])).encode()
        here.putrequest("POST", "/v2/models/echo/infer")
        here.putheader("content-length", str(len(body)))
        here.endheaders(body[:5])  # the front stays for the rest
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: twin not in server.children("twin"), "its end")
        assert "last" in [one["request_id"] for one in entries(server)]
        page = read_metrics(server.watched("/metrics").body.decode())
        assert page.value("intermodal_traced_requests_total", result="sent") >= 1
        here.send(body[5:])
        assert here.getresponse().status == 200
        assert server.process.wait(PATIENCE_S) == 0


def test_a_twin_that_is_killed_takes_its_own_with_it(tmp_path: Path) -> None:
    with serve(who_root(tmp_path), mode="inline", processes=2, ring=50) as server, ExitStack() as stack:
        wait_for_processes(server)
        (front,), (twin,) = server.children("front"), server.children("twin")
        here, there = connected(server, stack, front), connected(server, stack, twin)
        ask(there, name="read")
        server.wait(lambda: "read" in [one["request_id"] for one in entries(server)], "what is kept by the twin")
        ask(there, name="unread")
        ask(here, name="here")
        os.kill(twin, signal.SIGKILL)
        server.wait(lambda: server.children("twin") not in ([], [twin]), "another twin")
        wait_for_processes(server)
        kept = [one["request_id"] for one in entries(server)]
        assert "read" in kept and "here" in kept and "unread" not in kept
