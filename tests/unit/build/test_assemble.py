"""Whole images of small hand-made packages, without byte code (the image's own interpreter is in e2e)."""

from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import debs
from support.hosts import empty_host
from support.wheels import make_wheel

from intermodal.errors import (
    DriftError,
    DuplicatePathError,
    HostError,
    IntermodalError,
    NotBuiltYetError,
    SecretFoundError,
    UnknownImageError,
)
from intermodal.events import Events
from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate
from intermodal.project.schema import Check, Model, ProjectFile, Serve
from intermodal.project.value import Project
from intermodal.rooms.build import Image, build
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock.lockfile import lock_digest
from intermodal.rooms.lock.rows import Lock, PackageRow, Policy, ServerLock, WheelRow
from intermodal.rooms.lock.servertree import server_tree
from intermodal_server.contract import ModelSettings, Signature, TensorSpec

NOISE = random.Random(11)
BIG = NOISE.randbytes((1 << 20) + 5000)
WEIGHTS = NOISE.randbytes((8 << 20) + 1)


def package(path: Path, *, size: bool = True) -> PackageRow:
    name, version = path.name.split("-")[:2]
    digest, size_bytes = Digest.of_file(path)
    row = WheelRow(path.name, size_bytes if size else 0, digest, path.as_uri())
    return PackageRow(name, version, (row,))


def file_row(path: Path, name: str | None = None) -> FileRow:
    digest, size_bytes = Digest.of_file(path)
    return FileRow(name or path.name, size_bytes, digest, path)


class Bench:
    """One project, one machine; what a test changes before it builds."""

    def __init__(self, folder: Path, *, cores: int = 2) -> None:
        self.folder = folder
        self.host: Host = replace(empty_host(folder), cores=cores)
        self.store = Store(folder / "store").open_or_create()
        self.notices: list[str] = []
        self.packages = debs.python_base()
        self.files = debs.lay_out(folder / "debs", self.packages)
        wheels = folder / "wheels"
        self.alpha = make_wheel(wheels, "alpha", "1.0", {"alpha/__init__.py": "A = 1\n", "alpha/tests/t.py": "x"})
        self.beta = make_wheel(wheels, "beta", "2.0", {"beta/__init__.py": "", "beta/data.bin": BIG})
        self.serving = make_wheel(wheels, "uvthing", "0.1", {"uvthing.py": "S = 1\n"})
        self.root = folder / "project"
        self.root.mkdir()
        self.write("predictor.py", b"class P:\n    pass\n")
        self.write("model/weights.bin", WEIGHTS)
        self.write("model/config.json", b"{}")
        case = GoldenCase("one", {"inputs": []}, {"outputs": []})
        self.write("golden.json", GoldenFile("training", {"python": "3.11.7"}, (case,)).to_bytes())
        self.lock = self.make_lock()

    def write(self, name: str, data: bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def make_lock(self, *wheels: Path, size: bool = True) -> Lock:
        rows = tuple(replace(row, url=self.files[row.digest].as_uri()) for row in debs.deb_rows(self.packages))
        tree, _ = server_tree()
        return replace(
            debs.lock_of(rows, policy=Policy(bytecode="none")),
            name="digits",
            packages=tuple(package(path, size=size) for path in (wheels or (self.alpha, self.beta))),
            server=ServerLock("0.1.0", tree, (package(self.serving),)),
            model=(
                file_row(self.root / "model/config.json", "net/config.json"),
                file_row(self.root / "model/weights.bin", "net/weights.bin"),
            ),
            app=(file_row(self.root / "predictor.py"),),
            golden=file_row(self.root / "golden.json"),
        )

    @property
    def project(self) -> Project:
        settings = ProjectFile(serve=Serve(workers=2, processes=3, drain_s=1.5), check=Check(rtol=0.5))
        return Project(
            root=self.root, file=None, name="digits", version="1.0.0", artifact=self.root / "net",
            golden=self.root / "golden.json", lock_path=self.root / "pylock.intermodal.toml", requirements=(),
            platforms=("linux/amd64",), model=Model(predictor="predictor:P", trust=("m.T",)), settings=settings,
        )  # fmt: skip

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            path=self.root / "net", digest=Digest.of(b"m"), format="predictor", framework="", backend="predictor",
            loader="predictor", call="named", signature=Signature((TensorSpec("X", "FP64", (-1, 4)),), ()),
            size_bytes=1, files=(), versions={}, requires=(), python="", imports=(), findings=(), safe=True,
            entry="net",
        )  # fmt: skip

    def build(self) -> Image:
        bench = self

        class Heard(Events):
            def notice(self, message: str) -> None:
                bench.notices.append(message)

        return build(self.lock, self.card, self.project, store=self.store, host=self.host, events=Heard())

    def tree(self, image: Image) -> dict[str, bytes]:
        """Every file of the image, layers merged from below."""
        merged: dict[str, bytes] = {}
        for layer in image.layers:
            with tarfile.open(self.store.path(layer.digest), "r:gz") as archive:
                for member in archive:
                    content = archive.extractfile(member).read() if member.isfile() else member.linkname.encode()  # type: ignore[union-attr]
                    merged[member.name] = content
        return merged


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "bench")


