"""What the builder's benchmark needs before anything is timed: wheels, environments, models, a slim base.

Everything is pinned by the lists beside this file, fetched once from the index and the mirror that this machine is
configured for, and kept in a temporary folder. An index on loopback then serves the wheels, so that no row depends
on anybody's network.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
RESULTS = CHECKOUT / "benchmarks" / "out" / "build.json"
# not below the checkout, whose .gitignore keeps files out of images, nor in a hidden folder, which BentoML refuses
OUT = Path(os.environ.get("INTERMODAL_BENCH") or Path(tempfile.gettempdir()) / "intermodal-bench")
PEERS, PROJECT = HERE / "peers", HERE / "project"
LISTS = (PEERS / "requirements.txt", HERE / "stack.txt")
BENTO_LIST = PEERS / "bento-requirements.txt"
SUITE = "bookworm"
# what the slim images that people take leave out of Debian's own packages
_SLIM = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/lib/apt/lists", "var/cache/apt")


def call(*words: str | Path, cwd: Path | None = None) -> str:
    """Run a preparation step; its standard output."""
    done = subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} failed\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def python() -> Path:
    """The interpreter that the product runs under: the distribution's when it is new enough, else ours."""
    system = Path("/usr/bin/python3")
    good = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    if system.exists() and subprocess.run([system, "-c", good], capture_output=True, check=False).returncode == 0:
        return system
    return Path(sys.executable)


def wheels() -> Path:
    """A folder with every wheel of the pinned lists."""
    folder = OUT / "wheels"
    lists = [*LISTS, BENTO_LIST]
    stamp, wanted = folder / ".lists", "".join(path.read_text() for path in lists)
    if not stamp.exists() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for path in lists:  # two lists may want two versions of one package
            call(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", folder,
                 "--python-version", "3.11", "-r", path)  # fmt: skip
        stamp.write_text(wanted)
    return folder


def pinned(path: Path) -> list[str]:
    """The requirements of a list."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def wheel_of(folder: Path, requirement: str) -> Path:
    """The wheel of "name==version" in a folder."""
    name, _, version = requirement.partition("==")
    pattern = re.compile(rf"{re.sub('[-_.]+', '[-_.]', name)}-{re.escape(version)}-.*\.whl", re.IGNORECASE)
    return next(path for path in sorted(folder.iterdir()) if pattern.fullmatch(path.name))


def environment(name: str, *requirements: str | Path) -> Path:
    """A virtual environment below OUT; its `bin`."""
    folder = OUT / name
    if not (folder / "bin" / "pip").exists():
        shutil.rmtree(folder, ignore_errors=True)
        call(python(), "-m", "venv", folder)
    call(folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *requirements)
    return folder / "bin"


def product() -> Path:
    """The program as people install it, from a wheel of this checkout, with byte code; the path of `intermodal`."""
    dist = OUT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", dist, CHECKOUT)
    wheel = next(dist.glob("*.whl"))
    folder = environment("intermodal", "-c", CHECKOUT / "constraints.txt", wheel)
    call(folder / "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
    return folder / "intermodal"


def models(bento: Path, record: Callable[..., object]) -> Path:
    """A folder with the model, the one that replaces it, and golden cases, from an environment with scikit-learn.

    Args:
        bento: the `bin` of that environment.
        record: runs `intermodal` with the words it is given.
    """
    folder = OUT / "models"
    if not (folder / "golden.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        call(bento / "python", PROJECT / "train.py", folder)
        made = project(OUT / "project", folder / "model.joblib")
        record("record", made, "--inputs", folder / "rows.npz", "--python", bento / "python")
        shutil.copy(made / "golden.json", folder)
    return folder


def project(folder: Path, model: Path, *, name: str = "bench") -> Path:
    """A fresh project around `model`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = (PROJECT / "intermodal.toml").read_text()
    (folder / "intermodal.toml").write_text(text.replace('name = "bench"', f'name = "{name}"'))
    shutil.copy(PROJECT / "predictor.py", folder)
    shutil.copy(model, folder / "model.joblib")
    if (golden := model.with_name("golden.json")).exists():
        shutil.copy(golden, folder)
    return folder


def change_line(folder: Path, revision: int) -> None:
    """Change one line of the code in a project or build context."""
    path = folder / "predictor.py"
    path.write_text(re.sub(r"^REVISION = \d+$", f"REVISION = {revision}", path.read_text(), flags=re.MULTILINE))


def slim_base() -> Path:
    """A tar of Debian with Python and pip, cut down as the slim images of the registries are."""
    path = OUT / f"slim-{SUITE}.tar"
    if path.exists():
        return path
    if shutil.which("debootstrap") is None:
        call("apt-get", "install", "-y", "--no-install-recommends", "debootstrap")
    root = OUT / "slim"
    shutil.rmtree(root, ignore_errors=True)
    call("debootstrap", "--variant=minbase", "--include=python3,python3-venv,python3-pip,ca-certificates", SUITE, root,
         mirror())  # fmt: skip
    for name in _SLIM:
        shutil.rmtree(root / name, ignore_errors=True)
    with tarfile.open(path, "w") as tar:
        tar.add(root, ".", filter=lambda info: None if info.name.startswith(("./dev/", "./proc/", "./sys/")) else info)
    shutil.rmtree(root)
    return path


def mirror() -> str:
    """The Debian mirror of this machine, as apt would use it."""
    out = call("apt-get", "indextargets", "--format", "$(SITE)", f"Codename: {SUITE}")
    return next((line for line in out.splitlines() if line), "http://deb.debian.org/debian")


@contextmanager
def index(folder: Path) -> Iterator[str]:
    """The address of a package index on loopback with the wheels of a folder."""
    root = OUT / "index"
    shutil.rmtree(root, ignore_errors=True)
    pages: dict[str, list[str]] = {}
    (root / "files").mkdir(parents=True)
    for wheel in sorted(folder.glob("*.whl")):
        os.link(wheel, root / "files" / wheel.name)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        name = re.sub("[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        pages.setdefault(name, []).append(f'<a href="/files/{wheel.name}#sha256={digest}">{wheel.name}</a><br>')
    for name, links in pages.items():
        (root / "simple" / name).mkdir(parents=True)
        page = "<!DOCTYPE html><html><body>" + "\n".join(links) + "</body></html>"
        (root / "simple" / name / "index.html").write_text(page)
    handler = partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        finally:
            server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""
