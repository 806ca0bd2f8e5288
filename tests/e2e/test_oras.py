"""oras as an independent reader and writer: images copied there and back, and what is attached to them, both ways."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import machine
from support.readers import reader
from support.registries import RealRegistry, docker_registry
from support.small_image import two_platforms
from support.tiny_image import tiny_image

from intermodal import pipeline
from intermodal.oci.descriptor import MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate
from intermodal.registry.client import Registries
from intermodal.registry.reference import parse_remote
from intermodal.registry.referrers import Referrer, list_referrers, put_referrer

pytestmark = pytest.mark.slow
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}
NOTE = "application/vnd.example.note"


@pytest.fixture(scope="module")
def registry() -> Iterator[RealRegistry]:
    with docker_registry() as running:
        yield running


def oras(*words: str | Path, folder: Path) -> str:
    """Standard output of oras, run in a folder."""
    done = subprocess.run([reader("oras"), *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attached(name: str, folder: Path) -> list[tuple[str, str]]:
    """Digest and type of everything that `oras discover` finds."""
    found = json.loads(oras("discover", "--plain-http", "--format", "json", name, folder=folder))
    return [(item["digest"], item["artifactType"]) for item in found.get("referrers") or found.get("manifests") or ()]


def test_what_oras_copies_is_what_we_pushed(registry: RealRegistry, tmp_path: Path) -> None:
    host = machine(tmp_path / "one", PATH="/usr/bin:/bin")
    store = pipeline.open_store(host)
    tiny_image(store, "tiny:1")
    two_platforms(store, "both:1")
    name, copied = f"{registry.address}/with/oras", f"{registry.address}/by/oras"
    for image in ("tiny", "both"):
        pushed = pipeline.push(f"{image}:1", f"{name}:{image}", host=host)
        oras("cp", "--from-plain-http", "--to-plain-http", f"{name}:{image}", f"{copied}:{image}", folder=tmp_path)
        oras("cp", "--from-plain-http", "--to-oci-layout", f"{name}:{image}", f"out:{image}", folder=tmp_path)
        assert oras("resolve", "--plain-http", f"{copied}:{image}", folder=tmp_path).strip() == str(pushed.digest)
        pulled = pipeline.pull(f"{copied}:{image}", host=machine(tmp_path / "two", PATH="/usr/bin:/bin"))
        assert pulled.digest == store.manifest_for(store.resolve(f"{image}:1"), host.platform)
        written = Store(tmp_path / "out")
        assert validate(written, written.resolve(image)) == ()


def test_what_is_attached_is_found_by_both(registry: RealRegistry, tmp_path: Path) -> None:
    host = machine(tmp_path / "one", PATH="/usr/bin:/bin")
    tiny_image(pipeline.open_store(host), "tiny:1")
    name = f"{registry.address}/attached/oras:1"
    subject = pipeline.push("tiny:1", name, host=host).digest
    assert attached(name, tmp_path) == []
    (tmp_path / "note.txt").write_text("by oras")
    oras("attach", "--plain-http", "--artifact-type", NOTE, name, "note.txt:text/plain", folder=tmp_path)
    with Registries(host) as registries:
        repository = registries.repository(parse_remote(name))
        (theirs,) = list_referrers(repository, subject, NOTE)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": f"{NOTE}.ours",
            "config": EMPTY,
            "layers": [EMPTY],
            "subject": {"mediaType": MANIFEST, "digest": str(subject), "size": 1},
        }
        data = json.dumps(document).encode()
        ours = Descriptor(MANIFEST, Digest.of(data), len(data))
        put_referrer(repository, data, Referrer(ours, f"{NOTE}.ours"), subject)
    found = set(attached(name, tmp_path))
    assert found == {(str(theirs.descriptor.digest), NOTE), (str(ours.digest), f"{NOTE}.ours")}
