"""A few hundred requests that schemathesis makes up; `python -m tests.conformance.schemathesis_run` makes more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conformance.open_inference import document
from conformance.schemathesis_run import EXAMPLE, QUICK, ROOTS, against_foreign, against_ours, schemathesis
from support.serving import serve


@pytest.mark.parametrize("name", ROOTS)
def test_our_document_is_true(name: str, tmp_path: Path) -> None:
    with serve(ROOTS[name](tmp_path), tcp=True) as server:
        outcome = against_ours(server, 10, 1, QUICK)
    assert not outcome.failed, outcome.text
    assert outcome.cases > 80, outcome.text


def test_the_protocols_document_is_true_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    with serve(ROOTS["rows"](tmp_path / "root"), tcp=True) as server:
        outcome = against_foreign(server, 10, 1, QUICK)
        assert not outcome.failed, outcome.text
        url = f"http://127.0.0.1:{server.port}"
        wrong = document("rows", "1", EXAMPLE)
        wrong["components"]["schemas"]["server"]["properties"]["version"] = {"type": "integer"}
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        arguments = [str(tmp_path / "wrong.json"), "--url", url, "--include-path", "/v2/", "--phases", "fuzzing"]
        found = schemathesis(arguments, tmp_path, "")
    assert found.failed
    assert "Response violates schema" in found.text, found.text
