"""Programs of other people accept the image of every example: its documents, its digests, its layers, its packages.

skopeo and the OCI schemas read every image. crane, umoci and syft unpack hundreds of megabytes for each, so every
example is read by one of them and `digits` by all; `INTERMODAL_READERS=all` lets each of them read each.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from isal import igzip
from support.cli import CHECKOUT, intermodal
from support.envs import CACHE
from support.readers import reader

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.xdist_group("second-readers")]
EXAMPLES = sorted(path.parent.name for path in (CHECKOUT / "examples").glob("*/intermodal.toml"))
HEAVY = ("crane", "umoci", "syft")
TURNS = {
    "digits": HEAVY,
    "basic-pitch": ("crane",),
    "predictor": ("syft",),
    "conflict-new": ("umoci",),
    "conflict-old": ("crane",),
    "passengers": ("syft",),
    "torch-cpu": ("crane",),
    "xgboost": ("umoci",),
}


def readers_of(example: str) -> tuple[str, ...]:
    """Who reads the layers of an example; everybody those of a new one."""
    return HEAVY if os.environ.get("INTERMODAL_READERS") == "all" else TURNS.get(example, HEAVY)


def whose(name: str) -> list[str]:
    return [example for example in EXAMPLES if name in readers_of(example)]


@dataclass(frozen=True)
class Image:
    """The image of an example, in a store that readers take for the OCI layout it is."""

    store: Path
    name: str  # "digits:1.0.0"
    digest: str
    lock: Mapping[str, Any]

    @property
    def layout(self) -> str:
        return f"{self.store}:{self.name}"

    def document(self, digest: str) -> Any:
        return json.loads((self.store / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes())

    def alone(self, folder: Path) -> Path:
        """A layout of this image only, made of hard links or copies."""
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        manifest = self.document(self.digest)
        for item in ({"digest": self.digest}, manifest["config"], *manifest["layers"]):
            source = self.store / "blobs" / "sha256" / item["digest"].removeprefix("sha256:")
            try:
                os.link(source, blobs / source.name)
            except OSError:
                shutil.copyfile(source, blobs / source.name)
        listed = json.loads((self.store / "index.json").read_bytes())
        listed["manifests"] = [item for item in listed["manifests"] if item["digest"] == self.digest]
        (folder / "index.json").write_text(json.dumps(listed))
        shutil.copyfile(self.store / "oci-layout", folder / "oci-layout")
        return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Image]]:
    """Every example, built by this checkout; the store stays in the cache, so that a second run is quick."""
    home, projects = CACHE / "second-readers", tmp_path_factory.mktemp("projects")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {example: built(example, projects, home) for example in EXAMPLES}
        pruned = intermodal("prune", home=home)
        assert pruned.code == 0, pruned.err
        yield found


def built(example: str, projects: Path, home: Path) -> Image:
    project = projects / example
    shutil.copytree(CHECKOUT / "examples" / example, project)
    (project / "pylock.intermodal.toml").unlink(missing_ok=True)  # a new one, whatever the server is now
    if (project / "fetch.py").exists():
        subprocess.run([sys.executable, project / "fetch.py"], check=True, capture_output=True)
    done = intermodal("build", project, "--json", home=home)
    assert done.code == 0, f"{example}: {done.out}{done.err}"
    lock = tomllib.loads((project / "pylock.intermodal.toml").read_text())
    name = f"{lock['tool']['intermodal']['name']}:{lock['tool']['intermodal']['version']}"
    return Image(home / "data" / "intermodal" / "store", name, done.json["digest"], lock)


def run(*words: str | Path) -> str:
    environment = {**os.environ, "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def roomy_folder() -> Iterator[Path]:
    """A folder for unpacked images: in memory where there is enough, because the disk costs more than the reading."""
    memory = Path("/dev/shm")
    enough = memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(prefix="im-", dir=memory if enough else None) as place:
        yield Path(place)


def test_every_example_is_read_in_full_by_somebody() -> None:
    assert len(EXAMPLES) >= 8
    assert all(readers_of(example) for example in EXAMPLES)
    assert all(whose(name) for name in HEAVY)


@pytest.mark.parametrize("example", EXAMPLES)
def test_skopeo_copies_it_there_and_back_unchanged(images: dict[str, Image], example: str, tmp_path: Path) -> None:
    skopeo, image = reader("skopeo"), images[example]
    seen = json.loads(run(skopeo, "inspect", f"oci:{image.layout}"))
    assert seen["Digest"] == image.digest
    assert seen["Layers"] == [layer["digest"] for layer in image.document(image.digest)["layers"]]
    run(skopeo, "copy", "--quiet", f"oci:{image.layout}", f"dir:{tmp_path / 'there'}")
    run(skopeo, "copy", "--quiet", f"dir:{tmp_path / 'there'}", f"oci:{tmp_path / 'back'}:{image.name}")
    (back,) = json.loads((tmp_path / "back" / "index.json").read_bytes())["manifests"]
    assert (back["digest"], back["mediaType"]) == (image.digest, "application/vnd.oci.image.manifest.v1+json")
    names = sorted(path.name for path in (tmp_path / "back" / "blobs" / "sha256").iterdir())
    manifest = image.document(image.digest)
    digests = {image.digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    assert names == sorted(digest.removeprefix("sha256:") for digest in digests)
    for name in names:
        with (tmp_path / "back" / "blobs" / "sha256" / name).open("rb") as stream:
            assert hashlib.file_digest(stream, "sha256").hexdigest() == name
    shutil.rmtree(tmp_path / "there")
    shutil.rmtree(tmp_path / "back")


def test_an_exported_layout_is_the_same_image(images: dict[str, Image], tmp_path: Path) -> None:
    image = images["digits"]
    home = CACHE / "second-readers"
    done = intermodal("build", CHECKOUT / "examples" / "digits", "-o", f"oci:{tmp_path / 'out'}:mine", home=home)
    assert done.code == 0, done.err
    seen = json.loads(run(reader("skopeo"), "inspect", f"oci:{tmp_path / 'out'}:mine"))
    assert seen["Layers"] == [layer["digest"] for layer in image.document(image.digest)["layers"]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_oci_schemas_describe_its_documents(images: dict[str, Image], example: str) -> None:
    image = images[example]
    manifest = image.document(image.digest)
    config = image.document(manifest["config"]["digest"])
    assert faults("image-layout-schema.json", json.loads((image.store / "oci-layout").read_bytes())) == []
    assert faults("image-index-schema.json", json.loads((image.store / "index.json").read_bytes())) == []
    assert faults("image-manifest-schema.json", manifest) == []
    assert faults("config-schema.json", config) == []
    assert faults("image-manifest-schema.json", manifest | {"layers": [{"size": -1}]}) != [], "the schema sees nothing"
    assert faults("config-schema.json", config | {"rootfs": {"type": "x"}}) != [], "the schema sees nothing"


def faults(schema: str, document: object) -> list[str]:
    """What a schema of the specification has against a document."""
    from jsonschema import Draft4Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    known = {path.name: json.loads(path.read_bytes()) for path in reader("schemas").glob("*.json")}
    registry: Registry[Any] = Registry()
    for name, content in known.items():
        for address in (content.get("id", name), *(f"{base}/{name}" for base in BASES)):
            registry = registry.with_resource(address, Resource(content, DRAFT4))
    validator = Draft4Validator(known[schema], registry=registry)
    return [error.message for error in validator.iter_errors(document)]


BASES = (
    "https://opencontainers.org/schema",
    "https://opencontainers.org/schema/image",
    "https://opencontainers.org/schema/image/descriptor",
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """crane's own registry, on a free port of the loopback interface."""
    folder = tmp_path_factory.mktemp("registry")
    (folder / "disk").mkdir()
    words = [reader("crane"), "registry", "serve", "--address", "127.0.0.1:0", "--disk", folder / "disk"]
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log)
        try:
            for _ in range(600):
                if found := re.search(r"serving on port (\d+)", (folder / "log").read_text()):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                subprocess.run(["sleep", "0.05"], check=True)
            assert found, (folder / "log").read_text()
            yield f"127.0.0.1:{found[1]}"
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)


