"""What the read-only registry answers, word by word: forms of the specification, ranges, pages, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intermodal.oci.canonical import canonical_json
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, layer_descriptor, manifest_bytes
from intermodal.registry.answers import Answer, Request, answer
from intermodal.registry.catalog import Catalog

SBOM = "application/vnd.cyclonedx+json"


class Registry:
    """A store, and questions to it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "store").open_or_create()
        self.catalog = Catalog(self.store)

    def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return answer(Request(method, target, {"host": "localhost:5001", **named}), self.catalog, self.store)

    def json(self, target: str, **headers: str) -> Any:
        found = self.ask(target, **headers)
        assert found.status == 200, found
        return json.loads(found.body)

    def image(self, text: str, name: str | None = None, platform: str = "linux/amd64") -> Descriptor:
        digest, size = self.store.put_bytes(f"layer {text}".encode())
        layer = LayerInfo(digest, Digest.of(text.encode()), size, 1024, "app", "application")
        data = config_bytes(layers=[layer], architecture=platform[6:], python="3.11", labels={"t": text})
        manifest = manifest_bytes(Descriptor(CONFIG, *self.store.put_bytes(data)), [layer_descriptor(layer)])
        found = Descriptor(MANIFEST, *self.store.put_bytes(manifest), platform=platform)
        if name:
            self.store.tag(name, found)
        return found

    def index(self, name: str, *inner: Descriptor) -> Descriptor:
        found = Descriptor(INDEX, *self.store.put_bytes(index_bytes(inner)))
        self.store.tag(name, found)
        return found

    def attach(self, subject: Descriptor, text: str, name: str | None = None, kind: str = SBOM) -> Descriptor:
        """An artifact whose subject is a manifest; listed without a name unless it is given one."""
        blob = Descriptor(kind, *self.store.put_bytes(text.encode()))
        empty = Descriptor("application/vnd.oci.empty.v1+json", *self.store.put_bytes(b"{}"))
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": empty.as_json(),
            "layers": [blob.as_json()],
            "subject": subject.as_json(),
            "annotations": {"made": "by a test"},
        }
        found = Descriptor(MANIFEST, *self.store.put_bytes(canonical_json(document)))
        if name:
            self.store.tag(name, found)
        else:
            self.store.change_index(lambda listed: [found, *listed])  # before its subject
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def codes(found: Answer) -> list[str]:
    return [error["code"] for error in json.loads(found.body)["errors"]]


def test_manifests_by_tag_and_digest_with_their_media_types(registry: Registry) -> None:
    image = registry.image("one", "team/digits:1")
    both = registry.index("team/digits:all", registry.image("x", platform="linux/arm64"), image)
    for which, item in [("1", image), (image.digest, image), ("all", both), (both.digest, both)]:
        found = registry.ask(f"/v2/team/digits/manifests/{which}")
        assert (found.status, found.headers["Content-Type"]) == (200, item.media_type)
        assert found.headers["Docker-Content-Digest"] == str(Digest.of(found.body)) == str(item.digest)
    assert registry.json("/v2/") == {}
    assert registry.ask("/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"


def test_everything_an_index_reaches_can_be_pulled(registry: Registry) -> None:
    registry.index("digits:1", *(registry.image(each, platform=f"linux/{each}") for each in ("amd64", "arm64")))
    seen = 0
    for item in registry.json("/v2/digits/manifests/1")["manifests"]:
        manifest = registry.json(f"/v2/digits/manifests/{item['digest']}")
        for blob in (manifest["config"], *manifest["layers"]):
            found = registry.ask(f"/v2/digits/blobs/{blob['digest']}")
            assert found.status == 200
            assert found.file is not None
            assert str(Digest.of_file(found.file)[0]) == blob["digest"]
            assert found.length == blob["size"]
            seen += 1
    assert seen == 4


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-3", 206, (0, 4)),
        ("bytes=4-", 206, (4, 9)),
        ("bytes=-2", 206, (7, 9)),
        ("bytes=-99", 206, (0, 9)),
        ("bytes=8-99", 206, (8, 9)),
        ("bytes=9-", 416, None),
        ("bytes=5-4", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=-", 200, (0, 9)),
        ("bytes=0-1,3-4", 200, (0, 9)),
        ("lines=1-2", 200, (0, 9)),
        ("bytes=0-9999999999999999999999", 200, (0, 9)),
    ],
)
def test_ranges(registry: Registry, wanted: str, status: int, part: tuple[int, int] | None) -> None:
    registry.image("one", "a:1")
    digest = Digest.of(b"layer one")
    found = registry.ask(f"/v2/a/blobs/{digest}", range=wanted)
    assert found.status == status
    if part is None:
        assert found.headers["Content-Range"] == "bytes */9"
        assert codes(found) == ["RANGE_INVALID"]
        return
    assert (found.start, found.start + found.length) == part
    assert found.headers.get("Content-Range") == (f"bytes {part[0]}-{part[1] - 1}/9" if status == 206 else None)


