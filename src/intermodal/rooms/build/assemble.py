"""From a lock to an image in the store: recall what is known, fetch and write the rest, tie it together.

Takes the lock, the model card and the project; hands on an `Image`.

Rules, in order:
1. Layers, rarest change first: base, its byte code, Debian packages, the model's wheels, the server's wheels, the
   server, model files, application.
2. A layer whose identity is remembered, and whose bytes the store still has, is not made again and nothing is fetched
   for it.
3. Byte code is the same for all architectures and compiled by the base for this host's: one of the image's, or one that
   was locked for that purpose; of the very same version. Where there is none, the build stops.
4. The tag moves last, when every byte is in the store. A session keeps `prune` away until then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.errors import HostError, InputError, NotBuiltYetError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.image import Image
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, layer_descriptor, manifest_bytes
from intermodal.project.value import Project
from intermodal.rooms.build import content, registry_base
from intermodal.rooms.build.base import base_layer, base_platforms, bytecode_layer, needed_debs, system_layer
from intermodal.rooms.build.environment import check_collisions, locked_wheels, plan_environment, with_sizes
from intermodal.rooms.build.layer_cache import cached_layer, layer_key, recall_layer
from intermodal.rooms.build.part import Compile, Part, Tools
from intermodal.rooms.build.wheels.groups import BUCKETS, LockedWheel
from intermodal.rooms.build.wheels.scheme import Scheme
from intermodal.rooms.inspect.card import ModelCard
from intermodal.rooms.lock.rows import Lock, PackageRow

if TYPE_CHECKING:
    from intermodal.rooms.build.bytecode import Compiler

LAYERS_MAX = 100  # Docker loads 125 and others build on top


class Assembly:
    """One build; everything that its steps share."""

    def __init__(self, lock: Lock, card: ModelCard, project: Project, store: Store, host: Host, events: Events) -> None:
        self.lock = lock
        self.card = card
        self.project = project
        self.store = store
        self.host = host
        self.events = events
        self.platforms = project.narrowed or lock.platforms

    def image(self) -> Image:
        """The image, tagged."""
        from intermodal.rooms.lock.lockfile import lock_digest

        clock = time.monotonic()
        if self.lock.policy.compression != "gzip":
            raise NotBuiltYetError("zstd layers are not built yet", next='compression = "gzip" under [environment]')
        digest = lock_digest(self.lock)
        labels = content.labels(self.lock, self.card, self.project, digest)
        with self.store.session():
            with self._compiler() as compiler:
                self._begin(compiler)
                layers = [self._layers(platform, compiler) for platform in self.platforms]
            manifests = [
                self._manifest(platform, found, labels) for platform, found in zip(self.platforms, layers, strict=True)
            ]
            descriptor = self._descriptor(manifests)
            name = f"{self.project.name}:{self.project.version}"
            self.store.tag(name, descriptor)
        return Image(
            name=name,
            descriptor=descriptor,
            manifests=tuple(manifests),
            layers=tuple(layers[0]),
            lock_digest=digest,
            platforms=self.platforms,
            pruned_bytes=sum(layer.pruned_bytes for layer in layers[0]),
            seconds=time.monotonic() - clock,
        )

    def base_layers(self, platform: str) -> list[LayerInfo]:
        """The layers that every image of this base begins with, all of them in the store; the caller has a session."""
        with self._compiler() as compiler:
            return self._base(platform, self._fetch((), platform), compiler.compile)

    def _base(self, platform: str, debs: Mapping[Digest, Path], compile_sources: Compile) -> list[LayerInfo]:
        if self.lock.base.images:
            own = registry_base.base_layers(self.lock, platform, store=self.store, host=self.host, events=self.events)
            code = registry_base.bytecode_layer(
                self.lock, platform, store=self.store, host=self.host, compile_sources=compile_sources
            )
            return [*own, *([code] if code else [])]
        base = base_layer(self.lock, platform, store=self.store, host=self.host, events=self.events, debs=debs)
        system = system_layer(
            self.lock, platform, base=base, store=self.store, host=self.host, events=self.events, debs=debs
        )
        stdlib = bytecode_layer(self.lock, base=base, store=self.store, host=self.host, compile_sources=compile_sources)
        return [base, *([stdlib] if stdlib else []), *([system] if system else [])]

    def _layers(self, platform: str, compiler: Compiler) -> list[LayerInfo]:
        """Every layer of one platform, in order, all of them in the store."""
        parts, environments = self._plan(platform)
        known = [self._recall(part) for part in parts]
        missing = [part for part, info in zip(parts, known, strict=True) if info is None]
        debs = needed_debs(self.lock, platform, store=self.store, host=self.host)
        files = self._fetch(missing, platform) if missing or debs else {}
        base = self._base(platform, files, compiler.compile)
        tools = Tools(files, compiler.compile if self.lock.policy.bytecode != "none" else None)
        written = iter(self._write(missing, tools))
        for environment in environments:
            check_collisions(environment, self.host, self.events)
        own = [info if info is not None else next(written) for info in known]
        layers = [*base, *own]
        if len(layers) > LAYERS_MAX:
            raise InputError(
                f"{self.project.name} would need {len(layers)} layers",
                found=f"{LAYERS_MAX} at most can be loaded everywhere; {len(self.lock.model)} model files",
                next="pack the model's files into fewer",
            )
        return layers

    def _plan(self, platform: str) -> tuple[list[Part], list[list[Part]]]:
        """The parts after the base, and those that form an environment."""
        environments = [
            self._environment(self.lock.packages, "opt/venv", platform, "wheel", BUCKETS),
            self._environment(self.lock.server.packages, "opt/intermodal", platform, "server", 1),
        ]
        settings = content.model_settings(self.lock, self.card, self.project)
        parts = [
            *environments[0],
            *environments[1],
            content.plan_server(self.lock),
            *content.plan_model(self.lock),
            content.plan_app(self.lock, settings),
        ]
        return parts, environments

    def _environment(
        self, packages: Sequence[PackageRow], prefix: str, platform: str, kind: str, buckets: int
    ) -> list[Part]:
        wheels = locked_wheels(packages, self.lock, platform, self.events)
        if unknown := [wheel for wheel in wheels if not wheel.size_bytes]:
            wheels = with_sizes(wheels, self._cached(unknown) or self._fetch_wheels(unknown, platform))
        scheme = Scheme(prefix, self.lock.python)
        return plan_environment(
            wheels, scheme, self.lock, kind=kind, buckets=buckets, host=self.host, events=self.events
        )

    def _recall(self, part: Part) -> LayerInfo | None:
        if part.paths_file is not None and not part.paths_file.exists():
            return None
        return recall_layer(layer_key(part.identity), store=self.store, host=self.host)

    def _cached(self, wheels: Sequence[LockedWheel]) -> dict[Digest, Path]:
        """The files of `wheels` when the cache has them all, else none; nothing of the network is imported."""
        from intermodal.fetch.cache import path_of, present

        files = {wheel.digest: path_of(self.host, wheel.digest, wheel.filename) for wheel in wheels}
        return files if all(present(path, 0) for path in files.values()) else {}

    def _fetch_wheels(self, wheels: Sequence[LockedWheel], platform: str) -> dict[Digest, Path]:
        from intermodal.fetch import fetch_all
        from intermodal.rooms.lock.requests import wheel_request, wheels_of

        wanted = {wheel.digest for wheel in wheels}
        packages = (*self.lock.packages, *self.lock.server.packages)
        rows = [pair for pair in wheels_of(packages, self.lock, platform) if pair[1].digest in wanted]
        return fetch_all([wheel_request(*pair) for pair in rows], host=self.host, events=self.events)

    def _fetch(self, missing: Sequence[Part], platform: str) -> dict[Digest, Path]:
        """Every wheel and Debian package that has to be read, at the same time."""
        rows = needed_debs(self.lock, platform, store=self.store, host=self.host)
        wheels = [wheel for part in missing for wheel in part.wheels]
        if not rows and not wheels:
            return {}  # a change of the application or the model: nothing of the network is even imported
        from intermodal.fetch import fetch_all
        from intermodal.rooms.lock.requests import deb_request

        debs = [deb_request(row, self.lock, self.host) for row in rows]
        files = fetch_all(debs, host=self.host, events=self.events) if debs else {}
        return {**files, **self._fetch_wheels(wheels, platform)} if wheels else files

    @contextmanager
    def _compiler(self) -> Iterator[Compiler]:
        """What compiles with the base's Python; nothing is unpacked or started until it is asked to."""
        from intermodal.rooms.build.bytecode import Compiler

        def rootfs() -> Path | tuple[Path, ...]:
            from intermodal.oci.unpack import unpack_layer

            self._require_compiler()
            if self.lock.base.images:
                return registry_base.unpacked(
                    self.lock, self.host.platform, store=self.store, host=self.host, events=self.events
                )
            base = self._compiling_base()
            with self.events.task("unpack the base"):
                return unpack_layer(self.store, base.digest, base.diff_id, self.host.cache_dir / "rootfs")

        base = self.lock.base
        with Compiler(
            rootfs, base.python, self.host, self.events, interpreter=base.executable, signed=not base.images
        ) as compiler:
            yield compiler

    def _require_compiler(self) -> None:
        """Return when the lock holds a base whose interpreter runs on this host."""
        platform = self.host.platform
        if platform not in base_platforms(self.lock):
            raise HostError(
                f"cannot compile byte code for {', '.join(self.platforms)} on {platform}",
                found=f"the lock holds no interpreter for {platform}",
                next=(
                    "intermodal lock PATH on this machine adds one and changes nothing else",
                    'or build on such a machine, or set bytecode = "none" under [environment]',
                ),
            )

    def _begin(self, compiler: Compiler) -> None:
        """After an edit of the application, start the compiler first: nothing else takes as long."""
        app = content.plan_app(self.lock, content.model_settings(self.lock, self.card, self.project))
        platform = self.host.platform
        if (
            app.compiles
            and not self.lock.base.images
            and self._recall(app) is None
            and platform in base_platforms(self.lock)
            and not needed_debs(self.lock, platform, store=self.store, host=self.host)
        ):
            compiler.begin()

    def _compiling_base(self) -> LayerInfo:
        """The base of Debian packages whose interpreter runs on this host."""
        platform = self.host.platform
        debs = self._fetch((), platform)
        return base_layer(self.lock, platform, store=self.store, host=self.host, events=self.events, debs=debs)

    def _write(self, parts: Sequence[Part], tools: Tools) -> list[LayerInfo]:
        """The layers of `parts`, written side by side, largest first."""
        if not parts:
            return []

        def write(part: Part) -> LayerInfo:
            info = cached_layer(part.identity, lambda sink: part.write(sink, tools), store=self.store, host=self.host)
            task.advance()
            return info

        with self.events.task("write layers", total=len(parts)) as task:
            if len(parts) == 1:
                return [write(parts[0])]
            from concurrent.futures import ThreadPoolExecutor

            order = sorted(range(len(parts)), key=lambda i: -sum(wheel.size_bytes for wheel in parts[i].wheels))
            pool = ThreadPoolExecutor(max(2, self.host.cores), "layer")
            try:
                futures = {i: pool.submit(write, parts[i]) for i in order}
                return [futures[i].result() for i in range(len(parts))]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _manifest(self, platform: str, layers: Sequence[LayerInfo], labels: Mapping[str, str]) -> Descriptor:
        architecture = platform.partition("/")[2]
        base = self.lock.base
        config = config_bytes(
            layers=layers,
            architecture=architecture,
            interpreter=base.executable,
            labels=labels,
            ports=content.ports(self.project),
            inherited=base.image(platform).environment if base.images else (),
        )
        kinds = registry_base.media_types(self.lock, platform)
        described = Descriptor(CONFIG, *self.store.put_bytes(config))
        manifest = manifest_bytes(
            described, [layer_descriptor(layer, kinds.get(layer.digest, LAYER_GZIP)) for layer in layers]
        )
        return Descriptor(MANIFEST, *self.store.put_bytes(manifest), platform=platform)

    def _descriptor(self, manifests: Sequence[Descriptor]) -> Descriptor:
        """The manifest itself for one platform, an index of them for several."""
        if len(manifests) == 1:
            return manifests[0]
        return Descriptor(INDEX, *self.store.put_bytes(index_bytes(manifests)))
