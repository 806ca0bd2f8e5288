"""Answers of a built image to any requests: what `record --locked` records.

Takes a manifest in the store and V2 bodies, hands on the answers in the same order. The image runs as in a check:
hardened, without network, with its start check off (it may have no golden cases yet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.interface import Engine, RunRequest
from intermodal.errors import CheckFailedError
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folders_in_use
from intermodal.oci.layout import Store
from intermodal.rooms.check.metadata import read_metadata
from intermodal.rooms.check.probe import Client, await_ready, start_limit_s
from intermodal_server.contract import ENV_API_KEYS, ENV_MAX_CONCURRENT, ENV_RATE_PER_S, ENV_START_CHECK

if TYPE_CHECKING:
    from intermodal.golden.record import Replay
    from intermodal.rooms.lock.rows import Lock

_ALONE = {ENV_START_CHECK: "off", ENV_API_KEYS: "off", ENV_RATE_PER_S: "0", ENV_MAX_CONCURRENT: "0"}


def answers(
    image: Digest,
    requests: Sequence[Mapping[str, Any]],
    *,
    store: Store,
    engine: Engine,
    host: Host,
    events: Events = SILENT,
) -> list[dict[str, Any]]:
    """One V2 body or `{"error": text}` per request.

    Raises:
        CheckFailedError: the image does not become ready; its last words are in `found`.
        EngineError: the engine cannot run containers here.
    """
    runnable = read_image(store, image)
    with folders_in_use(host.cache_dir):
        settings = read_metadata(unpacked_layers(store, runnable, host, events)).settings
    limit_s = start_limit_s(sum(layer.size_bytes for layer in runnable.layers), host.cores)
    with engine.start(RunRequest(image, _ALONE, events=events)) as container:
        with events.task("start the server") as task:
            ready = await_ready(container, limit_s, task)
        if ready.problem:
            raise CheckFailedError(f"{settings.name} does not become ready", found=ready.problem)
        client = Client(container.endpoint, settings.name, settings.serve.timeout_s + 30.0)
        try:
            return [client.infer({k: v for k, v in request.items() if k != "id"}) for request in requests]
        finally:
            client.close()


def replay(image: Digest, lock: Lock, *, store: Store, engine: Engine, host: Host, events: Events = SILENT) -> Replay:
    """A function that answers requests inside `image`, and says which versions of its `lock` answered."""
    environment = {"python": lock.base.python_version, "distributions": {p.name: p.version for p in lock.packages}}

    def ask(requests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        told = answers(image, requests, store=store, engine=engine, host=host, events=events)
        return {"responses": told, "environment": environment}

    return ask
