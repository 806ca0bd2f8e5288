"""Images that a registry should never have offered: each is refused by name, and nothing of it can be seen then."""

from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hostile.layers.test_hostile_layers import CASES, file, folder, raw, tar
from support.other_registry import Registry, digest_of, running
from support.people import quick, somebody

from intermodal.errors import DownloadError, ImageRefusedError, IntermodalError, UnknownImageError
from intermodal.oci.descriptor import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDEX,
    LAYER_GZIP,
    LAYER_TAR,
    LAYER_ZSTD,
    MANIFEST,
)
from intermodal.oci.layer_stream import LIMITS, Limits
from intermodal.oci.validate import validate_store
from intermodal.registry.reference import parse_remote
from intermodal.rooms.push import PullReport, pull


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


@dataclass
class Made:
    """An image to be spoiled: documents first, then bytes."""

    plain: bytes = field(default_factory=lambda: tar(folder("app"), file("app/x")))
    stored: bytes = b""
    layer_type: str = LAYER_GZIP
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    media_type: str = MANIFEST

    def __post_init__(self) -> None:
        self.stored = self.stored or gzip.compress(self.plain, 1, mtime=0)
        self.config = {"os": "linux", "architecture": "amd64", "config": {},
                       "rootfs": {"type": "layers", "diff_ids": [digest_of(self.plain)]}}  # fmt: skip
        self.manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG},
            "layers": [{"mediaType": self.layer_type, "digest": digest_of(self.stored), "size": len(self.stored)}],
        }

    def put(self, registry: Registry) -> str:
        """Its digest, in the registry as `x/y:1`."""
        config = json.dumps(self.config).encode()
        self.manifest["config"] = {"digest": digest_of(config), "size": len(config), **self.manifest["config"]}
        return registry.put_image("x/y", "1", self.manifest, config, self.stored, media_type=self.media_type)


def attempt(
    registry: Registry, home: Path, reference: str = "x/y:1", limits: Limits = LIMITS, **more: Any
) -> PullReport:
    host, store = somebody(home)
    remote = parse_remote(f"{registry.address}/{reference}")
    return pull(remote, store=store, host=host, manner=quick(attempts=2), limits=limits, **more)


def nothing_is_visible(home: Path, *, blobs: int = 0) -> None:
    _, store = somebody(home)
    assert store.images() == () and store.listed() == []
    assert len(list(store.blobs.iterdir())) == blobs
    assert not any((store.root / "partial").glob("*")) if (store.root / "partial").exists() else True


def refused(registry: Registry, home: Path, words: str, **more: Any) -> IntermodalError:
    with pytest.raises((ImageRefusedError, DownloadError), match=words) as caught:
        attempt(registry, home, **more)
    nothing_is_visible(home)
    assert "\x1b" not in str(caught.value)
    return caught.value


def test_the_unspoiled_image_is_pulled(registry: Registry, tmp_path: Path) -> None:
    digest = Made().put(registry)
    report = attempt(registry, tmp_path)
    assert str(report.digest) == digest
    assert validate_store(somebody(tmp_path)[1]).faults == ()


# --- item 10: layers ---------------------------------------------------------------------------------------------
WHITEOUTS = {"whiteout"}  # a layer may delete; the sandbox alone cannot show that


@pytest.mark.parametrize("case", sorted(CASES.keys() - WHITEOUTS), ids=lambda name: name.replace(" ", "-"))
def test_hostile_layer(case: str, registry: Registry, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    make, words = CASES[case]
    if "deletes files" in words:
        words = "deletes something|" + words
    Made(plain=make(str(outside))).put(registry)
    refused(registry, tmp_path / "home", words)
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"kept": "kept"}


def test_deletions_that_layers_may_make(registry: Registry, tmp_path: Path) -> None:
    Made(plain=tar(folder("etc"), file("etc/.wh.passwd", b""), file("d/.wh..wh..opq", b""))).put(registry)
    attempt(registry, tmp_path)


@pytest.mark.parametrize(
    "name", ["etc/.wh.", "etc/.wh..", "etc/.wh...", ".wh..wh..opq", "a/.wh..wh.plnk", "a/.wh..wh."]
)
def test_deletions_that_no_layer_may_make(name: str, registry: Registry, tmp_path: Path) -> None:
    Made(plain=tar(file(name, b""))).put(registry)
    refused(registry, tmp_path, "deletes something")


