"""What an image says of itself: from the store, from a registry, and without ever fetching a layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import intermodal
from support.other_registry import Registry, running
from support.people import quick, somebody
from support.small_image import small_image, two_platforms

from intermodal.errors import ImageRefusedError, UnknownImageError
from intermodal.oci.descriptor import INDEX
from intermodal.oci.layout import Store
from intermodal.registry.reference import parse_remote
from intermodal.rooms.inspect.stored import inspect_reference
from intermodal.rooms.push import push

SIGNATURE = {
    "inputs": [{"name": "X", "datatype": "FP64", "shape": [-1, 4]}],
    "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
}
LABELS = {
    "dev.intermodal.signature": json.dumps(SIGNATURE),
    "dev.intermodal.format": "joblib",
    "dev.intermodal.framework": "scikit-learn",
    "dev.intermodal.lock.digest": "sha256:" + "1" * 64,
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


def test_labels_of_an_image_in_the_store(tmp_path: Path) -> None:
    host, store = somebody(tmp_path)
    made = small_image(store, "digits:1", labels=LABELS)
    card = inspect_reference("digits", store=store, host=host).as_json()
    assert (card["where"], card["digest"], card["platforms"]) == ("store", str(made.digest), ["linux/amd64"])
    assert (card["format"], card["framework"], card["python"]) == ("joblib", "scikit-learn", "3.11")
    assert card["signature"] == SIGNATURE and card["lock_digest"] == LABELS["dev.intermodal.lock.digest"]
    assert card["safe"] is None, "labels cannot say so"


def test_labels_of_an_image_in_a_registry(registry: Registry, tmp_path: Path) -> None:
    host, store = somebody(tmp_path / "one")
    name = f"{registry.address}/team/digits:1"
    push(small_image(store, labels=LABELS), parse_remote(name), store=store, host=host, manner=quick())
    registry.seen.clear()
    other, empty = somebody(tmp_path / "two")
    card = inspect_reference(name, store=empty, host=other).as_json()
    assert (card["where"], card["signature"], card["layers"]) == ("registry", SIGNATURE, 2)
    assert len(registry.seen) == 2, "manifest and config"
    assert not any(empty.blobs.iterdir())


def test_index_shows_this_machine_and_names_all(registry: Registry, tmp_path: Path) -> None:
    host, store = somebody(tmp_path / "one")
    made = two_platforms(store)
    name = f"{registry.address}/team/both:1"
    push(made, parse_remote(name), store=store, host=host, manner=quick())
    other, empty = somebody(tmp_path / "two")
    for there in (empty, store):
        card = inspect_reference(name if there is empty else "both", store=there, host=other)
        assert (card.digest, card.platforms) == (made.digest, ("linux/amd64", "linux/arm64"))


@pytest.mark.parametrize(
    "label", ["", "{", "[]", '{"inputs": 3}', '{"inputs": [{"name": "x"}], "outputs": []}', "[" * 9999]
)
def test_signature_that_cannot_be_understood(label: str, tmp_path: Path) -> None:
    host, store = somebody(tmp_path)
    small_image(store, "odd:1", labels={"dev.intermodal.signature": label})
    assert inspect_reference("odd", store=store, host=host).signature() == {"inputs": [], "outputs": []}


def test_what_is_no_image_is_refused(registry: Registry, tmp_path: Path) -> None:
    host, store = somebody(tmp_path)
    registry.put_image("team/x", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, media_type=INDEX)
    with pytest.raises(ImageRefusedError, match="no image"):
        inspect_reference(f"{registry.address}/team/x:1", store=store, host=host)
    with pytest.raises(UnknownImageError):
        inspect_reference("nothing:1", store=store, host=host)


def test_paths_stay_paths(tmp_path: Path) -> None:
    """A typing error in a path must not ask a stranger's server."""
    (tmp_path / "models.d").mkdir()
    for name in ("modle.joblib", "models.d/model.joblib", "./x.y/model"):
        told = intermodal("inspect", name, "--json", home=tmp_path, cache=None)
        assert (told.code, told.json["kind"]) == (2, "ProjectError"), told.json


def test_card_as_people_read_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "data/intermodal/store").open_or_create()
    small_image(store, "digits:1", labels=LABELS)
    told = intermodal("inspect", "digits:1", home=tmp_path, cache=None)
    assert told.code == 0, told.err
    for words in ("digits:1  (store)", "joblib, scikit-learn", "X  FP64 [any, 4]", "linux/amd64, Python 3.11"):
        assert words in told.out
