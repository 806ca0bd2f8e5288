"""Unknown keys name the nearest valid one; wrong values name what is allowed; all at once; secrets never repeated."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from intermodal.errors import ProjectError
from intermodal.project.faults import Fault, find_faults
from intermodal.project.load import parse
from intermodal.project.schema import ProjectFile


def faults(text: str) -> list[Fault]:
    return find_faults(tomllib.loads(text), text)


@pytest.mark.parametrize(
    ("text", "message", "next_"),
    [
        ("[model]\nartefact = 1", 'unknown key "artefact" in [model]', 'did you mean "artifact"?'),
        ("[serve]\nmax-batch-rows = 1", 'unknown key "max-batch-rows" in [serve]', 'did you mean "max_batch_rows"?'),
        ("[serve]\ntimeout = 1", 'unknown key "timeout" in [serve]', 'did you mean "timeout_s"?'),
        ("[enviroment]\nx = 1", "unknown key [enviroment]", "did you mean [environment]?"),
        (
            "[environment]\nrequirement = []",
            'unknown key "requirement" in [environment]',
            'did you mean "requirements"?',
        ),
        (
            "[model]\nrequirements = []",
            'unknown key "requirements" in [model]',
            '"requirements" belongs to [environment]',
        ),
        ('name = "x"', 'unknown key "name"', '"name" belongs to [model] or [[models]] or [[pipeline.steps]]'),
        (
            "[deploy.analysis]\nslow_rate = 2",
            'unknown key "slow_rate" in [deploy.analysis]',
            'did you mean "slow_ratio"?',
        ),
        ("[deploy]\nsteps = [{wait = 1}]", 'unknown key "wait" in [[deploy.steps]]', 'did you mean "weight"?'),
        ("[environment.prune]\nkep = []", 'unknown key "kep" in [environment.prune]', 'did you mean "keep"?'),
    ],
)
def test_unknown_keys(text: str, message: str, next_: str) -> None:
    (fault,) = faults(text)
    assert fault.message == message
    assert fault.next == next_


def test_a_key_near_to_nothing_lists_what_there_is() -> None:
    (fault,) = faults("[check]\nzzz = 1")
    assert "nearest valid key" in fault.next
    assert "atol, rtol" in fault.next


WRONG = {
    'model.name = "Bad Name"': "a DNS label",
    'model.name = "-x"': "a DNS label",
    f'model.name = "{"x" * 64}"': "a DNS label",
    'model.version = "a b"': "a tag such as",
    "model.version = 1.0": "a tag such as",
    'model.predictor = "predictor"': "module:Class",
    'model.app = "a.b"': "module:Class",
    'model.trust = "x.Y"': "a list of strings",
    "model.include = [1]": "a string",
    "model.artifact = 1": "a string",
    "environment.python = 3.11": 'a version such as "3.11", as a string',
    'environment.python = "2.7"': "a version such as",
    "environment.requirements = 1": "a list of strings, or a string",
    'environment.accelerator = "gpu"': '"cpu" or "cuda"',
    'environment.platforms = ["linux/x86"]': '"linux/amd64" or "linux/arm64"',
    'environment.prune = "yes"': "true or false, or a table with keep",
    'environment.bytecode = "some"': '"all" or "none"',
    'environment.compression = "xz"': '"gzip" or "zstd"',
    'environment.exclude_newer = "2026-11-01"': "a date without quotes",
    "environment.exclude_newer = 2026-11-01T00:00:00": "a date without quotes",
    "environment.exclude_newer = 5": "a date without quotes",
    'serve.mode = "process"': '"auto", "inline", "thread" or "workers"',
    'serve.workers = "two"': "a whole number, 1 or more",
    "serve.workers = 0": "a whole number, 1 or more",
    "serve.workers = 1.5": "a whole number, 1 or more",
    "serve.workers = true": "a whole number, 1 or more",
    'serve.processes = "many"': 'a whole number, 1 or more, or "auto"',
    "serve.processes = 0": 'a whole number, 1 or more, or "auto"',
    "serve.timeout_s = 0": "a number above 0",
    "serve.drain_s = -1": "a number, 0 or more",
    'serve.start_check = "yes"': '"fail", "warn" or "off"',
    "serve.grpc = 1": "true or false",
    'serve.api_keys = "keys"': "file:/PATH in the container",
    'serve.api_keys = "env:KEYS"': "file:/PATH in the container",
    "serve.rate_per_s = -1": "a number, 0 or more",
    "serve.max_concurrent = 1.5": "a whole number, 0 or more",
    "check.rtol = -0.1": "a number, 0 or more",
    'scan.fail_on = "severe"': '"low", "medium", "high" or "critical"',
    'scan.ignore = [{ id = "x", until = "soon", reason = "r" }]': "a date such as 2026-11-01",
    "deploy.steps = [{ weight = 101 }]": "a whole number from 0 to 100",
    'deploy.strategy = "big-bang"': '"auto", "canary"',
    "model = 5": "a table with name, version",
    "serve = []": "a table with mode",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_values_say_what_is_allowed(text: str) -> None:
    (fault,) = faults(text)
    assert fault.message.startswith("wrong value for ")
    assert fault.found
    assert WRONG[text] in fault.next


@pytest.mark.parametrize("text", WRONG)
def test_nothing_wrong_gets_past(text: str) -> None:
    """What is called a fault is no valid project for msgspec either, but for the one type that it cannot express."""
    if "exclude_newer" in text:
        return
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(tomllib.loads(text), ProjectFile)


def test_missing_keys() -> None:
    (fault,) = faults('[[scan.ignore]]\nid = "CVE-1"\nuntil = 2027-01-31')
    assert fault.message == '[[scan.ignore]] lacks the key "reason"'


@pytest.mark.parametrize(
    "text",
    [
        'secrets.KEY = "hunter2"',
        'secrets.KEY = { from = "hunter2" }',
        "sign.key = ['hunter2']",
        "serve.api_keys = ['hunter2']",
    ],
)
def test_secrets_are_never_repeated(text: str) -> None:
    (fault,) = faults(text)
    assert "hunter2" not in f"{fault}"
    assert "not shown" in fault.found


def test_every_fault_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "intermodal.toml"
    path.write_text(
        '[model]\nartefact = "x"\n\n[serve]\n# a comment\nworkers = 0\n\n'
        "[[deploy.steps]]\nweight = 5\n\n[[deploy.steps]]\nweigh = 6\n"
    )
    with pytest.raises(ProjectError, match=r"intermodal\.toml has 3 faults") as caught:
        parse(path)
    assert [line.partition(":")[0] for line in caught.value.found] == ["line 2", "line 6", "line 12"]
    assert caught.value.next[1] == "line 6: a whole number, 1 or more"


def test_one_fault_is_told_plainly(tmp_path: Path) -> None:
    path = tmp_path / "intermodal.toml"
    path.write_text("[serve]\nworkers = 0\n")
    with pytest.raises(ProjectError) as caught:
        parse(path)
    assert str(caught.value) == (
        "wrong value for workers in [serve]\n"
        "  found   intermodal.toml line 2: 0 (a whole number)\n"
        "  next    a whole number, 1 or more"
    )


def contract() -> str:
    """The project file that the contract shows, every key of it."""
    return """
