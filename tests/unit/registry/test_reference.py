from __future__ import annotations

import pytest
from support.small_image import small_image

from intermodal.errors import InputError
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.reference import name_of, parse
from intermodal.registry.reference import names_registry, parse_remote

SHA = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("python", "docker.io", "library/python", ""),
        ("python:3.12-slim", "docker.io", "library/python", "3.12-slim"),
        ("team/digits:1", "docker.io", "team/digits", "1"),
        ("docker.io/python:3", "docker.io", "library/python", "3"),
        ("registry-1.docker.io/library/python", "docker.io", "library/python", ""),
        ("index.docker.io/team/x", "docker.io", "team/x", ""),
        ("ghcr.io/team/digits:1.0.0", "ghcr.io", "team/digits", "1.0.0"),
        ("GHCR.io/team/digits", "ghcr.io", "team/digits", ""),
        ("localhost/x", "localhost", "x", ""),
        ("localhost:5000/x:y", "localhost:5000", "x", "y"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c", ""),
        ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
        ("123.dkr.ecr.eu-west-1.amazonaws.com/team/x:1", "123.dkr.ecr.eu-west-1.amazonaws.com", "team/x", "1"),
    ],
)
def test_names_as_docker_reads_them(text: str, registry: str, repository: str, tag: str) -> None:
    found = parse_remote(text)
    assert (found.registry, found.repository, found.tag, found.digest) == (registry, repository, tag, None)


def test_digest_and_default_tag() -> None:
    assert parse_remote(f"ghcr.io/a/b@{SHA}", "latest").target == SHA
    assert parse_remote(f"ghcr.io/a/b:1@{SHA}").tag == "1"
    assert parse_remote("ghcr.io/a/b", "latest").target == "latest"
    assert str(parse_remote(f"ghcr.io/a/b:1@{SHA}")) == f"ghcr.io/a/b:1@{SHA}"


@pytest.mark.parametrize(
    "text",
    [
        "", "ghcr.io/", "https://ghcr.io/a/b", "ghcr.io/a/../b", "ghcr.io/a/b:..", "ghcr.io/A/b", "ghcr.io/a b",
        "ghcr.io/a/b?x=1", "ghcr.io/a/b#c", "ghcr.io/a%2fb", "me:pw@ghcr.io/a/b", "ghcr.io/a/b@sha512:00",
        "ghcr.io/a/b:" + "x" * 129, "gh_cr.io/a", "ghcr..io/a", "ghcr.io:port/a", "ghcr.io/a//b", "ghcr.io/a/b:1/2",
        "ghcr.io/a/b\n", "ghcr.io/" + "a" * 256, "-x.io/a", "host.io:123456/a",
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_remote(text)


def test_credentials_in_a_reference_are_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        parse_remote("me:hunter22@ghcr.io/a/b")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [("ghcr.io/a", True), ("localhost/a", True), ("h:5/a", True), ("a/b", False), ("a", False), ("./a", False),
     ("../a.b", False), ("a.b", False), ("ghcr.io/", False)],
)  # fmt: skip
def test_whether_a_registry_is_named(text: str, named: bool) -> None:
    assert names_registry(text) is named


def test_names_with_a_port_in_the_local_store(tmp_path: object) -> None:
    from pathlib import Path

    store = Store(Path(str(tmp_path))).open_or_create()
    image = small_image(store, "localhost:5000/team/digits:1")
    assert name_of("localhost:5000/team/digits:1") == "localhost:5000/team/digits"
    assert parse("localhost:5000/team/digits:1").tag == "1"
    for name in (
        "localhost:5000/team/digits:1",
        "localhost:5000/team/digits",
        f"localhost:5000/team/digits@{image.digest}",
    ):
        assert store.resolve(name).digest == image.digest
    newer = small_image(store, "localhost:5000/team/digits:1", contents=(b"newer",))
    assert store.resolve("localhost:5000/team/digits:1").digest == newer.digest
    assert store.resolve(f"localhost:5000/team/digits@{image.digest}").digest == image.digest
    assert store.tag_of(newer.digest, str(newer.digest)) == "1"
    assert store.tag_of(Digest("0" * 64), "x") == ""
