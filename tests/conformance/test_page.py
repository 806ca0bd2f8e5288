"""The page: whole in itself, closed to everything else, and true to the model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pytest
from support.plain_models import columns_root, rows_root
from support.serving import Served, serve

HTML = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


def _between(text: str, begin: str, end: str) -> str:
    found = re.search(f"{begin}(.*?){end}", text, re.DOTALL)
    assert found is not None, text
    return found.group(1)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Served:
    with serve(columns_root(tmp_path_factory.mktemp("columns"))) as running:
        yield running


def test_the_page_needs_nothing_and_nothing_else_may_run(server: Served) -> None:
    reply = server.request("GET", "/", headers=HTML)
    text = reply.body.decode()
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src {_hash(_between(text, '<script>', '</script>'))};" in policy
    assert f"style-src {_hash(_between(text, '<style>', '</style>'))};" in policy
    assert not re.search(r"//|src=|url\(|@import|\son\w+=|style=", text.replace("<!doctype", ""))


def test_its_example_is_answered(server: Served) -> None:
    text = server.request("GET", "/", headers=HTML).body.decode()
    example = json.loads(unescape(_between(text, "<textarea[^>]*>", "</textarea>")))
    assert server.request("POST", "/predict", example).status == 200


def test_everybody_else_hears_that_the_server_lives(server: Served) -> None:
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert server.request("GET", "/", headers=headers).json == {"status": "alive"}
    document = server.request("GET", "/openapi.json").json
    assert document["info"] == {"title": "columns", "version": "1"}


def test_names_cannot_write_markup(tmp_path: Path) -> None:
    with serve(rows_root(tmp_path, version='1"><script>x</script>')) as server:
        text = server.request("GET", "/", headers=HTML).body.decode()
        assert text.count("<script>") == 1
        assert "&lt;script&gt;x" in text
