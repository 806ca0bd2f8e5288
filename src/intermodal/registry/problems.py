"""What a registry's refusal means, in words that say what to do next.

Takes an answer that was not hoped for, hands on the error to raise. Foreign words are scrubbed before they are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from intermodal.errors import IntermodalError, RegistryError, RegistryUnreachableError, UnknownImageError
from intermodal.fetch.transfer import shown
from intermodal.registry.auth import login_advice, told
from intermodal.registry.patience import may_pass
from intermodal.registry.settings import RegistrySettings
from intermodal.registry.wire import Answer

WORDS_BYTES = 64 << 10
_ECR = re.compile(r"[0-9]+\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?(?::\d+)?")
_IMMUTABLE = re.compile(r"immutab|cannot be overwritten|already exists", re.IGNORECASE)
_LIMITS = (
    "ratelimit-limit",
    "ratelimit-remaining",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "docker-ratelimit-source",
)


def refusal(
    answer: Answer,
    what: str,
    settings: RegistrySettings,
    *,
    scrub: Callable[[str], str],
    login: str,
    writing: bool,
    repository: str,
) -> IntermodalError:
    """The error for an answer.

    Args:
        answer: its body is read here.
        what: what was tried: "push manifest 1.0.0".
        settings: of the registry.
        scrub: makes foreign words fit to be shown.
        login: where the login came from, "" without one.
        writing: it was a push.
        repository: in that registry.
    """
    words = _body(answer)
    name, status = settings.name, answer.status
    found = [f"{shown(answer.url)} answered {status}" + (f": {scrub(words)}" if words else "")]
    failed = f"cannot {what}"
    if status in (401, 403):
        who = f"the login from {login} may not do this" if login else "it wants a login, and this machine has none"
        return RegistryError(f"{failed}: {name} refuses", found=[*found, who], next=login_advice(name))
    if status == 429:
        limits = [f"{key}: {scrub(answer.headers[key])}" for key in _LIMITS if key in answer.headers]
        wait = answer.headers.get("Retry-After", "")
        advice = f"try again in {scrub(wait)} s" if wait.isdigit() else "try again later"
        more = () if login or writing else ("a login has higher limits: docker login",)
        return RegistryUnreachableError(
            f"{failed}: {name} has had too many requests from here", found=[*found, *limits], next=(advice, *more)
        )
    if may_pass(status):
        return RegistryUnreachableError(f"{failed}: {name} is not well", found=found, next="try again later")
    if status in (400, 409, 412) and _IMMUTABLE.search(words):
        return RegistryError(
            f"{failed}: the tag exists and {name} does not let it move",
            found=found,
            next="push under another tag: raise [model] version, or name one behind the repository",
        )
    if status == 404 and writing:
        return RegistryError(
            f"{failed}: {name} has no repository {repository}", found=found, next=_create(settings, repository)
        )
    if status == 404:
        return UnknownImageError(f"{failed}: {name} does not have it", found=found, next="check name and tag")
    return RegistryError(f"{failed}: {name} refuses", found=found)


def _create(settings: RegistrySettings, repository: str) -> str:
    if match := _ECR.fullmatch(settings.name):
        return f"aws ecr create-repository --region {match[1]} --repository-name {repository}"
    return "create it there first, or check its name and your rights"


def _body(answer: Answer) -> str:
    try:
        return told(answer.read(WORDS_BYTES))
    except RegistryError:
        return ""
