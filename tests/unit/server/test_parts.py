"""The small parts by themselves: options, log, verification, arrays, `n_jobs`, cores, routes of shapes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.serving import CODE_DIR, echo_root, echo_settings, models_python

from intermodal_server.contract import ModelFile, ServeSettings, Signature, TensorSpec
from intermodal_server.front.limits import Refusal, decompress
from intermodal_server.front.predict import parse_predict
from intermodal_server.front.signature import match, matcher
from intermodal_server.log import Log
from intermodal_server.options import OptionError, read_options
from intermodal_server.placement import processes_wanted
from intermodal_server.tensors import Tensor, json_values
from intermodal_server.worker.arrays import OutputError, from_python, to_python
from intermodal_server.worker.verify import VerifyError, verify_files


def test_options_have_defaults_and_override_the_settings(tmp_path: Path) -> None:
    assert read_options({}).port == 8080
    root = echo_root(tmp_path, serve=ServeSettings(timeout_s=9.0, workers=3))
    options = read_options({"INTERMODAL_ROOT": f"{root}/", "INTERMODAL_TIMEOUT_S": "2.5", "INTERMODAL_MODE": "thread"})
    serve = options.settings().serve
    assert (serve.timeout_s, serve.workers, serve.mode) == (2.5, 3, "thread")
    assert options.path("/model") == f"{root}/model"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("PORT", "-1"), ("WORKERS", "0"), ("DRAIN_S", "nan"), ("TIMEOUT_S", "0"),
     ("TIMEOUT_S", "inf"), ("START_CHECK", "maybe"), ("MODE", "fast"), ("PROCESSES", "0"),
     ("PROCESSES", "many"), ("PYTHON", "python3"), ("PYTHON", "[]"),
     ("PYTHON", "[1]")],
)  # fmt: skip
def test_wrong_option_names_variable_and_value(name: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"INTERMODAL_{name}"):
        read_options({f"INTERMODAL_{name}": value})


@pytest.mark.parametrize(
    ("variables", "cores", "wanted"),
    [
        ({}, 1, 1), ({}, 2, 2), ({}, 16, 4), ({"PROCESSES": "auto"}, 3, 3), ({"PROCESSES": "6"}, 2, 6),
        ({"PROCESSES": "1"}, 4, 1), ({"MODE": "thread"}, 4, 1), ({"MODE": "inline"}, 4, 4), ({"WORKERS": "2"}, 4, 1),
        ({"RING": "10"}, 4, 4), ({"RATE_PER_S": "5"}, 4, 1), ({"MAX_CONCURRENT": "5"}, 4, 1),
    ],
)  # fmt: skip
def test_as_many_processes_as_cores_unless_something_is_counted_in_one_place(
    tmp_path: Path, variables: dict[str, str], cores: int, wanted: int
) -> None:
    given = {f"INTERMODAL_{name}": value for name, value in variables.items()}
    options = read_options({"INTERMODAL_ROOT": str(echo_root(tmp_path)), **given})
    assert processes_wanted(options, options.settings(), cores) == wanted


def test_grpc_takes_one_process(tmp_path: Path) -> None:
    root = echo_root(tmp_path, serve=ServeSettings(grpc=True, processes=3))
    for port, wanted in (("8081", 1), ("0", 3)):
        options = read_options({"INTERMODAL_ROOT": str(root), "INTERMODAL_GRPC_PORT": port})
        assert processes_wanted(options, options.settings(), 4) == wanted


def test_the_settings_say_nothing_of_processes_unless_a_number_is_asked_for() -> None:
    assert "processes" not in json.loads(echo_settings().to_json())["serve"]
    settings = echo_settings(serve=ServeSettings(processes=3))
    assert type(settings).from_json(settings.to_json()).serve.processes == 3


def test_no_port_needs_a_socket() -> None:
    with pytest.raises(OptionError, match="nothing to listen on"):
        read_options({"INTERMODAL_PORT": "0"})
    assert read_options({"INTERMODAL_PORT": "0", "INTERMODAL_SOCKET": "/s"}).port == 0


def test_a_log_line_is_one_line_of_ascii_json(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    Log("part", descriptor).error("a\r\nb", id="\u2028\ud800\x00", odd=object())
    os.close(descriptor)
    data = (tmp_path / "log").read_bytes()
    assert data.count(b"\n") == 1 and data.isascii() and b"\r" not in data
    record = json.loads(data)
    assert (record["level"], record["part"], record["message"]) == ("error", "part", "a\r\nb")


def locked(folder: Path, name: str, data: bytes) -> ModelFile:
    (folder / name).write_bytes(data)
    return ModelFile(name, len(data), hashlib.sha256(data).hexdigest())


def test_verification_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    good = locked(folder, "a.bin", b"x" * 3_000_000)
    verify_files([good], str(folder), "a.bin")
    with pytest.raises(VerifyError, match=r"b\.bin is not among"):
        verify_files([good], str(folder), "b.bin")
    (folder / "a.bin").write_bytes(b"x" * 2_999_999 + b"y")
    with pytest.raises(VerifyError, match=r"a\.bin is not the file that was locked"):
        verify_files([good], str(folder), "")
    (folder / "a.bin").write_bytes(b"x")
    with pytest.raises(VerifyError, match="has 1 bytes, the lock says 3000000"):
        verify_files([good], str(folder), "")
    (folder / "a.bin").unlink()
    with pytest.raises(VerifyError, match=r"a\.bin cannot be read: No such file"):
        verify_files([good], str(folder), "")
    outside = locked(tmp_path, "c.bin", b"c")
    (folder / "c.bin").symlink_to(tmp_path / "c.bin")
    with pytest.raises(VerifyError, match="outside"):
        verify_files([outside], str(folder), "")


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "values"),
    [
        ([1, 2], "INT64", (2,), [1, 2]),
        ([[1, 2.5], [None, 4]], "FP64", (2, 2), None),
        ("text", "BYTES", (1,), ["text"]),
        ([b"raw", None], "BYTES", (2,), ["raw", None]),
        ((True, False), "BOOL", (2,), [True, False]),
        ([[[1]]], "INT64", (1, 1, 1), [1]),
    ],
)
def test_plain_values_become_the_narrowest_tensor(value: Any, datatype: str, shape: Any, values: Any) -> None:
    tensor = from_python("y", value)
    assert (tensor.datatype, tensor.shape) == (datatype, shape)
    assert values is None or json_values(tensor) == values
    if datatype == "INT64":
        assert to_python(tensor) == value


@pytest.mark.parametrize("value", [[[1], [2, 3]], [1, "a"], [object()], [1j], [[1], 2]])
def test_what_is_no_tensor_is_said(value: Any) -> None:
    with pytest.raises(OutputError, match="'y'"):
        from_python("y", value)


NUMPY_OUTPUTS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd
from intermodal_server.worker.arrays import OutputError, from_numpy, to_numpy
def kind(value):
    tensor = from_numpy("y", value)
    return tensor.datatype, tensor.shape
assert kind(np.float32(1)) == ("FP32", (1,))
assert kind(np.zeros((2, 3), "f2")) == ("FP16", (2, 3))
assert kind(np.zeros(2, np.longdouble)) == ("FP64", (2,))
assert kind(np.zeros(2, ">f8")) == ("FP64", (2,))
assert kind(np.zeros(2, "u1")) == ("UINT8", (2,))
assert kind(np.array(["a", "bc"])) == ("BYTES", (2,))
assert kind(np.array(["a", None], dtype=object)) == ("BYTES", (2,))
assert kind(np.array([np.int64(1), 2], dtype=object)) == ("INT64", (2,))
assert kind(pd.Series([True, False])) == ("BOOL", (2,))
assert kind(pd.DataFrame({"a": [1.0], "b": [2.0]})) == ("FP64", (1, 2))
assert kind([np.zeros(3), np.ones(3)]) == ("FP64", (2, 3))
assert kind(np.zeros((3, 2)).T) == ("FP64", (2, 3))
turned = np.arange(6.0).reshape(3, 2).T
assert (to_numpy(from_numpy("y", turned)) == turned).all() and to_numpy(from_numpy("y", turned)).flags.writeable
assert (to_numpy(from_numpy("y", np.array([1, 256], ">i4"))) == [1, 256]).all()
for value in (np.zeros(2, complex), np.zeros(2, "M8[s]"), np.array([object()])):
    try:
        from_numpy("y", value)
    except OutputError:
        continue
    raise AssertionError(value)
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.pipeline import make_pipeline
from intermodal_server.worker.backends.sklearn import estimators_in, tame_jobs
votes = VotingClassifier([("a", RandomForestClassifier(3, n_jobs=-1))], n_jobs=2).fit([[0], [1]], [0, 1])
model = make_pipeline(votes)
assert tame_jobs(estimators_in(model)) == ["RandomForestClassifier", "VotingClassifier"]
assert votes.n_jobs == 1 and votes.estimators_[0].n_jobs == 1 and tame_jobs(estimators_in(model)) == []
print("all right")
"""


