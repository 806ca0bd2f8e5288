"""The words of the Dockerfile and of its requirement files; no I/O.

Takes values, hands on text; equal values give equal text.

Rules, in order:
1. The base has neither shell nor pip, as it should be in an image that serves. So every `RUN` is in exec form, and pip
   is run from its own wheel, pinned by hash, in a stage that is thrown away.
2. Every package is required by hash and installed without looking for dependencies: the lock is the resolution.
3. With `mounts`, wheels, pip and requirements are bound into the one step that needs them, pip's cache is kept between
   builds, and a pip.conf with a login comes in as a secret. Builders without BuildKit get the same steps with `COPY`.
4. What changes most often comes last. Nothing of the first stage but the two environments reaches the image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from intermodal.oci.digest import Digest
from intermodal_server import contract

HEADER = "# Written by `intermodal dockerfile`."
_CACHE = "/cache/pip"
_PIP = {
    "PIP_FIND_LINKS": "/wheels",
    "PIP_CACHE_DIR": _CACHE,
    "PIP_NO_INPUT": "1",
    "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
_SECOND_NS = 1_000_000_000


class Pin(Struct, frozen=True):
    """One requirement: a version, the hashes of the wheels it may be, and where it applies."""

    name: str
    version: str
    hashes: tuple[Digest, ...]
    machine: str = ""  # "x86_64"; "" everywhere


class Plan(Struct, frozen=True):
    """Everything the file says."""

    name: str
    version: str
    base: str  # the image to begin with
    base_digest: Digest
    lock_digest: Digest
    python: str  # "3.11"
    pip: str  # file name of its wheel
    config: Mapping[str, Any]  # the "config" of our own image config: what the last stage must come to
    model: bool  # whether there are model files
    app: bool
    requirements: bool  # whether the model needs any package
    bytecode: bool = True
    mounts: bool = True


def requirements(pins: Sequence[Pin], what: str) -> str:
    """A requirements file that pip takes nothing else from.

    >>> print(requirements([Pin("a", "1", (Digest("0" * 64),))], "x"), end="")
    # x; pip refuses every other byte
    a==1 --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
    """
    lines = [f"# {what}; pip refuses every other byte"]
    for pin in pins:
        where = f' ; platform_machine == "{pin.machine}"' if pin.machine else ""
        lines.append(" ".join([f"{pin.name}=={pin.version}{where}", *(f"--hash={digest}" for digest in pin.hashes)]))
    return "\n".join(lines) + "\n"


def dockerfile(plan: Plan) -> str:
    """The Dockerfile."""
    stages = [_head(plan), _packages(plan), *([_code(plan)] if plan.app else []), _image(plan)]
    return "\n\n".join("\n".join(lines) for lines in stages) + "\n"


def _head(plan: Plan) -> list[str]:
    short = plan.base.removeprefix("localhost/")
    return [
        HEADER,
        f"# {plan.name} {plan.version}, from lock {plan.lock_digest}.",
        "#",
        "# The base is an image of signed Debian packages, made from the lock. Put it into the engine once:",
        f"#   intermodal load {plan.base} --into docker",
        "# or push it to a registry of yours and pin it there:",
        f"#   --build-arg BASE=registry.example.com/{short.partition(':')[0]}@{plan.base_digest}",
        "#",
        "# Packages come from the index that pip finds configured. To use another, or one with a login:",
        "#   docker build --secret id=pip,src=$HOME/.config/pip/pip.conf .",
        "# Wheels in wheels/ are taken first; with all of them there, --build-arg PIP_NO_INDEX=1 needs no network.",
        f"ARG BASE={plan.base}",
    ]


def _packages(plan: Plan) -> list[str]:
    python = f"/usr/bin/python{plan.python}"
    lines = [
        "FROM ${BASE} AS packages",
        "ARG PIP_NO_INDEX",
        *_together("ENV", {name: f'"{value}"' for name, value in _PIP.items()}),
        f"RUN {_exec([python, '-m', 'venv', '--without-pip', contract.SERVER_DIR, contract.VENV_DIR])}",
    ]
    if not plan.mounts:
        lines += ["COPY tools/ /tools/", "COPY wheels/ /wheels/", "COPY requirements.txt server-requirements.txt /"]
    lines += _install(plan, contract.SERVER_DIR, "server-requirements.txt")
    if plan.requirements:
        lines += _install(plan, contract.VENV_DIR, "requirements.txt")
    return [*lines, f"COPY server/ {contract.SERVER_DIR}/", *_compiled(plan, contract.SERVER_CODE_DIR)]


def _code(plan: Plan) -> list[str]:
    return ["FROM ${BASE} AS code", f"COPY app/ {contract.APP_DIR}/", *_compiled(plan, contract.APP_DIR)]


def _compiled(plan: Plan, folder: str) -> list[str]:
    """Byte code that is valid whatever the files' times; a file that is no Python is left as it is."""
    if not plan.bytecode:
        return []
    mode = "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH"
    script = f"import compileall, py_compile; compileall.compile_dir({folder!r}, quiet=1, {mode})"
    return [f"RUN {_exec([f'/usr/bin/python{plan.python}', '-I', '-c', script])}"]


