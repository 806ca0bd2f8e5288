"""MLflow's scoring server and SageMaker's container on the wire: every form of JSON, and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.plain_models import columns_root, rows_root
from support.serving import Reply, Served, serve

CSV = {"Content-Type": "text/csv"}
TABLE = {"columns": ["vip", "name", "age"], "index": [0, 1], "data": [[True, "Ada", 41], [False, None, 7]]}
GREETED = {"greeting": ["Ada:41", "None:7"], "scores": [[1.0, 3.0], [0.0, 0.0]]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(rows_root(tmp_path_factory.mktemp("rows"))) as running:
        yield running


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(columns_root(tmp_path_factory.mktemp("columns"))) as running:
        yield running


def _ask(server: Served, body: Any, headers: dict[str, str] | None = None) -> Reply:
    return server.request("POST", "/invocations", body, headers)


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3], [4, 5, 6]]}},
        {"dataframe_split": {"data": [[1, 2, 3], [4, 5, 6]]}},
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3}, {"c": 6, "a": 4, "b": 5}]},
        {"instances": [[1, 2, 3], [4, 5, 6]]},
        {"instances": [{"X": [1, 2, 3]}, {"X": [4, 5, 6]}], "params": {}},
        {"inputs": [[1, 2, 3], [4, 5, 6]]},
        {"inputs": {"X": [[1, 2, 3], [4, 5, 6]]}},
        [[1, 2, 3], [4, 5, 6]],
    ],
)
def test_every_form_of_json(rows: Served, body: Any) -> None:
    assert _ask(rows, body).json == {"predictions": [6.0, 15.0]}


def test_tables_of_columns(columns: Served) -> None:
    assert _ask(columns, {"dataframe_split": TABLE}).json == {"predictions": GREETED}
    records = [dict(zip(TABLE["columns"], row, strict=True)) for row in TABLE["data"]]
    assert _ask(columns, {"dataframe_records": records}).json == {"predictions": GREETED}


def test_nan_as_python_writes_it_is_taken_here(rows: Served) -> None:
    assert _ask(rows, b'{"inputs": [[NaN, 1.0, 2.0]]}').status == 200
    assert _ask(rows, b'{"inputs": [[Infinity, 1.0, 2.0]]}').json == {"predictions": [None]}
    assert _ask(rows, b'{"inputs": [[NaNa, 1.0, 2.0]]}').status == 400
    assert rows.request("POST", "/v1/models/rows:predict", b'{"inputs": [[NaN, 1.0, 2.0]]}').status == 400


@pytest.mark.parametrize(
    ("body", "kind", "total"),
    [
        (b"1,2,3\n4,5,6\n", "text/csv", [6.0, 15.0]),
        (b"a,b,c\r\n1,2,3\r\n4,5,6", "text/csv; charset=utf-8", [6.0, 15.0]),
        (b"1,2,3\n4,5,6\n", "text/csv;header=present", [15.0]),
        (b"\xef\xbb\xbf1,2,3", "text/csv", [6.0]),
        (b"1,nan,3\n\n2,inf,3", "Text/CSV", [None, None]),
    ],
)
def test_csv_with_and_without_names(rows: Served, body: bytes, kind: str, total: list[Any]) -> None:
    reply = _ask(rows, body, {"Content-Type": kind})
    assert reply.json == {"predictions": total}


def test_csv_of_columns(columns: Served) -> None:
    for text in ('vip,name,age\nTrue,Ada,41\nfalse,"",7\n', "41,Ada,1\n7,,0\n"):
        assert _ask(columns, text.encode(), CSV).json == {"predictions": GREETED}


def test_csv_answers_csv_when_it_is_preferred(columns: Served) -> None:
    reply = _ask(columns, b"41,Ada,1\n", {**CSV, "Accept": "text/csv"})
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    assert reply.body == b"Ada:41,1.0,3.0\n"


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        ({}, {}, 400, "one of dataframe_split"),
        ({"inputs": [[1, 2, 3]], "instances": [[1, 2, 3]]}, {}, 400, "one of dataframe_split"),
        ({"inputs": [[1, 2, 3]], "params": {"t": 1}}, {}, 400, "no params"),
        ({"dataframe_split": {"columns": ["a"], "data": []}}, {}, 400, "no rows"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2, 3]]}}, {}, 400, "1 values"),
        ({"dataframe_split": [[1, 2, 3]]}, {}, 400, "list of rows"),
        ({"dataframe_split": {"columns": [True, "b", "c"], "data": [[1, 2, 3]]}}, {}, 400, "list of names"),
        ({"dataframe_records": []}, {}, 400, "list of objects"),
        ({"dataframe_records": [{"a": 1}, {"b": 1}]}, {}, 400, "same columns"),
        (b"1,2\n", CSV, 400, "shape [1, 2]"),
        (b"1,2,3\n4,5\n", CSV, 400, "row 2 of the CSV has 2 cells"),
        (b"1,2,3\n4,x,6\n", CSV, 400, "row 2 of the CSV: cell 2"),
        (b"a,b,c\n", CSV, 400, "no rows"),
        (b"", CSV, 400, "no rows"),
        (b'"1,2,3\n', CSV, 400, "not CSV"),
        (b"\xff,2,3\n", CSV, 400, "not UTF-8"),
        (b'1,2,"' + b"3" * 200_000 + b'"', CSV, 400, "not CSV"),
        (b"[[1, 2, 3]]", {"Content-Type": "application/x-npy"}, 415, "content type"),
    ],
)
def test_what_is_wrong_is_said(rows: Served, body: Any, headers: dict[str, str], status: int, told: str) -> None:
    reply = _ask(rows, body, headers)
    assert (reply.status, told in reply.json["error"]) == (status, True), reply.body


def test_csv_is_taken_here_only(rows: Served) -> None:
    assert rows.request("POST", "/predict", b"1,2,3\n", CSV).status == 415


def test_sagemaker_starts_containers_with_an_argument(tmp_path: Path) -> None:
    with serve(rows_root(tmp_path), arguments=["serve"]) as server:
        assert server.request("GET", "/ping").status == 200


def test_probes_of_both(rows: Served) -> None:
    assert rows.request("GET", "/ping").json == {"ready": True}
    assert rows.request("GET", "/health").status == 200
    assert rows.request("GET", "/version").body.startswith(b"intermodal ")
