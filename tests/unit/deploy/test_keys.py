"""A server that wants API keys gets them, or the deployment ends before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from support.served_image import SIGNATURE, golden

from intermodal.errors import InputError
from intermodal.golden.cases import GoldenFile
from intermodal.host import Host, read
from intermodal.project.api_keys import make_key
from intermodal.rooms.check.metadata import Metadata
from intermodal.rooms.deploy.keys import keys_secret, keys_variable, with_keys
from intermodal.rooms.deploy.revision import Settings
from intermodal.rooms.deploy.wish import Wish
from intermodal_server.contract import ENV_API_KEYS, ModelSettings, ServeSettings

KEY = make_key("golden")


@pytest.fixture
def host() -> Host:
    here = read()
    return replace(here, environment={**here.environment, "GOLDEN": KEY.key})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{make_key('alice').line}\n{KEY.line}\n")
    return path


def image(api_keys: str = "file:/run/secrets/keys", cases: GoldenFile | None = None) -> Metadata:
    settings = ModelSettings(
        "m", "1", "predictor", "predictor", "", SIGNATURE, serve=ServeSettings(api_keys=api_keys)
    )  # fmt: skip
    return Metadata(settings, cases, None)


def wish(golden_key: str = "env:GOLDEN", **settings: object) -> Wish:
    return Wish(golden_key=golden_key, settings=Settings(**settings))  # type: ignore[arg-type]


def test_who_wants_none_gets_none(host: Host) -> None:
    assert with_keys(wish(""), image("", golden()), host) == wish("")
    off = wish("", environment=((ENV_API_KEYS, "off"),))
    assert with_keys(off, image(cases=golden()), host) == off


def test_file_of_the_command_line_is_a_secret_and_other_keys_are_other_settings(keys: Path, host: Host) -> None:
    found = with_keys(wish(), image(cases=golden()), host, api_keys=str(keys)).settings
    ((name, reference),) = found.secrets
    assert (reference, keys_secret(found.environment)) == (f"file:{keys}", name)
    assert found.environment == ((ENV_API_KEYS, f"file:/run/secrets/{name}"),)
    assert keys_variable(found, host)[ENV_API_KEYS].endswith(KEY.line)
    keys.write_text(KEY.line)
    assert with_keys(wish(), image(cases=golden()), host, api_keys=str(keys)).settings != found
    assert keys_variable(found, host)[ENV_API_KEYS] == f"keys:{KEY.line}", "taken back, also for revisions before"


def test_secret_of_the_project_is_enough(keys: Path, host: Host) -> None:
    given = wish(secrets=(("keys", f"file:{keys}"),))
    found = with_keys(given, image(cases=golden()), host).settings
    assert found.secrets == given.settings.secrets
    assert found.environment == ((ENV_API_KEYS, "file:/run/secrets/keys"),)


@pytest.mark.parametrize("source", ["file:/run/secrets/keys", "file:/somewhere/else"])
def test_nobody_gives_them(source: str, host: Host) -> None:
    with pytest.raises(InputError) as caught:
        with_keys(wish(secrets=(("other", "env:GOLDEN"),)), image(source), host)
    assert "m wants API keys" in str(caught.value) and "--api-keys FILE" in str(caught.value)


def test_keys_in_the_image_are_delivered_already(host: Host) -> None:
    assert with_keys(wish(), image("file:/app/keys", golden()), host) == wish()


def test_golden_cases_need_one_of_the_keys(keys: Path, host: Host) -> None:
    with pytest.raises(InputError, match="golden_key"):
        with_keys(wish(""), image(cases=golden()), host, api_keys=str(keys))
    assert with_keys(wish(""), image(), host, api_keys=str(keys)).settings.secrets, "no cases, no key"
    other = replace(host, environment={"GOLDEN": make_key("stranger").key})
    with pytest.raises(InputError, match="not one of the server's") as caught:
        with_keys(wish(), image(cases=golden()), other, api_keys=str(keys))
    assert other.environment["GOLDEN"] not in str(caught.value)
    variable = wish(environment=((ENV_API_KEYS, f"keys:{KEY.line}"),))
    assert with_keys(variable, image(cases=golden()), host) == variable
    with pytest.raises(InputError, match="not one of the server's"):
        with_keys(variable, image(cases=golden()), other)


def test_two_sources_contradict_each_other(keys: Path, host: Host) -> None:
    with pytest.raises(InputError, match="contradict"):
        with_keys(wish(environment=((ENV_API_KEYS, "off"),)), image(), host, api_keys=str(keys))
    keys.write_text(f"alice:{KEY.key}\n")
    with pytest.raises(InputError) as caught:
        with_keys(wish(), image(), host, api_keys=str(keys))
    assert KEY.key not in str(caught.value)
