"""Files for monitoring and for compose, of a deployed model or an image.

Takes a name as the user gave it, hands back `Rendered`; like `pipeline` it prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal import pipeline
from intermodal.deployed import find
from intermodal.errors import InputError, NotBuiltYetError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.host.files import replace_file
from intermodal.rooms.render import BUILT, LATER, About, Place, Rendered

if TYPE_CHECKING:
    from intermodal.rooms.deploy.state import Model, StateFile

_DEFAULT_PORT = 8080


def render(
    reference: str,
    form: str,
    *,
    host: Host,
    events: Events = SILENT,
    target: str | None = None,
    port: int | None = None,
) -> Rendered:
    """The files of one format.

    Args:
        reference: a deployed model, else an image as for `run`.
        form: one of `BUILT`.
        host: this machine.
        events: told what takes long.
        target: where the model is deployed; needed when that is in several places.
        port: of the gateway in the compose file.

    Raises:
        NotBuiltYetError: the format is one of `LATER`.
        InputError: there is no such model or image, or nothing that Prometheus could reach.
    """
    if form in LATER:
        raise NotBuiltYetError(
            f"not built yet: --format {form}", found=f"built: {', '.join(BUILT)}", next="take --format compose"
        )
    from intermodal.rooms.deploy.state import StateFile

    with StateFile.of(host) as state:
        name = reference.partition(":")[0]
        deployed = state.path.exists() and any(one.name == name for one in state.models(target))
        if form == "compose":
            chosen = _stable(state, find(state, name, target)) if deployed and ":" not in reference else reference
            return _compose(chosen, port or _DEFAULT_PORT, host, events)
        about = _deployed(state, find(state, name, target)) if deployed else _undeployed(reference, host, events)
    return _writer(form)(about)


def _writer(form: str) -> Callable[[About], Rendered]:
    from intermodal.rooms.render.alerts import alerts
    from intermodal.rooms.render.grafana import dashboard
    from intermodal.rooms.render.prometheus import scrape

    return {"prometheus": scrape, "alerts": alerts, "grafana": dashboard}[form]


def write(rendered: Rendered, folder: Path) -> tuple[Path, ...]:
    """Put the files into a folder, which is made when missing; where they are."""
    found = []
    for name, content in sorted(rendered.files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, mode=0o644)  # a container's own user reads it
        found.append(path)
    return tuple(found)


def _deployed(state: StateFile, model: Model) -> About:
    from intermodal.rooms.watch.memory import read_memory

    if model.target == "sandbox":
        raise InputError(
            f"Prometheus cannot reach {model.name} on the sandbox",
            found="its servers tell their metrics on Unix sockets of this user",
            next="deploy it to local; or render the image: intermodal render NAME:TAG",
        )
    stored = state.rollout(model)
    rules = read_memory(stored).rules if stored is not None else None
    default = About(model.name, Place.DOCKER)
    return About(
        model.name,
        Place.DOCKER,
        target=model.target,
        max_error_rate=(rules.max_error_rate if rules else None) or default.max_error_rate,
        max_p99_s=(rules.max_p99_s if rules else None) or default.max_p99_s,
    )


def _undeployed(reference: str, host: Host, events: Events) -> About:
    from intermodal.engine.image import read_image, unpacked_layers
    from intermodal.oci.folder_once import folders_in_use
    from intermodal.rooms.check.metadata import read_metadata

    store = pipeline.open_store(host)
    digest = pipeline.manifest_of(reference, store, host, events)
    with folders_in_use(host.cache_dir):
        settings = read_metadata(unpacked_layers(store, read_image(store, digest), host, events)).settings
    wants_keys = settings.serve.api_keys.startswith("file:")
    return About(settings.name, Place.COMPOSE, version=settings.version, wants_keys=wants_keys)


def _stable(state: StateFile, model: Model) -> str:
    if model.current is None:
        raise InputError(f"nothing of {model.name} is deployed on {model.target}", next="name an image: NAME:TAG")
    return state.revision(model, model.current).manifest


def _compose(reference: str, port: int, host: Host, events: Events) -> Rendered:
    from intermodal.engine.archive import image_name
    from intermodal.rooms.deploy.envoy.image import gateway_image
    from intermodal.rooms.render.compose import compose

    store, about = pipeline.open_store(host), _undeployed(reference, host, events)
    digest = pipeline.manifest_of(reference, store, host, events)
    gateway = gateway_image(digest, store=store, host=host, events=events)
    names = (image_name(store, digest), image_name(store, gateway.digest))
    load = tuple(f"intermodal load {one} --into docker" for one in (reference, names[1]))
    return compose(about, image=names[0], gateway_image=names[1], port=port, load=load)
