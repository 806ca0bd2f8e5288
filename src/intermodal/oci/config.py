"""The image config: what runs, as whom, with which variables and labels; and the diff ids of the layers.

Takes layers, labels and the Python of the image, hands on canonical JSON. The time is the epoch and the history tells
layer titles only, so nothing of the building machine shows.

Spec: OCI image-spec 1.1, "OCI Image Configuration"; the `Healthcheck` field is Docker's.
"""

# ruff: noqa: S108 - these folders are the image's, not this machine's
from __future__ import annotations

from collections.abc import Mapping, Sequence

from intermodal.oci import descriptor
from intermodal.oci.canonical import canonical_json
from intermodal.oci.descriptor import LayerInfo
from intermodal_server import contract

EPOCH = "1970-01-01T00:00:00Z"
_SECOND_NS = 1_000_000_000
VARIANTS = descriptor.VARIANTS

# Each names a folder that some library would otherwise look for below $HOME or its own package: the root is read-only.
_CACHES = {
    "XDG_CACHE_HOME": "/tmp/.cache",
    "XDG_CONFIG_HOME": "/tmp/.config",
    "MPLCONFIGDIR": "/tmp/.cache/matplotlib",
    "NUMBA_CACHE_DIR": "/tmp/.cache/numba",
    "HF_HOME": "/tmp/.cache/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/.cache/torchinductor",
    "TRITON_CACHE_DIR": "/tmp/.cache/triton",
    "JOBLIB_TEMP_FOLDER": "/dev/shm",
}


def environment(inherited: Sequence[str] = ()) -> dict[str, str]:
    """The variables every image starts with, over those of its base ("NAME=value")."""
    base = dict(line.split("=", 1) for line in inherited)
    return {
        **base,
        "PATH": f"{contract.VENV_DIR}/bin:{base.get('PATH') or '/usr/local/bin:/usr/bin:/bin'}",
        "LANG": "C.UTF-8",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "USER": "nonroot",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        **_CACHES,
    }


def config_bytes(
    *,
    layers: Sequence[LayerInfo],
    architecture: str,
    python: str = "",
    interpreter: str = "",
    labels: Mapping[str, str],
    ports: Sequence[int] = (contract.HTTP_PORT,),
    inherited: Sequence[str] = (),
) -> bytes:
    """The config of an image of ours.

    Args:
        layers: in the order of the manifest.
        architecture: amd64 | arm64.
        python: "3.11", of a base of Debian packages.
        interpreter: its path, in any other.
        labels: all of them; written sorted.
        ports: on which it listens.
        inherited: variables of a base from a registry.
    """
    interpreter = interpreter or f"/usr/bin/python{python}"
    server = [interpreter, "-I", "-S", contract.SERVER_CODE_DIR]
    document: dict[str, object] = {
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "User": f"{contract.USER_ID}:{contract.USER_ID}",
            "ExposedPorts": {f"{port}/tcp": {} for port in ports},
            "Env": [f"{name}={value}" for name, value in environment(inherited).items()],
            "Entrypoint": server,
            "WorkingDir": contract.APP_DIR,
            "Labels": dict(sorted(labels.items())),
            "StopSignal": "SIGTERM",
            "Healthcheck": {
                "Test": ["CMD", *server, "health"],
                "Interval": 10 * _SECOND_NS,
                "Timeout": 5 * _SECOND_NS,
                "StartPeriod": 60 * _SECOND_NS,
                "Retries": 3,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        "history": [{"created": EPOCH, "created_by": layer.title or layer.kind} for layer in layers],
    }
    if architecture in VARIANTS:
        document["variant"] = VARIANTS[architecture]
    return canonical_json(document)