def _install(plan: Plan, environment: str, file: str) -> list[str]:
    words = [
        f"{environment}/bin/python",
        "-I",
        f"/tools/{plan.pip}/pip",
        "install",
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        *([] if plan.bytecode else ["--no-compile"]),
        f"--requirement=/{file}",
    ]
    if not plan.mounts:
        return [f"RUN {_exec(words)}"]
    mounts = [
        f"type=cache,target={_CACHE}",
        "type=bind,source=wheels,target=/wheels",
        "type=bind,source=tools,target=/tools",
        f"type=bind,source={file},target=/{file}",
        "type=secret,id=pip,target=/etc/pip.conf",
    ]
    return [
        *(f"{'RUN ' if not n else '    '}--mount={each} \\" for n, each in enumerate(mounts)),
        f"    {_exec(words)}",
    ]


def _image(plan: Plan) -> list[str]:
    config = plan.config
    lines = [
        "FROM ${BASE}",
        f"COPY --from=packages {contract.SERVER_DIR}/ {contract.SERVER_DIR}/",
        f"COPY --from=packages {contract.VENV_DIR}/ {contract.VENV_DIR}/",
    ]
    lines += [f"WORKDIR {contract.MODEL_DIR}", f"WORKDIR {contract.APP_DIR}"]  # makes both, also where they stay empty
    if plan.model:
        lines.append(f"COPY model/ {contract.MODEL_DIR}/")
    lines.append(f"COPY metadata/ {contract.METADATA_DIR}/")
    if plan.app:
        lines.append(f"COPY --from=code {contract.APP_DIR}/ {contract.APP_DIR}/")
    variables = (variable.partition("=") for variable in config["Env"])
    lines += _together("ENV", {name: _quoted(value) for name, _, value in variables})
    lines += _together("LABEL", {name: _quoted(value) for name, value in config["Labels"].items()})
    lines += [f"EXPOSE {port}" for port in config["ExposedPorts"]]
    lines += [f"STOPSIGNAL {config['StopSignal']}", f"WORKDIR {config['WorkingDir']}", f"USER {config['User']}"]
    return [*lines, *_health(config["Healthcheck"]), f"ENTRYPOINT {_exec(config['Entrypoint'])}"]


def _together(word: str, values: Mapping[str, str]) -> list[str]:
    """One instruction of many values, each on a line of its own."""
    lines = [f"{'    ' if number else f'{word} '}{name}={value}" for number, (name, value) in enumerate(values.items())]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _health(check: Mapping[str, Any]) -> list[str]:
    words = [
        f"--interval={check['Interval'] // _SECOND_NS}s",
        f"--timeout={check['Timeout'] // _SECOND_NS}s",
        f"--start-period={check['StartPeriod'] // _SECOND_NS}s",
        f"--retries={check['Retries']}",
    ]
    return [f"HEALTHCHECK {' '.join(words)} \\", f"    CMD {_exec(check['Test'][1:])}"]


def _exec(words: Sequence[str]) -> str:
    return json.dumps(list(words))


def _quoted(value: str) -> str:
    """A value as one word of a Dockerfile."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
