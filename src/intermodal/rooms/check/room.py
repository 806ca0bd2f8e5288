"""Start an image, replay its golden cases, start it once more as it will run.

Takes an image and an engine, hands on a `CheckReport`.

Rules, in order:
1. Settings and golden cases come out of the image, never out of the project.
2. The first start has the start check off, so that a model that answers differently still answers: the comparison is
   made here, and its diff is complete. The second start has it on: what will run in production must become ready.
3. A server that ends, refuses, or stays silent fails the check with its own last words. A case that is answered with an
   error is a difference.
4. The first start measures where the model runs best; the second, and every later one that is told so, runs it there.
5. No cases is never a pass of golden predictions: `cases` is 0, with a warning. Cases recorded in the locked
   environment come with the warning that they prove only that the image agrees with itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from intermodal.engine.image import RunnableImage, read_image, unpacked_layers
from intermodal.engine.interface import Container, Engine, RunRequest
from intermodal.events import SILENT, Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.oci.folder_once import folders_in_use
from intermodal.oci.image import Image
from intermodal.oci.layout import Store
from intermodal.rooms.check.metadata import Metadata, read_metadata
from intermodal.rooms.check.probe import Client, Readiness, await_ready, death, execution_mode, start_limit_s
from intermodal.rooms.check.report import MAX_FAILED, CheckReport, remember
from intermodal_server.contract import (
    ENV_API_KEYS,
    ENV_DRAIN_S,
    ENV_MAX_CONCURRENT,
    ENV_MODE,
    ENV_RATE_PER_S,
    ENV_START_CHECK,
    LABEL_GOLDEN_DIGEST,
    Tolerance,
)
from intermodal_server.golden import Difference, compare

if TYPE_CHECKING:
    from intermodal.project.value import Project

NO_CASES = "no golden cases: this check proves that the image starts, not that it predicts as trained"
LOCKED_CASES = (
    "the golden cases were recorded in the locked environment: they prove only that the image agrees with itself"
)
# nobody else talks to this server: it may end at once, and the check brings no key and keeps to no rate
_ALONE = {ENV_DRAIN_S: "0", ENV_API_KEYS: "off", ENV_RATE_PER_S: "0", ENV_MAX_CONCURRENT: "0"}


def check(
    image: Image | Digest,
    *,
    store: Store,
    engine: Engine,
    host: Host,
    project: Project | None = None,
    events: Events = SILENT,
) -> CheckReport:
    """The report on `image`, which the store remembers.

    Args:
        image: an image of the store, or the digest of a manifest.
        store: where it lies.
        engine: what runs it.
        host: this machine.
        project: when given, its `[check]` tolerances count instead of those in the image.
        events: progress.

    Raises:
        InputError: it is no image of ours, or hostile.
        EngineError: the engine cannot run containers here.
        StoreError: the image is damaged.
    """
    digest = store.manifest_for(image.descriptor, host.platform) if isinstance(image, Image) else image
    runnable = read_image(store, digest)
    with folders_in_use(host.cache_dir):
        metadata = read_metadata(unpacked_layers(store, runnable, host, events))
    tolerance = metadata.settings.tolerance
    if project is not None:
        tolerance = Tolerance(project.check.rtol, project.check.atol)
    limit_s = start_limit_s(sum(layer.size_bytes for layer in runnable.layers), host.cores)
    report = _replayed(runnable, metadata, tolerance, engine, limit_s, events)
    label = runnable.labels.get(LABEL_GOLDEN_DIGEST, "")
    if contradiction := _contradiction(label, metadata):
        report = replace(report, problem=(*report.problem, contradiction))
    if report.passed:
        report = _started_again(report, runnable, engine, limit_s, events)
    for warning in report.warnings:
        if report.isolation != "none" or warning in _golden_warnings(metadata):  # else the engine has said it, first
            events.warning(warning)
    remember(report, label, store)
    return report


def _contradiction(label: str, metadata: Metadata) -> str:
    """Why label and golden cases cannot both be right; "" when they agree."""
    if label == str(metadata.golden_digest or ""):
        return ""
    return f"the image's label states other golden cases ({label or 'none'}) than it holds"


def _replayed(
    image: RunnableImage, metadata: Metadata, tolerance: Tolerance, engine: Engine, limit_s: float, events: Events
) -> CheckReport:
    """First start: everything but the second one."""
    request = RunRequest(image.digest, {ENV_START_CHECK: "off", **_ALONE}, events=events)
    with engine.start(request) as container:
        with events.task("start the server") as task:
            ready = await_ready(container, limit_s, task)
        hardening = container.hardening
        differences: list[Difference] = []
        problem = ready.problem
        mode = "" if problem else execution_mode(container, metadata.settings.name)
        if not problem and metadata.golden is not None:
            differences, broken = _replay(container, metadata, tolerance, events)
            problem = death(container, expected=broken)
        return CheckReport(
            image=image.digest,
            cases=len(metadata.golden.cases) if metadata.golden else 0,
            recorded_in=metadata.golden.recorded_in if metadata.golden else "",
            differences=tuple(differences[:MAX_FAILED]),
            total_differences=len(differences),
            engine=engine.name,
            isolation=hardening.isolation,
            hardening=hardening.measures,
            startup_s=ready.seconds,
            peak_rss_bytes=container.peak_rss_bytes(),
            mode=mode or metadata.settings.serve.mode,
            problem=problem,
            warnings=(*_golden_warnings(metadata), *hardening.notes),
        )


def _golden_warnings(metadata: Metadata) -> tuple[str, ...]:
    """What the golden cases do not prove."""
    if metadata.golden is None or not metadata.golden.cases:
        return (NO_CASES,)
    return (LOCKED_CASES,) if metadata.golden.recorded_in == "locked" else ()


def _replay(
    container: Container, metadata: Metadata, tolerance: Tolerance, events: Events
) -> tuple[list[Difference], bool]:
    """Where the answers of now are not the recorded ones, and whether some request got no answer at all."""
    assert metadata.golden is not None
    settings = metadata.settings
    client = Client(container.endpoint, settings.name, settings.serve.timeout_s + 30.0)
    found: list[Difference] = []
    try:
        with events.task("replay golden cases", total=len(metadata.golden.cases)) as task:
            for case in metadata.golden.cases:
                found += compare(
                    case.name,
                    case.response,
                    client.infer({key: value for key, value in case.request.items() if key != "id"}),
                    rtol=tolerance.rtol if case.rtol is None else case.rtol,
                    atol=tolerance.atol if case.atol is None else case.atol,
                )
                task.advance()
    finally:
        client.close()
    return found, client.broken


def _started_again(
    report: CheckReport, image: RunnableImage, engine: Engine, limit_s: float, events: Events
) -> CheckReport:
    """The report after the second start, with the start check on."""
    environment = {ENV_START_CHECK: "fail", ENV_MODE: report.mode, **_ALONE}
    request = RunRequest(image.digest, environment, events=_Quiet(events))
    with engine.start(request) as container, events.task("start it again, with the start check") as task:
        ready: Readiness = await_ready(container, limit_s, task)
        peak = max(report.peak_rss_bytes, container.peak_rss_bytes())
    if not ready.problem:
        return replace(report, peak_rss_bytes=peak)
    return replace(report, problem=("with its start check on: " + ready.problem[0], *ready.problem[1:]))


class _Quiet(Events):
    """Tasks are shown, notices and warnings are not: the first start has told them."""

    def __init__(self, events: Events) -> None:
        self.task = events.task  # type: ignore[method-assign]