def test_setuid_is_told_and_never_lent(registry: Registry, tmp_path: Path) -> None:
    """Debian's own images have such files; unpacking strips the bits, and containers get no new privileges."""
    from intermodal.events import Events

    class Heard(Events):
        def __init__(self) -> None:
            self.told: list[str] = []

        def notice(self, message: str) -> None:
            self.told.append(message)

    heard = Heard()
    Made(plain=tar(file("su", mode=0o4755))).put(registry)
    attempt(registry, tmp_path, events=heard)
    assert any("setuid" in line and "su" in line for line in heard.told)


# --- item 11: bombs ----------------------------------------------------------------------------------------------
SMALL = Limits(entries=1000, ratio=100, ratio_from_bytes=1 << 20)


@pytest.mark.parametrize("kind", [LAYER_GZIP, LAYER_ZSTD])
def test_layer_that_unpacks_to_far_more(kind: str, registry: Registry, tmp_path: Path) -> None:
    plain = raw(b"0", 64 << 20, b"zeros") + bytes((64 << 20) + 1024)
    stored = gzip.compress(plain, 9) if kind == LAYER_GZIP else zstandard.compress(plain, 19)
    Made(plain=plain, stored=stored, layer_type=kind).put(registry)
    refused(registry, tmp_path, "far more", limits=SMALL)


def test_zstd_that_wants_gigabytes_of_window(registry: Registry, tmp_path: Path) -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0xA8]) + b"\x01\x00\x00"  # a window of 2 GiB, one empty block
    Made(plain=b"", stored=frame, layer_type=LAYER_ZSTD).put(registry)
    refused(registry, tmp_path, "damaged, or not zstd")


def test_too_many_entries(registry: Registry, tmp_path: Path) -> None:
    Made(plain=tar(*(file(f"f{n}", b"") for n in range(1100)))).put(registry)
    refused(registry, tmp_path, "too many entries", limits=SMALL)


def test_sparse_file_of_a_terabyte(registry: Registry, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("hole")
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 40)}
        archive.addfile(entry)
    Made(plain=out.getvalue()).put(registry)
    refused(registry, tmp_path, "sparse")


def test_nested_gzip_stays_closed(registry: Registry, tmp_path: Path) -> None:
    """What lies inside a layer is content: a bomb in it is a small file."""
    Made(plain=tar(file("inner.gz", gzip.compress(bytes(50 << 20))))).put(registry)
    attempt(registry, tmp_path, limits=SMALL)


# --- item 12: digests, sizes, kinds ------------------------------------------------------------------------------
Spoil = Callable[[Made], None]


def in_layer(**values: object) -> Spoil:
    return lambda made: made.manifest["layers"][0].update(values)


def in_manifest(**values: object) -> Spoil:
    return lambda made: made.manifest.update(values)


def in_config(**values: object) -> Spoil:
    return lambda made: made.config.update(values)


