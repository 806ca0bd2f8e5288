"""One image for two architectures, built on one of them: what is shared, what answers, and the same digest from both.

The other architecture runs in a user-mode emulator: the whole server of its image, with numpy and ONNX Runtime; and the
builder itself, which assembles both images again there.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cli import intermodal, world_folder
from support.onnx_file import answer, matrix
from support.other_hosts import emulator

from intermodal.engine.image import read_image, unpacked_layers
from intermodal.engine.rootfs import compose
from intermodal.host import Host, read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.oci.validate import validate_store

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.xdist_group("platforms")]

PLATFORMS = ("linux/amd64", "linux/arm64")
MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
ROW = (1.0, 2.0, 3.0, 4.0)
PATIENCE_S = 300


@dataclass(frozen=True)
class Built:
    """The project, and its image for both platforms."""

    project: Path
    home: Path
    image: dict[str, Any]
    host: Host

    @property
    def store(self) -> Store:
        return Store(self.home / "data/intermodal/store")

    @property
    def own(self) -> str:
        return self.host.platform

    @property
    def foreign(self) -> str:
        return next(platform for platform in PLATFORMS if platform != self.own)

    def manifest(self, platform: str) -> Digest:
        return self.store.manifest_for(self.store.resolve(self.image["name"]), platform)


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    with world_folder() as folder:
        project, home = folder / "project", folder / "home"
        project.mkdir()
        home.mkdir()
        (project / "model.onnx").write_bytes(matrix())
        case = {
            "name": "one row",
            "request": {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": list(ROW)}]},
            "response": {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": answer(ROW)}]},
        }
        golden = {"format": 1, "recorded_in": "training", "environment": {}, "cases": [case]}
        (project / "golden.json").write_text(json.dumps(golden))
        (project / "intermodal.toml").write_text(
            '[model]\nname = "matrix"\nversion = "1"\nartifact = "model.onnx"\n'
            '[environment]\nplatforms = ["linux/amd64", "linux/arm64"]\nrequirements = ["onnxruntime", "numpy"]\n'
        )
        made = intermodal("build", project, "--json", home=home)
        assert made.code == 0, made.err
        yield Built(project, home, made.json, read())


def layers(built: Built, platform: str) -> list[Digest]:
    return [layer.digest for layer in read_image(built.store, built.manifest(platform)).layers]


def test_an_index_of_two_images_that_share_what_they_can(built: Built) -> None:
    assert built.image["platforms"] == list(PLATFORMS)
    index = built.store.document(built.store.resolve("matrix:1"))
    assert [item["platform"] for item in index["manifests"]] == [
        {"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux", "variant": "v8"},
    ]  # fmt: skip
    one, other = (layers(built, platform) for platform in PLATFORMS)
    titles = [layer["title"] for layer in built.image["layers"]]
    shared = {title for title, digest in zip(titles, one, strict=True) if digest in other}
    assert {"model.onnx", "application"} <= shared
    assert any(title.startswith("inference server") for title in shared)
    own = set(titles) - shared
    assert any(title.startswith("numpy ") for title in own) and any(title.startswith("Debian ") for title in own)
    assert validate_store(built.store).faults == ()


def test_this_machine_checks_its_own(built: Built) -> None:
    checked = intermodal("check", "matrix:1", "--json", home=built.home)
    assert checked.code == 0, checked.err
    assert (checked.json["passed"], checked.json["golden"]["cases"]) == (True, 1)


def test_one_platform_alone_is_the_very_same_image(built: Built, tmp_path: Path) -> None:
    arguments = ("build", built.project, "-t", "alone:1", "--platform", built.foreign)
    alone = intermodal(*arguments, "--json", home=built.home)
    assert alone.code == 0, alone.err
    assert alone.json["platforms"] == [built.foreign]
    assert alone.json["lock_digest"] != ""
    refused = intermodal("check", "alone:1", home=built.home)
    assert (refused.code, f"it is for {built.foreign}" in refused.err) == (3, True), refused.err


def prefix(folder: Path, root: Path) -> Path:
    """Where the emulator looks first: the image, and an ARM core in /proc/cpuinfo.

    The emulator shows the host's own there, and the library by which ONNX Runtime recognises ARM cores then follows a
    null pointer.
    """
    made = folder / "prefix"
    (made / "proc").mkdir(parents=True)
    for name in ("lib", "usr", "etc"):
        (made / name).symlink_to(root / name)
    core = "Features\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n"
    cores = "".join(f"processor\t: {n}\n{core}CPU revision\t: 1\n\n" for n in range(os.cpu_count() or 1))
    (made / "proc/cpuinfo").write_text(cores)
    return made


@contextmanager
def emulated_server(built: Built, folder: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """The foreign image's whole server under the emulator, and the socket it listens on."""
    store, host = built.store, built.host
    image = read_image(store, built.manifest(built.foreign))
    root = compose(unpacked_layers(store, image, host), "loader", host.cache_dir, ()).merged
    assert root is not None
    emulate = [str(emulator(MACHINES[built.foreign])), "-L", str(prefix(folder, root)), f"{root}{image.argv[0]}"]
    path = folder / "s"
    environment = {
        "PATH": "/usr/bin", "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "INTERMODAL_PORT": "0",
        "INTERMODAL_SOCKET": str(path), "INTERMODAL_ROOT": str(root), "INTERMODAL_PYTHON": json.dumps(emulate),
        "INTERMODAL_HANG_S": "120", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [*emulate, "-I", "-S", f"{root}{image.argv[3]}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield path, process
    except BaseException:
        print((folder / "log").read_text()[-3000:])
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self.path))


def ask(path: Path, method: str, target: str, body: Any = None) -> tuple[int, bytes]:
    connection = Unix(path)
    headers = {"Content-Type": "application/json"}
    connection.request(method, target, json.dumps(body) if body else None, headers)
    answered = connection.getresponse()
    return answered.status, answered.read()


def test_the_other_architecture_answers_its_golden_cases(built: Built) -> None:
    """Ready means that its own server has replayed them; then one is asked for from here."""
    with world_folder() as folder, emulated_server(built, folder) as (path, server):
        status, until = 0, time.monotonic() + PATIENCE_S
        while status != 200 and time.monotonic() < until and server.poll() is None:
            time.sleep(0.5)
            try:
                status, _ = ask(path, "GET", "/v2/health/ready")
            except OSError:
                continue
        assert status == 200
        request = json.loads((built.project / "golden.json").read_text())["cases"][0]["request"]
        status, body = ask(path, "POST", "/v2/models/matrix/infer", request)
        assert status == 200, body
        assert json.loads(body)["outputs"][0]["data"] == answer(ROW)
        log = (folder / "log").read_text()
    assert '"message": "ready"' in log, log
