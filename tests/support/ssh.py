"""An SSH server of its own on loopback, which lets this user in by a key of its own and offers Docker over there."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.engines import need, omit

START_S = 30.0


@contextmanager
def ssh_server(environment: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """("USER@127.0.0.1:PORT", variables that let `ssh` find key and known host); sessions there get `environment`."""
    if os.getuid() != 0:
        omit("only root can start an SSH server here")
    client, server = need("ssh"), need("sshd")
    folder = Path(tempfile.mkdtemp(prefix="im-ssh-"))
    process = None
    try:
        for name in ("host", "user"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(words, check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        shutil.copy(folder / "user.pub", folder / "authorized")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
        sent = " ".join(f'"{name}={value}"' for name, value in {"PATH": os.environ["PATH"], **environment}.items())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nSetEnv {sent}\nMaxSessions 64\n"
        )
        key = (folder / "host.pub").read_text().split()[:2]
        (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join(key)}\n")
        (folder / "config").write_text(
            f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        )
        # ssh takes its configuration from the home that the system knows, not from $HOME
        wrapper = folder / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {client} -F {folder}/config "$@"\n')
        wrapper.chmod(0o755)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([server, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log, stdout=log)
        _await(port, process, folder / "log")
        user = pwd.getpwuid(os.getuid()).pw_name
        yield f"{user}@127.0.0.1:{port}", {"PATH": f"{folder}:{os.environ['PATH']}"}
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)
    omit(f"sshd does not start here: {log.read_text(errors='replace')[-300:]}")