DOCUMENTS: dict[str, tuple[Spoil, str]] = {
    "layer size too small": (in_layer(size=3), "something else than blob"),
    "layer size too large": (in_layer(size=10_000), "something else than blob"),
    "negative size": (in_layer(size=-1), "no descriptor"),
    "size as text": (in_layer(size="10"), "no descriptor"),
    "size as a fraction": (in_layer(size=1.5), "no descriptor"),
    "size beyond measure": (in_layer(size=1 << 60), "too large"),
    "unknown algorithm": (in_layer(digest="md5:" + "0" * 32), "no descriptor"),
    "weaker algorithm": (in_layer(digest="sha1:" + "0" * 40), "no descriptor"),
    "digest with a path": (in_layer(digest="sha256:../../../etc/passwd"), "no descriptor"),
    "digest in capitals": (in_layer(digest="sha256:" + "A" * 64), "no descriptor"),
    "foreign layer by its urls": (in_layer(urls=["https://elsewhere.example/layer"]), "foreign layer"),
    "foreign layer by its kind": (
        in_layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "foreign layer"),
    "layer not to be distributed": (
        in_layer(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "foreign layer"),
    "no media type": (lambda made: made.manifest["layers"][0].pop("mediaType"), "without a media type"),
    "layers and manifests": (in_manifest(manifests=[]), "two kinds at once"),
    "calls itself an index": (in_manifest(mediaType=INDEX), "two kinds at once"),
    "schema 1": (in_manifest(schemaVersion=1), "schema 1"),
    "schema 3": (in_manifest(schemaVersion=3), "no known schema"),
    "layers as an object": (in_manifest(layers={}), "no list of layers"),
    "too many layers": (
        lambda made: made.manifest.update(layers=made.manifest["layers"] * 501), "too many layers"),
    "same bytes, two sizes": (
        lambda made: made.manifest["layers"].append({**made.manifest["layers"][0], "size": 1}), "in two ways"),
    "subject is no descriptor": (in_manifest(subject="sha256:x"), "no descriptor"),
    "config too large": (lambda made: made.manifest["config"].update(size=5 << 20), "too large"),
    "config of another size": (lambda made: made.manifest["config"].update(size=7), "another size"),
    "diff id of something else": (
        in_config(rootfs={"type": "layers", "diff_ids": [digest_of(b"else")]}), "another diff id"),
    "diff id missing": (in_config(rootfs={"type": "layers", "diff_ids": []}), "disagree"),
    "diff id of another algorithm": (in_config(rootfs={"type": "layers", "diff_ids": ["md5:0"]}), "cannot verify"),
    "no root file system": (in_config(rootfs=None), "no root file system"),
    "no platform": (in_config(os=7), "no platform"),
    "settings as a list": (in_config(config=[1]), "no settings"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTS, ids=lambda name: name.replace(" ", "-"))
def test_document_that_lies(case: str, registry: Registry, tmp_path: Path) -> None:
    spoil, words = DOCUMENTS[case]
    made = Made()
    spoil(made)
    made.put(registry)
    refused(registry, tmp_path, words)


BYTES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"<html>", "no JSON"),
    "a list": (b"[]", "no JSON object"),
    "nested without end": (b'{"a":' * 100_000, "no JSON"),
    "a key twice": (b'{"schemaVersion":2,"schemaVersion":1}', "no JSON"),
    "not UTF-8": (b'{"a":"\xff"}', "no JSON"),
    "colours": (b'{"schemaVersion":2,"mediaType":"\x1b[31m"}', "no JSON"),
    "nothing": (b"", "no JSON"),
}


@pytest.mark.parametrize("case", BYTES, ids=lambda name: name.replace(" ", "-"))
def test_manifest_that_is_none(case: str, registry: Registry, tmp_path: Path) -> None:
    data, words = BYTES[case]
    registry.put_image("x/y", "1", data)
    refused(registry, tmp_path, words)


def test_manifest_larger_than_four_megabytes(registry: Registry, tmp_path: Path) -> None:
    made = Made()
    made.manifest["annotations"] = {"a": "x" * (4 << 20)}
    made.put(registry)
    with pytest.raises(IntermodalError, match="more than it may"):
        attempt(registry, tmp_path)
    nothing_is_visible(tmp_path)


@pytest.mark.parametrize("target", ["config", "layer", "manifest"])
def test_bytes_that_are_others(target: str, registry: Registry, tmp_path: Path) -> None:
    made = Made()
    digest = made.put(registry)
    state = registry.state
    if target == "manifest":
        kind, data = state.manifests["x/y"][digest]
        state.manifests["x/y"][digest] = (kind, data.replace(b"linux", b"linus") + b" ")
    else:
        item = made.manifest["config"] if target == "config" else made.manifest["layers"][0]
        state.blobs[item["digest"]] = bytes(len(state.blobs[item["digest"]]))
    refused(registry, tmp_path, "not what was asked for|something else than blob")


@pytest.mark.parametrize("reference", ["x/y:1", "x/y@DIGEST"])
def test_header_that_contradicts_the_bytes(reference: str, registry: Registry, tmp_path: Path) -> None:
    digest = Made().put(registry)
    registry.fault = lambda handler: "lie-header" if "/manifests/" in handler.path else ""
    if "@" in reference:  # the digest was asked for, so the header says nothing
        attempt(registry, tmp_path, reference.replace("DIGEST", digest))
    else:
        refused(registry, tmp_path, "not what was asked for")


def test_data_in_a_descriptor_is_ignored(registry: Registry, tmp_path: Path) -> None:
    made = Made()
    made.manifest["layers"][0]["data"] = "aG9zdGlsZQ=="
    made.put(registry)
    attempt(registry, tmp_path)
    _, store = somebody(tmp_path)
    assert any(path.read_bytes() == made.stored for path in store.blobs.iterdir())


