"""The page about the project file names every key of the schema, and no other."""

from __future__ import annotations

import re

import msgspec
import pytest
from support.envs import CHECKOUT

from intermodal.project import faults
from intermodal.project.schema import (
    Analysis,
    Check,
    Deploy,
    Environment,
    Model,
    Notify,
    Push,
    Resources,
    Serve,
    Step,
    Table,
)

PAGE = (CHECKOUT / "docs/reference/project-file.md").read_text()


@pytest.mark.parametrize(
    ("header", "schema"),
    [
        ("[model]", Model),
        ("[environment]", Environment),
        ("[serve]", Serve),
        ("[check]", Check),
        ("[push]", Push),
        ("[deploy]", Deploy),
        ("[[deploy.steps]]", Step),
        ("[deploy.analysis]", Analysis),
        ("[deploy.resources]", Resources),
        ("[deploy.notify]", Notify),
    ],
)
def test_keys_of_the_rooms_that_exist(header: str, schema: type[Table]) -> None:
    section = PAGE.partition(f"## `{header}`")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    assert list(rows) == list(fields)
    for key, shown in rows.items():
        default = fields[key].default
        if isinstance(default, bool | int | float | str):
            expected = f'`"{default}"`' if isinstance(default, str) else f"`{str(default).lower()}`"
            if (header, key) != ("[model]", "name"):
                assert shown == expected, f"{header} {key}"


def test_keys_of_later_rooms() -> None:
    section = PAGE.partition("## Tables of later rooms")[2]
    shown = {
        header: re.findall(r"`(\w+)`", keys)
        for header, keys in re.findall(r"^\| `(\S+)` \| (.*) \|$", section, re.MULTILINE)
    }
    for place, fields in faults._tables():
        name = faults.table_name(place)
        if place[0] in ("scan", "sign", "pipeline") and name != "[pipeline]":
            assert shown[name] == fields, name