@pytest.mark.parametrize("example", whose("crane"))
def test_crane_validates_every_digest_size_and_diff_id(images: dict[str, Image], example: str, registry: str) -> None:
    crane, image = reader("crane"), images[example]
    reference = f"{registry}/{image.name}"
    with roomy_folder() as folder:
        run(crane, "push", image.alone(folder / "layout"), reference)
    assert run(crane, "digest", reference).strip() == image.digest
    assert "PASS" in run(crane, "validate", "--remote", reference)


@pytest.mark.parametrize("example", whose("umoci"))
def test_umoci_unpacks_what_the_layers_hold(images: dict[str, Image], example: str) -> None:
    image = images[example]
    with roomy_folder() as folder:
        rootless = ["--rootless"] if os.getuid() else []
        run(reader("umoci"), "unpack", *rootless, "--image", image.layout, folder / "bundle")
        assert tree(folder / "bundle" / "rootfs") == merged(image)
        config = json.loads((folder / "bundle" / "config.json").read_bytes())
    assert config["process"]["user"]["uid"] == 65532
    assert config["process"]["args"][0].startswith("/usr/bin/python3")


def tree(root: Path) -> dict[str, str]:
    """Every path below a folder with its kind and size, target or mode."""
    found = {}
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            found[path.relative_to(root).as_posix()] = described(path)
    return found


