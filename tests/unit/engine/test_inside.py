"""The judgement on what a probe saw inside a container."""

from __future__ import annotations

import json
from typing import Any

import pytest

from intermodal.engine.hardening import MEASURES
from intermodal.engine.inside import judge, script
from intermodal.engine.interface import Hardening

STATUS = {
    "Uid": "65532\t65532\t65532\t65532",
    "Gid": "65532\t65532\t65532\t65532",
    "CapInh": "0", "CapPrm": "0", "CapEff": "0", "CapBnd": "0", "CapAmb": "0",
    "NoNewPrivs": "1",
    "Seccomp": "2",
}  # fmt: skip


def judged(
    status: dict[str, str] | None = None, seen: dict[str, Any] | None = None, known: tuple[str, ...] = (), **tried: Any
) -> Hardening:
    text = "".join(f"{name}:\t{value}\n" for name, value in {**STATUS, **(status or {})}.items())
    saw = {"status": text, "writable": ["/tmp", "/dev/shm", "/dev/mqueue", "/run/intermodal"], "root_read_only": True}
    did = {
        "uid": 65532,
        "gid": 65532,
        "written": [],
        "connect": {"192.0.2.1": "ENETUNREACH", "2001:db8::1": "EADDRNOTAVAIL"},
        "unshare": "EPERM",
        **tried,
    }
    said = "noise\n" + json.dumps({**saw, **(seen or {})}) + "\n" + json.dumps(did) + "\n"
    return judge(said, 65532, known)


def missing(hardening: Hardening) -> set[str]:
    assert set(hardening.measures) == set(MEASURES)
    assert hardening.isolation == ("full" if all(hardening.measures.values()) else "partial")
    return {name for name, present in hardening.measures.items() if not present}


def test_everything_in_place_is_full_isolation_without_notes() -> None:
    assert judged() == Hardening("full", dict.fromkeys(MEASURES, True), ())


@pytest.mark.parametrize("name", ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"])
def test_any_capability_in_any_set_counts(name: str) -> None:
    assert missing(judged({name: "00000000a80425fb"})) == {"capabilities"}


@pytest.mark.parametrize(
    ("status", "measure"),
    [
        ({"Uid": "0\t65532\t65532\t65532"}, "user"),
        ({"Gid": "65532\t0\t0\t0"}, "user"),
        ({"NoNewPrivs": "0"}, "no_new_privs"),
        ({"Seccomp": "0"}, "seccomp"),
        ({"Seccomp": "1"}, "seccomp"),
    ],
)
def test_the_servers_own_process_decides(status: dict[str, str], measure: str) -> None:
    assert missing(judged(status)) == {measure}


def test_a_writable_root_or_mount_is_named() -> None:
    assert missing(judged(seen={"root_read_only": False})) == {"read_only_root"}
    found = judged(seen={"writable": ["/tmp", "/data"]})
    assert missing(found) == {"read_only_root"}
    assert found.notes == ("writable: /data",)
    assert missing(judged(written=["/etc"])) == {"read_only_root"}


def test_a_route_out_is_egress_also_when_nobody_answers() -> None:
    assert missing(judged(connect={"192.0.2.1": "connected"})) == {"no_egress"}
    assert missing(judged(connect={"192.0.2.1": "EACCES"})) == {"no_egress"}
    assert judged(connect={"192.0.2.1": "connected"}, known=("as asked for",)).notes == ("as asked for",)


def test_namespaces_that_could_not_be_tried_are_not_claimed() -> None:
    assert missing(judged(unshare="")) == {"no_userns"}
    found = judged(unshare=None, no_ctypes="no module")
    assert missing(found) == {"no_userns"}
    assert "ctypes" in found.notes[0]


@pytest.mark.parametrize("said", ["", "Traceback", "1\n2", "{}\n{}", '{"status": 1}\n{"uid": 0}', "[]\n[]"])
def test_a_probe_that_says_nothing_useful_proves_nothing(said: str) -> None:
    found = judge(said, 65532)
    assert missing(found) == set(MEASURES)
    assert found.notes


def test_the_script_is_python() -> None:
    compile(script("amd64"), "probe", "exec")
    compile(script("arm64"), "probe", "exec")