[model]
name = "digits"
version = "1.0.0"
artifact = "model.joblib"
predictor = "predictor:Digits"
include = ["labels.txt"]
golden = "golden.json"
trust = ["mylib.transforms.Log"]
[environment]
python = "3.11"
requirements = ["scikit-learn==1.9.1"]
system = ["libgomp1"]
base = "deb:bookworm"
accelerator = "cpu"
platforms = ["linux/amd64"]
prune = { keep = ["torch"] }
bytecode = "all"
compression = "gzip"
exclude_newer = 2026-11-01
[serve]
mode = "auto"
workers = 1
max_batch_rows = 64
timeout_s = 30
max_request_bytes = 67108864
start_check = "fail"
drain_s = 5.0
grpc = false
api_keys = "file:/run/secrets/keys"
rate_per_s = 100
rate_burst = 20
max_concurrent = 16
[check]
rtol = 1e-3
atol = 1e-5
[scan]
fail_on = "high"
unknown_severity = "fail"
ignore = [{ id = "CVE-1", until = 2027-01-31, reason = "r" }]
[push]
to = "registry.example.com/team/digits"
[sign]
key = "env:INTERMODAL_KEY"
encrypt = "age1x"
[deploy]
target = "local"
host = "digits.example.com"
path = "/"
port = 8080
strategy = "auto"
replicas = 1
steps = [{ weight = 5, min_requests = 500, max_time = "1h" }, { weight = 25 }, { pause = true }, { weight = 50 }]
bake = "30m"
[deploy.analysis]
errors_ratio = 1.5
slow_ratio = 1.5
class_ratio = 1.5
class_shift = "hold"
max_error_rate = 0.05
max_p99_s = 1.0
[deploy.resources]
cpu = "1"
memory = "1Gi"
gpu = 0
[deploy.autoscale]
min = 1
max = 4
[secrets]
API_KEY = { from = "env:API_KEY" }
[[pipeline.steps]]
name = "detect"
model = "ocr-detect:1"
inputs = { x = "request.image" }
"""


def test_the_contract_s_own_example_has_no_fault() -> None:
    assert faults(contract()) == []
    msgspec.convert(tomllib.loads(contract()), ProjectFile)
