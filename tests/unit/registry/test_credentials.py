from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from support.machine import machine
from support.people import docker_login

from intermodal.errors import RegistryError
from intermodal.registry.challenge import parse_challenges
from intermodal.registry.credentials import Login, find_login


def helper(folder: Path, name: str, script: str) -> str:
    """A credential helper on a PATH of its own."""
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_docker_config_counts_for_exactly_one_registry(tmp_path: Path) -> None:
    docker_login(tmp_path, "registry.example.com:5000", "me", "pässword:with:colons")
    found = find_login(machine(tmp_path), "registry.example.com:5000")
    assert found is not None
    assert (found.username, found.password) == ("me", "pässword:with:colons")
    for other in ("registry.example.com", "example.com", "registry.example.com:5001", "x.registry.example.com:5000"):
        assert find_login(machine(tmp_path), other) is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_under_all_its_names(key: str, tmp_path: Path) -> None:
    docker_login(tmp_path, key, "me", "pw12")
    assert find_login(machine(tmp_path), "docker.io") is not None
    assert find_login(machine(tmp_path), "ghcr.io") is None


def test_environment_counts_for_the_registry_it_names(tmp_path: Path) -> None:
    docker_login(tmp_path, "ghcr.io", "file", "from-the-file")
    values = {"INTERMODAL_REGISTRY_USERNAME": "ci", "INTERMODAL_REGISTRY_PASSWORD": "from-ci"}
    named = find_login(machine(tmp_path, INTERMODAL_REGISTRY="ghcr.io", **values), "ghcr.io")
    assert named is not None and named.password == "from-ci"
    assert find_login(machine(tmp_path, INTERMODAL_REGISTRY="ghcr.io", **values), "quay.io") is None
    unnamed = find_login(machine(tmp_path, **values), "ghcr.io")
    assert unnamed is not None and unnamed.password == "from-the-file"
    token = find_login(machine(tmp_path, INTERMODAL_REGISTRY="q.io", INTERMODAL_REGISTRY_TOKEN="tok-en"), "q.io")
    assert token is not None and token.registry_token == "tok-en"


def test_config_in_a_variable_and_podmans_file(tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:gitlab-says").decode()
    text = json.dumps({"auths": {"registry.gitlab.com": {"auth": auth}}})
    found = find_login(machine(tmp_path, DOCKER_AUTH_CONFIG=text), "registry.gitlab.com")
    assert found is not None and found.password == "gitlab-says"
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/auth.json").write_text(text)
    found = find_login(machine(tmp_path, XDG_RUNTIME_DIR=str(tmp_path)), "registry.gitlab.com")
    assert found is not None and found.origin.endswith("auth.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"auths": 3}', '{"auths": {"g.io": 3}}', '{"auths": {"g.io": {"auth": "%"}}}']
)
def test_damaged_config_is_no_login_and_no_crash(text: str, tmp_path: Path) -> None:
    assert find_login(machine(tmp_path, DOCKER_AUTH_CONFIG=text), "g.io") is None


def test_helpers_ecr_gcr_and_acr_style(tmp_path: Path) -> None:
    """One says a password, one an identity token; each is asked for its own registry only."""
    path = helper(
        tmp_path / "bin", "ecr-login",
        f'read name; echo "$name" >> {tmp_path}/asked; printf \'{{"Username":"AWS","Secret":"ecr-secret"}}\'',
    )  # fmt: skip
    helper(tmp_path / "bin", "acr-env", 'cat >/dev/null; printf \'{"Username":"<token>","Secret":"refresh-me"}\'')
    config = {"credHelpers": {"1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login", "x.azurecr.io": "acr-env"}}
    host = machine(tmp_path, PATH=path, DOCKER_AUTH_CONFIG=json.dumps(config))
    ecr = find_login(host, "1.dkr.ecr.eu-west-1.amazonaws.com")
    assert ecr is not None and (ecr.username, ecr.password) == ("AWS", "ecr-secret")
    acr = find_login(host, "x.azurecr.io")
    assert acr is not None and (acr.identity_token, acr.password) == ("refresh-me", "")
    assert find_login(host, "gcr.io") is None
    assert (tmp_path / "asked").read_text().split() == ["1.dkr.ecr.eu-west-1.amazonaws.com"]


def test_store_is_asked_when_nothing_else_knows(tmp_path: Path) -> None:
    script = 'read name; [ "$name" = ghcr.io ] && printf \'{"Username":"me","Secret":"kept"}\' && exit 0\n'
    path = helper(tmp_path / "bin", "keychain", script + "echo credentials not found in native keychain; exit 1")
    host = machine(
        tmp_path, PATH=path, DOCKER_AUTH_CONFIG=json.dumps({"credsStore": "keychain", "auths": {"ghcr.io": {}}})
    )
    found = find_login(host, "ghcr.io")
    assert found is not None and found.password == "kept"
    assert find_login(host, "quay.io") is None


@pytest.mark.parametrize(
    ("name", "script", "words"),
    [
        ("gone", None, "missing"),
        ("../../bin/sh", None, "missing"),
        ("broken", "echo top-secret-words >&2; exit 3", "status 3"),
    ],
)
def test_helper_that_fails_is_told_without_its_words(name: str, script: str | None, words: str, tmp_path: Path) -> None:
    path = helper(tmp_path / "bin", name, script) if script else "/usr/bin"
    host = machine(tmp_path, PATH=path, DOCKER_AUTH_CONFIG=json.dumps({"credHelpers": {"g.io": name}}))
    with pytest.raises(RegistryError, match=words) as caught:
        find_login(host, "g.io")
    assert "top-secret-words" not in str(caught.value)


def test_a_login_never_shows_itself() -> None:
    login = Login("me", "hunter22", "identity", "registry", "here")
    assert not any(secret in f"{login!r} {login}" for secret in ("hunter22", "identity", "registry"))
    assert {"hunter22", "identity", "registry"} < set(login.secrets)


def test_challenges_of_all_kinds() -> None:
    (bearer, basic) = parse_challenges(
        ['Bearer realm="https://a/t",service="s, with comma",scope="a:b:pull,push", Basic realm=x']
    )
    assert bearer.parameters == {"realm": "https://a/t", "service": "s, with comma", "scope": "a:b:pull,push"}
    assert (basic.scheme, basic.parameters) == ("basic", {"realm": "x"})
    assert [c.scheme for c in parse_challenges(["Negotiate", 'BEARER realm="q\\"uote"'])] == ["negotiate", "bearer"]
    assert parse_challenges(['Bearer realm="q\\"uote"'])[0].parameters == {"realm": 'q"uote'}
    for junk in ("", ",,,", '"', "=" * 9000, "Bearer realm=", 'Bearer realm="unclosed'):
        parse_challenges([junk])
