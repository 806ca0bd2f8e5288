"""Copies of users' requests, and labels that come later, through a real gateway and real servers on the sandbox."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.cli import Result, environment, intermodal, world_folder
from support.gateways import free_port
from support.served_image import body, golden, predictor, served_image

from intermodal.events import SILENT
from intermodal.host import read
from intermodal.oci.layout import Store
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.target import Target
from intermodal.rooms.deploy.targets import get_target

pytestmark = [pytest.mark.network, pytest.mark.slow]
MODEL = "parity"
PATIENCE_S = 240.0
PROJECT = """\
[model]
name = "parity"
predictor = "app:Model"
[deploy]
target = "sandbox"
port = {port}
bake = "1s"
steps = [{{ weight = 50, min_requests = {requests} }}]
"""
ODD = '"odd" if {odd} else "even"'


@dataclass
class Here:
    """A home with a store and a port, and users whose requests have ids."""

    home: Path
    port: int
    ids: list[tuple[str, int]] = field(default_factory=list)  # with the number that was asked about
    step: int = 1  # from one number to the next

    def run(self, *words: str) -> Result:
        return intermodal(*words, "--json", home=self.home, timeout_s=PATIENCE_S * 2)

    @property
    def place(self) -> Target:
        host = replace(read(), environment=environment(self.home))
        store = Store(host.data_dir / "store").open_or_create()
        return get_target("sandbox", MODEL, Exposure(port=self.port), store=store, host=host, events=SILENT)

    def image(self, version: str, odd: str) -> str:
        here = replace(read(), environment=environment(self.home))
        store = Store(here.data_dir / "store").open_or_create()
        source = predictor(answer=ODD.format(odd=odd))
        served_image(store, f"{MODEL}:{version}", source, cases=golden({2.0: "even", 3.0: "odd"}))
        return f"{MODEL}:{version}"

    @contextmanager
    def users(self) -> Iterator[None]:
        ended = threading.Event()

        def ask() -> None:
            number = 0
            while not ended.is_set():
                number += self.step
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                with suppress(OSError, http.client.HTTPException):
                    name = f"user-{number}"
                    headers = {"x-request-id": name, "content-type": "application/json"}
                    path = f"/v2/models/{MODEL}/infer"
                    connection.request("POST", path, json.dumps(body([float(100 + number)])), headers)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status == 200:
                        self.ids.append((name, 100 + number))
                    nameless = {"content-type": "application/json"}  # the gateway makes an id
                    connection.request("POST", path, json.dumps(body([float(100 + number)])), nameless)
                    connection.getresponse().read()
                connection.close()
                time.sleep(0.005)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run("status", MODEL).json
        return found

    def wait(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        until_s = time.monotonic() + PATIENCE_S
        while not condition(found := self.status()):
            assert time.monotonic() < until_s, f"waited for {what}: {json.dumps(found)[-3000:]}"
            time.sleep(0.3)
        return found


@pytest.fixture
def here() -> Iterator[Here]:
    with world_folder() as home:
        made = Here(home, free_port())
        (home / "intermodal.toml").write_text(PROJECT.format(port=made.port, requests=150))
        try:
            yield made
        finally:
            made.run("abort", MODEL)  # ends a watcher that a failed test left
            place = made.place
            until_s = time.monotonic() + 30
            while time.monotonic() < until_s:
                place.down()
                place.tend()
                if not any(one.containers for one in place.seen(range(1, 9)).values()):
                    break
                time.sleep(0.2)


def test_a_candidate_that_answers_copies_otherwise_is_held_with_examples(here: Here) -> None:
    assert here.run("deploy", here.image("1", "int(value) % 2")).code == 0
    with here.users():
        begun = here.run(
            "deploy", here.image("2", "int(value) % 2 or int(value) % 4 == 0"), "--strategy", "shadow", "--detach"
        )
        assert begun.code == 0, begun.err
        found = here.wait(lambda one: one["rollout"]["phase"] == "held", "the hold")
        assert found["rollout"]["held"] == "shift"
        assert "a person decides: disagreements: canary" in found["rollout"]["reason"]
        copies = found["copies"]
        assert copies["pairs"] >= copies["disagreed"] > 0 and copies["not_comparable"] == 0
        numbers = dict(here.ids)
        assert len(copies["worst"]) == 5
        for one in copies["worst"]:
            assert numbers.get(one["request_id"], 4) % 4 == 0 and one["output"] == "label" and one["inputs"] is None
            assert (one["stable"], one["canary"]) == ("'even'", "'odd'")
        assert [one["live_percent"] for one in found["revisions"]] == [100, 0], "nobody got its answers"
        rings = [
            {
                entry["request_id"]: entry["traffic"]
                for page in here.place.predictions(number, {})
                for entry in page.document["predictions"]
            }
            for number in (1, 2)
        ]
        made_by_the_gateway = {one for one in set(rings[0]) & set(rings[1]) if not one.startswith("user-")}
        assert made_by_the_gateway and {(rings[0][one], rings[1][one]) for one in made_by_the_gateway} == {
            ("live", "mirror")
        }
        gone = here.run("abort", MODEL)
        assert gone.json["rollout"]["phase"] == "rolled back"


def test_an_equal_candidate_passes_its_copies_and_wrong_answers_send_the_next_one_back(here: Here) -> None:
    assert here.run("deploy", here.image("1", "int(value) % 2")).code == 0
    with here.users():
        done = here.run("deploy", here.image("2", "int(value) % 2 + 0"), "--strategy", "shadow")
        assert done.code == 0, done.out + done.err
        copies = done.json["copies"]
        assert copies["pairs"] >= 150 and copies["disagreed"] == 0 and copies["ids_seen_twice"] == 0
        (here.home / "intermodal.toml").write_text(PROJECT.format(port=here.port, requests=100_000))
        # the classes keep their shares, errors and latencies stay: only labels can tell
        worse = here.image("3", "(int(value) + (value >= 100)) % 2")
        assert here.run("deploy", worse, "--strategy", "canary", "--detach").code == 0
        here.wait(lambda one: [each["live_percent"] for each in one["revisions"]] == [0, 50, 50], "traffic")
        asked = len(here.ids)
        here.wait(lambda one: len(here.ids) > asked + 500, "requests")
        time.sleep(2)  # the watcher keeps answers once a second
        lines = [
            json.dumps({"request_id": name, "label": "odd" if number % 2 else "even"})
            for name, number in here.ids[asked:]
        ] + ['{"request_id": "never asked", "label": "odd"}']
        (here.home / "truth.jsonl").write_text("\n".join(lines))
        told = here.run("feedback", MODEL, "truth.jsonl")
        assert told.code == 0, told.out + told.err
        assert told.json["joined"] >= 300 and "never asked" in told.json["unknown"]
        wrong = {one["revision"]: (one["wrong"], one["labelled"]) for one in told.json["accuracy"]}
        assert wrong[2][0] == 0 and wrong[3][0] == wrong[3][1] > 50
        assert told.json["evidence"] > told.json["needed"]
        found = here.wait(lambda one: one["rollout"]["phase"] == "rolled back", "the way back")
        assert "beyond the margin, wrong answers: canary" in found["rollout"]["reason"]
    unknown = here.run("feedback", MODEL, "--request", "nobody", "--label", "odd")
    assert (unknown.code, unknown.json["joined"]) == (1, 0)
    last, number = here.ids[-1]
    now = here.run("feedback", MODEL, "--request", last, "--label", "odd" if number % 2 else "even")
    assert (now.code, now.json["joined"]) == (0, 1), "the servers remember the last ones when nobody watches"


def test_predictions_that_move_after_promotion_are_told(here: Here) -> None:
    assert here.run("deploy", here.image("1", "int(value) % 2")).code == 0

    def asked(count: int) -> None:
        before = len(here.ids)
        with here.users():
            until_s = time.monotonic() + PATIENCE_S
            while len(here.ids) < before + count:
                assert time.monotonic() < until_s
                time.sleep(0.1)

    asked(150)  # and as many without an id
    first = here.run("drift", MODEL)
    assert (first.code, first.json["drift"]["compared_outputs"]) == (0, ["label"])
    asked(300)
    same = here.run("drift", MODEL)
    assert (same.code, same.json["drift"]["warns"]) == (0, False) and len(same.json["drift"]["shifts"]) == 1
    here.step = 0  # always the number 100
    asked(300)
    assert here.status()["drift"]["warns"], "status looks, too"
    moved = here.run("drift", MODEL)
    assert (moved.code, moved.json["drift"]["warns"]) == (1, True)
    lines = [line for line in here.run("history", MODEL).json["log"] if line["what"] == "drift"]
    assert len(lines) == 1 and "label: " in lines[0]["moved"][0]
    assert (
        'intermodal_drift_warning{model="parity",target="sandbox",revision="1",output="label"} 1'
        in here.run("status", "--metrics").json["metrics"]
    )
