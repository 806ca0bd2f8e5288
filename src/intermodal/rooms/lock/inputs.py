"""What the user asks for: requirements completed from evidence, the Python, the policy, and their digest.

Takes a model card and a project; hands on values that `resolve` works on and `drift` compares. No I/O.

Rules, in order:
1. A requirement of the project is never changed: a distribution it names is not pinned a second time, nor is another
   build of it that is imported by the same name (xgboost-cpu is an xgboost).
2. What the artifact says about itself pins the rest: exactly where the stamp is exact, else by the version's prefix.
3. What the artifact needs without saying a version is added unpinned.
4. The Python is the project's, else the artifact's, else that of training golden cases, else the base's.
"""

from __future__ import annotations

import datetime
import json
import re

from intermodal.errors import RequirementError
from intermodal.fetch.names import normalise
from intermodal.oci.digest import Digest
from intermodal.project.schema import Prune
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import Evidence, ModelCard
from intermodal.rooms.lock.debian.suites import Suite, check_python
from intermodal.rooms.lock.rows import Policy

# Other builds of a distribution, with the same modules: an environment can hold one of them only.
_BUILDS = {
    "xgboost-cpu": "xgboost",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime-openvino": "onnxruntime",
    "opencv-python": "opencv-python-headless",
    "opencv-contrib-python": "opencv-python-headless",
    "opencv-contrib-python-headless": "opencv-python-headless",
    "tensorflow-cpu": "tensorflow",
}
_NAME = re.compile(r"^\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


def requirement_name(line: str) -> str:
    """The normalised distribution name of a PEP 508 line.

    >>> requirement_name("Scikit_Learn[alldeps] >= 1.3 ; python_version > '3.8'")
    'scikit-learn'

    Raises:
        RequirementError: the line does not start with a name.
    """
    match = _NAME.match(line)
    if match is None:
        raise RequirementError(f"not a requirement: {line[:80]!r}", next='write it as "name==version"')
    return normalise(match[1])


def build_of(name: str) -> str:
    """The distribution that a normalised name is a build of; itself for most.

    >>> build_of("xgboost-cpu"), build_of("numpy")
    ('xgboost', 'numpy')
    """
    return _BUILDS.get(name, name)


def pin(name: str, evidence: Evidence) -> str:
    """The requirement that evidence amounts to.

    >>> pin("scikit-learn", Evidence("1.3.2", ""))
    'scikit-learn==1.3.2'
    >>> pin("numpy", Evidence("1", "", exact=False))
    'numpy<2'
    >>> pin("numpy", Evidence("2", "", exact=False))
    'numpy<3,>=2'
    >>> pin("xgboost", Evidence("2.1", "", exact=False))
    'xgboost==2.1.*'
    """
    if evidence.exact:
        return f"{name}=={evidence.version}"
    if not evidence.version.isdigit():
        return f"{name}=={evidence.version}.*"
    major = int(evidence.version)
    return f"{name}<{major + 1}" + (f",>={major}" if major > 1 else "")


def effective_requirements(card: ModelCard, project: Project) -> tuple[str, ...]:
    """The project's requirements, followed by those that the artifact itself implies, sorted."""
    named = {build_of(requirement_name(line)) for line in project.requirements}
    derived = [pin(name, evidence) for name, evidence in card.versions.items() if normalise(name) not in named]
    pinned = named | {normalise(name) for name in card.versions}
    derived += [name for name in dict.fromkeys(card.requires) if normalise(name) not in pinned]
    return (*project.requirements, *sorted(derived))


def choose_python(card: ModelCard, project: Project, suite: Suite) -> str:
    """The Python of the image, "3.11".

    Raises:
        RequirementError: the base has another; the message names the base that has it.
    """
    asked = project.environment.python or ""
    if asked:
        check_python(suite, asked, f"[environment] python = {asked!r}")
    if card.python:
        check_python(suite, card.python, f"{card.path.name} was made by Python {card.python}")
    if asked or card.python or project.golden is None:
        return suite.python
    from intermodal.golden.cases import read_golden

    golden = read_golden(project.golden)
    recorded = ".".join(str(golden.environment.get("python", "")).split(".")[:2])
    if golden.recorded_in == "training" and recorded:
        check_python(suite, recorded, f"{project.golden.name} was recorded in training under Python {recorded}")
    return suite.python


def policy_of(project: Project) -> Policy:
    """The choices of a project that change layer bytes."""
    prune = project.environment.prune
    return Policy(
        prune=prune is not False,
        keep=tuple(sorted({normalise(name) for name in prune.keep})) if isinstance(prune, Prune) else (),
        bytecode=project.environment.bytecode,
        compression=project.environment.compression,
    )


def exclude_newer_of(project: Project) -> str:
    """`exclude_newer` as RFC 3339 in UTC, or "".

    A date means its whole day, as uv understands it.
    """
    value = project.environment.exclude_newer
    if value is None:
        return ""
    if not isinstance(value, datetime.datetime):
        following = value + datetime.timedelta(days=1)
        return f"{following.isoformat()}T00:00:00Z"
    aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
    return aware.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def inputs_digest(card: ModelCard, project: Project) -> Digest:
    """The digest of what the user asked for, as `Lock.inputs` keeps it."""
    policy = policy_of(project)
    asked = {
        "requirements": sorted(effective_requirements(card, project)),
        "system": sorted(set(project.environment.system)),
        "python": project.environment.python or card.python,
        "base": project.environment.base,
        "accelerator": project.environment.accelerator,
        "platforms": sorted(project.platforms),
        "exclude_newer": exclude_newer_of(project),
        "policy": [policy.prune, list(policy.keep), policy.bytecode, policy.compression],
        **({"grpc": True} if project.serve.grpc else {}),
    }
    return Digest.of(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode())
