"""No hostile pickle passes, none is loaded while it is judged, and those said to be dangerous really are."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hostile.pickles.corpus import BENIGN, CANARY, EVIL, HOSTILE, SCALER, call, made, mapping, name, stream, text
from support.envs import training_python

from intermodal.errors import ArtifactError
from intermodal.rooms.inspect.pickles.reader import Reading, read_pickle

OLD = ("scikit-learn==1.3.2", "numpy==1.26.4", "pandas==2.2.3", "cloudpickle==3.1.1", "skops==0.11.0")
LOADER = """
import json, os, pickle, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
warnings.simplefilter("ignore")
import joblib, numpy
folder, ran = sys.argv[1], []
for file, loader in json.load(sys.stdin).items():
    os.makedirs(os.path.join(folder, "at", file)); os.chdir(os.path.join(folder, "at", file))
    path = os.path.join(folder, file)
    try:
        joblib.load(path) if loader == "joblib" else pickle.load(open(path, "rb"))
        done = True
    except Exception as error:
        done = False
    if done or os.path.exists("canary"):
        ran.append(file)
json.dump(ran, sys.stdout)
"""


def read(folder: Path, data: bytes, trust: tuple[str, ...] = ()) -> Reading:
    path = folder / "model.pkl"
    path.write_bytes(data)
    return read_pickle(path, trust)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle_is_refused_with_a_reason(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(tmp_path, b"Vx\n0" + stream(BENIGN, 2))  # whatever the reader itself imports is imported now
    before = set(sys.modules)
    reading = read(tmp_path, HOSTILE[case][0])
    assert not reading.safe
    assert all(f.severity in ("high", "critical") and f.message for f in reading.findings)
    assert set(sys.modules) == before, "judging a file imported something"
    assert not (tmp_path / CANARY).exists()


def test_payloads_are_as_dangerous_as_claimed(tmp_path: Path) -> None:
    cases = {case: loader for case, (_, loader) in HOSTILE.items() if loader}
    for case in cases:
        (tmp_path / case).write_bytes(HOSTILE[case][0])
    done = subprocess.run(
        [training_python(*OLD), "-c", LOADER, tmp_path],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(set(cases) - set(json.loads(done.stdout))) == []


def test_the_benign_parts_of_the_corpus_are_accepted(tmp_path: Path) -> None:
    assert read(tmp_path, stream(BENIGN)).findings == ()
    assert read(tmp_path, zlib.compress(stream(BENIGN))).findings == ()


@pytest.mark.parametrize(
    ("data", "said", "severity"),
    [
        (stream(EVIL), "loading would call posix.mkdir('canary')", "critical"),
        (
            stream(call(name("mylib.transforms", "Log"), text("x"))),
            "loading would call mylib.transforms.Log('x')",
            "high",
        ),
        (stream(name("mylib.transforms", "Log")), "loading would import mylib.transforms.Log", "high"),
        (stream(call(name("os", "system"), text("\x1b[2Jrm"))), "os.system('\\x1b[2Jrm')", "critical"),
        (stream(call(name("os", "system"), text("x" * 250))), "x" * 120 + "…'", "critical"),
    ],
)
def test_the_finding_says_what_would_have_run(tmp_path: Path, data: bytes, said: str, severity: str) -> None:
    finding = read(tmp_path, data).findings[0]
    assert finding.id == "unknown-global"
    assert said in finding.message
    assert finding.severity == severity


def test_names_with_control_characters_cannot_reach_the_terminal(tmp_path: Path) -> None:
    reading = read(tmp_path, stream(call(b"c\x1b[2Jos\nsys\x07tem\n", text("id"))))
    assert all(f.message.isprintable() and f.next.isprintable() for f in reading.findings)


def test_trust_admits_exact_names_only(tmp_path: Path) -> None:
    data = stream(call(name("mylib.transforms", "Log"), text("x")))
    assert read(tmp_path, data, ("mylib.transforms.Log",)).safe
    assert not read(tmp_path, data, ("mylib.transforms", "mylib.transforms.Logs", "mylib.transforms.*")).safe


def test_no_message_repeats_the_file(tmp_path: Path) -> None:
    evil = stream(EVIL)[:-1] + b"F" + b"x" * 5000 + b"\n."
    large = stream(call(EVIL, *[b"(" + text("x" * 200) * 9 + b"t" for _ in range(9)]))
    for data in (evil, large):
        assert all(len(f.message) < 1000 for f in read(tmp_path, data).findings)


def test_what_follows_the_model_is_read_too(tmp_path: Path) -> None:
    messages = [f.message for f in read(tmp_path, stream(BENIGN) + stream(EVIL)).findings]
    assert any("posix.mkdir('canary')" in message for message in messages)
    assert any("1 more pickle stream follow" in message for message in messages)


@pytest.mark.parametrize(
    "data",
    [
        stream(BENIGN)[:-1],
        stream(BENIGN)[:9],
        b"\x80",
        stream(b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc"),  # a length prefix of four exabytes
        stream(b"X" + struct.pack("<I", 0xFFFFFFFF) + b"abc"),
        zlib.compress(stream(BENIGN))[:-8],
    ],
)
def test_a_truncated_file_is_an_error_that_says_where(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError, match="truncated") as caught:
        read(tmp_path, data)
    assert "byte" in caught.value.found[0]


@pytest.mark.parametrize(
    "data",
    [stream(b"\xff"), stream(b"0"), stream(b"h\x05"), stream(b"\x87"), stream(b"}(" + text("a") + b"u"), b"\x80\x09."],
)
def test_a_damaged_file_is_an_error_that_says_where(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        read(tmp_path, data)


def test_a_decompression_bomb_stops_early(tmp_path: Path) -> None:
    packer = zlib.compressobj(6)
    piece = b"\0" * (1 << 20)
    data = packer.compress(b"\x80\x04B" + struct.pack("<I", (3 << 30) - 1))
    data += b"".join(packer.compress(piece) for _ in range(270)) + packer.flush()
    finding = read(tmp_path, data).findings[0]
    assert finding.id == "limit-exceeded"
    assert "256 MiB" in finding.message


def test_nesting_without_end_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    deep = stream(b")" + b"\x85" * 300_000)
    assert read(tmp_path, deep).findings == ()
    deep_call = stream(name("mylib", "f") + (b"\x85" * 100_000) + b"R")
    assert not read(tmp_path, deep_call).safe
    own_member = stream(b"]\x94h\x00a")
    assert read(tmp_path, own_member).findings == ()


def test_an_array_inside_an_object_array_is_read_as_joblib_reads_it(tmp_path: Path) -> None:
    from hostile.pickles.corpus import OBJECTS, WRAPPER, wrapper_state

    inner = stream(made(SCALER))
    for _ in range(3):
        inner = stream(made(WRAPPER) + wrapper_state(OBJECTS, 1) + inner)
    # the second wrapper lies in a stream that joblib reads with plain pickle: no array bytes are taken out there
    assert [f.id for f in read(tmp_path, inner).findings] == ["trailing-data"]


def test_a_module_name_in_protocol_two_is_judged_after_translation(tmp_path: Path) -> None:
    reading = read(tmp_path, stream(call(name("__builtin__", "set"), b"]"), 2))
    assert reading.safe
    assert [n.qualified for n in reading.names] == ["builtins.set"]
    assert not read(tmp_path, stream(call(name("__builtin__", "set"), b"]"), 4)).safe


def test_state_may_use_ordinary_names(tmp_path: Path) -> None:
    body = made(SCALER) + b"N" + mapping(mean_=b"N") + b"\x86b"
    assert read(tmp_path, stream(body)).safe
