"""Golden cases on the live endpoint: the gateway, the container and the model as users will meet them.

Takes a target, a revision and what its image says of itself; hands on `Replayed`. Requests name the revision in a
header, so they reach it before it has any traffic, and say that they are golden, so they are evidence of nothing else.

Rules: an answer that differs fails; no answer, a refusal for want of a key, 429, or the gateway's 502, 503 or 504, is
neither a pass nor a failure, and is asked again by whoever needs to know. An image without cases cannot fail here and
says so.
"""

from __future__ import annotations

from msgspec import Struct

from intermodal.errors import HostError
from intermodal.rooms.check.metadata import Metadata
from intermodal.rooms.check.probe import Client
from intermodal.rooms.deploy.envoy.plan import GOLDEN_HEADER, REVISION_HEADER
from intermodal.rooms.deploy.revision import Exposure
from intermodal.rooms.deploy.target import Target
from intermodal_server.golden import Difference, compare

_UNANSWERED = (429, 502, 503, 504)
_UNWELCOME = (401, 403)
_NO_KEY = 'the server wants an API key from golden cases: golden_key = "env:NAME" under [deploy] says which'
_SHOWN = 5
_MARGIN_S = 5.0


class Replayed(Struct, frozen=True):
    """How golden cases went."""

    revision: int
    passed: bool | None  # None: not every case got an answer
    cases: int = 0
    problems: tuple[str, ...] = ()  # what differed, or why there was no answer


def replay(target: Target, revision: int, exposure: Exposure, metadata: Metadata, key: str = "") -> Replayed:
    """How the golden cases of a revision go on the live endpoint.

    Args:
        target: where it runs.
        revision: its number.
        exposure: where the gateway offers the model.
        metadata: settings and golden cases of its image.
        key: the API key that the server wants, "" when it wants none.
    """
    if metadata.golden is None or not metadata.golden.cases:
        return Replayed(revision, True, 0, ("the image has no golden cases: nothing says what it should predict",))
    settings, headers = metadata.settings, {REVISION_HEADER: str(revision), GOLDEN_HEADER: "1"}
    if key:
        headers["X-API-Key"] = key
    if exposure.host != "*":
        headers["Host"] = exposure.host
    found: list[Difference] = []
    try:
        connection = target.connect(settings.serve.timeout_s + _MARGIN_S)
        client = Client.over(connection, settings.name, prefix=exposure.path.rstrip("/"), headers=headers)
        try:
            for case in metadata.golden.cases:
                answer = client.infer({key: value for key, value in case.request.items() if key != "id"})
                if client.status in _UNWELCOME:
                    return Replayed(revision, None, len(metadata.golden.cases), (_NO_KEY,))
                if client.broken or client.status in _UNANSWERED:
                    return Replayed(revision, None, len(metadata.golden.cases), (str(answer.get("error", "")),))
                found += compare(
                    case.name,
                    case.response,
                    answer,
                    rtol=settings.tolerance.rtol if case.rtol is None else case.rtol,
                    atol=settings.tolerance.atol if case.atol is None else case.atol,
                )
        finally:
            client.close()
    except (OSError, HostError) as error:
        return Replayed(revision, None, len(metadata.golden.cases), (str(error),))
    problems = tuple(_worded(one) for one in found[:_SHOWN])
    return Replayed(revision, not found, len(metadata.golden.cases), problems)


def _worded(difference: Difference) -> str:
    place = f"{difference.output}{list(difference.place) if difference.place else ''}"
    return f"{difference.case}: {place or 'answer'} is {difference.actual!r}, {difference.expected!r} was recorded"
