"""Docker, podman, skopeo and containerd pull images straight from the local store, and run or read what they got."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import engines
from support.cli import world_folder
from support.engines import Running
from support.readers import reader
from support.tiny_image import tiny_image

from intermodal.cli.serve_store import commands_for, files_for
from intermodal.engine.api import DockerApi
from intermodal.host import ARCHITECTURES
from intermodal.oci.descriptor import INDEX, Descriptor
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes
from intermodal.registry.loopback import StoreServer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]
HERE = ARCHITECTURES[platform.machine().lower()]
ELSEWHERE = "arm64" if HERE == "amd64" else "amd64"


@dataclass(frozen=True)
class Offer:
    """A store on loopback: one plain image, one behind an index, one replaced by the other."""

    server: StoreServer
    plain: Digest
    index: Digest

    def name(self, rest: str) -> str:
        return f"localhost:{self.server.port}/{rest}"


@pytest.fixture(scope="module")
def offer() -> Iterator[Offer]:
    with world_folder() as folder:
        store = Store(folder / "store").open_or_create()
        plain = tiny_image(store, "tiny:1")
        other = tiny_image(store, "team/code:2", code="other")
        here, there = (store.resolve(name) for name in ("tiny:1", "team/code:2"))
        inner = [replace(here, platform=f"linux/{HERE}"), replace(there, platform=f"linux/{ELSEWHERE}")]
        index = Descriptor(INDEX, *store.put_bytes(index_bytes(inner)))
        store.tag("team/both:1", index)
        assert plain != other
        with StoreServer(store) as server:
            yield Offer(server, plain, index.digest)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(getattr(engines, name)()) for name in ("docker", "podman", "containerd")}


def call(words: list[str], running: Running | None = None) -> str:
    environment = {**os.environ, **(running.variables if running else {})}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", ["tiny", "team/both"])
def test_docker_pulls_by_its_own_api(offer: Offer, running: dict[str, Running], name: str) -> None:
    api = DockerApi(Path(running["docker"].variables["DOCKER_HOST"].removeprefix("unix://")))
    told = list(api.streamed_json("POST", "/images/create", b"", {"fromImage": offer.name(name), "tag": "1"}))
    assert not [line for line in told if "error" in line], told
    pulled = api.json("GET", f"/images/{offer.name(name)}:1/json")
    wanted = offer.plain if name == "tiny" else offer.index
    assert f"{offer.name(name)}@{wanted}" in pulled["RepoDigests"]
    assert pulled["Architecture"] == HERE
    again = list(api.streamed_json("POST", "/images/create", b"", {"fromImage": offer.name(name), "tag": "1"}))
    assert any("up to date" in line.get("status", "") for line in again)


def test_podman_pulls_and_runs(offer: Offer, running: dict[str, Running]) -> None:
    reference = offer.name("tiny:1")
    program, *words = commands_for(reference)["podman"].split()
    call([engines.need(program), *words], running["podman"])
    digests = call(["podman", "image", "inspect", "--format", "{{.Digest}}", reference], running["podman"])
    assert digests.strip() == str(offer.plain)


def test_skopeo_reads_and_copies_everything(offer: Offer, tmp_path: Path) -> None:
    reference = offer.name("team/both:1")
    program, *words = commands_for(reference)["skopeo"].split()
    program = engines.need(program)
    seen = json.loads(call([program, *words]))
    assert (seen["Architecture"], seen["RepoTags"]) == (HERE, ["1"])
    target = f"oci:{tmp_path / 'copy'}:1"
    call([program, "copy", "--all", "--src-tls-verify=false", f"docker://{reference}", target])
    (copied,) = json.loads((tmp_path / "copy/index.json").read_bytes())["manifests"]
    assert copied["digest"] == str(offer.index)


@pytest.mark.network
def test_crane_lists_and_validates_and_is_told_that_nothing_can_be_written(offer: Offer) -> None:
    crane = str(reader("crane"))
    assert call([crane, "catalog", offer.name("").rstrip("/")]).split() == ["team/both", "team/code", "tiny"]
    assert call([crane, "ls", offer.name("team/code")]).split() == ["2"]
    assert call([crane, "digest", offer.name("team/both:1")]).strip() == str(offer.index)
    assert call([crane, "validate", "--remote", offer.name("tiny:1")]).startswith("PASS")
    done = subprocess.run([crane, "tag", offer.name("tiny:1"), "3"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "this registry is read-only" in done.stderr


def test_containerd_pulls_by_our_command_and_through_the_files_that_nodes_are_given(
    offer: Offer, running: dict[str, Running], tmp_path: Path
) -> None:
    _, *words = commands_for(offer.name("tiny:1"))["containerd"].split()
    call([engines.need("ctr"), *words], running["containerd"])
    assert str(offer.plain) in call(["ctr", "-n", "k8s.io", "images", "ls"], running["containerd"])
    # what a node of kind is given: another name for the registry than its address
    known = "localhost:9"
    (content,) = [text for path, text in files_for(offer.server, known).items() if path.startswith("containerd")]
    for registry, image in ((known, f"{known}/tiny:1"), ("docker.io", "docker.io/library/tiny:1")):
        folder = tmp_path / registry
        folder.mkdir()
        (folder / "hosts.toml").write_text(content)
        call(["ctr", "images", "pull", "--hosts-dir", str(tmp_path), image], running["containerd"])
        assert str(offer.plain) in call(["ctr", "images", "ls", f"name=={image}"], running["containerd"])
