"""Push and pull against Debian's docker-registry, with skopeo as the independent reader and writer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from support import engines
from support.cli import intermodal
from support.cutting_proxy import cutting
from support.engines import need
from support.machine import machine
from support.people import docker_login, quick
from support.readers import reader
from support.registries import RealRegistry, docker_registry
from support.small_image import documents, noise, small_image, two_platforms
from support.tiny_image import tiny_image

from intermodal import pipeline
from intermodal.errors import RegistryError, UnknownImageError
from intermodal.host import Host
from intermodal.oci.descriptor import DOCKER_LAYER, LAYER_GZIP, LAYER_ZSTD
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate
from intermodal.registry.client import Registries
from intermodal.registry.reference import parse_remote
from intermodal.registry.referrers import list_referrers
from intermodal.rooms.push import pull, push

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry() -> Iterator[RealRegistry]:
    with docker_registry() as running:
        yield running


def person(tmp_path: Path, name: str, **environment: str) -> tuple[Host, Store]:
    """Somebody with a home and a store of their own."""
    host = machine(tmp_path / name, PATH="/usr/bin:/bin", **environment)
    return host, pipeline.open_store(host)


def test_image_goes_there_and_back_unchanged(registry: RealRegistry, tmp_path: Path) -> None:
    host, store = person(tmp_path, "one")
    digest = tiny_image(store, "tiny:1")
    to = f"{registry.address}/round/trip"
    pushed = pipeline.push("tiny:1", to, host=host)
    assert (pushed.digest, pushed.reference, len(pushed.uploaded)) == (digest, f"{to}:1", 3)
    again = pipeline.push("tiny:1", to, host=host)
    assert (again.unchanged, again.uploaded_bytes, again.uploaded) == (True, 0, ())

    other, theirs = person(tmp_path, "two")
    pulled = pipeline.pull(f"{to}:1", host=other)
    assert (pulled.digest, pulled.name) == (digest, f"{to}:1")
    assert validate(theirs, theirs.resolve(f"{to}:1")) == ()
    assert pipeline.pull(f"{to}:1", host=other).unchanged


def test_what_others_push_and_what_they_make_of_ours(registry: RealRegistry, tmp_path: Path) -> None:
    """skopeo reads ours, and writes Docker's manifests, other compressions and indexes that we read."""
    skopeo = need("skopeo")
    host, store = person(tmp_path, "one")
    digest = tiny_image(store, "tiny:1")
    name = f"{registry.address}/with/skopeo"
    pipeline.push("tiny:1", name, host=host)

    def run(*words: str) -> str:
        done = subprocess.run([skopeo, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen = json.loads(run("inspect", "--tls-verify=false", f"docker://{name}:1"))
    assert seen["Digest"] == str(digest) and seen["Os"] == "linux"
    run("copy", "-q", "--src-tls-verify=false", f"docker://{name}:1", f"oci:{tmp_path}/copied:1")
    listed = json.loads((tmp_path / "copied/index.json").read_text())
    assert listed["manifests"][0]["digest"] == str(digest)
    # into a folder first: on its way into a registry skopeo takes blobs that it knows to be there, however packed
    packed = f"oci:{tmp_path}/packed:1"
    run("copy", "-q", "--dest-compress", "--dest-compress-format", "zstd", f"oci:{tmp_path}/copied:1", packed)
    kinds: list[str] = []
    for number, (form, source) in enumerate(
        [("oci", f"oci:{tmp_path}/copied:1"), ("v2s2", f"oci:{tmp_path}/copied:1"), ("oci", packed)]
    ):
        run("copy", "-q", "--dest-tls-verify=false", "--format", form, source, f"docker://{name}:back-{number}")
        other, theirs = person(tmp_path, f"reader-{number}")
        pulled = pipeline.pull(f"{name}:back-{number}", host=other)
        assert validate(theirs, theirs.resolve(pulled.name)) == ()
        assert pulled.platforms == (host.platform,)
        kinds.append(documents(theirs, theirs.resolve(pulled.name))[0]["layers"][0]["mediaType"])
    assert kinds == [LAYER_GZIP, DOCKER_LAYER, LAYER_ZSTD]


def test_an_index_goes_there_and_back(registry: RealRegistry, tmp_path: Path) -> None:
    host, store = person(tmp_path, "one")
    image = two_platforms(store)
    name = f"{registry.address}/both/platforms"
    pushed = pipeline.push("both:1", name, host=host)
    assert pushed.digest == image.digest
    assert pipeline.push("both:1", name, host=host).unchanged
    other, theirs = person(tmp_path, "two")
    whole = pipeline.pull(f"{name}:1", host=other, platform="all", tag="all:1")
    assert (whole.digest, whole.platforms) == (image.digest, ("linux/amd64", "linux/arm64"))
    one = pipeline.pull(f"{name}:1", host=other, platform="linux/arm64", tag="arm:1")
    assert (one.platforms, one.top, one.downloaded) == (("linux/arm64",), image.digest, ())
    by_digest = pipeline.pull(f"{name}@{image.digest}", host=other)
    assert by_digest.platforms == (other.platform,)
    assert [validate(theirs, theirs.resolve(n)) for n in ("all:1", "arm:1", by_digest.name)] == [(), (), ()]


def test_code_change_neighbour_and_deletion(registry: RealRegistry, tmp_path: Path) -> None:
    host, store = person(tmp_path, "one")
    tiny_image(store, "tiny:1", code="1")
    tiny_image(store, "tiny:2", code="2")
    name = f"{registry.address}/code/change"
    first = pipeline.push("tiny:1", name, host=host)
    second = pipeline.push("tiny:2", name, host=host)
    assert second.uploaded_bytes < 20_000 < first.uploaded_bytes
    beside = pipeline.push("tiny:2", f"{registry.address}/code/neighbour", host=host)
    assert (len(beside.mounted), beside.uploaded) == (3, ())
    with Registries(host) as registries:
        repository = registries.repository(parse_remote(name))
        assert sorted(repository.tags()) == ["1", "2"]
        assert list_referrers(repository, first.digest) == ()
        assert repository.delete_manifest(str(first.digest))
        assert list(repository.tags()) == ["2"]
    with pytest.raises(UnknownImageError, match="does not have it"):
        pipeline.pull(f"{name}:1", host=host)


def test_tls_and_a_login(tmp_path: Path) -> None:
    login = ("me", "the-secret-of-the-real-one")
    with docker_registry(tls=True, login=login) as registry:
        name = f"{registry.address}/team/tiny"
        host, store = person(tmp_path, "one")
        tiny_image(store, "tiny:1")
        with pytest.raises(RegistryError, match="certificate"):
            pipeline.push("tiny:1", name, host=host)
        trusting = {"INTERMODAL_ETC": str(registry.certs(tmp_path / "etc"))}
        with pytest.raises(RegistryError, match="refuses") as caught:
            pipeline.push("tiny:1", name, host=machine(host.home, PATH="/usr/bin", **trusting))
        assert "wants a login" in str(caught.value)
        docker_login(host.home, registry.address, "me", "wrong-password")
        with pytest.raises(RegistryError, match="refuses") as caught:
            pipeline.push("tiny:1", name, host=machine(host.home, PATH="/usr/bin", **trusting))
        assert "wrong-password" not in str(caught.value) and "config.json" in str(caught.value)
        docker_login(host.home, registry.address, *login)
        own = machine(host.home, PATH="/usr/bin", **trusting)
        assert pipeline.push("tiny:1", name, host=own).uploaded
        ci = {"INTERMODAL_REGISTRY": registry.address, "INTERMODAL_REGISTRY_USERNAME": login[0]}
        other, theirs = person(tmp_path, "two", INTERMODAL_REGISTRY_PASSWORD=login[1], **ci, **trusting)
        assert validate(theirs, theirs.resolve(pipeline.pull(f"{name}:1", host=other).name)) == ()
        for path in (*tmp_path.rglob("*"),):
            if path.is_file() and path.name != "config.json" and path.stat().st_size < 1_000_000:
                assert login[1].encode() not in path.read_bytes(), path


def test_the_commands_as_people_type_them(registry: RealRegistry, tmp_path: Path) -> None:
    name = f"{registry.address}/typed/tiny"
    store = Store(tmp_path / "data/intermodal/store").open_or_create()
    digest = tiny_image(store, "tiny:7", labels={"dev.intermodal.format": "joblib", "dev.intermodal.framework": "x"})
    pushed = intermodal("push", "tiny:7", name, "--json", home=tmp_path, cache=None)
    assert pushed.code == 0, pushed.err
    assert pushed.json["reference"] == f"{name}:7" and pushed.json["digest"] == str(digest)
    assert {"uploaded_bytes", "mounted", "skipped"} < pushed.json.keys()
    again = intermodal("push", "tiny:7", name, home=tmp_path, cache=None)
    assert "nothing: the registry has it" in again.out and f"{name}@{digest}" in again.out

    before = registry.blobs()
    seen = intermodal("inspect", f"{name}:7", "--json", home=tmp_path / "new", cwd=tmp_path, cache=None)
    assert seen.code == 0, seen.err
    assert (seen.json["digest"], seen.json["format"], seen.json["where"]) == (str(digest), "joblib", "registry")
    assert seen.json["python"] and seen.json["layers"] == 2
    assert not any((tmp_path / "new/data/intermodal/store/blobs/sha256").iterdir()), "no layer was pulled"

    pulled = intermodal("pull", f"{name}:7", "-t", "mine:1", "--json", home=tmp_path / "new", cwd=tmp_path, cache=None)
    assert (pulled.code, pulled.json["name"], pulled.json["digest"]) == (0, "mine:1", str(digest)), pulled.err
    local = intermodal("inspect", "mine:1", home=tmp_path / "new", cwd=tmp_path, cache=None)
    assert "(store)" in local.out
    absent = intermodal("pull", f"{name}:8", "--json", home=tmp_path / "new", cwd=tmp_path, cache=None)
    assert (absent.code, absent.json["kind"]) == (2, "UnknownImageError")
    nobody = intermodal("push", "tiny:7", "127.0.0.1:1/x", "--json", home=tmp_path, cache=None)
    assert (nobody.code, nobody.json["kind"]) == (3, "RegistryUnreachableError")
    assert registry.blobs() == before


def pull_with(engine: str, words: list[str], variables: Mapping[str, str]) -> str:
    program = need(engine)
    environment = {**os.environ, **variables}
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_engines_pull_what_we_push(registry: RealRegistry, tmp_path: Path) -> None:
    """docker, podman and containerd, each from the registry, by tag; the digest is ours everywhere."""
    host, store = person(tmp_path, "one")
    name, both = f"{registry.address}/for/engines", f"{registry.address}/for/engines-both"
    small_image(store, "small:1")
    two_platforms(store, "both:1")
    digest, index = (
        str(pipeline.push("small:1", name, host=host).digest),
        str(pipeline.push("both:1", both, host=host).digest),
    )
    with engines.docker() as running:
        for reference, expected in ((name, digest), (both, index)):
            pull_with("docker", ["pull", "-q", f"{reference}:1"], running.variables)
            told = pull_with("docker", ["inspect", "-f", "{{json .RepoDigests}}", f"{reference}:1"], running.variables)
            assert json.loads(told) == [f"{reference}@{expected}"]
    with engines.podman() as running:
        for reference, expected in ((name, digest), (both, index)):
            pull_with("podman", ["pull", "-q", "--tls-verify=false", f"{reference}:1"], running.variables)
            told = pull_with("podman", ["inspect", "-f", "{{json .RepoDigests}}", f"{reference}:1"], running.variables)
            assert f"{reference}@{expected}" in json.loads(told)
    with engines.containerd() as running:
        for reference, expected in ((name, digest), (both, index)):
            pull_with("ctr", ["images", "pull", "--plain-http", f"{reference}:1"], running.variables)
            assert expected in pull_with("ctr", ["images", "ls", f"name=={reference}:1"], running.variables)


def test_the_real_registry_behind_a_network_that_breaks(registry: RealRegistry, tmp_path: Path) -> None:
    """Debian's registry 2.8 forgets an upload that broke, so it begins anew; downloads continue where they were."""
    host, store = person(tmp_path, "one")
    image = small_image(store, "small:1", contents=(noise(20_000_000, 6), noise(9_000_000, 7), b"x"))
    with cutting(registry.address) as proxy:
        reference = parse_remote(f"{proxy.address}/broken/network:1")
        cuts = iter([5_000_000, 3_000_000, 4_000_000, 5_000_000])
        proxy.up = lambda: next(cuts, None)
        report = push(image, reference, store=store, host=host, manner=quick(time.sleep))
        assert report.digest == image.digest and proxy.cuts

        proxy.cuts = 0
        random_cuts = random.Random(5)
        proxy.down = lambda: random_cuts.randrange(4_000_000, 9_000_000)
        other, theirs = person(tmp_path, "two")
        pulled = pull(reference, store=theirs, host=other, manner=quick(time.sleep))
        assert validate(theirs, theirs.resolve(pulled.name)) == () and pulled.digest == image.digest
        assert proxy.cuts >= 3, "no connection lives long enough for the large layer"


def test_crane_validates_what_we_push_and_writes_what_we_pull(registry: RealRegistry, tmp_path: Path) -> None:
    crane = str(reader("crane"))
    host, store = person(tmp_path, "one")
    tiny_image(store, "tiny:1")
    two_platforms(store, "both:1")
    name = f"{registry.address}/with/crane"

    def run(*words: str) -> str:
        done = subprocess.run([crane, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for image in ("tiny", "both"):
        pushed = pipeline.push(f"{image}:1", f"{name}:{image}", host=host)
        assert run("validate", "--remote", f"{name}:{image}").startswith("PASS")
        assert run("digest", f"{name}:{image}").strip() == str(pushed.digest)
        run("copy", f"{name}:{image}", f"{registry.address}/by/crane:{image}")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "note").write_text("added")
    subprocess.run(["tar", "-cf", tmp_path / "layer.tar", "-C", tmp_path, "app"], check=True)
    run("append", "-b", f"{name}:tiny", "-f", str(tmp_path / "layer.tar"), "-t", f"{registry.address}/by/crane:more")
    other, theirs = person(tmp_path, "two")
    for image in ("tiny", "both", "more"):
        pulled = pipeline.pull(f"{registry.address}/by/crane:{image}", host=other)
        assert validate(theirs, theirs.resolve(pulled.name)) == ()
    assert len(documents(theirs, theirs.resolve(f"{registry.address}/by/crane:more"))[0]["layers"]) == 3
