"""API keys, open paths and rates, with a clock turned by hand; and a real server that asks for keys."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.serving import Served, echo_root, echo_settings, infer_body, serve

from intermodal_server.contract import ContractError, ServeSettings
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.guard import keys as keys_module
from intermodal_server.front.guard.access import ApiKeys, OpenPaths
from intermodal_server.front.guard.keys import KeyRing, parse_keys
from intermodal_server.front.guard.rates import Rates
from intermodal_server.front.guard.setup import make_guards
from intermodal_server.front.head import Head
from intermodal_server.front.health import Health
from intermodal_server.front.limits import Refusal
from intermodal_server.log import Log
from intermodal_server.options import OptionError, Options, read_options

ALICE, BOB = "im_alices-key-0123456789", "im_bobs-key-9876543210"
INFER = "/v2/models/echo/infer"
NOBODY = os.open(os.devnull, os.O_WRONLY)


def line(name: str, key: str) -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}"


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.log = Log("test", writing)

    def take(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(text) for text in os.read(self.reading, 1 << 16).splitlines()]
        except BlockingIOError:
            return []


def exchange(headers: dict[str, str] | None = None, path: str = INFER, now_s: float = 0.0) -> Exchange:
    async def never() -> dict[str, Any]:
        raise AssertionError("the body was read")

    made = Exchange(Head("POST", path, {name.encode(): value for name, value in (headers or {}).items()}), never)
    made.started_s = now_s
    return made


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def guard(ring: KeyRing, *listed: str) -> ApiKeys:
    return ApiKeys(ring, OpenPaths(listed or ("health",), "echo", "1"), Health())


# --- keys -------------------------------------------------------------------------------------------------------------


def test_lines_are_names_and_hashes_and_nothing_else_counts() -> None:
    good = line("alice", ALICE)
    text = f"# comment\n\n  {good}  \nalice:short\n{ALICE}\nbob {good[6:]}\nbob:{'G' * 64}\n:{good[6:]}\n"
    names, wrong = parse_keys(text)
    assert list(names.values()) == ["alice"] and wrong == [4, 5, 6, 7, 8]
    assert parse_keys(line("a", ALICE).upper().replace("A:", "a:", 1))[0] == {line("", ALICE)[1:]: "a"}


def test_a_key_is_known_by_its_hash_only(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{line('alice', ALICE)}\n{line('bob', BOB)}\n{line('alice', 'second')}\n")
    ring = KeyRing(f"file:{file}", Log("test", NOBODY))
    ring.refresh(0)
    assert [ring.name_of(key) for key in (ALICE, BOB, "second")] == ["alice", "bob", "alice"]
    for wrong in ("", "x", ALICE + " ", ALICE[:-1], line("", ALICE)[1:], "alice", "a" * 100_000, "\udcff"):
        assert ring.name_of(wrong) is None
    assert ALICE.encode() not in repr(ring.__dict__).encode()


def test_each_lookup_hashes_under_a_secret_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(f"keys:{line('alice', ALICE)}", Log("test", NOBODY))
    assert hashlib.sha256(ALICE.encode()).digest() not in ring._names
    monkeypatch.setattr(keys_module, "_SALT", b"another")
    assert ring.name_of(ALICE) is None


def test_a_changed_file_counts_after_a_second(tmp_path: Path) -> None:
    file, lines = tmp_path / "keys", Lines()
    file.write_text(line("alice", ALICE))
    ring = KeyRing(f"file:{file}", lines.log)
    ring.refresh(100.0)
    other = tmp_path / "other"
    other.write_text(line("bob", BOB))
    other.rename(file)
    ring.refresh(100.9)
    assert ring.name_of(ALICE) == "alice"
    ring.refresh(101.0)
    assert ring.name_of(ALICE) is None and ring.name_of(BOB) == "bob"
    for text in (ALICE, BOB, line("", BOB)[1:]):
        assert text not in json.dumps(lines.take())


def broken(file: Path) -> dict[str, Any]:
    return {
        "missing": lambda: file.unlink(),
        "empty": lambda: file.write_text(""),
        "comments only": lambda: file.write_text("# nobody\n"),
        "the key instead of its hash": lambda: file.write_text(f"alice:{ALICE}\n"),
        "a folder": lambda: (file.unlink(), file.mkdir()),
        "a pipe": lambda: (file.unlink(), os.mkfifo(file)),
        "too large": lambda: file.write_text(line("alice", ALICE) + "\n" + "#" * (1 << 20)),
        "not text": lambda: file.write_bytes(b"\xff\xfe\0" * 9),
    }


@pytest.mark.parametrize("how", sorted(broken(Path())))
def test_without_keys_nobody_gets_in_and_the_probe_says_so(tmp_path: Path, how: str) -> None:
    file, lines = tmp_path / "keys", Lines()
    file.write_text(line("alice", ALICE))
    ring = KeyRing(f"file:{file}", lines.log)
    access, health = guard(ring), Health(phase="ready", workers=1)
    access._health = health
    access(exchange(bearer(ALICE)))
    assert health.reason == "" and lines.take()
    broken(file)[how]()
    for now_s in (2.0, 3.5, 5.0):
        with pytest.raises(Refusal) as caught:
            access(exchange(bearer(ALICE), now_s=now_s))
        assert caught.value.status == 401
    access(exchange(path="/v2/health/ready", now_s=5.0))
    assert health.reason in ("the API keys cannot be read", "there are no API keys")
    told = lines.take()
    assert sum(record["message"].startswith("nobody gets in") for record in told) == 1, told
    assert ALICE not in json.dumps(told)
    if file.is_dir():
        file.rmdir()
    else:
        file.unlink(missing_ok=True)
    file.write_text(line("alice", ALICE))
    access(exchange(bearer(ALICE), now_s=7.0))
    assert health.reason == ""


# --- who may pass -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "name"),
    [(bearer(ALICE), "alice"), ({"authorization": f"bearer  {ALICE}"}, "alice"), ({"x-api-key": BOB}, "bob"),
     ({"x-api-key": BOB, "authorization": "Bearer of-a-gateway"}, "bob"), ({"x-api-key": BOB, **bearer(ALICE)}, "bob"),
     ({}, None), (bearer(""), None), ({"authorization": ALICE}, None), ({"authorization": f"Basic {ALICE}"}, None),
     ({"x-api-key": "wrong", **bearer(ALICE)}, None), ({"x-api-key": f"Bearer {ALICE}"}, None),
     ({"cookie": ALICE}, None)],
)  # fmt: skip
def test_headers_that_carry_a_key(headers: dict[str, str], name: str | None) -> None:
    access = guard(KeyRing(f"keys:{line('alice', ALICE)},{line('bob', BOB)}", Log("test", NOBODY)))
    asked = exchange(headers)
    if name is not None:
        access(asked)
        assert asked.caller == name
        return
    with pytest.raises(Refusal) as caught:
        access(asked)
    assert caught.value.status == 401 and ALICE not in caught.value.message
    assert dict(caught.value.headers)[b"www-authenticate"].startswith(b'Bearer realm="intermodal"')


def test_open_paths() -> None:
    probes = OpenPaths(("health",), "echo", "1")
    for path in ("/v2/health/live", "/v2/health/ready/", "/v2/models/echo/ready", "/v2/models/echo/versions/1/ready"):
        assert path in probes
    for path in ("/", "", "/v2", "/v2/health", "/v2/health/live/x", "/v2/models/echo", "/v2/models/other/ready", INFER):
        assert path not in probes
    assert "/" in OpenPaths(("/",), "echo", "1") and "/v2" not in OpenPaths(("/",), "echo", "1")
    assert "/v2/health/live" not in OpenPaths((), "echo", "1")


# --- rates ------------------------------------------------------------------------------------------------------------


def rates(rate: float = 0, burst: int = 0, most: int = 0) -> Rates:
    return Rates(rate, burst, most, OpenPaths(("health",), "echo", "1"))


def passes(limit: Rates, now_s: float, caller: str = "", path: str = INFER) -> Exchange | Refusal:
    asked = exchange(path=path, now_s=now_s)
    asked.caller = caller
    try:
        limit(asked)
    except Refusal as refusal:
        assert refusal.status == 429
        limit.ended(asked, 429)
        return refusal
    return asked


def count(limit: Rates, now_s: float, attempts: int, caller: str = "") -> int:
    return sum(isinstance(passes(limit, now_s, caller), Exchange) for _ in range(attempts))


def test_bucket_gives_its_burst_and_then_the_rate() -> None:
    limit = rates(rate=10, burst=4)
    assert count(limit, 0.0, 9) == 4
    assert count(limit, 0.1, 9) == 1
    assert count(limit, 0.35, 9) == 2
    assert count(limit, 100.0, 9) == 4
    assert count(limit, 99.0, 9) == 0  # a clock that seems to go back gives nothing
    assert count(rates(rate=2.5), 0.0, 9) == 3 and count(rates(rate=0.01), 0.0, 9) == 1


def test_retry_after_says_when_a_token_is_there() -> None:
    limit = rates(rate=0.25, burst=1)
    passes(limit, 0.0)
    refusal = passes(limit, 1.0)
    assert isinstance(refusal, Refusal) and dict(refusal.headers)[b"retry-after"] == b"3"
    assert isinstance(passes(limit, 4.0), Exchange)


def test_callers_do_not_pay_for_each_other() -> None:
    limit = rates(rate=1, burst=2)
    assert count(limit, 0.0, 5, "alice") == 2 and count(limit, 0.0, 5, "bob") == 2
    assert isinstance(passes(limit, 0.0, "alice", "/v2/health/live"), Exchange)


def test_so_many_at_a_time_and_a_refused_one_costs_no_token() -> None:
    limit = rates(rate=1, burst=10, most=2)
    first, second = passes(limit, 0.0), passes(limit, 0.0)
    assert isinstance(first, Exchange) and isinstance(second, Exchange)
    for _ in range(20):
        assert isinstance(passes(limit, 0.0), Refusal)
    for _ in range(3):
        limit.ended(first, 200)  # told twice, counted once
    assert count(limit, 0.0, 1) == 1 and isinstance(passes(limit, 0.0), Refusal)


def test_lanes_of_callers_who_are_gone_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal_server.front.guard.rates.MAX_LANES", 5)
    limit = rates(most=1)
    kept = passes(limit, 0.0, "kept")
    for number in range(50):
        one = passes(limit, 0.0, str(number))
        assert isinstance(one, Exchange)
        limit.ended(one, 200)
    assert len(limit._lanes) <= 5
    assert isinstance(passes(limit, 0.0, "kept"), Refusal) and isinstance(kept, Exchange)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_what_is_off_is_not_there() -> None:
    made = make_guards(Options(), echo_settings(), Health(), Log("test", NOBODY))
    assert made.guards == () and made.observers == ()


def test_vertex_asks_for_health_without_a_key() -> None:
    given = read_options({"AIP_HEALTH_ROUTE": "/alive", "INTERMODAL_API_KEYS": f"keys:{line('alice', ALICE)}"})
    settings = echo_settings(serve=ServeSettings(api_keys=given.api_keys or ""))
    (access,) = make_guards(given, settings, Health(), Log("test", NOBODY)).guards
    access(exchange(path="/alive"))
    with pytest.raises(Refusal):
        access(exchange(path="/other"))


def test_variables_win_and_wrong_ones_are_named_without_their_value(tmp_path: Path) -> None:
    root = echo_root(tmp_path, serve=ServeSettings(api_keys="file:/run/secrets/keys", rate_per_s=5, max_concurrent=3))
    given = {"INTERMODAL_ROOT": str(root), "INTERMODAL_RATE_PER_S": "0", "INTERMODAL_RATE_BURST": "7"}
    serve_ = read_options(given).settings().serve
    assert (serve_.rate_per_s, serve_.rate_burst, serve_.max_concurrent) == (0.0, 7, 3)
    assert serve_.api_keys == f"file:{root}/run/secrets/keys"
    assert read_options({**given, "INTERMODAL_API_KEYS": "file:/k"}).settings().serve.api_keys == "file:/k"
    assert read_options({**given, "INTERMODAL_API_KEYS": "off"}).settings().serve.api_keys == ""
    with pytest.raises(OptionError) as caught:
        read_options({"INTERMODAL_API_KEYS": "hunter2"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ContractError) as refused:
        ServeSettings(api_keys="hunter2")
    assert "hunter2" not in str(refused.value)
    assert read_options({"INTERMODAL_OPEN_PATHS": "health, /openapi.json"}).open_paths == ("health", "/openapi.json")
    assert read_options({"INTERMODAL_OPEN_PATHS": "none"}).open_paths == ()
    for name, value in (("OPEN_PATHS", "ping"), ("RATE_PER_S", "-1"), ("RATE_PER_S", "nan"), ("MAX_CONCURRENT", "x")):
        with pytest.raises(OptionError):
            read_options({f"INTERMODAL_{name}": value})


# --- a real server ----------------------------------------------------------------------------------------------------


def ask(server: Served, headers: dict[str, str] | None = None, path: str = INFER) -> int:
    return server.request("POST", path, infer_body([1]), headers).status


def test_server_with_keys_rotated_lost_and_found(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line("alice", ALICE) + "\n")
    root = echo_root(tmp_path / "root")
    with serve(root, api_keys=f"file:{file}", max_concurrent=2) as server:
        assert ask(server) == ask(server, bearer("wrong")) == ask(server, path=f"{INFER}?key={ALICE}") == 401
        assert ask(server, bearer(ALICE)) == ask(server, {"X-API-Key": ALICE}) == 200
        assert server.request("GET", "/v2").status == 401 and server.request("GET", "/nothing").status == 401
        assert server.request("GET", "/v2/models/echo/ready").status == 200
        reply = server.request("POST", INFER, b"{")
        assert reply.headers["www-authenticate"] == 'Bearer realm="intermodal"' and set(reply.json) == {"error"}
        other = tmp_path / "other"
        other.write_text(line("bob", BOB))
        other.rename(file)
        server.wait(lambda: ask(server, bearer(BOB)) == 200, "the new key")
        assert ask(server, bearer(ALICE)) == 401
        file.unlink()
        server.wait(lambda: ask(server, bearer(BOB)) == 401, "nobody")
        ready = server.request("GET", "/v2/health/ready")
        assert ready.status == 503 and ready.json["reason"] == "the API keys cannot be read"
        assert server.request("GET", "/v2/health/live").status == 200
        file.write_text(line("bob", BOB))
        server.wait_ready()
        assert ask(server, bearer(BOB)) == 200
        log = server.log_path.read_text()
        assert ALICE not in log and BOB not in log and line("", BOB)[1:] not in log


def test_401_comes_before_the_body(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), api_keys=f"keys:{line('alice', ALICE)}") as server:
        for length in (b"Content-Length: 60000", b"Content-Length: 9999999", b"Transfer-Encoding: chunked"):
            with server.raw() as connection:
                connection.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (INFER.encode(), length))
                answer = connection.recv(4096)
                assert answer.startswith(b"HTTP/1.1 401 ") and (b"connection: close" in answer) is (
                    b"60000" not in length
                )


def test_server_at_its_rate(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), rate_per_s=0.001, rate_burst=3) as server:
        replies = [server.infer([1]) for _ in range(5)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
        assert 900 < int(replies[-1].headers["retry-after"]) <= 1000
        assert server.request("GET", "/v2/health/ready").status == 200


def test_a_slot_comes_back_however_a_request_ends(tmp_path: Path) -> None:
    with serve(echo_root(tmp_path), max_concurrent=1, timeout_s=2) as server:
        for values in ([444], [1], ["x"], [666]):
            server.wait(lambda values=values: server.infer(values).status not in (429, 503), "a slot")
        with server.raw() as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{" % INFER.encode())
            server.wait(lambda: server.infer([1]).status == 429, "the slot to be taken")
        server.wait(lambda: server.infer([1]).status == 200, "the slot after its client left")