def test_a_log_that_nobody_reads_does_not_stop_the_writer() -> None:
    reading, writing = os.pipe()
    log = Log("front", writing)
    for number in range(3000):
        log.info("x" * 9000, number=number)  # three pages of a pipe that has sixteen
    os.set_blocking(reading, False)
    data = b""
    with suppress(BlockingIOError):
        while True:
            data += os.read(reading, 1 << 16)
    for _ in range(2):
        log.info("again")
    lines = (data + os.read(reading, 1 << 16)).splitlines()
    *whole, torn, first, second = (line for line in lines if line)
    assert [json.loads(line)["number"] for line in whole] == list(range(len(whole)))
    assert not torn.endswith(b"}")
    assert json.loads(first)["lost_lines"] == 3000 - len(whole)
    assert "lost_lines" not in json.loads(second)
    os.close(reading)
    os.close(writing)


def test_arrays_of_numpy_and_pandas_and_n_jobs_in_every_fitted_part() -> None:
    command = [str(models_python()), "-I", "-c", NUMPY_OUTPUTS, str(CODE_DIR.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "all right\n", done.stderr


OVERHEARD = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from intermodal_server.worker.backends.sklearn import Overheard
x, y = load_iris(return_X_y=True)
forest = RandomForestClassifier(5, random_state=0)
tried = {
    "forest": (forest, True), "bagging": (BaggingClassifier(n_estimators=3), True),
    "pipeline": (make_pipeline(StandardScaler(), RandomForestClassifier(5)), True),
    "search": (GridSearchCV(make_pipeline(StandardScaler(), RandomForestClassifier(5)), {}, cv=2), True),
    "line": (LogisticRegression(max_iter=500), False), "two outputs": (RandomForestClassifier(5), False),
}
for name, (model, heard) in tried.items():
    model.fit(x, np.stack([y, y], axis=1) if name == "two outputs" else y)
    label, probabilities = model.predict(x), model.predict_proba(x)
    overheard = Overheard(model)
    for _ in range(2):
        answer, found = overheard.predict(x)
        assert (answer == label).all()
        assert (found is not None) == heard, name
        assert found is None or (found == probabilities).all()
    assert np.array_equal(model.predict_proba(x), probabilities)  # and is not heard next time
    assert (overheard.predict(x[:1])[1] is not None) == heard
class Halves(RandomForestClassifier):
    def predict(self, X):
        return np.concatenate([super().predict(X[:9]), super().predict(X[9:])])
assert Overheard(Halves(5).fit(x, y)).predict(x)[1] is None
print("all right")
"""


def test_probabilities_that_predict_has_asked_for_are_not_asked_for_again() -> None:
    command = [str(models_python()), "-I", "-c", OVERHEARD, str(CODE_DIR.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "all right\n", done.stderr


def test_inputs_come_in_the_signatures_order_and_assumed_types_give_way() -> None:
    signature = Signature((TensorSpec("a", "FP64", (-1,), assumed=True), TensorSpec("b", "INT64", (-1,))), ())
    settings = echo_settings(signature=signature, call="columns")
    a, b = Tensor("a", "BYTES", (1,), b"\0\0\0\0"), Tensor("b", "INT64", (1,), b"\0" * 8)
    assert match([b, a], settings) == [a, b]
    with pytest.raises(Refusal, match="'b' is FP64, the model takes INT64"):
        match([a, Tensor("b", "FP64", (1,), b"\0" * 8)], settings)
    with pytest.raises(Refusal, match="no rows"):
        match([Tensor("a", "FP64", (0,), b""), Tensor("b", "INT64", (0,), b"")], settings)
    (first, second) = parse_predict(b'{"inputs": {"a": ["x"], "b": 3}}', settings)
    assert (first.datatype, second.shape) == ("BYTES", (1,))


TENSORS = [
    Tensor(name, datatype, shape, b"")
    for name in ("x", "y")
    for datatype in ("FP32", "FP64")
    for shape in ((), (0,), (2,), (-1,), (0, 3), (1, 3), (2, 3), (3, 2), (1, 3, 1))
]


@pytest.mark.parametrize("call", ["array", "named"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 3), (-1, -1), (2, 3), ()])
def test_the_quick_look_at_inputs_finds_what_the_slow_one_does(call: str, shape: tuple[int, ...]) -> None:
    def told(look: Any, tensors: list[Tensor]) -> Any:
        try:
            return look(tensors)
        except Refusal as refusal:
            return refusal.message

    settings = echo_settings(signature=Signature((TensorSpec("x", "FP32", shape),), ()), call=call)
    quick = matcher(settings)
    for tensors in ([], *([tensor] for tensor in TENSORS), TENSORS[:2]):
        assert told(quick, tensors) == told(lambda given: match(given, settings), tensors)


@pytest.mark.parametrize(
    "body",
    [b'{"inputs": [], "instances": []}', b'{"inputs": [1]}', b'{"instances": []}', b'{"instances": {}}',
     b'{"inputs": {"zz": [1]}}', b'{"instances": [{"x": 1}, {"y": 1}]}', b'{"instances": [[1, 2]]}', b"[]"],
)  # fmt: skip
def test_predict_body_of_another_form_is_refused(body: bytes) -> None:
    settings = echo_settings()
    with pytest.raises(Refusal) as caught:
        match(parse_predict(body, settings), settings)
    assert caught.value.status == 400


def test_decompression_never_holds_more_than_the_limit() -> None:
    import zlib

    with pytest.raises(Refusal) as caught:
        decompress(bytearray(zlib.compress(b"a" * 1001)), "deflate", 1000)
    assert caught.value.status == 413
    assert decompress(bytearray(zlib.compress(b"a" * 1000)), "deflate", 1000) == b"a" * 1000
