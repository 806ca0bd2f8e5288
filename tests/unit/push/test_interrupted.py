"""Ctrl-C in the middle of a transfer that stands still: ends at once, and the next call completes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import environment, intermodal
from support.other_registry import Handler, Registry, running
from support.small_image import documents, noise, small_image

from intermodal.oci.descriptor import Descriptor
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate_store

PATIENCE_S = 40  # far less than the time-outs of the transfers


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


def interrupt(words: list[str], home: Path, standing: threading.Event, how: signal.Signals) -> tuple[int, str]:
    """The status and words of a command that is interrupted once a transfer stands still."""
    process = subprocess.Popen(
        [sys.executable, "-m", "intermodal", *words], cwd=home, env=environment(home, None), stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert standing.wait(PATIENCE_S), "no transfer began"
        time.sleep(0.1)
        process.send_signal(how)
        _, told = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    return process.returncode, told


def standing_still(registry: Registry, method: str, ending: str, over: threading.Event) -> threading.Event:
    """Let a transfer stand still in the middle until `over`; the event tells that it does."""
    reached = threading.Event()

    def fault(handler: Handler) -> str:
        if handler.command == method and handler.path.partition("?")[0].endswith(ending) and not over.is_set():
            if method == "PUT":
                handler.rfile.read(1000)
            else:
                blob = registry.state.blobs[ending]
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(blob)}\r\n\r\n"
                handler.wfile.write(head.encode() + blob[:100_000])
            reached.set()
            over.wait(3 * PATIENCE_S)
            handler.cut()
        return ""

    registry.fault = fault
    registry.lock = _NoLock()  # type: ignore[assignment]  # the other requests go on
    return reached


class _NoLock:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def image(home: Path) -> tuple[Store, Descriptor]:
    store = Store(home / "data/intermodal/store").open_or_create()
    return store, small_image(store, "large:1", contents=(noise(4_000_000, 9), b"small"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_push_ends_at_once(how: signal.Signals, registry: Registry, tmp_path: Path) -> None:
    _, made = image(tmp_path)
    over = threading.Event()
    standing = standing_still(registry, "PUT", "", over)
    code, told = interrupt(["push", "large:1", f"{registry.address}/a/b"], tmp_path, standing, how)
    over.set()
    if how == signal.SIGKILL:
        assert code == -9
    else:
        assert code == 130 and "interrupted" in told and "Traceback" not in told, told
    assert registry.state.tags.get("a/b", {}) == {}
    again = intermodal("push", "large:1", f"{registry.address}/a/b", "--json", home=tmp_path, cache=None)
    assert again.code == 0 and again.json["digest"] == str(made.digest), again.err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_pull_ends_at_once_and_keeps_what_came(how: signal.Signals, registry: Registry, tmp_path: Path) -> None:
    maker = tmp_path / "maker"
    store, made = image(maker)
    reference = f"{registry.address}/a/b:1"
    assert intermodal("push", "large:1", reference, home=maker, cache=None).code == 0
    layer = documents(store, made)[0]["layers"][0]["digest"]
    over = threading.Event()
    standing = standing_still(registry, "GET", layer, over)
    home = tmp_path / "home"
    home.mkdir()
    code, told = interrupt(["pull", reference], home, standing, how)
    over.set()
    assert code == (130 if how == signal.SIGINT else -9) and "Traceback" not in told, told
    kept = Store(home / "data/intermodal/store")
    assert kept.listed() == [] and validate_store(kept).faults == ()
    assert (kept.root / "partial" / layer.removeprefix("sha256:")).exists()
    again = intermodal("pull", reference, "--json", home=home, cache=None)
    assert again.code == 0 and again.json["digest"] == str(made.digest), again.err
