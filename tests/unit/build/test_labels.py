"""Long texts are labels that every engine takes, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_digest.project import FROZEN, card, inputs, located, project

from intermodal.oci.digest import Digest
from intermodal.oci.labels import MAX_BYTES, belongs, gathered, spread
from intermodal.rooms.build.content import labels, model_settings
from intermodal.rooms.lock.lockfile import read_lock
from intermodal_server import openapi

NAME = "dev.intermodal.openapi"


@pytest.mark.parametrize("text", ["", "x" * 4000, "x" * 4001, "é" * 5000, "a" + "€" * 9000, "𝕏" * 3001])
def test_a_text_comes_back_from_pieces_that_ctr_takes(text: str) -> None:
    labels = spread(NAME, text)
    assert gathered({"other": "y", **labels}, NAME) == text
    assert all(len(name) + len(value.encode()) <= 4096 for name, value in labels.items())
    assert all(belongs(name, NAME) for name in labels)
    assert (NAME in labels) == (len(text.encode()) <= MAX_BYTES)


def test_what_is_not_there_is_empty_and_other_names_do_not_belong() -> None:
    assert gathered({f"{NAME}.2": "y"}, NAME) == ""
    assert not any(belongs(name, NAME) for name in ("dev.intermodal.openapix", f"{NAME}.x", "dev.intermodal"))


def test_an_image_describes_itself(tmp_path: Path) -> None:
    made = project(tmp_path)
    lock, model = (
        located(read_lock(FROZEN / "pylock.intermodal.toml"), inputs(tmp_path / "inputs")),
        card(made.artifact),
    )
    written = labels(lock, model, made, Digest.of(b"lock"))
    assert gathered(written, NAME) == openapi.text(model_settings(lock, model, made))
