"""`serve`: says where, ends in peace on SIGTERM and Ctrl-C, and tells why when the server ends by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.tiny_image import tiny_image

from intermodal.engine import get_engine, hardening
from intermodal.engine.container import LocalContainer
from intermodal.engine.interface import RunRequest
from intermodal.engine.run import serve, unseen
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import EngineError, InputError
from intermodal.events import Events
from intermodal.host import read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal_server.contract import ENV_API_KEYS

pytestmark = pytest.mark.sandbox


class Listener(Events):
    """Asks the server as soon as its address is told, then sends a signal to this process."""

    def __init__(self, number: signal.Signals, twice: bool = False) -> None:
        self.number = number
        self.twice = twice
        self.said: list[str] = []
        self.answer = b""

    def notice(self, message: str) -> None:
        self.said.append(message)
        if message.startswith("serving on "):
            threading.Thread(target=self._ask, args=(message.split()[2].rstrip(","),)).start()

    def _ask(self, url: str) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{url}/", timeout=30) as response:
                self.answer = response.read()
        finally:
            os.kill(os.getpid(), self.number)
        if self.twice:
            while not self.said[-1].startswith("finishing"):
                time.sleep(0.01)
            os.kill(os.getpid(), self.number)


class With:
    """An engine that adds variables."""

    name = "sandbox"

    def __init__(self, engine: SandboxEngine, **environment: str) -> None:
        self.engine = engine
        self.environment = environment

    def start(self, request: RunRequest) -> LocalContainer:
        return self.engine.start(replace(request, environment=self.environment))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[SandboxEngine, Digest]:
    folder = tmp_path_factory.mktemp("run")
    host = replace(read(), home=folder, environment={"TMPDIR": str(folder)})
    store = Store(host.data_dir / "store").open_or_create()
    image = tiny_image(store)
    engine = get_engine("sandbox", store, host)
    assert isinstance(engine, SandboxEngine)
    return engine, image


@contextmanager
def handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal(ground: tuple[SandboxEngine, Digest], number: signal.Signals, tmp_path: Path) -> None:
    engine, image = ground
    listener = Listener(number)
    with handlers_restored():
        assert serve(image, engine=With(engine, GREETING="moin"), port=0, events=listener) == 0
    assert listener.answer == b"moin"
    assert "isolation full" in listener.said[0]
    assert listener.said[1].startswith("metrics: curl --unix-socket /")
    assert listener.said[-1].startswith("finishing what is under way")
    assert tmp_path.exists()


def test_second_signal_ends_a_server_that_takes_its_time(ground: tuple[SandboxEngine, Digest]) -> None:
    engine, image = ground
    with handlers_restored():
        assert serve(image, engine=With(engine, STUBBORN="1"), port=0, events=Listener(signal.SIGINT, twice=True)) == 0


def test_a_signal_while_the_walls_are_tried_ends_it(
    ground: tuple[SandboxEngine, Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial turns errors of its probe into notes; being asked to end is none of them."""
    real = hardening.probe_script

    def interrupted(architecture: str) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return real(architecture)

    monkeypatch.setattr(hardening, "probe_script", interrupted)
    engine, image = ground
    with handlers_restored():
        assert serve(image, engine=With(engine, GREETING="moin"), port=0, events=Events()) == 0


def test_server_that_ends_by_itself_is_quoted(ground: tuple[SandboxEngine, Digest]) -> None:
    engine, image = ground
    with handlers_restored(), pytest.raises(EngineError) as caught:
        serve(image, engine=With(engine, FAIL="no such column"), port=0, events=Events())
    assert "exit status 7" in caught.value.found
    assert any("no such column" in line for line in caught.value.found)


class Lines(Events):
    """Ends the server after its first line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def output(self, line: str) -> None:
        self.lines.append(line)
        os.kill(os.getpid(), signal.SIGTERM)


def test_what_the_server_writes_is_passed_on(ground: tuple[SandboxEngine, Digest]) -> None:
    engine, image = ground
    listener = Lines()
    with handlers_restored():
        assert serve(image, engine=With(engine, SAY="ready or not"), port=0, events=listener) == 0
    assert listener.lines[0] == "ready or not"
    assert len(set(listener.lines)) == len(listener.lines)


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "a\n", "a\n"),
        ("a\n", "a\nb\n", "b\n"),
        ("a\nb\n", "b\nc\n", "c\n"),
        ("a\nb\n", "b\nb\nc\n", "c\n"),
        ("a\n", "x\ny\n", "x\ny\n"),
        ("a\n", "a\n", ""),
    ],
)
def test_only_what_is_new_is_passed_on(before: str, now: str, new: str) -> None:
    assert unseen(before, now) == new


def test_keys_reach_the_server(ground: tuple[SandboxEngine, Digest]) -> None:
    class Asked(Exception):
        pass

    class Asking:
        name = "sandbox"

        def start(self, request: RunRequest) -> LocalContainer:
            raise Asked(dict(request.environment))

    for given, expected in (("keys:a:00", {ENV_API_KEYS: "keys:a:00"}), ("", {})):
        with handlers_restored(), pytest.raises(Asked) as caught:
            serve(ground[1], engine=Asking(), port=0, events=Listener(signal.SIGTERM), api_keys=given)
        assert caught.value.args == (expected,)


def test_unknown_engine_is_named(ground: tuple[SandboxEngine, Digest], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no engine 'dokcer'"):
        get_engine("dokcer", Store(tmp_path), read())


def test_the_server_is_told_where_a_check_found_the_model_to_run_best(ground: tuple[SandboxEngine, Digest]) -> None:
    class Refuses:
        name = "sandbox"
        asked: list[RunRequest] = []

        def start(self, request: RunRequest) -> LocalContainer:
            self.asked.append(request)
            raise EngineError("enough")

    engine = Refuses()
    for mode in ("inline", ""):
        with pytest.raises(EngineError):
            serve(ground[1], engine=engine, port=0, events=Events(), mode=mode)  # type: ignore[arg-type]
    assert [request.environment for request in engine.asked] == [{"INTERMODAL_MODE": "inline"}, {}]
