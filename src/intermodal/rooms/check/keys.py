"""Would the server wait for API keys that nobody gives it? Told before anything is built, loaded or started.

Takes a project or a stored image, hands on nothing or the error; for whoever starts a server without keys of its own.

Rules, in order:
1. Keys that stand in a variable, and `off`, are there.
2. A file that the image holds is there; layers are opened from the highest down, where the application's files lie.
3. A file in a folder for secrets is in no image: a project that names one is refused before it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from intermodal.engine.image import RunnableImage, read_image
from intermodal.engine.rootfs import read_from_layers
from intermodal.errors import InputError
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.unpack import unpack_layer
from intermodal.project.value import Project
from intermodal_server.contract import ENV_API_KEYS, SETTINGS_PATH, ContractError, ModelSettings

_FILE = "file:"
_MOUNTED = f"{_FILE}/run/"  # a folder that engines put over the image's own
_MAX_BYTES = 16 << 20


def refuse_keyless_project(project: Project) -> None:
    """Return unless the project's image would wait for a file that it cannot hold.

    Raises:
        InputError: it would; says how keys are given.
    """
    source = project.settings.serve.api_keys or ""
    if source.startswith(_MOUNTED):
        raise _keyless(project.name, source)


def refuse_keyless_image(digest: Digest, *, store: Store, host: Host) -> None:
    """Return unless the image would wait for a file that it does not hold.

    Args:
        digest: of its manifest.
        store: where it is.
        host: where layers are unpacked.

    Raises:
        InputError: it would; says how keys are given.
        StoreError: the image is damaged.
    """
    image = read_image(store, digest)
    document = _held(image, SETTINGS_PATH, store, host)
    try:
        settings = ModelSettings.from_json(document or b"")
    except ContractError:  # not of ours, or of another version: whoever starts it tells what is wrong with it
        return
    source = image.environment.get(ENV_API_KEYS) or settings.serve.api_keys
    if not source.startswith(_FILE):
        return
    if source.startswith(_MOUNTED) or _held(image, source.removeprefix(_FILE), store, host) is None:
        raise _keyless(settings.name, source)


def _held(image: RunnableImage, path: str, store: Store, host: Host) -> bytes | None:
    """A file of an image; only the layers above it are unpacked."""
    found = (read_from_layers([layer], path, _MAX_BYTES) for layer in _downwards(image, store, host))
    return next((content for content in found if content is not None), None)


def _downwards(image: RunnableImage, store: Store, host: Host) -> Iterator[Path]:
    for layer in reversed(image.layers):
        yield unpack_layer(store, layer.digest, layer.diff_id, host.cache_dir / "rootfs", layer.compression)


def _keyless(name: str, source: str) -> InputError:
    return InputError(
        f"{name} wants API keys, and nobody gives it any",
        found=f"[serve] api_keys = {source!r}: the server would wait for that file for ever",
        next=("pass a file of keys: --api-keys FILE", "intermodal apikey NAME makes a line of it"),
    )
