"""From loading to ready: wait for every worker, replay the golden cases through the path that clients use, decide.

Takes the service and the file of golden cases, hands on a changed `Health`; returns the reason when the model must
not serve.

Rules, in order: `off` compares nothing; without cases a server is ready, and its log says that nothing was compared;
a difference keeps a server with `fail` from ever being ready and is only logged with `warn`.
"""

from __future__ import annotations

import json
from typing import Any

from intermodal_server.front.dialects.v2 import infer
from intermodal_server.front.exchange import Exchange
from intermodal_server.front.limits import Refusal
from intermodal_server.front.service import Service
from intermodal_server.golden import Difference, compare, describe
from intermodal_server.golden_file import GoldenError, read_cases
from intermodal_server.log import Log
from intermodal_server.worker.model import LoadError


async def replay_case(service: Service, case: dict[str, Any]) -> list[Difference]:
    """Where the model's answer to one case is not the recorded one."""
    name, request = str(case.get("name", "")), dict(case["request"])
    request.pop("id", None)
    try:
        _, _, body = await infer(service, Exchange.own("golden"), json.dumps(request, allow_nan=False).encode())
        actual = json.loads(body)
    except Refusal as refusal:
        actual = {"error": refusal.message}
    tolerance, rtol, atol = service.settings.tolerance, case.get("rtol"), case.get("atol")
    return compare(
        name,
        case["response"],
        actual,
        rtol=tolerance.rtol if rtol is None else rtol,
        atol=tolerance.atol if atol is None else atol,
    )


async def become_ready(service: Service, golden_path: str, workers: int, log: Log) -> str | None:
    """None when the server is ready now, else why it must not be.

    Args:
        service: who is asked, and whose health is told about every step.
        golden_path: where `golden.json` lies; it may be absent.
        workers: how many copies of the model must have loaded.
        log: gets the differences.
    """
    health = service.health
    try:
        await service.executor.wait_for_workers(workers)
    except LoadError as error:
        return str(error)
    mode = service.settings.serve.start_check
    if mode == "off":
        health.phase, health.detail = "ready", ""
        return None
    try:
        cases = read_cases(golden_path)
    except GoldenError as error:
        return str(error)
    if not cases:
        log.warning("there are no golden cases: nothing proves that this model answers as it was trained")
    differences: list[Difference] = []
    failed: list[str] = []
    for number, case in enumerate(cases, 1):
        health.phase, health.detail = "checking", f"golden case {number} of {len(cases)}"
        found = await replay_case(service, case)
        if found:
            failed.append(str(case.get("name", number)))
            differences.extend(found)
    if failed:
        lines = describe(differences, 20)
        say = log.error if mode == "fail" else log.warning
        say("the golden cases are not answered as recorded", failed=failed, cases=len(cases), differences=lines)
        if mode == "fail":
            return f"{len(failed)} of {len(cases)} golden cases differ: {lines[0]}"
    health.phase, health.detail = "ready", ""
    return None
