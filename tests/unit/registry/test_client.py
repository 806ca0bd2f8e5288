"""The client against a registry with the habits of real ones: logins, tokens, lists, mirrors, deletes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machine import machine
from support.other_registry import Habits, Registry, digest_of, running
from support.people import Clock, docker_login, quick

from intermodal.errors import RegistryError, RegistryUnreachableError, UnknownImageError
from intermodal.oci.descriptor import MANIFEST, Descriptor
from intermodal.oci.digest import Digest
from intermodal.registry.client import Registries, Repository
from intermodal.registry.patience import Manner, retry_after_s
from intermodal.registry.reference import parse_remote
from intermodal.registry.referrers import Referrer, list_referrers, put_referrer
from intermodal.registry.settings import read_settings

EMPTY = {
    "schemaVersion": 2,
    "mediaType": MANIFEST,
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2},
    "layers": [],
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        found.put_image("team/x", "1", EMPTY, b"{}")
        yield found


def connect(
    registry: Registry, home: Path, name: str = "team/x", manner: Manner | None = None, **env: str
) -> Repository:
    registries = Registries(machine(home, PATH="/usr/bin:/bin", **env), manner or quick())
    return registries.repository(parse_remote(f"{registry.address}/{name}"))


def authorizations(registry: Registry) -> set[str]:
    return {headers.get("Authorization", "").partition(" ")[0] for _, _, headers in registry.seen}


# --- logins ------------------------------------------------------------------------------------------------------
def test_nothing_is_said_before_the_registry_asks(registry: Registry, tmp_path: Path) -> None:
    docker_login(tmp_path, registry.address, *registry.habits.login)
    connect(registry, tmp_path).manifest("1")
    assert authorizations(registry) == {""}


def test_basic_login(registry: Registry, tmp_path: Path) -> None:
    registry.habits.basic = True
    docker_login(tmp_path, registry.address, *registry.habits.login)
    repository = connect(registry, tmp_path)
    assert repository.manifest("1").descriptor.digest == Digest.of(json.dumps(EMPTY).encode())
    assert [h.get("Authorization", "")[:5] for _, _, h in registry.seen] == ["", "Basic"]
    repository.manifest("1")
    assert len(registry.seen) == 3, "the second time it is sent at once"


def test_token_is_fetched_once_for_a_scope_and_used_for_all(registry: Registry, tmp_path: Path) -> None:
    registry.habits.token = True
    docker_login(tmp_path, registry.address, *registry.habits.login)
    repository = connect(registry, tmp_path)
    for _ in range(3):
        repository.manifest("1")
    assert registry.paths().count("/token") == 1
    repository.put_manifest("2", json.dumps(EMPTY).encode(), MANIFEST)
    assert registry.paths().count("/token") == 2
    assert {scope for _, _, scope in registry.tokens.values()} == {
        "repository:team/x:pull", "repository:team/x:pull,push",
    }  # fmt: skip


def test_expired_token_is_fetched_again(registry: Registry, tmp_path: Path) -> None:
    registry.habits.token, registry.habits.token_uses = True, 2
    docker_login(tmp_path, registry.address, *registry.habits.login)
    repository = connect(registry, tmp_path)
    for _ in range(5):
        repository.manifest("1")
    assert registry.paths().count("/token") == 3


def test_anonymous_token_for_public_images(registry: Registry, tmp_path: Path) -> None:
    registry.habits.token = registry.habits.anonymous_pull = True
    connect(registry, tmp_path).manifest("1")
    assert authorizations(registry) == {"", "Bearer"}


def test_identity_token_is_changed_by_post(registry: Registry, tmp_path: Path) -> None:
    registry.habits.token, registry.habits.identity_token = True, "refresh-me-please"
    config = {"auths": {registry.address: {"identitytoken": "refresh-me-please"}}}
    connect(registry, tmp_path, DOCKER_AUTH_CONFIG=json.dumps(config)).manifest("1")
    assert "/token" in registry.paths("POST")


def test_login_is_not_shown_to_a_token_server_elsewhere(registry: Registry, tmp_path: Path) -> None:
    with running(Habits(token=True)) as other:
        place = other.address.replace("127.0.0.1", "localhost")
        registry.habits.token, registry.habits.realm = True, f"http://{place}/token"
        docker_login(tmp_path, registry.address, *registry.habits.login)
        with pytest.raises(RegistryError, match="another host") as caught:
            connect(registry, tmp_path).manifest("1")
        assert other.seen == []
        assert f'token_hosts = ["{place}"]' in str(caught.value)
        agreed = tmp_path / ".config/intermodal/registries.toml"
        agreed.parent.mkdir(parents=True)
        agreed.write_text(f'["{registry.address}"]\ntoken_hosts = ["{place}"]\n')
        with pytest.raises(RegistryError):  # that server's token is no good here, but it was asked
            connect(registry, tmp_path).manifest("1")
        assert other.paths() and authorizations(other) == {"Basic"}


@pytest.mark.parametrize("habit", ["basic", "token"])
def test_wrong_login_is_told_without_it(habit: str, registry: Registry, tmp_path: Path) -> None:
    setattr(registry.habits, habit, True)
    docker_login(tmp_path, registry.address, "me", "wrong-password-77")
    with pytest.raises(RegistryError, match=r"does not accept|refuses") as caught:
        connect(registry, tmp_path).manifest("1")
    assert not caught.value.retriable
    assert len(registry.seen) == 2, "the same words are not tried again"
    assert "wrong-password-77" not in str(caught.value)
    assert "docker login" in str(caught.value)


def test_registry_that_repeats_our_secrets_is_scrubbed(registry: Registry, tmp_path: Path) -> None:
    registry.habits.basic = True
    docker_login(tmp_path, registry.address, *registry.habits.login)
    path = "/v2/team/x/manifests/evil"

    def echo(handler: object) -> None:
        sent = handler.headers.get("Authorization", "")  # type: ignore[attr-defined]
        if not sent:
            handler.refuse(401, "U", "x", {"WWW-Authenticate": "Basic realm=x"})  # type: ignore[attr-defined]
            return
        handler.refuse(400, "BAD", f"you said {sent} \x1b[31m {registry.habits.login[1]}")  # type: ignore[attr-defined]

    registry.special["GET", path] = echo
    with pytest.raises(RegistryError) as caught:
        connect(registry, tmp_path).manifest("evil")
    told = str(caught.value)
    assert "you said" in told and "***" in told
    assert registry.habits.login[1] not in told and "\x1b" not in told
    assert "Basic bWU6" not in told


# --- what may pass -----------------------------------------------------------------------------------------------
def test_busy_registry_is_asked_again_after_what_it_says(registry: Registry, tmp_path: Path) -> None:
    plans = iter(["429", "503", "drop-before", ""])
    registry.fault = lambda _: next(plans)
    clock = Clock()
    connect(registry, tmp_path, manner=quick(clock.sleep)).manifest("1")
    assert clock.slept == [1.0, 0.375, 0.75]  # Retry-After: 1, then twice the growing pause with half its jitter


@pytest.mark.parametrize("plan", ["500", "drop-before", "drop-answer"])
def test_patience_ends_with_words(plan: str, registry: Registry, tmp_path: Path) -> None:
    registry.fault = lambda _: plan
    clock = Clock()
    with pytest.raises(RegistryUnreachableError):
        connect(registry, tmp_path, manner=quick(clock.sleep, attempts=3)).manifest("1")
    assert (len(registry.seen), len(clock.slept)) == (3, 2)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409])
def test_refusal_is_not_asked_again(status: int, registry: Registry, tmp_path: Path) -> None:
    path = "/v2/team/x/manifests/1"
    registry.special["GET", path] = lambda handler: handler.refuse(status, "NO", "no")
    with pytest.raises((RegistryError, UnknownImageError)):
        connect(registry, tmp_path).manifest("1")
    assert registry.paths() == [path]


def test_a_limit_that_lasts_is_told_at_once(registry: Registry, tmp_path: Path) -> None:
    """As Docker Hub says it."""
    registry.habits.headers = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "0;w=21600"}
    message = "You have reached your unauthenticated pull rate limit."
    registry.special["GET", "/v2/team/x/manifests/1"] = lambda handler: handler.refuse(
        429, "TOOMANYREQUESTS", message, {"Retry-After": "3600"}
    )
    with pytest.raises(RegistryUnreachableError, match="too many requests") as caught:
        connect(registry, tmp_path).manifest("1")
    assert len(registry.seen) == 1
    told = str(caught.value)
    assert message in told and "ratelimit-remaining: 0;w=21600" in told and "3600 s" in told and "docker login" in told


def test_retry_after_in_both_forms() -> None:
    assert retry_after_s({"Retry-After": "7"}, 0.0) == 7.0
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 50.0) == 10.0
    assert retry_after_s({"Retry-After": "Thu, 01 Jan 1970 00:01:00 GMT"}, 90.0) == 0.0
    for junk in ("", "soon", "-1", "9" * 400, "Thu, 99 Foo"):
        assert retry_after_s({"Retry-After": junk}, 0.0) is None


def test_connection_is_kept_whatever_was_answered(registry: Registry, tmp_path: Path) -> None:
    """One connection for answers with a body, without one, and for HEAD; a broken rule here costs a pause each time."""
    clock, places = Clock(), set()
    registry.fault = lambda handler: str(places.add(handler.client_address) or "")
    repository = connect(registry, tmp_path, manner=quick(clock.sleep))
    data = json.dumps(EMPTY).encode()
    there = {"Location": "/v2/team/x/manifests/1"}
    registry.special["GET", "/v2/team/x/manifests/moved"] = lambda handler: handler.answer(307, b"", there)
    for _ in range(2):
        repository.manifest("moved")
        repository.put_manifest("2", data, MANIFEST)
        repository.find_manifest("2")
        repository.find_manifest("none")
        repository.manifest("2")
        repository.delete_manifest("2")
    assert (clock.slept, len(places), len(registry.seen)) == ([], 1, 14)


# --- lists, deletes, mirrors -------------------------------------------------------------------------------------
def test_tags_page_by_page(registry: Registry, tmp_path: Path) -> None:
    registry.habits.page = 3
    for number in range(8):
        registry.put_image("team/x", f"v{number}", EMPTY)
    assert list(connect(registry, tmp_path).tags()) == ["1", *(f"v{n}" for n in range(8))]
    with pytest.raises(UnknownImageError):
        registry.special["GET", "/v2/no/x/tags/list"] = lambda h: h.refuse(404, "NAME_UNKNOWN", "no")
        list(connect(registry, tmp_path, "no/x").tags())


@pytest.mark.parametrize("junk", ["", "sha256:", "sha256:xyz", "sha512:" + "0" * 128, "md5:0"])
def test_digest_header_that_says_nothing(junk: str, registry: Registry, tmp_path: Path) -> None:
    data = json.dumps(EMPTY).encode()
    headers = {"Content-Type": MANIFEST, "Docker-Content-Digest": junk}
    for method in ("HEAD", "GET"):
        registry.special[method, "/v2/team/x/manifests/1"] = lambda handler: handler.answer(200, data, headers)
    assert connect(registry, tmp_path).find_manifest("1") is None
    assert connect(registry, tmp_path).manifest("1").data == data


def test_list_that_never_ends_is_refused(registry: Registry, tmp_path: Path) -> None:
    path = "/v2/team/x/tags/list"
    link = {"Link": f'<{path}?n=1000>; rel="next"'}
    registry.special["GET", path] = lambda handler: handler.answer(200, b'{"tags": ["a"]}', link)
    with pytest.raises(RegistryError, match="does not end"):
        list(connect(registry, tmp_path).tags())


def test_manifests_tags_and_blobs_are_deleted(registry: Registry, tmp_path: Path) -> None:
    repository = connect(registry, tmp_path)
    data = json.dumps(EMPTY).encode()
    repository.put_manifest("2", data, MANIFEST)
    assert repository.delete_manifest("2") and repository.find_manifest("2") is None
    assert repository.find_manifest("1") == Descriptor(MANIFEST, Digest.of(data), len(data))
    assert repository.delete_manifest(str(Digest.of(data))) and repository.find_manifest("1") is None
    assert repository.delete_blob(Digest.of(b"{}")) and not repository.delete_blob(Digest.of(b"{}"))


@pytest.mark.parametrize("target", ["..", "a/b", "x?y", "a:b", "sha256:00", "", "x" * 129])
def test_targets_that_would_be_other_requests(target: str, registry: Registry, tmp_path: Path) -> None:
    from intermodal.errors import InputError

    with pytest.raises(InputError):
        connect(registry, tmp_path).manifest(target)
    assert registry.seen == []


def attach(repository: Repository, subject: str, kind: str, note: str) -> Digest:
    own = {**EMPTY, "artifactType": kind, "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
           "annotations": {"note": note}}  # fmt: skip
    data = json.dumps(own).encode()
    put_referrer(repository, data, Referrer(Descriptor(MANIFEST, Digest.of(data), len(data)), kind, {"note": note}),
                 Digest.parse(subject))  # fmt: skip
    return Digest.of(data)


@pytest.mark.parametrize("supported", [True, False])
def test_referrers_with_and_without_the_registrys_help(supported: bool, registry: Registry, tmp_path: Path) -> None:
    registry.habits.referrers = supported
    repository, subject = connect(registry, tmp_path), registry.state.tags["team/x"]["1"]
    assert list_referrers(repository, Digest.parse(subject)) == ()
    signed = attach(repository, subject, "application/x.signature", "first")
    listed = attach(repository, subject, "application/x.sbom", "second")
    attach(repository, subject, "application/x.sbom", "second")
    found = list_referrers(repository, Digest.parse(subject))
    assert {r.descriptor.digest for r in found} == {signed, listed}
    only = list_referrers(repository, Digest.parse(subject), "application/x.sbom")
    assert [(r.descriptor.digest, r.annotations["note"]) for r in only] == [(listed, "second")]
    tag = f"sha256-{subject.removeprefix('sha256:')}"
    assert (tag in registry.state.tags["team/x"]) is not supported


def test_mirrors_are_asked_first_and_may_fail(registry: Registry, tmp_path: Path) -> None:
    with running() as mirror:
        mirror.put_image("hub/team/x", "1", EMPTY, b"{}")
        settings = tmp_path / ".config/intermodal/registries.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'["{registry.address}"]\nmirrors = ["{mirror.address}/hub"]\n')
        sources = Registries(machine(tmp_path), quick(attempts=1)).sources(parse_remote(f"{registry.address}/team/x:1"))
        assert [str(s) for s in sources] == [f"{mirror.address}/hub/team/x", f"{registry.address}/team/x"]
        assert sources[0].manifest("1").data == sources[1].manifest("1").data


def test_settings_are_read_or_refused(tmp_path: Path) -> None:
    from intermodal.errors import InputError

    etc = tmp_path / "etc"
    folder = etc / "docker/certs.d/r.example"
    folder.mkdir(parents=True)
    for name in ("ca.crt", "client.cert", "client.key"):
        (folder / name).touch()
    host = machine(tmp_path, INTERMODAL_ETC=str(etc))
    trust = read_settings(host, "r.example").trust
    assert (trust.ca, trust.client_cert, trust.client_key) == tuple(
        str(folder / n) for n in ("ca.crt", "client.cert", "client.key")
    )
    assert not read_settings(host, "r.example").plain_http
    assert read_settings(host, "docker.io").address == "registry-1.docker.io"
    settings = tmp_path / ".config/intermodal/registries.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('["r.example"]\nmirrored = ["x"]\n')
    with pytest.raises(InputError, match=r"registries\.toml"):
        read_settings(host, "r.example")
