"""Bases from real Debian packages: they run through their own loader and confined, and keep to their sizes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import debs
from support.envs import CACHE

from intermodal.engine.confine import available, run_confined
from intermodal.events import SILENT
from intermodal.fetch import Request, fetch_all
from intermodal.host import Host, read
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.layout import Store
from intermodal.oci.unpack import unpack_layer
from intermodal.rooms.build.base import base_layer, bytecode_layer, system_layer
from intermodal.rooms.build.bytecode import Compiler
from intermodal.rooms.lock.debian.base import resolve_base
from intermodal.rooms.lock.rows import Lock

pytestmark = [pytest.mark.network, pytest.mark.slow]
MB = 1_000_000
SUITES = [("bookworm", "3.11"), ("trixie", "3.13")]
PROBE = """
import ssl, sqlite3, ctypes, zoneinfo, bz2, lzma, zlib, hashlib, uuid, decimal, readline, json, os, sys, pwd
context = ssl.create_default_context()
print(json.dumps({
    "version": sys.version_info[:2],
    "authorities": len(context.get_ca_certs()),
    "zone": str(zoneinfo.ZoneInfo("Europe/Berlin")),
    "sqlite": sqlite3.connect(":memory:").execute("select 1").fetchone()[0],
    "libc": ctypes.CDLL("libc.so.6").getpid() > 0,
    "stdcpp": bool(ctypes.CDLL("libstdc++.so.6")),
    "user": pwd.getpwuid(65532).pw_dir,
    "cached": json.__cached__ is not None and os.path.exists(json.__cached__),
    "os": open("/etc/os-release").read(),
}))
"""


@dataclass
class Built:
    lock: Lock
    host: Host
    store: Store
    info: LayerInfo
    root: Path
    files: dict

    def layer(self, info: LayerInfo) -> Path:
        return unpack_layer(self.store, info.digest, info.diff_id, self.host.cache_dir / "rootfs")

    @contextmanager
    def compiler(self) -> Iterator[Compiler]:
        with Compiler(lambda: self.root, self.lock.base.python, self.host) as compiler:
            yield compiler


@pytest.fixture(scope="module", params=SUITES, ids=[suite for suite, _ in SUITES])
def built(request: pytest.FixtureRequest) -> Built:
    suite, python = request.param
    host = replace(read(), environment={**read().environment, "XDG_CACHE_HOME": str(CACHE / "debs")})
    base = resolve_base(f"deb:{suite}", [host.platform], ["libgomp1"], host=host)
    rows = tuple(replace(row, layer="system" if row.name == "libgomp1" else "base") for row in base.packages)
    wanted = [Request(row.digest, row.size_bytes, Path(row.filename).name, (row.url,)) for row in rows]
    files = dict(fetch_all(wanted, host=host, events=SILENT))
    lock = replace(debs.lock_of(rows, python=python), base=replace(base, packages=rows))
    store = Store(host.cache_dir / "store").open_or_create()
    info = base_layer(lock, host.platform, store=store, host=host, events=SILENT, debs=files)
    root = unpack_layer(store, info.digest, info.diff_id, host.cache_dir / "rootfs")
    return Built(lock, host, store, info, root, files)


def test_sizes(built: Built) -> None:
    assert built.info.tar_bytes <= 48 * MB
    assert built.info.size_bytes <= 16.5 * MB


def test_again_from_an_empty_cache_gives_the_same_layer(built: Built, tmp_path: Path) -> None:
    host = replace(built.host, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")}, cores=1)
    store = Store(tmp_path / "store").open_or_create()
    again = base_layer(built.lock, host.platform, store=store, host=host, events=SILENT, debs=built.files)
    assert replace(built.info, reused=False) == again


def test_runs_through_its_own_loader(built: Built) -> None:
    """As `isolation: none` and the fallback of the compiler do; absolute links would lead to the host's files."""
    python, architecture = built.lock.base.python, built.host.architecture
    loader = {"amd64": "lib64/ld-linux-x86-64.so.2", "arm64": "lib/ld-linux-aarch64.so.1"}[architecture]
    triplet = {"amd64": "x86_64", "arm64": "aarch64"}[architecture] + "-linux-gnu"
    assert (built.root / loader).resolve().is_relative_to(built.root.resolve())
    result = subprocess.run(
        [
            built.root / loader,
            "--library-path",
            built.root / "usr/lib" / triplet,
            built.root / "usr/bin/python3",
            "-I",
            "-c",
            "import ssl, sqlite3, ctypes, zoneinfo, sys; print(sys.version_info[:2])",
        ],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(tuple(int(part) for part in python.split(".")))


def confined(built: Built, layers: list[Path], program: str) -> str:
    if why := available(built.host):
        pytest.skip(why)
    process = run_confined(layers, ["/usr/bin/python", "-c", program], host=built.host, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.sandbox
def test_confined_it_has_all_that_models_need(built: Built) -> None:
    found = json.loads(confined(built, [built.root], PROBE))
    assert found["version"] == [int(part) for part in built.lock.base.python.split(".")]
    assert found["authorities"] > 100
    assert (found["zone"], found["sqlite"], found["libc"], found["stdcpp"]) == ("Europe/Berlin", 1, True, True)
    assert found["user"] == "/tmp"
    assert f"VERSION_CODENAME={built.lock.base.suite}" in found["os"]
    assert found["cached"] is False


@pytest.mark.sandbox
def test_byte_code_layer_is_found_by_imports(built: Built) -> None:
    with built.compiler() as compiler:
        info = bytecode_layer(
            built.lock, base=built.info, store=built.store, host=built.host, compile_sources=compiler.compile
        )
    assert info is not None and info.size_bytes <= 4.5 * MB
    assert json.loads(confined(built, [built.root, built.layer(info)], PROBE))["cached"] is True


@pytest.mark.sandbox
def test_system_package_on_top(built: Built) -> None:
    info = system_layer(
        built.lock,
        built.host.platform,
        base=built.info,
        store=built.store,
        host=built.host,
        events=SILENT,
        debs=built.files,
    )
    assert info is not None and info.tar_bytes < MB
    program = "import ctypes; print(ctypes.CDLL('libgomp.so.1').omp_get_max_threads() > 0)"
    assert confined(built, [built.root, built.layer(info)], program).strip() == "True"


def test_nothing_escapes_nothing_is_privileged_every_package_is_recorded(built: Built) -> None:
    for path in built.root.rglob("*"):
        if path.is_symlink():
            assert not str(path.readlink()).startswith("/"), path
            assert path.parent.joinpath(path.readlink()).resolve().is_relative_to(built.root.resolve()), path
        else:
            assert not path.stat().st_mode & 0o6000, path
    records = {path.name for path in (built.root / "var/lib/dpkg/status.d").iterdir() if path.suffix != ".md5sums"}
    assert records == {row.name for row in built.lock.base.packages if row.layer == "base"}
    for name in records:
        assert (built.root / "usr/share/doc" / name / "copyright").is_file(), name
