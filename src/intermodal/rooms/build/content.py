"""What an image holds besides its base and wheels: the server, the model, the application, and what describes them.

Takes the lock, the model card and the project; hands on parts, the settings file and the labels.

Rules, in order:
1. Model and application files are hashed while they are stored; other bytes than the lock names are refused.
2. Model files above 8 MiB have a layer each, so that a change of one moves nothing else; the rest share one.
3. /app, the settings and the golden cases come last: they change most often and are small.
4. A file that looks like a secret stops the build, when it would be stored for the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from intermodal.errors import DriftError
from intermodal.oci.blob import BlobWriter
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import LayerInfo
from intermodal.oci.digest import CHUNK_BYTES, Digest
from intermodal.oci.entry import Entry
from intermodal.oci.labels import spread
from intermodal.oci.layer import write_layer
from intermodal.project.value import Project
from intermodal.rooms.build.bytecode import pyc_path
from intermodal.rooms.build.part import Part, Tools
from intermodal.rooms.build.wheels.groups import policies
from intermodal.rooms.build.wheels.scheme import Scheme
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock.collision import collisions, refuse_collision
from intermodal.rooms.lock.rows import Lock
from intermodal_server import contract, openapi

OWN_MODEL_BYTES = 8 << 20
_PYVENV = """\
home = {home}
include-system-site-packages = false
version = {version}
executable = {python}
"""


def plan_server(lock: Lock) -> Part:
    """The server's code, and what makes /opt/venv and /opt/intermodal environments.

    Raises:
        DriftError: this program brings another server than the lock names.
    """
    from intermodal.rooms.lock.servertree import server_tree

    tree, files = server_tree()
    if tree != lock.server.tree:
        raise DriftError(
            "the lock is for another version of the server",
            found=f"server {lock.server.version}, tree {lock.server.tree.short}; this program has {tree.short}",
            next="intermodal lock PATH takes the server of this version",
        )
    identity = {
        **policies(lock),
        "kind": "server",
        "tree": str(tree),
        "python_version": lock.base.python_version,
        "executable": lock.base.executable,
    }

    def write(sink: BlobWriter, tools: Tools) -> LayerInfo:
        entries = [*_skeleton(lock, "opt/venv"), *_skeleton(lock, "opt/intermodal")]
        sources = [(f"opt/intermodal/{name}", path.read_bytes()) for name, path in files]
        entries += [Entry.file(path, data) for path, data in sources]
        return write_layer([*entries, *_byte_code(sources, lock, tools)], sink)

    title = f"inference server {lock.server.version}"
    return Part("server", title, identity, _titled(write, "server", title), compiles=lock.policy.bytecode != "none")


def plan_model(lock: Lock) -> list[Part]:
    """The model's files: large ones a layer each, the rest together."""
    large = [row for row in lock.model if row.size_bytes > OWN_MODEL_BYTES]
    small = [row for row in lock.model if row.size_bytes <= OWN_MODEL_BYTES]
    groups = [[row] for row in sorted(large, key=lambda row: row.path)] + ([small] if small else [])
    return [_model_part(rows, lock) for rows in groups]


def plan_app(lock: Lock, settings: contract.ModelSettings) -> Part:
    """The application's files, the settings and the golden cases."""
    document = settings.to_json()
    identity = {
        **policies(lock),
        "kind": "app",
        "files": _identities(lock.app),
        "settings": str(Digest.of(document)),
        "golden": str(lock.golden.digest) if lock.golden else "",
        "model": bool(lock.model),
    }

    def write(sink: BlobWriter, tools: Tools) -> LayerInfo:
        _refuse([*lock.app, *([lock.golden] if lock.golden else [])])
        sources = [(f"app/{row.path}", b"".join(read_row(row))) for row in lock.app]
        entries = [
            Entry.file(path, data, executable=row.executable)
            for (path, data), row in zip(sources, lock.app, strict=True)
        ]
        entries.append(Entry.file(contract.SETTINGS_PATH[1:], document))
        if lock.golden is not None:
            entries.append(_entry(contract.GOLDEN_PATH[1:], lock.golden))
        entries += [Entry.directory(folder) for folder in ("app", *(() if lock.model else ("model",)))]
        modules = [(path, data) for path, data in sources if path.endswith(".py")]
        return write_layer([*entries, *_byte_code(modules, lock, tools)], sink)

    compiles = lock.policy.bytecode != "none" and any(row.path.endswith(".py") for row in lock.app)
    return Part("app", "application", identity, _titled(write, "app", "application"), compiles=compiles)


def model_settings(lock: Lock, card: ModelCard, project: Project) -> contract.ModelSettings:
    """What the server will know about the model before it loads it."""
    model, serve = project.model, project.serve
    refuse_collision(lock, serve.mode)  # the mode may be newer than the lock
    return contract.ModelSettings(
        name=project.name,
        version=project.version,
        backend=card.backend,
        loader=card.loader,
        artifact=card.entry,
        signature=card.signature,
        call=card.call,
        predictor=model.predictor or "",
        trust=tuple(model.trust),
        files=tuple(contract.ModelFile(row.path, row.size_bytes, row.digest.hex) for row in lock.model),
        serve=contract.ServeSettings(
            mode=serve.mode,
            workers=serve.workers,
            processes=0 if serve.processes == "auto" else serve.processes,
            max_batch_rows=serve.max_batch_rows,
            timeout_s=serve.timeout_s,
            max_request_bytes=serve.max_request_bytes,
            start_check=serve.start_check,
            drain_s=serve.drain_s,
            grpc=serve.grpc,
            api_keys=serve.api_keys or "",
            rate_per_s=serve.rate_per_s,
            rate_burst=serve.rate_burst,
            max_concurrent=serve.max_concurrent,
        ),
        tolerance=contract.Tolerance(project.check.rtol, project.check.atol),
        python=lock.python,
        collision=collisions(lock),
    )