def test_layers_come_in_order_rarest_change_first(bench: Bench) -> None:
    image = bench.build()
    assert [(layer.kind, layer.title) for layer in image.layers] == [
        ("base", "Debian bookworm, Python 3.11.2"),
        ("wheel", "beta 2.0"),
        ("wheels", "alpha 1.0"),
        ("server", "uvthing 0.1"),
        ("server", "inference server 0.1.0"),
        ("model", "net/weights.bin"),
        ("model", "net/config.json"),
        ("app", "application"),
    ]
    assert not any(layer.reused for layer in image.layers)
    assert image.name == "digits:1.0.0" and image.platforms == ("linux/amd64",) and image.pruned_bytes > 0


def test_everything_is_where_the_server_looks_for_it(bench: Bench) -> None:
    image = bench.build()
    tree = bench.tree(image)
    site = "lib/python3.11/site-packages"
    assert tree[f"opt/venv/{site}/alpha/__init__.py"] == b"A = 1\n"
    assert f"opt/venv/{site}/alpha/tests/t.py" not in tree
    assert tree[f"opt/venv/{site}/beta/data.bin"] == BIG
    assert tree[f"opt/intermodal/{site}/uvthing.py"] == b"S = 1\n"
    assert b"home = /usr/bin" in tree["opt/venv/pyvenv.cfg"] and "opt/intermodal/pyvenv.cfg" in tree
    assert tree["opt/venv/bin/python"] == b"/usr/bin/python3.11" == tree["opt/intermodal/bin/python3"]
    assert "opt/intermodal/intermodal_server/__main__.py" in tree
    assert tree["model/net/weights.bin"] == WEIGHTS and tree["app/predictor.py"].startswith(b"class P")
    settings = ModelSettings.from_json(tree["etc/intermodal/model.json"])
    assert (settings.name, settings.artifact, settings.predictor, settings.call) == (
        "digits",
        "net",
        "predictor:P",
        "named",
    )
    assert (
        settings.trust == ("m.T",)
        and settings.serve.workers == 2
        and settings.serve.processes == 3
        and settings.tolerance.rtol == 0.5
    )
    assert {(f.path, f.size_bytes) for f in settings.files} == {
        ("net/weights.bin", len(WEIGHTS)),
        ("net/config.json", 2),
    }
    assert tree["etc/intermodal/golden.json"] == (bench.root / "golden.json").read_bytes()


def test_config_and_manifest_describe_exactly_these_layers(bench: Bench) -> None:
    image = bench.build()
    descriptor = bench.store.resolve("digits:1.0.0")
    assert descriptor.digest == image.digest
    manifest, config = bench.store.manifest(descriptor), bench.store.config(descriptor)
    assert [layer["digest"] for layer in manifest["layers"]] == [str(layer.digest) for layer in image.layers]
    assert config["rootfs"]["diff_ids"] == [str(layer.diff_id) for layer in image.layers]
    assert validate(bench.store, descriptor) == ()
    run = config["config"]
    assert run["User"] == "65532:65532" and run["StopSignal"] == "SIGTERM" and config["created"].startswith("1970")
    assert run["Entrypoint"] == ["/usr/bin/python3.11", "-I", "-S", "/opt/intermodal/intermodal_server"]
    assert run["Healthcheck"]["Test"][-1] == "health" and run["ExposedPorts"] == {"8080/tcp": {}}
    labels = run["Labels"]
    assert labels["dev.intermodal.lock.digest"] == str(lock_digest(bench.lock)) == str(image.lock_digest)
    assert labels["dev.intermodal.golden.recorded-in"] == "training"
    assert json.loads(labels["dev.intermodal.signature"])["inputs"][0]["name"] == "X"
    assert len(config["history"]) == len(image.layers)


def test_another_folder_umask_and_number_of_cores_give_the_same_digest(bench: Bench, tmp_path: Path) -> None:
    first = bench.build()
    old = os.umask(0o077)
    try:
        again = Bench(tmp_path / "a longer path, elsewhere", cores=1).build()
    finally:
        os.umask(old)
    assert again.digest == first.digest


def test_a_warm_build_reads_no_package_and_writes_no_layer(bench: Bench) -> None:
    first = bench.build()
    for folder in ("debs", "wheels", "cache/intermodal/files"):
        shutil.rmtree(bench.folder / folder)
    (bench.root / "model/weights.bin").unlink()
    before = {path: path.stat().st_mtime_ns for path in bench.store.blobs.iterdir()}
    second = bench.build()
    assert second.digest == first.digest and all(layer.reused for layer in second.layers)
    assert {path: path.stat().st_mtime_ns for path in bench.store.blobs.iterdir()} == before


def test_one_changed_line_makes_one_layer(bench: Bench) -> None:
    first = bench.build()
    bench.write("predictor.py", b"class P:\n    pass  # changed\n")
    bench.lock = bench.make_lock()
    second = bench.build()
    assert [layer.kind for layer in second.layers if not layer.reused] == ["app"]
    assert second.digest != first.digest and bench.store.resolve("digits:1.0.0").digest == second.digest
    assert bench.store.resolve(str(first.digest)).digest == first.digest


