"""`record`: golden cases from a live model.

Takes a project, its model card and a file of inputs; hands on `GoldenFile`. The model is run by the worker's own
backend (`intermodal_server replay`), so that what is recorded is what the image will answer, types and names included.

Rules, in order:
1. Nothing is opened that `inspect` did not call safe, and the bytes that are opened are the bytes it looked at.
2. Cases are called "training" only when the interpreter agrees with every version the artifact states.
3. A request that the model refuses ends the recording: a golden case is a prediction, never an error.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from intermodal.errors import ArtifactError, HostError, InputError, UnsafeModelError
from intermodal.events import SILENT, Events
from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.golden.inputs import NamedRequest, expected, read_requests
from intermodal.golden.training import Interpreter, Stamp, find_interpreter, refuse_contradictions
from intermodal.host import Host
from intermodal.host.held import scratch
from intermodal.oci.digest import Digest
from intermodal.project.value import Project
from intermodal_server import contract

Replay = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]]  # requests -> {"responses", "environment"}


class Row(Protocol):
    """A file of the model; `rooms.inspect.card.FileRow` is one."""

    @property
    def path(self) -> str:
        """Its name below the model's folder."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def digest(self) -> Digest:
        """Its digest."""

    @property
    def source(self) -> Path:
        """Where it lies here."""


class Card(Protocol):
    """What recording needs of a model card; `inspect` stands above this module, so its class is not named here."""

    @property
    def path(self) -> Path:
        """The artifact."""

    @property
    def framework(self) -> str:
        """Distribution name, "" when none."""

    @property
    def backend(self) -> str:
        """As in `ModelSettings`."""

    @property
    def loader(self) -> str:
        """As in `ModelSettings`."""

    @property
    def call(self) -> str:
        """As in `ModelSettings`."""

    @property
    def signature(self) -> contract.Signature:
        """Inputs and outputs."""

    @property
    def files(self) -> Sequence[Row]:
        """The model's files."""

    @property
    def versions(self) -> Mapping[str, Stamp]:
        """Versions that the artifact states."""

    @property
    def requires(self) -> Sequence[str]:
        """Distributions it cannot do without."""

    @property
    def python(self) -> str:
        """The version such as "3.11" when the artifact says so, else ""."""

    @property
    def safe(self) -> bool:
        """Whether it may be opened."""


def record(
    project: Project,
    card: Card,
    inputs: Path,
    *,
    host: Host,
    python: Path | None = None,
    locked: bool = False,
    replay: Replay | None = None,
    events: Events = SILENT,
) -> GoldenFile:
    """Golden cases of the model for the inputs in a file.

    Args:
        project: where the model and its code lie.
        card: what inspect found; must be safe.
        inputs: .npy, .npz, .csv, V2 JSON, or golden cases to record again.
        host: this machine, for its active environments.
        python: the interpreter to record in; default: the active environment that has the framework.
        locked: record what the image answers; `replay` must then be given.
        replay: answers requests inside the image; only with `locked`.
        events: where progress goes.

    Raises:
        InputError: inputs the model does not take, or no interpreter that has its framework.
        ContradictionError: the interpreter's versions are not the model's.
        UnsafeModelError: the card is not safe.
        ArtifactError: the model does not load there.
    """
    if not card.safe:
        raise UnsafeModelError(
            f"{card.path.name} would run code that is not on the allow-list",
            next=f"intermodal inspect {card.path.name} shows it; trust = [...] in [model] allows it",
        )
    requests = read_requests(inputs, card.signature, card.call)
    if locked:
        if replay is None:
            raise InputError("recording in the locked environment needs the built image", next="intermodal build PATH")
        run = replay
    else:
        needed = tuple(card.requires) or ((card.framework,) if card.framework else ())
        interpreter = find_interpreter(python, needed, tuple(card.versions), host)
        refuse_contradictions(card.path.name, card.versions, card.python, interpreter)
        run = replay_in(interpreter, project, card, host)
    with events.task(f"record {len(requests)} cases", total=None):
        answer = run([item.request for item in requests])
    cases = tuple(_case(item, response, card) for item, response in zip(requests, answer["responses"], strict=True))
    environment = {key: answer["environment"][key] for key in ("python", "distributions")}
    return GoldenFile("locked" if locked else "training", environment, cases)


def _case(item: NamedRequest, response: Mapping[str, Any], card: Card) -> GoldenCase:
    if "outputs" not in response:
        raise InputError(
            f"the model refuses the inputs of {item.name!r}",
            found=str(response.get("error", "an answer without outputs")),
            next=expected(card.signature),
        )
    return GoldenCase(item.name, item.request, {"outputs": response["outputs"]}, item.rtol, item.atol)


def replay_in(interpreter: Interpreter, project: Project, card: Card, host: Host) -> Replay:
    """A function that answers requests with the worker's backend under `interpreter`."""
    import intermodal_server

    server = Path(intermodal_server.__file__).parent
    folder, settings = training_settings(project, card)
    app = project.root if settings.predictor or settings.trust or project.model.include else None

    def run(requests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        with scratch(host.temporary_dir) as temporary:
            path = temporary / "model.json"
            path.write_bytes(settings.to_json())
            command = [str(interpreter.path), "-I", "-B", str(server), "replay", "--settings", str(path)]
            command += ["--model-dir", str(folder)] + (["--app-dir", str(app)] if app else [])
            body = json.dumps({"requests": list(requests)}, allow_nan=False).encode()
            try:
                done = subprocess.run(command, input=body, capture_output=True, env=dict(host.environment), check=False)
            except OSError as error:
                raise HostError(f"cannot start {interpreter.path}", found=str(error)) from error
        return _parse(done, card.path.name or project.name, interpreter)

    return run


def _parse(done: subprocess.CompletedProcess[bytes], name: str, interpreter: Interpreter) -> Mapping[str, Any]:
    told = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()][-3:]
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        answer = {"error": f"it ended with status {done.returncode} and no answer"}
    if done.returncode == 0 and "responses" in answer:
        return answer
    raise ArtifactError(
        f"{name} does not run under {interpreter.path}",
        found=[str(answer.get("error", f"status {done.returncode}")), *told],
        next="name the environment it was trained in: --python PATH",
    )


def training_settings(project: Project, card: Card) -> tuple[Path, contract.ModelSettings]:
    """The folder that holds the model here, and the worker's settings for it.

    The list of files is left out when one is reached through a link that leads elsewhere (a model store's cache), which
    the worker would refuse.
    """
    folder, artifact = _model_folder(project, card)
    root = folder.resolve()
    plain = all(row.source == folder / row.path and row.source.resolve().is_relative_to(root) for row in card.files)
    return folder, contract.ModelSettings(
        name=project.name,
        version=project.version,
        backend=card.backend,
        loader=card.loader,
        artifact=artifact,
        signature=card.signature,
        call=card.call,
        predictor=project.model.predictor or "",
        trust=tuple(project.model.trust),
        files=tuple(contract.ModelFile(r.path, r.size_bytes, r.digest.hex) for r in card.files) if plain else (),
    )


def _model_folder(project: Project, card: Card) -> tuple[Path, str]:
    if project.artifact is None:
        return project.root, ""
    folder = project.artifact.parent
    for row in card.files:
        if row.source.as_posix().endswith(f"/{row.path}"):
            folder = Path(row.source.as_posix().removesuffix(f"/{row.path}"))
            break
    artifact = os.path.relpath(project.artifact, folder)
    return folder, "" if artifact == "." else artifact