def ports(project: Project) -> tuple[int, ...]:
    """On which the server will listen, besides that of its metrics."""
    return (contract.HTTP_PORT, *((contract.GRPC_PORT,) if project.serve.grpc else ()))


def labels(lock: Lock, card: ModelCard, project: Project, lock_digest: Digest) -> Mapping[str, str]:
    """The labels of the image config."""
    found = {
        "org.opencontainers.image.title": project.name,
        "org.opencontainers.image.version": project.version,
        "org.opencontainers.image.base.name": lock.base.reference,
        **({"org.opencontainers.image.base.digest": str(lock.base.digest)} if lock.base.digest else {}),
        **spread(contract.LABEL_SIGNATURE, canonical_json(card.signature.as_json()).decode()),
        contract.LABEL_LOCK_DIGEST: str(lock_digest),
        contract.LABEL_FORMAT: card.format,
        contract.LABEL_FRAMEWORK: card.framework,
    }
    if not project.model.app:  # an application describes itself
        found |= spread(contract.LABEL_OPENAPI, openapi.text(model_settings(lock, card, project)))
    if lock.golden is not None:
        from intermodal.golden.cases import parse_golden

        golden = parse_golden(b"".join(read_row(lock.golden)), lock.golden.path)
        found[contract.LABEL_GOLDEN_DIGEST] = str(lock.golden.digest)
        found[contract.LABEL_GOLDEN_RECORDED_IN] = golden.recorded_in
    return found


def read_row(row: FileRow) -> Iterator[bytes]:
    """The bytes of a locked file, in pieces.

    Raises:
        DriftError: they are not what the lock names; raised after the last piece, so what was made of them is void.
    """
    hasher = hashlib.sha256()
    try:
        with row.source.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                hasher.update(chunk)
                yield chunk
    except OSError as error:
        raise _changed(row, error.strerror or str(error)) from error
    if hasher.hexdigest() != row.digest.hex:
        raise _changed(row, f"its digest is {hasher.hexdigest()[:12]}, locked is {row.digest.short}")


def _refuse(rows: Sequence[FileRow]) -> None:
    """Stop at a file that is gone or has another size, before its content is looked at, and at secrets."""
    for row in rows:
        try:
            size_bytes = row.source.stat().st_size
        except OSError as error:
            raise _changed(row, error.strerror or str(error)) from error
        if size_bytes != row.size_bytes:
            raise _changed(row, f"it has {size_bytes} bytes, locked are {row.size_bytes}")
    from intermodal.rooms.build.secrets import refuse_secrets

    refuse_secrets(rows)


def _changed(row: FileRow, why: str) -> DriftError:
    return DriftError(
        f"{row.path} is not the file that was locked",
        found=f"{row.source}: {why}",
        next="build again if the change is meant; golden cases of the old model will then fail",
    )


def _entry(path: str, row: FileRow) -> Entry:
    return Entry.stream(path, row.size_bytes, partial(read_row, row), executable=row.executable)


def _model_part(rows: Sequence[FileRow], lock: Lock) -> Part:
    title = rows[0].path if len(rows) == 1 else f"{len(rows)} model files"
    identity = {
        "kind": "model",
        "files": _identities(rows),
        "layout": lock.policy.layout,
        "codec": lock.policy.codec,
        "compression": lock.policy.compression,
    }

    def write(sink: BlobWriter, tools: Tools) -> LayerInfo:
        _refuse(rows)
        return write_layer([_entry(f"model/{row.path}", row) for row in rows], sink)

    return Part("model", title, identity, _titled(write, "model", title))


def _identities(rows: Sequence[FileRow]) -> list[list[object]]:
    return sorted([row.path, str(row.digest), row.executable] for row in rows)


def _titled(
    write: Callable[[BlobWriter, Tools], LayerInfo], kind: str, title: str
) -> Callable[[BlobWriter, Tools], LayerInfo]:
    def titled(sink: BlobWriter, tools: Tools) -> LayerInfo:
        return replace(write(sink, tools), kind=kind, title=title)

    return titled


def _skeleton(lock: Lock, prefix: str) -> Iterator[Entry]:
    scheme = Scheme(prefix, lock.python)
    python = lock.base.executable
    home = python.rpartition("/")[0]
    config = _PYVENV.format(home=home, version=lock.base.python_version, python=python)
    yield Entry.file(f"{prefix}/pyvenv.cfg", config.encode())
    yield Entry.directory(scheme.site)
    for name in ("python", "python3", f"python{lock.python}"):
        yield Entry.symlink(f"{prefix}/bin/{name}", python)


def _byte_code(sources: Sequence[tuple[str, bytes]], lock: Lock, tools: Tools) -> Iterator[Entry]:
    if tools.compile_sources is None or not sources:
        return
    for path, content in tools.compile_sources(sources):
        if content is not None:
            yield Entry.file(pyc_path(path, lock.python), content)