def test_a_lost_blob_is_written_again(bench: Bench) -> None:
    first = bench.build()
    for kind in ("wheel", "base"):
        (layer,) = [layer for layer in first.layers if layer.kind == kind]
        bench.store.path(layer.digest).unlink()
    second = bench.build()
    assert [layer.kind for layer in second.layers if not layer.reused] == ["base", "wheel"]
    assert second.digest == first.digest


def test_unknown_wheel_sizes_change_nothing(bench: Bench) -> None:
    first = bench.build()
    bench.lock = bench.make_lock(bench.alpha, bench.beta, size=False)
    second = bench.build()
    assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]


def fails(bench: Bench, kind: type[IntermodalError]) -> IntermodalError:
    with pytest.raises(kind) as caught:
        bench.build()
    with pytest.raises(UnknownImageError):
        bench.store.resolve("digits:1.0.0")
    assert list((bench.store.root / "tmp").iterdir()) == []
    return caught.value


@pytest.mark.parametrize("name", ["model/weights.bin", "model/config.json", "predictor.py", "golden.json"])
def test_a_file_that_changed_after_locking_is_refused(bench: Bench, name: str) -> None:
    data = bytearray((bench.root / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bench.root / name).write_bytes(data)
    error = fails(bench, DriftError)
    assert Path(name).name in error.message and error.exit_code == 1


def test_a_file_that_vanished_or_grew_is_refused(bench: Bench) -> None:
    (bench.root / "model/config.json").unlink()
    assert "config.json" in fails(bench, DriftError).message
    bench.write("model/config.json", b"{}  ")
    assert "4 bytes" in str(fails(bench, DriftError))


def test_a_secret_in_the_application_stops_the_build(bench: Bench) -> None:
    bench.write("predictor.py", b"KEY = 'AKIA" + b"IOSFODNN7EXAMPLQ'\n")
    bench.lock = bench.make_lock()
    assert "predictor.py" in str(fails(bench, SecretFoundError))


def test_two_wheels_of_different_layers_with_one_path_are_refused_every_time(bench: Bench) -> None:
    other = make_wheel(bench.folder / "wheels", "gamma", "1.0", {"beta/__init__.py": "other = 1\n"})
    bench.lock = bench.make_lock(bench.alpha, bench.beta, other)
    for _ in range(2):
        error = fails(bench, DuplicatePathError)
        assert other.name in str(error) and bench.beta.name in str(error)


def test_equal_files_in_two_layers_are_told_once(bench: Bench) -> None:
    other = make_wheel(bench.folder / "wheels", "gamma", "1.0", {"beta/__init__.py": ""})
    bench.lock = bench.make_lock(bench.alpha, bench.beta, other)
    bench.build()
    assert [n for n in bench.notices if "beta/__init__.py" in n and other.name in n]


def test_a_lock_for_another_server_is_refused(bench: Bench) -> None:
    bench.lock = replace(bench.lock, server=replace(bench.lock.server, tree=Digest.of(b"x")))
    assert "intermodal lock" in fails(bench, DriftError).next[0]


def test_what_cannot_be_built_yet_or_here_says_so(bench: Bench) -> None:
    plain = bench.lock
    bench.lock = replace(plain, policy=replace(plain.policy, compression="zstd"))
    fails(bench, NotBuiltYetError)
    bench.lock = replace(plain, policy=replace(plain.policy, bytecode="all"))
    bench.host = replace(bench.host, architecture="arm64")
    assert "bytecode" in str(fails(bench, HostError))


def test_nccl_is_left_out_of_a_cpu_image_unless_kept(bench: Bench) -> None:
    nccl = make_wheel(bench.folder / "wheels", "nvidia_nccl_cu12", "2.0", {"nvidia/nccl.so": "x"})
    lock = bench.make_lock(bench.alpha, bench.beta, nccl)
    packages = tuple(replace(p, name=p.name.replace("_", "-")) for p in lock.packages)
    bench.lock = replace(lock, packages=packages)
    assert not [name for name in bench.tree(bench.build()) if "nccl" in name]
    assert "nvidia-nccl-cu12" in bench.notices[0]
    policy = replace(lock.policy, keep=("nvidia-nccl-cu12",))
    bench.lock = replace(bench.lock, policy=policy)
    assert [name for name in bench.tree(bench.build()) if name.endswith("nvidia/nccl.so")]


def test_a_model_without_files_still_has_its_folder(bench: Bench) -> None:
    bench.lock = replace(bench.lock, model=(), golden=None)
    image = bench.build()
    assert "model" in bench.tree(image)
    labels = bench.store.config(image.descriptor)["config"]["Labels"]
    assert "dev.intermodal.golden.digest" not in labels


def test_no_layer_holds_a_path_twice(bench: Bench) -> None:
    for layer in bench.build().layers:
        with tarfile.open(bench.store.path(layer.digest), "r:gz") as archive:
            names = [member.name for member in archive]
        assert len(names) == len(set(names)), layer.title
