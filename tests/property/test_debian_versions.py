"""Our order of Debian versions is dpkg's."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.rooms.lock.debian.closure import parse_relations
from intermodal.rooms.lock.debian.versions import satisfies, upstream, version_key

PIECES = st.sampled_from(
    ["1", "0", "9", "10", "007", "a", "b", "Z", "~", "~~", "+", ".", "rc", "deb12u1", "+b1", "ubuntu"]
)
UPSTREAM = st.builds(
    lambda first, rest: first + "".join(rest), st.sampled_from("0123456789"), st.lists(PIECES, max_size=6)
)
REVISION = st.one_of(
    st.just(""), st.builds(lambda parts: "-" + "".join(parts), st.lists(PIECES, min_size=1, max_size=3))
)
VERSION = st.builds(
    lambda epoch, main, revision: epoch + main + revision, st.sampled_from(["", "0:", "1:", "12:"]), UPSTREAM, REVISION
)

# from the Debian archive and deb-version(7), each less than the next
ORDERED = [
    "0~", "0", "1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-0+deb12u1", "1.0-1", "1.0-1+b1", "1.0a", "1.0+dfsg", "1.0.1",
    "1.2", "1.10", "2.36-9+deb12u7", "2.36-9+deb12u14", "20230311", "1:0.9", "1:1.2.13.dfsg-1", "2:0",
]  # fmt: skip


def test_known_order() -> None:
    shuffled = ORDERED[1::2] + ORDERED[::2]
    assert sorted(shuffled, key=version_key) == ORDERED


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is the oracle")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(VERSION, VERSION), min_size=8, max_size=8))
def test_as_dpkg_compares(pairs: list[tuple[str, str]]) -> None:
    script = "".join(f"dpkg --compare-versions '{a}' '{op}' '{b}'; echo $?\n" for a, b in pairs for op in ("lt", "eq"))
    done = subprocess.run(["sh"], input=script, capture_output=True, text=True, check=True)
    answers = iter(done.stdout.split())
    for a, b in pairs:
        assert (next(answers) == "0") == (version_key(a) < version_key(b)), (a, b, "lt")
        assert (next(answers) == "0") == (version_key(a) == version_key(b)), (a, b, "eq")


@given(VERSION, VERSION)
def test_relations_are_consistent(a: str, b: str) -> None:
    assert satisfies(a, "<<", b) != satisfies(a, ">=", b)
    assert satisfies(a, ">>", b) != satisfies(a, "<=", b)
    assert satisfies(a, "=", b) == (satisfies(a, ">=", b) and satisfies(a, "<=", b))
    assert satisfies(a, "=", a)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.11.2-6+deb12u9", "3.11.2"), ("1:2.0-1", "2.0"), ("1.0", "1.0"), ("1:1.0", "1.0"), ("1-2-3", "1-2")],
)
def test_upstream(version: str, expected: str) -> None:
    assert upstream(version) == expected


def test_relation_fields() -> None:
    text = "libc6 (>= 2.36), python3:any (<< 3.12) | python3.11 , debconf (>= 0.5) | debconf-2.0,"
    assert [[str(a) for a in clause] for clause in parse_relations(text)] == [
        ["libc6 (>= 2.36)"], ["python3 (<< 3.12)", "python3.11"], ["debconf (>= 0.5)", "debconf-2.0"],
    ]  # fmt: skip