def described(path: Path) -> str:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if path.is_dir():
        return "folder"
    status = path.stat()
    return f"{status.st_size} bytes, {'executable' if status.st_mode & 0o111 else 'plain'}"


def merged(image: Image) -> dict[str, str]:
    """The same, by reading the layers one after another with Python's own tar reader."""
    found: dict[str, str] = {}
    for layer in image.document(image.digest)["layers"]:
        path = image.store / "blobs" / "sha256" / layer["digest"].removeprefix("sha256:")
        with igzip.open(path) as plain, tarfile.open(fileobj=io.BufferedReader(plain), mode="r|") as archive:
            for entry in archive:
                name = entry.name.strip("/").removeprefix("./")
                if entry.isdir():
                    found[name] = "folder"
                elif entry.issym():
                    found[name] = f"-> {entry.linkname}"
                elif entry.islnk():
                    found[name] = found[entry.linkname.strip("/")]
                else:
                    found[name] = f"{entry.size} bytes, {'executable' if entry.mode & 0o111 else 'plain'}"
    found.pop(".", None)
    found.pop("", None)
    return found


@pytest.mark.parametrize("example", whose("syft"))
def test_syft_finds_the_packages_of_the_lock_and_no_other(images: dict[str, Image], example: str) -> None:
    image = images[example]
    with roomy_folder() as folder:
        layout = image.alone(folder / "layout")
        document = json.loads(run(reader("syft"), "scan", f"oci-dir:{layout}", "-o", "cyclonedx-json", "-q"))
    found = {
        item["purl"].partition("?")[0] for item in document["components"] if item.get("purl") and not vendored(item)
    }
    assert {unquote(purl) for purl in found} == locked(image.lock)


def vendored(component: Mapping[str, Any]) -> bool:
    """Whether a package lies inside another one, as setuptools carries its own: its wheel is locked, it is not."""
    properties = component.get("properties", ())
    paths = [item["value"] for item in properties if re.fullmatch(r"syft:location:\d+:path", item["name"])]
    return bool(paths) and all("/site-packages/setuptools/_vendor/" in path for path in paths)


def locked(lock: Mapping[str, Any]) -> set[str]:
    """What the lock puts into the image, as package URLs."""
    ours = lock["tool"]["intermodal"]
    wheels = [(row["name"], row["version"]) for row in lock.get("packages", ())]
    wheels += [tuple(row.split()[:2]) for row in ours["server"]["packages"]]
    debs = [row.split()[:2] for archive in ours["base"]["archives"] for row in archive["packages"]]
    return {f"pkg:pypi/{name}@{version}" for name, version in wheels} | {
        f"pkg:deb/debian/{name}@{version}" for name, version in debs
    }
