"""What a secret looks like: an ordered list of rules over bytes.

Takes a piece of a file; hands on `Match` values. There is no entropy rule, because lock files, model cards and wheels
are full of sha256 sums; a rule must know the secret by its prefix, by its frame, or by the name it is assigned to.

Rules, in order: private key blocks; tokens that a provider marks with a prefix; JSON web tokens; credentials in URLs;
the files of netrc, Docker and kubectl under any name; a word like "password" that is given a literal. Placeholders
(`changeme`, `<token>`, `${TOKEN}`) are free. Each rule runs only where its anchor occurs, so ordinary files cost
a few substring searches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

RULES_VERSION = 1


class Rule(Struct, frozen=True):
    """One kind of secret. The group `value` of the pattern is the secret, else the whole match is."""

    name: str
    anchors: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    in_binary: bool = True  # also looked for in files that are no text


class Match(Struct, frozen=True):
    """Where a rule matched in the piece, and the secret's bytes."""

    rule: str
    start: int
    end: int
    value: bytes


def _rule(name: str, anchors: str, pattern: str, *, in_binary: bool = True, flags: int = 0) -> Rule:
    return Rule(name, tuple(a.encode() for a in anchors.split("|")), re.compile(pattern.encode(), flags), in_binary)


RULES: tuple[Rule, ...] = (
    _rule(
        "private key",
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr]|[\"'])*"
        r"(?:(?:Proc-Type|DEK-Info|Version|Comment):|(?P<value>[A-Za-z0-9+/=]{16}))",
    ),
    _rule("age key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[0-9A-Z]{58}"),
    _rule("AWS key id", "AKIA|ASIA", r"(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _rule(
        "GitHub token",
        "ghp_|gho_|ghu_|ghs_|ghr_|github_pat_",
        r"(?<![A-Za-z0-9])gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}",
    ),
    _rule("GitLab token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    _rule("Hugging Face token", "hf_", r"(?<![A-Za-z0-9_])hf_[A-Za-z0-9]{30,}"),
    _rule("Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    _rule("OpenAI key", "sk-", r"(?<![A-Za-z0-9_-])sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{32,})"),
    _rule("Slack token", "xox", r"xox[abeoprs]-[0-9A-Za-z]{4,}-[0-9A-Za-z-]{10,}"),
    _rule("Google API key", "AIza", r"(?<![A-Za-z0-9_-])AIza[0-9A-Za-z_-]{35}(?![A-Za-z0-9_-])"),
    _rule("Stripe key", "k_live_", r"(?<![A-Za-z0-9])[sr]k_live_[0-9A-Za-z]{16,}"),
    _rule("PyPI token", "pypi-AgE", r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    _rule("npm token", "npm_", r"(?<![A-Za-z0-9_])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    _rule("SendGrid key", "SG.", r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _rule("Azure storage key", "AccountKey=", r"AccountKey=(?P<value>[A-Za-z0-9+/]{60,}={0,2})"),
    _rule(
        "JSON web token",
        "eyJ",
        r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        in_binary=False,
    ),
    _rule(
        "credentials in a URL",
        "://",
        r"://[^\s/:@\"'<>{}$()]{1,80}:(?P<value>[^\s/:@\"'<>{}$()]{3,200})@[A-Za-z0-9\[]",
        in_binary=False,
    ),
    _rule(
        "netrc login",
        "machine",
        r"\bmachine\s+\S+\s+(?:login|account)\s+\S+\s+password\s+(?P<value>\S{3,})",
        in_binary=False,
    ),
    _rule("Docker login", '"auth"', r"\"auth\"\s*:\s*\"(?P<value>[A-Za-z0-9+/]{8,}={0,2})\"", in_binary=False),
    _rule(
        "Kubernetes client key",
        "client-key-data",
        r"client-key-data\"?\s*:\s*\"?(?P<value>[A-Za-z0-9+/=]{40,})",
        in_binary=False,
    ),
)

# Looked for in the lower-cased piece: one pass without IGNORECASE is 30 times faster than one with.
_KEYWORD = re.compile(
    rb"passwd|password|passphrase|(?<![a-z])pwd|secret|(?:api|access|account|encryption|signing|private)[_-]?key"
    rb"|(?:auth|access|api|bearer|refresh|bot|session)[_-]?token"
)
_KEY_BEFORE = re.compile(rb"[A-Za-z0-9_.-]{0,40}\Z")
_ASSIGNED = re.compile(
    rb"(?P<key>[A-Za-z0-9_-]{0,50})[\"']?[ \t]*(?::[ \t]*[A-Za-z]+[ \t]*)?(?:=>|=(?!=)|:)[ \t]*"
    rb"(?:[bru]{0,2}(?P<quote>[\"'])(?P<quoted>[^\"'\s\x00-\x1f]{8,200})(?P=quote)"
    rb"|(?P<bare>[^\s\"'#,;(){}\[\]<>\x00-\x1f]{8,200})[ \t\r]*$)",
    re.MULTILINE,
)
_BARE_SUFFIXES = (".env", ".ini", ".cfg", ".conf", ".properties", ".toml", ".yaml", ".yml", ".sh", ".txt")
_KEY_OF_SOMETHING_ELSE = re.compile(
    rb"(?:sha\d*|md5|hash|digest|checksum|_(?:name|path|file|dir|url|uri|env|var|field|header|param|arg|label|regex|pattern"
    rb"|length|len|type|id|policy|hint|prompt|column|test|ref|format))s?$|(?:^|_)(?:sha|md5|hash|public|test)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    rb"example|change.?me|placeholder|your|xxx|\*\*\*|\.\.\.|<|\$\{|\$\(|\{|%\(|%s|dummy|fake|sample|todo|replace|redact"
    rb"|secret|passw|token|api.?key|credential|insert|^(?:none|null|true|false|undefined)$"
    rb"|^(?:env|file|kubernetes|vault|ssm|arn|https?|s3|gs):|environ|getenv|^\$|^/|^(.)\1+$|^test|^[a-z]+(?:[_.][a-z]+)+$",
    re.IGNORECASE,
)


def matches(piece: bytes, *, binary: bool, name: str) -> Iterator[Match]:
    """Every secret in `piece`.

    Args:
        piece: bytes of a file; a secret cut at its end is found in the next piece, which must overlap.
        binary: whether the file is no text; then only frames and prefixes count.
        name: the file's name; in settings files a bare value counts like a quoted one.
    """
    for rule in RULES:
        if (binary and not rule.in_binary) or not any(anchor in piece for anchor in rule.anchors):
            continue
        for match in rule.pattern.finditer(piece):
            value = (match["value"] if "value" in rule.pattern.groupindex else None) or match[0]
            if not _is_placeholder(rule, value):
                yield Match(rule.name, match.start(), match.end(), value)
    if not binary:
        yield from _assignments(piece, name)


def _is_placeholder(rule: Rule, value: bytes) -> bool:
    if rule.name in ("credentials in a URL", "netrc login", "Docker login"):
        return _PLACEHOLDER.search(value) is not None or value.lower() in (b"pass", b"pwd", b"pw")
    return value.endswith(b"EXAMPLE") or re.search(rb"(.)\1{11}", value) is not None


def _assignments(piece: bytes, name: str) -> Iterator[Match]:
    bare = name.lower().endswith(_BARE_SUFFIXES) or "." not in name.lstrip(".")
    for word in _KEYWORD.finditer(piece.lower()):
        match = _ASSIGNED.match(piece, word.start())
        if match is None:
            continue
        before = _KEY_BEFORE.search(piece, max(0, word.start() - 40), word.start())
        key = (before[0] if before else b"") + match["key"]
        value = match["quoted"] or (match["bare"] if bare else None)
        if value is None or _KEY_OF_SOMETHING_ELSE.search(key) or _PLACEHOLDER.search(value):
            continue
        yield Match("a secret assigned to " + key.decode("ascii"), match.start(), match.end(), value)
