"""The images of the registry's benchmark: digits, digits with one thing changed, and one with a large model."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, run

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "digits"


@dataclass(frozen=True)
class Built:
    """An image in the store of a home."""

    name: str
    blobs: dict[str, int]  # digest: bytes

    @property
    def layers(self) -> int:
        """How many layers it has; the config is one blob more."""
        return len(self.blobs) - 1

    @property
    def size_bytes(self) -> int:
        """Everything but the manifest."""
        return sum(self.blobs.values())


def example(folder: Path) -> Path:
    """A copy of examples/digits without a lock of somebody's."""
    return Path(shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("pylock.*")))


class Home:
    """A home folder with a store and caches of its own; this machine's configuration of pip, uv and apt counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def variables(self) -> dict[str, str]:
        """The environment of a command."""
        own = {"XDG_DATA_HOME": str(self.folder / "data"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        return {**os.environ, **own, "DOCKER_CONFIG": str(self.folder / "docker")}

    @property
    def store(self) -> Path:
        """The local store."""
        return self.folder / "data" / "intermodal" / "store"

    def run(self, *words: str | Path) -> Run:
        """One command, timed from outside."""
        return run([sys.executable, "-m", "intermodal", *words], env=self.variables())

    def build(self, project: Path, *options: str) -> Built:
        """The image of a project."""
        document = json.loads(self.run("build", project, "--json", *options).out)
        return self.known(document["name"], document["digest"])

    def known(self, name: str, digest: str) -> Built:
        """An image that is in the store."""
        manifest = json.loads((self.store / "blobs/sha256" / digest.partition(":")[2]).read_bytes())
        return Built(name, {b["digest"]: b["size"] for b in (manifest["config"], *manifest["layers"])})

    def push(self, image: str, to: str, *options: str) -> Run:
        """`intermodal push`."""
        return self.run("push", image, to, *options)

    def export(self, image: Built, folder: Path) -> Path:
        """The image as an OCI layout of its own."""
        from intermodal.oci.export import export
        from intermodal.oci.layout import Store

        store = Store(self.store)
        return export(store, store.resolve(image.name), f"oci:{folder}:1", name=image.name)


def variants(home: Home, folder: Path) -> Iterator[tuple[str, Built]]:
    """Digits with other code, another model, one more dependency; each as an image of its own."""
    project = example(folder / "changed")
    settings = (project / "intermodal.toml").read_text()
    (project / "note.py").write_text("WORDS = 'first'\n")
    told = settings.replace('artifact = "model.joblib"', 'artifact = "model.joblib"\ninclude = ["note.py"]')
    (project / "intermodal.toml").write_text(told)
    yield "one file of code added", home.build(project, "-t", "digits:code-1")
    (project / "note.py").write_text("WORDS = 'second'\n")
    yield "one line of code changed", home.build(project, "-t", "digits:code-2")
    (project / "intermodal.toml").write_text(
        settings.replace('["scikit-learn==1.9.1"]', '["scikit-learn==1.9.1", "colorama==0.4.6"]')
    )
    home.run("lock", project)
    yield "one more dependency (colorama)", home.build(project, "-t", "digits:more")
    yield "another model of the same size", other_model(home)


def other_model(home: Home) -> Built:
    """Digits with other bytes in its model's layer: what a push sees of a model that was trained again."""
    from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor
    from intermodal.oci.digest import Digest
    from intermodal.oci.layout import Store
    from intermodal.oci.manifest import manifest_bytes

    store = Store(home.store)
    descriptor = store.resolve("digits:1.0.0")
    manifest, config = store.manifest(descriptor), store.config(descriptor)
    number = next(n for n, step in enumerate(config["history"]) if "model" in step["created_by"])
    old = manifest["layers"][number]
    digest, size = store.put_bytes(os.urandom(old["size"]))
    config["rootfs"]["diff_ids"][number] = str(digest)
    layers = [Descriptor(LAYER_GZIP, Digest.parse(x["digest"]), x["size"]) for x in manifest["layers"]]
    layers[number] = Descriptor(LAYER_GZIP, digest, size)
    config_digest, config_size = store.put_bytes(json.dumps(config).encode())
    data = manifest_bytes(Descriptor(CONFIG, config_digest, config_size), layers)
    made, made_size = store.put_bytes(data)
    store.tag("digits:model", Descriptor(MANIFEST, made, made_size))
    return home.known("digits:model", str(made))


def large(home: Home, megabytes: int) -> str:
    """The name of an image with one layer of that size."""
    from support.small_image import small_image

    from intermodal.oci.descriptor import CONFIG, LAYER_GZIP, MANIFEST, Descriptor
    from intermodal.oci.layout import Store
    from intermodal.oci.manifest import manifest_bytes, parse_descriptor

    store = Store(home.store).open_or_create()
    small = store.manifest(small_image(store, "small:1"))
    piece = os.urandom(1 << 20)
    with store.writer() as writer:
        for number in range(megabytes * 1_000_000 // len(piece)):
            writer.write(number.to_bytes(8, "big") + piece[8:])
        digest, size = writer.commit()
    config = parse_descriptor(small["config"])
    layers = [*map(parse_descriptor, small["layers"]), Descriptor(LAYER_GZIP, digest, size)]
    data = manifest_bytes(Descriptor(CONFIG, config.digest, config.size_bytes), layers)
    made, made_size = store.put_bytes(data)
    store.tag("large:1", Descriptor(MANIFEST, made, made_size))
    return "large:1"
