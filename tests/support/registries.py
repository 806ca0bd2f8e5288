"""Real registries for tests: Debian's `docker-registry` on loopback, with TLS and a login when asked for."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.engines import _service, need

START_S = 30.0


@dataclass(frozen=True)
class RealRegistry:
    """A registry that runs for the length of a `with` block."""

    address: str  # "127.0.0.1:5000"
    folder: Path
    ca: Path | None = None
    login: tuple[str, str] | None = None

    def blobs(self) -> set[str]:
        """The digests of everything that lies in it."""
        root = self.folder / "data" / "docker/registry/v2/blobs/sha256"
        return {path.parent.name for path in root.glob("*/*/data")}

    def certs(self, base: Path) -> Path:
        """A folder to be used as `/etc` by somebody who trusts this registry's authority."""
        folder = base / "docker" / "certs.d" / self.address
        folder.mkdir(parents=True)
        assert self.ca is not None
        shutil.copy(self.ca, folder / "ca.crt")
        return base


@contextmanager
def docker_registry(*, tls: bool = False, login: tuple[str, str] | None = None) -> Iterator[RealRegistry]:
    """An empty registry of Debian's package, gone afterwards."""
    program = need("docker-registry")
    with tempfile.TemporaryDirectory(prefix="im-registry-") as name:
        folder = Path(name)
        port = _free_port()
        lines = [
            "version: 0.1",
            "log: {level: error, accesslog: {disabled: true}}",
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}",
            f"http: {{addr: '127.0.0.1:{port}', secret: x"
            + (f", tls: {{certificate: {folder}/host.crt, key: {folder}/host.key}}" if tls else "")
            + "}",
        ]
        if tls:
            make_certificates(folder)
        if login:
            (folder / "htpasswd").write_text(_htpasswd(*login))
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}")
        (folder / "config.yml").write_text("\n".join(lines) + "\n")
        environment = {"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"}
        with _service([program, "serve", str(folder / "config.yml")], folder, environment) as process:
            _await(port, process, folder / "log", tls=tls)
            yield RealRegistry(f"127.0.0.1:{port}", folder, folder / "ca.crt" if tls else None, login)


def make_certificates(folder: Path) -> None:
    """An authority (`ca.crt`), a certificate of it for loopback (`host.crt`), and one for a client (`client.crt`)."""
    openssl = need("openssl")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, capture_output=True, check=True)

    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    for who in ("host", "client"):
        run("req", "-new", *key[:-2], "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        run("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{who}.crt", "-days", "2", "-extfile", "names")  # fmt: skip


def _htpasswd(user: str, password: str) -> str:
    done = subprocess.run([need("htpasswd"), "-nbB", user, password], capture_output=True, text=True, check=True)
    return done.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes], log: Path, *, tls: bool) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse()
            return
        except (OSError, http.client.HTTPException):
            if tls:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        return
            time.sleep(0.03)
        finally:
            connection.close()
    raise AssertionError(f"the registry does not start: {log.read_text(errors='replace')[-500:]}")
