"""CPU images hold no CUDA: CPU builds are looked for, CUDA packages refused.

Takes a resolution for `accelerator = "cpu"`; hands on one without CUDA.

Rules, in order:
1. `nvidia-nccl-*` is never installed: XGBoost asks for 350 MB of it on Linux and trains and predicts without.
2. When PyTorch comes with CUDA, its newest CPU build (`+cpu`) in the configured indexes that satisfies the rest is
   taken instead.
3. Any other CUDA package is an error that names what brings it and what to configure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace

from intermodal.errors import RequirementError
from intermodal.host import Host

if TYPE_CHECKING:
    from intermodal.rooms.lock.uv import Question, Resolution

EXCLUDED = ("nvidia-nccl-cu11", "nvidia-nccl-cu12", "nvidia-nccl-cu13")
FAMILY = ("torch", "torchvision", "torchaudio")  # published in CPU builds with a local version
TRIES = 3
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_CUDA = re.compile(r"^(nvidia-.*|cuda-.*|.*-cu1[0-9]|.*-cuda1[0-9][x0-9]*(-.*)?)$")


def cuda_packages(names: object) -> list[str]:
    """Those of some distribution names that are CUDA's.

    >>> cuda_packages(["numpy", "nvidia-cublas-cu12", "cuda-bindings", "cupy-cuda12x", "jax-cuda12-plugin"])
    ['cuda-bindings', 'cupy-cuda12x', 'jax-cuda12-plugin', 'nvidia-cublas-cu12']
    """
    assert isinstance(names, dict | list)
    return sorted(name for name in names if _CUDA.match(name))


def without_cuda(resolution: Resolution, question: Question, host: Host) -> Resolution:
    """`resolution` when it holds no CUDA, else one with CPU builds.

    Raises:
        RequirementError: something brings CUDA and no CPU build of it is configured.
    """
    found = cuda_packages(dict(resolution.versions))
    if not found:
        return resolution
    if "torch" in resolution.versions:
        again = _with_cpu_torch(question, host)
        if again is not None:
            return again
    raise _refusal(resolution, found, question, host)


def _with_cpu_torch(question: Question, host: Host) -> Resolution | None:
    from intermodal.rooms.lock.uv import compile_lock

    for version in _cpu_builds("torch", question, host)[:TRIES]:
        pinned = replace(question, constraints=(*question.constraints, f"torch=={version}"), preferences={})
        try:
            found = compile_lock(pinned, host)
            siblings = [name for name in FAMILY[1:] if "+cpu" not in found.versions.get(name, "+cpu")]
            for name in siblings:
                wanted = f"{found.versions[name]}+cpu"
                if wanted in _cpu_builds(name, question, host):
                    pinned = replace(pinned, constraints=(*pinned.constraints, f"{name}=={wanted}"))
            found = compile_lock(pinned, host) if siblings else found
        except RequirementError:
            continue  # this build contradicts the other requirements; an older one may not
        if not cuda_packages(dict(found.versions)):
            return found
    return None


def _cpu_builds(name: str, question: Question, host: Host) -> list[str]:
    """Versions of `name` with a CPU build that fits the target, newest first."""
    from packaging.version import InvalidVersion, Version

    from intermodal.fetch.index import offered
    from intermodal.fetch.transfer import Transfers
    from intermodal.rooms.lock.platforms import rank

    versions = set()
    with Transfers(host) as transfers:
        for link in offered(transfers, name):
            parts = link.filename.split("-")
            if len(parts) > 4 and rank(link.filename, question.target.platform, question.target.python) is not None:
                try:
                    version = Version(parts[1])
                except InvalidVersion:
                    continue
                if version.local == "cpu":
                    versions.add(version)
    return [str(version) for version in sorted(versions, reverse=True)]


def _refusal(resolution: Resolution, found: list[str], question: Question, host: Host) -> RequirementError:
    from intermodal.rooms.lock.uv import dependencies_of

    needed_by = dependencies_of(question, resolution, host)
    bringers = sorted({name for name, needs in needed_by.items() if name not in found and set(needs) & set(found)})
    who = ", ".join(f"{name} {resolution.versions[name]}" for name in bringers) or "the requirements"
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    advice = [f"add an index with CPU builds, such as UV_INDEX={CPU_INDEX} (or extra-index-url in pip.conf)"]
    return RequirementError(
        f"a CPU image holds no CUDA, but {who} brings {shown}",
        found=f"no CPU build in {host.indexes.shown}",
        next=advice if "torch" in resolution.versions else "require the CPU variant of it",
    )