def test_a_range_of_another_blob_is_not_continued_and_what_is_known_is_not_sent(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    blob = f"/v2/a/blobs/{Digest.of(b'layer one')}"
    etag = registry.ask(blob).headers["ETag"]
    assert registry.ask(blob, range="bytes=4-", if_range=etag).status == 206
    assert registry.ask(blob, range="bytes=4-", if_range='"other"').status == 200
    assert registry.ask(blob, if_none_match=f'"x", W/{etag}').status == 304
    assert registry.ask("/v2/a/manifests/1", if_none_match=f'"{image.digest}"').status == 304
    assert registry.ask("/v2/a/manifests/1", if_none_match='"x"').status == 200


def test_lists_by_pages(registry: Registry) -> None:
    for name in ("b:3", "b:1", "b:2", "a:1", "c/d:1"):
        registry.image(name, name)
    assert registry.json("/v2/_catalog") == {"repositories": ["a", "b", "c/d"]}
    assert registry.json("/v2/b/tags/list") == {"name": "b", "tags": ["1", "2", "3"]}
    first = registry.ask("/v2/b/tags/list?n=2")
    assert json.loads(first.body)["tags"] == ["1", "2"]
    assert first.headers["Link"] == '</v2/b/tags/list?n=2&last=2>; rel="next"'
    assert registry.json("/v2/b/tags/list?n=2&last=2")["tags"] == ["3"]
    assert "Link" not in registry.ask("/v2/b/tags/list?n=2&last=2").headers
    assert registry.json("/v2/b/tags/list?n=0")["tags"] == []
    assert registry.json("/v2/_catalog?n=1&last=a")["repositories"] == ["b"]
    assert registry.ask("/v2/_catalog?n=1").headers["Link"] == '</v2/_catalog?n=1&last=a>; rel="next"'
    assert codes(registry.ask("/v2/b/tags/list?n=-1")) == ["PAGINATION_NUMBER_INVALID"]


def test_referrers_of_an_image_and_of_its_referrers(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    other = registry.image("two", "b:1")
    signature = "application/vnd.dev.sigstore.bundle.v0.3+json"
    sbom = registry.attach(image, "an SBOM")
    signed = registry.attach(sbom, "its signature", kind=signature)
    found = registry.ask(f"/v2/a/referrers/{image.digest}")
    assert found.headers["Content-Type"] == INDEX
    (listed,) = json.loads(found.body)["manifests"]
    assert listed == {
        "mediaType": MANIFEST,
        "digest": str(sbom.digest),
        "size": sbom.size_bytes,
        "artifactType": SBOM,
        "annotations": {"made": "by a test"},
    }
    (listed,) = registry.json(f"/v2/a/referrers/{sbom.digest}")["manifests"]
    assert listed["digest"] == str(signed.digest)
    assert registry.ask(f"/v2/a/blobs/{Digest.of(b'its signature')}").status == 200
    filtered = registry.ask(f"/v2/a/referrers/{image.digest}?artifactType={signature.replace('+', '%2B')}")
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert json.loads(filtered.body)["manifests"] == []
    assert registry.json(f"/v2/b/referrers/{other.digest}")["manifests"] == []
    assert registry.ask(f"/v2/b/manifests/{sbom.digest}").status == 404
    assert codes(registry.ask(f"/v2/none/referrers/{image.digest}")) == ["NAME_UNKNOWN"]


def test_the_store_is_looked_at_anew_and_a_replaced_image_stays_by_digest(registry: Registry) -> None:
    old = registry.image("old", "a:1")
    assert registry.json("/v2/a/tags/list")["tags"] == ["1"]
    new = registry.image("new", "a:1")
    assert registry.ask("/v2/a/manifests/1").headers["Docker-Content-Digest"] == str(new.digest)
    assert registry.ask(f"/v2/a/manifests/{old.digest}").status == 200
    registry.store.prune()
    assert registry.ask(f"/v2/a/manifests/{old.digest}").status == 404
    assert registry.json("/v2/a/tags/list")["tags"] == ["1"]


def test_a_repository_holds_what_its_images_reach_and_no_more(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    registry.image("two", "b:1")
    stray, _ = registry.store.put_bytes(b"of a build that is not done")
    nameless = registry.image("three")
    registry.store.change_index(lambda listed: [*listed, nameless])
    for digest in (stray, Digest.of(b"layer two"), Digest.of(b"layer three"), nameless.digest):
        assert codes(registry.ask(f"/v2/a/blobs/{digest}")) == ["BLOB_UNKNOWN"]
        assert codes(registry.ask(f"/v2/a/manifests/{digest}")) == ["MANIFEST_UNKNOWN"]
    assert registry.ask(f"/v2/a/blobs/{image.digest}").status == 200


def test_a_mirror_knows_whose_names_it_is_asked_for(registry: Registry) -> None:
    registry.image("hub", "digits:1")
    registry.image("far", "registry.example.com/team/digits:1")
    assert registry.ask("/v2/library/digits/manifests/1?ns=docker.io").status == 200
    assert registry.ask("/v2/team/digits/manifests/1?ns=registry.example.com").status == 200
    assert registry.ask("/v2/team/digits/manifests/1").status == 404
    assert registry.ask("/v2/team/digits/manifests/1?ns=../digits").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MKCOL"])
@pytest.mark.parametrize("target", ["/v2/", "/v2/a/blobs/uploads/", "/v2/a/manifests/1", "/"])
def test_nothing_can_be_written(registry: Registry, method: str, target: str) -> None:
    registry.image("one", "a:1")
    found = registry.ask(target, method)
    assert (found.status, found.headers["Allow"], codes(found)) == (405, "GET, HEAD", ["UNSUPPORTED"])


ODD = [
    "/",
    "/v1/_ping",
    "/v2/a",
    "/v2/a/",
    "/v2//manifests/1",
    "/v2/a/manifests/",
    "/v2/a/manifests/..",
    "/v2/a/manifests/../../../../index.json",
    "/v2/../../../etc/passwd",
    "/v2/a/../a/manifests/1",
    "/v2/a/blobs/../../../../etc/passwd",
    "/v2/a/blobs/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/v2/a/blobs/%2e%2e/%2e%2e/index.json",
    "/v2/a/blobs/%252e%252e",
    "/v2/a/blobs/sha256:" + "0" * 63,
    "/v2/a/blobs/sha256:" + "0" * 65,
    "/v2/a/blobs/sha256:" + "A" * 64,
    "/v2/a/blobs/sha256:" + "/" * 64,
    "/v2/a/blobs/sha256:../../../index.json",
    "/v2/a/blobs/sha512:" + "0" * 128,
    "/v2/a/blobs/index.json",
    "/v2/a/manifests/1%00",
    "/v2/a/manifests/1%0d%0aX:%20y",
    "/v2/a/manifests/1/",
    "/v2/a/manifests/-1",
    "/v2/A/manifests/1",
    "/v2/a\\..\\b/manifests/1",
    "/v2/a/tags/other",
    "/v2/a/referrers/1",
    "/v2/%61%2f..%2f/manifests/1",
    "http://elsewhere/v2/a/manifests/1",
    "/v2/" + "a/" * 3000 + "manifests/1",
    "/v2/[::/manifests/1",
    "//[::1/v2/",
    "*",
    "",
    "/v2/\udcff/manifests/1",
]


@pytest.mark.parametrize("target", ODD, ids=lambda target: repr(target)[:40])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_address_of_ours_is_refused_in_the_specified_form(
    registry: Registry, target: str, method: str
) -> None:
    registry.image("one", "a:1")
    found = registry.ask(target, method)
    assert found.status in (400, 404)
    assert found.file is None
    (error,) = json.loads(found.body)["errors"]
    assert set(error) == {"code", "message", "detail"}
    assert found.headers["Content-Type"] == "application/json"


def test_an_encoded_colon_is_a_colon(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    assert registry.ask(f"/v2/a/manifests/{image.digest}".replace(":", "%3A")).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:5001", 200),
        ("127.0.0.1:5001", 200),
        ("[::1]:5001", 200),
        ("172.18.0.1", 200),
        ("host.minikube.internal:5001", 200),
        ("registry:5001", 200),
        ("", 200),
        ("evil.example.com:5001", 403),
        ("127.0.0.1.evil.example.com", 403),
        ("localhost@evil.example.com", 403),
        ("evil.example.com/localhost", 403),
        ("[::1", 403),
        ("[localhost]", 403),
        ("localhost:5001:evil", 403),
    ],
)
def test_a_page_of_a_stranger_cannot_use_its_own_name_for_us(registry: Registry, host: str, status: int) -> None:
    registry.image("one", "a:1")
    assert registry.ask("/v2/a/manifests/1", host=host).status == status


def test_damage_is_an_error_that_names_no_folder(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    path = registry.store.path(image.digest)
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    found = registry.ask("/v2/a/manifests/1")
    assert (found.status, codes(found)) == (500, ["UNKNOWN"])
    assert str(registry.store.root).encode() not in found.body
    registry.image("two", "b:1")
    layer = Digest.of(b"layer two")
    registry.store.path(layer).write_bytes(b"longer than it was")
    assert registry.ask(f"/v2/b/blobs/{layer}").status == 500
    registry.store.path(layer).unlink()
    assert codes(registry.ask(f"/v2/b/blobs/{layer}")) == ["BLOB_UNKNOWN"]
    (registry.store.root / "index.json").unlink()
    found = registry.ask("/v2/b/tags/list")
    assert found.status == 500
    assert str(registry.store.root).encode() not in found.body


def test_circles_and_strangers_in_documents_end(registry: Registry) -> None:
    image = registry.image("one", "a:1")
    odd = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [image.as_json(), {"digest": "../../x", "size": 1, "mediaType": MANIFEST}, 7, {"size": "x"}],
        "layers": {"not": "a list"},
    }
    found = Descriptor(INDEX, *registry.store.put_bytes(canonical_json(odd)))
    registry.store.tag("odd:1", found)
    registry.attach(image, "points at itself through the list", name="a:sha256-x.sig")
    assert registry.json("/v2/odd/manifests/1")["schemaVersion"] == 2
    assert registry.ask(f"/v2/odd/manifests/{image.digest}").status == 200
    assert registry.json("/v2/a/tags/list")["tags"] == ["1", "sha256-x.sig"]
