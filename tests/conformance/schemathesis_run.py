"""schemathesis against real servers: what it makes up from a document must meet no 5xx and no answer beside it.

    python -m tests.conformance.schemathesis_run --examples 10000

Two documents: the server's own `/openapi.json` for models of several signatures, with every check that schemathesis
has, and the Open Inference Protocol's, which leaves open what a model takes. schemathesis runs in an environment of its
own.

What no schema can say (a tensor's shape and its data agree, columns are equally long, a CSV has rows) lets a valid
request be refused with 400 on the paths that ask the model, and nowhere else; the checks of answers know no exception.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.open_inference import document
from support.envs import training_python
from support.plain_models import columns_root, named_root, rows_root
from support.serving import Served, models_python, serve, trained

SCHEMATHESIS = "schemathesis==4.32.5"
ROOTS = {"rows": rows_root, "columns": columns_root, "twice": named_root}
TRAINED = ("digits",)  # scikit-learn: named outputs, and rows that are what `predict` returns
ASKS = r"/infer$|/invocations$|predict$"
CONFIG = f"""
[[operations]]
include-path-regex = "{ASKS}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]
"""
FOREIGN_CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method"
)
PHASES = "examples,coverage,fuzzing"
QUICK = "examples,fuzzing"
EXAMPLE = {"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP64", "data": [1.0, 2.0, 3.0]}]}


@dataclass(frozen=True)
class Outcome:
    """One run of schemathesis."""

    cases: int
    failed: bool
    text: str


def schemathesis(arguments: list[str], folder: Path, config: str) -> Outcome:
    """What schemathesis says."""
    python = training_python(SCHEMATHESIS)
    (folder / "schemathesis.toml").write_text(config)
    command = [str(python.with_name("schemathesis")), "--no-color", "run", *arguments, "--continue-on-failure"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    counted = re.search(r"(\d+) generated", done.stdout)
    cases = int(counted.group(1)) if counted else 0
    return Outcome(cases, done.returncode != 0 or cases == 0, done.stdout + done.stderr)


def _limits(examples: int, seed: int, phases: str) -> list[str]:
    return ["--max-examples", str(examples), "--seed", str(seed), "--phases", phases]


def against_ours(server: Served, examples: int, seed: int, phases: str = PHASES) -> Outcome:
    """Our document, every check."""
    with tempfile.TemporaryDirectory(prefix="im-st-") as folder:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        return schemathesis([url, *_limits(examples, seed, phases)], Path(folder), CONFIG)


def against_foreign(server: Served, examples: int, seed: int, phases: str = PHASES) -> Outcome:
    """The Open Inference Protocol's document; the model is that of `rows`."""
    with tempfile.TemporaryDirectory(prefix="im-st-") as folder:
        path = Path(folder) / "open-inference.json"
        path.write_text(json.dumps(document("rows", "1", EXAMPLE)))
        arguments = [str(path), "--url", f"http://127.0.0.1:{server.port}", "--checks", FOREIGN_CHECKS]
        return schemathesis([*arguments, *_limits(examples, seed, phases)], Path(folder), "")


def runs(examples: int, seed: int, models: tuple[str, ...]) -> Iterator[tuple[str, Outcome]]:
    """Every document against every model; `examples` is what schemathesis makes up for one operation."""
    with tempfile.TemporaryDirectory(prefix="im-st-") as folder:
        for name in models:
            root = trained(name) if name in TRAINED else ROOTS[name](Path(folder) / name)
            worker = models_python() if name in TRAINED else None
            with serve(root, tcp=True, worker=worker) as server:
                yield f"our document, {name}", against_ours(server, examples, seed)
                if name == "rows":
                    yield "the protocol's document, rows", against_foreign(server, examples, seed)


def main() -> int:
    """Run until enough examples were tried; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.schemathesis_run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--examples", type=int, default=1000, help="requests in all, at least")
    parser.add_argument("--operation", type=int, default=60, help="requests for one operation in one run, at most")
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    total, failed, seed, began_s = 0, 0, wanted.seed, time.monotonic()
    while total < wanted.examples:
        for name, outcome in runs(wanted.operation, seed, (*ROOTS, *TRAINED)):
            total += outcome.cases
            failed += outcome.failed
            print(f"seed {seed}, {name}: {outcome.cases} requests, {'FAILED' if outcome.failed else 'all right'}")
            if outcome.failed:
                print(outcome.text)
            sys.stdout.flush()
        seed += 1
    print(f"{total} requests in {time.monotonic() - began_s:.0f} s, {failed} runs failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
