from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.hosts import empty_host

from intermodal.host import Host
from intermodal.host.pip import PUBLIC_INDEX, IndexConfig, pip_config_files, without_credentials


def host_with(folder: Path, files: dict[str, str] | None = None, **variables: str) -> Host:
    """A machine whose pip configuration files lie below `folder`; paths are relative to it."""
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    host = empty_host(folder)
    environment = {k: v for k, v in host.environment.items() if k != "PIP_CONFIG_FILE"}
    return replace(host, environment=environment | variables)


def config_of(folder: Path, files: dict[str, str] | None = None, **variables: str) -> IndexConfig:
    return host_with(folder, files, **variables).indexes


def test_nothing_configured_is_the_public_index(tmp_path: Path) -> None:
    config = empty_host(tmp_path).indexes
    assert config.indexes == (PUBLIC_INDEX,)
    assert config.origin == "default"
    assert config.uv_environment() == {}
    assert config.uv_arguments() == ()


def test_a_machine_with_wheels_on_disk_and_no_default_index(tmp_path: Path) -> None:
    wheels, more = tmp_path / "wheels", tmp_path / "more"
    wheels.mkdir()
    files = {
        "xdg/pip/pip.conf": "[global]\ncert = /etc/ssl/ca.pem\nconstraint = /etc/constraints.txt\n",
        "home/.config/pip/pip.conf": f"[global]\nfind-links = {wheels}\n"
        f"extra-index-url = file://{more}/simple\n    file://{more}/other\n",
    }
    config = config_of(tmp_path, files, PIP_FIND_LINKS=str(wheels))
    assert config.default == PUBLIC_INDEX
    assert config.extra == (f"file://{more}/simple", f"file://{more}/other")
    assert config.uv_environment() == {
        "SSL_CERT_FILE": "/etc/ssl/ca.pem",
        "UV_INDEX": f"file://{more}/simple file://{more}/other",
        "UV_FIND_LINKS": str(wheels),
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert config.uv_arguments() == ("--constraint", "/etc/constraints.txt")


def test_files_override_in_pips_order(tmp_path: Path) -> None:
    order = [
        "xdg/pip/pip.conf",
        "etc/pip.conf",
        "home/.pip/pip.conf",
        "home/.config/pip/pip.conf",
        "venv/pip.conf",
        "chosen.conf",
    ]
    for count in range(1, 5):
        files = {name: f"[global]\nindex-url = https://{i}.example/simple/\n" for i, name in enumerate(order[:count])}
        found = config_of(tmp_path / str(count), files)
        assert found.default == f"https://{count - 1}.example/simple"
    venv = tmp_path / "v"
    files = {name: f"[global]\nindex-url = https://{i}.example/simple\n" for i, name in enumerate(order[:5])}
    assert config_of(venv, files, VIRTUAL_ENV=str(venv / "venv")).default == "https://4.example/simple"
    chosen = tmp_path / "c"
    files = {name: f"[global]\nindex-url = https://{i}.example/simple\n" for i, name in enumerate(order)}
    assert config_of(chosen, files, PIP_CONFIG_FILE=str(chosen / "chosen.conf")).default == "https://5.example/simple"


def test_a_chosen_file_hides_the_users_and_devnull_hides_all(tmp_path: Path) -> None:
    files = {
        "home/.config/pip/pip.conf": "[global]\nextra-index-url = https://user.example/simple\n",
        "chosen.conf": "[global]\nno-index = false\nfind-links = .\n",
    }
    assert config_of(tmp_path, files, PIP_CONFIG_FILE=str(tmp_path / "chosen.conf")).extra == ()
    assert config_of(tmp_path, files, PIP_CONFIG_FILE=os.devnull).origin == "default"


def test_the_install_section_and_the_environment_win(tmp_path: Path) -> None:
    text = "[global]\nindex-url = https://a.example/simple\n[install]\nindex_url = https://b.example/simple\n"
    files = {"home/.config/pip/pip.conf": text}
    assert config_of(tmp_path / "1", files).default == "https://b.example/simple"
    assert config_of(tmp_path / "2", files, PIP_INDEX_URL="https://c.example/simple").default.startswith("https://c.")
    assert config_of(tmp_path / "3", files, PIP_INDEX_URL="").default.startswith("https://b.")


def test_a_configured_index_is_never_joined_by_the_public_one(tmp_path: Path) -> None:
    config = config_of(tmp_path, PIP_INDEX_URL="https://private.example/simple")
    assert config.indexes == ("https://private.example/simple",)
    assert config.uv_environment()["UV_DEFAULT_INDEX"] == "https://private.example/simple"


def test_uv_with_an_extra_index_keeps_pips_default(tmp_path: Path) -> None:
    variables = {"PIP_INDEX_URL": "https://private.example/simple", "UV_INDEX": "https://more.example/simple"}
    config = config_of(tmp_path, **variables)
    assert config.origin == "uv"
    assert config.indexes == ("https://more.example/simple", "https://private.example/simple")
    assert config.uv_environment() == {"UV_DEFAULT_INDEX": "https://private.example/simple"}


def test_uv_alone_counts_by_itself(tmp_path: Path) -> None:
    toml = (
        '[[index]]\nname = "corp"\nurl = "https://corp.example/simple/"\ndefault = true\n'
        '[[index]]\nname = "only-named"\nurl = "https://explicit.example/simple"\nexplicit = true\n'
        '[pip]\nfind-links = ["https://links.example/x"]\n'
    )
    files = {
        "home/.config/uv/uv.toml": toml,
        "home/.config/pip/pip.conf": "[global]\nindex-url = https://pip.example\n",
    }
    config = config_of(tmp_path, files, UV_EXTRA_INDEX_URL="https://extra.example/simple")
    assert config.origin == "uv"
    assert config.indexes == ("https://extra.example/simple", "https://corp.example/simple")
    assert config.find_links == ("https://links.example/x",)
    assert "UV_INDEX_STRATEGY" not in config.uv_environment()


def test_uv_switched_off_by_its_own_variable(tmp_path: Path) -> None:
    files = {"home/.config/uv/uv.toml": 'index-url = "https://corp.example/simple"\n'}
    assert config_of(tmp_path, files).default == "https://corp.example/simple"
    assert config_of(tmp_path, files, UV_NO_CONFIG="1").default == PUBLIC_INDEX


def test_no_index(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    config = config_of(
        tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "wheels"), PIP_EXTRA_INDEX_URL="https://x"
    )
    assert config.indexes == ()
    assert config.uv_arguments() == ("--no-index",)
    assert "UV_INDEX" not in config.uv_environment()


def test_missing_folders_are_passed_over_as_pip_does(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    links = f"{tmp_path}/gone {tmp_path}/here file://{tmp_path}/gone https://links.example/"
    assert config_of(tmp_path, PIP_FIND_LINKS=links).find_links == (f"{tmp_path}/here", "https://links.example/")


def test_a_broken_file_does_not_stop_us(tmp_path: Path) -> None:
    files = {"home/.config/pip/pip.conf": "no section here\n", "xdg/pip/pip.conf": "[global]\ncert = /ca.pem\n"}
    assert config_of(tmp_path, files).cert == "/ca.pem"


def test_credentials_are_not_shown(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        PIP_INDEX_URL="https://me:hunter2@private.example/simple",
        PIP_EXTRA_INDEX_URL="https://you:hunter2@extra.example/simple",
    )
    assert "hunter2" not in repr(config)
    assert "hunter2" not in config.shown
    assert "private.example/simple" in config.shown
    assert "hunter2" not in " ".join(config.uv_arguments())


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://a:b@x.example:8443/s?q#f", "https://x.example:8443/s?q#f"),
        ("https://a%40b:c@x.example/", "https://x.example/"),
        ("https://x.example/a@b", "https://x.example/a@b"),
        ("file:///a/b@c", "file:///a/b@c"),
    ],
)
def test_without_credentials(url: str, bare: str) -> None:
    assert without_credentials(url) == bare


def test_the_same_files_as_pip_itself(tmp_path: Path) -> None:
    """pip is the authority: ask it which files it reads."""
    import subprocess
    import sys

    variables = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": f"{tmp_path}/a:{tmp_path}/b", "PATH": os.environ["PATH"]}
    script = (
        "from pip._internal.configuration import get_configuration_files as f, kinds as k;"
        "c=f(); print('\\n'.join([*c[k.GLOBAL], *c[k.USER]]))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)
    host = replace(empty_host(tmp_path), environment=variables, home=tmp_path)
    assert [str(path) for path in pip_config_files(host)] == done.stdout.split()
