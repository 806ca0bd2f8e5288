"""Input files become named requests: rows up to sixteen, all rows, types of the signature, nothing dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intermodal.errors import InputError
from intermodal.golden.inputs import NamedRequest, read_requests
from intermodal_server.contract import Signature, TensorSpec


def signature(*inputs: tuple[str, str, tuple[int, ...]], assumed: bool = False) -> Signature:
    return Signature(tuple(TensorSpec(n, d, s, assumed) for n, d, s in inputs), ())


ARRAY = signature(("X", "FP64", (-1, 3)))
COLUMNS = signature(("age", "FP64", (-1,)), ("port", "BYTES", (-1,)))


def read(folder: Path, name: str, text: str, wanted: Signature, call: str) -> list[NamedRequest]:
    (folder / name).write_text(text)
    return read_requests(folder / name, wanted, call)


def data(request: NamedRequest) -> dict[str, Any]:
    return {item["name"]: (item["datatype"], item["shape"], item["data"]) for item in request.request["inputs"]}


def test_rows_and_all_rows(tmp_path: Path) -> None:
    text = "\n".join(f"{n},{n + 0.5},0" for n in range(20))
    found = read(tmp_path, "x.csv", text, ARRAY, "array")
    assert [r.name for r in found] == [*(f"row {n}" for n in range(1, 17)), "all rows"]
    assert data(found[1]) == {"X": ("FP64", [1, 3], [1.0, 1.5, 0.0])}
    assert data(found[-1])["X"][1] == [20, 3]


def test_one_row_is_one_case(tmp_path: Path) -> None:
    found = read(tmp_path, "x.csv", "a,b,c\n1,2,\n", ARRAY, "array")
    assert [r.name for r in found] == ["row 1"]
    assert data(found[0])["X"][2] == [1.0, 2.0, None]


def test_csv_by_column_names(tmp_path: Path) -> None:
    found = read(tmp_path, "x.csv", '\ufeffport,age\n"Bergen, old",31\nÅrhus,\n', COLUMNS, "columns")
    assert data(found[-1]) == {
        "age": ("FP64", [2], [31.0, None]),
        "port": ("BYTES", [2], ["Bergen, old", "Århus"]),
    }


def test_assumed_types_give_way_to_what_the_file_holds(tmp_path: Path) -> None:
    assumed = signature(*((n, "FP64", (-1,)) for n in ("i", "f", "b", "t", "gap")), assumed=True)
    found = read(tmp_path, "x.csv", "i,f,b,t,gap\n1,1.5,True,x,2\n2,2,False,7,\n", assumed, "columns")
    assert {name: value[0] for name, value in data(found[-1]).items()} == {
        "i": "INT64", "f": "FP64", "b": "BOOL", "t": "BYTES", "gap": "FP64",
    }  # fmt: skip


def test_text_columns_stay_text_where_the_signature_knows(tmp_path: Path) -> None:
    found = read(tmp_path, "x.csv", "age,port\n1,007\n", COLUMNS, "columns")
    assert data(found[0])["port"] == ("BYTES", [1], ["007"])


def test_the_index_that_pandas_writes_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, "x.csv", ",age,port\n0,1,x\n", COLUMNS, "columns")
    assert set(data(found[0])) == {"age", "port"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age\n1\n", "does not hold the inputs"),
        ("age,port,extra\n1,x,2\n", "does not hold the inputs"),
        ("age,port\n1\n", "different lengths"),
        ("age,age\n1,2\n", "twice"),
        ("", "is empty"),
        ("age,port\n", "no common rows"),
        ("age,port\nold,x\n", "no FP64"),
        ("age,port\ninf,x\n", "infinite"),
        ('age,port\n1,"x\n', "not a CSV"),
    ],
)
def test_wrong_csv(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, "x.csv", text, COLUMNS, "columns")
    assert caught.value.found or caught.value.next


def test_array_of_another_width(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another shape") as caught:
        read(tmp_path, "x.csv", "1,2\n3,4\n", ARRAY, "array")
    assert caught.value.next == ("X is FP64 [-1, 3]",)


def v2(**tensors: tuple[str, list[int], list[Any]]) -> str:
    return json.dumps(
        {"inputs": [{"name": n, "datatype": d, "shape": s, "data": v} for n, (d, s, v) in tensors.items()]}
    )


def test_v2_request(tmp_path: Path) -> None:
    found = read(tmp_path, "x.json", v2(X=("FP64", [2, 3], [[1, 2, 3], [4, 5, None]])), ARRAY, "array")
    assert [r.name for r in found] == ["row 1", "row 2", "all rows"]
    assert data(found[1])["X"][2] == [4, 5, None]


def test_a_single_row_without_its_batch_axis(tmp_path: Path) -> None:
    found = read(tmp_path, "x.json", v2(X=("INT64", [3], [1, 2, 3])), ARRAY, "array")
    assert data(found[0]) == {"X": ("FP64", [1, 3], [1.0, 2.0, 3.0])}


def test_requests_and_golden_cases_stay_whole(tmp_path: Path) -> None:
    body = json.loads(v2(X=("FP64", [2, 3], [0.0] * 6)))
    assert read(tmp_path, "x.json", json.dumps([body]), ARRAY, "array") == [NamedRequest("request 1", body)]
    golden = {"cases": [{"name": "edge", "request": body, "response": {}, "rtol": 0.5}]}
    assert read(tmp_path, "g.json", json.dumps(golden), ARRAY, "array") == [NamedRequest("edge", body, 0.5, None)]


@pytest.mark.parametrize("text", ["[1]", "{}", "NaN", '{"inputs": [{"name": "X"}]}', "[" * 5000, "\x00"])
def test_wrong_json(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a V2 request"):
        read(tmp_path, "x.json", text, ARRAY, "array")


def test_integers_that_are_none(tmp_path: Path) -> None:
    wanted = signature(("n", "INT64", (-1,)))
    assert data(read(tmp_path, "x.json", v2(n=("FP64", [1], [2.0])), wanted, "named")[0])["n"][2] == [2]
    for value in (2.5, None, "2"):
        with pytest.raises(InputError, match="no INT64"):
            read(tmp_path, "x.json", v2(n=("FP64", [1], [value])), wanted, "named")


def test_unknown_signature_takes_the_names_of_the_request(tmp_path: Path) -> None:
    nothing = Signature((), ())
    found = read(tmp_path, "x.json", v2(a=("FP32", [1], [1.0]), b=("BYTES", [1], ["x"])), nothing, "named")
    assert set(data(found[0])) == {"a", "b"}


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read inputs"):
        read_requests(tmp_path / "missing.npy", ARRAY, "array")
    with pytest.raises(InputError, match="unknown kind"):
        read(tmp_path, "x.parquet", "", ARRAY, "array")
