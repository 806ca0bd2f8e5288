"""API keys of a deployment: a server that wants them gets them, and golden cases can ask.

Takes a wish and what the image says of itself, hands on the wish with the key file among its secrets; or an error, at
once, where a replica would wait for ever for its keys, or golden cases for an answer.

Rules, in order:
1. A file from the command line is delivered as a secret whose name has the hash of its content: other keys are another
   revision, which is rolled out like any other.
2. Else `[secrets]` delivers it, when its name is the one that `[serve] api_keys` expects in the folder of secrets; or
   the image itself holds it, below its application folder.
3. Golden cases on the live endpoint need one of these keys: `golden_key`. It is looked up before anything is started.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from intermodal.errors import InputError
from intermodal.host import Host
from intermodal.project.api_keys import knows, variable_of
from intermodal.rooms.check.metadata import Metadata
from intermodal.rooms.deploy.revision import Settings
from intermodal.rooms.deploy.secrets import SECRETS_DIR, resolve_secrets
from intermodal.rooms.deploy.wish import Wish
from intermodal_server.contract import APP_DIR, ENV_API_KEYS

_HERE = f"file:{SECRETS_DIR}/"
_OPEN = f"--env {ENV_API_KEYS}=off lets everybody ask"


def with_keys(wish: Wish, metadata: Metadata, host: Host, *, api_keys: str = "") -> Wish:
    """The wish, with the keys that its server wants.

    Args:
        wish: what is wanted.
        metadata: of the image.
        host: where references lead.
        api_keys: a file of keys, as the command line names it.

    Raises:
        InputError: the server wants keys and gets none, or golden cases have none of them.
    """
    settings = wish.settings
    if api_keys:
        settings = _with_file(settings, Path(api_keys).expanduser().absolute())
    source = dict(settings.environment).get(ENV_API_KEYS) or metadata.settings.serve.api_keys
    if source in ("", "off"):
        return wish
    if source.startswith(_HERE):
        if source.removeprefix(_HERE) not in dict(settings.secrets):
            raise _missing(metadata.settings.name, source)
        settings = _with_variable(settings, source)
    elif source.startswith("file:") and not source.startswith(f"file:{APP_DIR}/"):
        raise _missing(metadata.settings.name, source)
    wish = replace(wish, settings=settings)
    if metadata.golden is not None and metadata.golden.cases:
        _check_golden_key(wish, source, host)
    return wish


def keys_variable(settings: Settings, host: Host) -> dict[str, str]:
    """The keys themselves as the server's variable, for a target that delivers no files; {} where it wants none.

    Raises:
        InputError: they cannot be read.
    """
    source = dict(settings.environment).get(ENV_API_KEYS, "")
    name = keys_secret(settings.environment)
    if not name:
        return {ENV_API_KEYS: source} if source else {}
    content = resolve_secrets([(name, dict(settings.secrets)[name])], host)[name]
    return {ENV_API_KEYS: variable_of(content, name)}


def keys_secret(environment: tuple[tuple[str, str], ...] | Mapping[str, str]) -> str:
    """The name of the secret that holds a server's keys; "" where no secret does."""
    source = dict(environment).get(ENV_API_KEYS, "")
    return source.removeprefix(_HERE) if source.startswith(_HERE) else ""


def _with_file(settings: Settings, path: Path) -> Settings:
    if dict(settings.environment).get(ENV_API_KEYS):
        raise InputError(f"--api-keys and --env {ENV_API_KEYS} contradict each other", next="give one of them")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path.name}", found=str(error)) from error
    variable_of(content, path.name)
    name = f"api-keys-{hashlib.sha256(content).hexdigest()[:12]}"
    secrets = tuple(sorted([*settings.secrets, (name, f"file:{path}")]))
    return _with_variable(replace(settings, secrets=secrets), f"{_HERE}{name}")


def _with_variable(settings: Settings, source: str) -> Settings:
    return replace(settings, environment=tuple(sorted({**dict(settings.environment), ENV_API_KEYS: source}.items())))


def _check_golden_key(wish: Wish, source: str, host: Host) -> None:
    if not wish.golden_key:
        raise InputError(
            "the server wants an API key, and golden cases have none to ask with",
            found="they are replayed on the live endpoint before a revision gets traffic",
            next=('pass one: --golden-key env:NAME, or golden_key = "env:NAME" under [deploy]', _OPEN),
        )
    key = resolve_secrets([("golden_key", wish.golden_key)], host)["golden_key"].decode("utf-8", "replace").strip()
    variable = keys_variable(wish.settings, host).get(ENV_API_KEYS, source)
    if variable.startswith("keys:") and not knows(variable, key):
        raise InputError(
            "the key of golden cases is not one of the server's API keys",
            found=f"golden_key = {wish.golden_key!r}, whose hash is in no line",
            next="intermodal apikey NAME makes a key and its line",
        )


def _missing(model: str, source: str) -> InputError:
    name = source.removeprefix(_HERE) if source.startswith(_HERE) else "keys"
    return InputError(
        f"{model} wants API keys, and nobody gives it any",
        found=f"[serve] api_keys = {source!r}: replicas would wait for that file for ever",
        next=(
            "pass a file of keys: --api-keys FILE",
            f'or deliver it: [secrets] {name} = {{ from = "file:PATH" }}',
            _OPEN,
        ),
    )