# --- indexes -----------------------------------------------------------------------------------------------------
def index_of(registry: Registry, made: Made, **change: object) -> dict[str, Any]:
    digest = made.put(registry)
    kind, data = registry.state.manifests["x/y"][digest]
    entry = {
        "mediaType": kind,
        "digest": digest,
        "size": len(data),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**entry, **change}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mediaType": INDEX}, "an index inside an index"),
        ({"mediaType": "text/html"}, "something else than manifests"),
        ({"size": 3}, "another size"),
        ({"size": 5 << 20}, "too large"),
        ({"mediaType": DOCKER_MANIFEST}, "two kinds at once"),
        ({"urls": ["https://x"]}, "foreign"),
    ],
)
def test_index_that_lies(change: dict[str, object], words: str, registry: Registry, tmp_path: Path) -> None:
    registry.put_image("x/y", "1", index_of(registry, Made(), **change), media_type=INDEX)
    refused(registry, tmp_path, words)


def test_index_that_promises_another_platform(registry: Registry, tmp_path: Path) -> None:
    made = Made()
    made.config["architecture"] = "s390x"
    registry.put_image("x/y", "1", index_of(registry, made), media_type=INDEX)
    refused(registry, tmp_path, "disagree about the platform")


def test_index_that_holds_itself(registry: Registry, tmp_path: Path) -> None:
    """A true cycle cannot be made with sha256; an index under a manifest's kind comes closest."""
    inner = index_of(registry, Made())
    digest = registry.put_image("x/y", "", inner, media_type=MANIFEST)
    data = json.dumps(inner).encode()
    outer = copy.deepcopy(inner)
    outer["manifests"][0].update(digest=digest, size=len(data))
    registry.put_image("x/y", "1", outer, media_type=INDEX)
    refused(registry, tmp_path, "two kinds at once")


def test_endless_index(registry: Registry, tmp_path: Path) -> None:
    document = index_of(registry, Made())
    document["manifests"] *= 1001
    registry.put_image("x/y", "1", document, media_type=INDEX)
    refused(registry, tmp_path, "too many manifests")


def test_subject_that_points_at_itself_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    made = Made()
    made.manifest["subject"] = {"mediaType": MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1}
    made.put(registry)
    attempt(registry, tmp_path)
    assert all("0" * 64 not in path for path in registry.paths())


def test_platform_that_is_not_there(registry: Registry, tmp_path: Path) -> None:
    registry.put_image("x/y", "1", index_of(registry, Made()), media_type=INDEX)
    with pytest.raises(UnknownImageError, match="nothing for linux/arm64"):
        attempt(registry, tmp_path, platform="linux/arm64")


# --- what others write, and we take ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [LAYER_GZIP, LAYER_ZSTD, LAYER_TAR, DOCKER_LAYER])
def test_every_compression(kind: str, registry: Registry, tmp_path: Path) -> None:
    plain = tar(folder("app"), file("app/x", b"x" * 100_000))
    stored = {LAYER_ZSTD: zstandard.compress(plain[:5000]) + zstandard.compress(plain[5000:]), LAYER_TAR: plain}
    made = Made(plain=plain, stored=stored.get(kind, b""), layer_type=kind)
    made.put(registry)
    assert attempt(registry, tmp_path).platforms == ("linux/amd64",)


def test_truncated_zstd_is_no_shorter_layer(registry: Registry, tmp_path: Path) -> None:
    plain = tar(folder("app"), file("app/x", bytes(range(256)) * 4000))
    Made(plain=plain, stored=zstandard.compress(plain)[:-20], layer_type=LAYER_ZSTD).put(registry)
    refused(registry, tmp_path, "damaged|another diff id|ends in the middle")


def test_dockers_own_kinds(registry: Registry, tmp_path: Path) -> None:
    made = Made(layer_type=DOCKER_LAYER, media_type=DOCKER_MANIFEST)
    made.manifest["mediaType"] = DOCKER_MANIFEST
    made.manifest["config"]["mediaType"] = DOCKER_CONFIG
    document = index_of(registry, made)
    document["mediaType"] = DOCKER_INDEX
    top = registry.put_image("x/y", "1", document, media_type=DOCKER_INDEX)
    report = attempt(registry, tmp_path, platform="all")
    assert str(report.top) == top == str(report.digest)
    _, store = somebody(tmp_path)
    assert [image.platforms for image in store.images()] == [("linux/amd64",)]
    assert validate_store(store).faults == ()
