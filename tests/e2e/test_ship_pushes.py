"""`ship` with `[push] to`: pushed once the check has passed, never before, and only when something has changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import intermodal
from support.registries import docker_registry

PREDICTOR = """class Doubled:
    def predict(self, x):
        return {"y": x * 2}
"""


def golden(answer: float) -> str:
    def tensor(name: str, value: float) -> dict[str, object]:
        return {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}

    case = {"name": "two", "request": {"inputs": [tensor("x", 2.0)]}, "response": {"outputs": [tensor("y", answer)]}}
    return json.dumps({"format": 1, "recorded_in": "training", "environment": {}, "cases": [case]})


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.sandbox
def test_ship_pushes_what_has_passed(tmp_path: Path) -> None:
    project = tmp_path / "doubled"
    project.mkdir()
    (project / "predictor.py").write_text(PREDICTOR)
    with docker_registry() as registry:
        (project / "intermodal.toml").write_text(
            '[model]\nname = "doubled"\nversion = "1.2"\npredictor = "predictor:Doubled"\n'
            f'[environment]\nrequirements = ["numpy"]\n[push]\nto = "{registry.address}/team/doubled"\n'
        )
        (project / "golden.json").write_text(golden(5.0))
        refused = intermodal("ship", project, "--json", home=tmp_path)
        assert (refused.code, refused.json["kind"]) == (1, "CheckFailedError"), refused.err
        assert registry.blobs() == set(), "nothing is pushed that has not passed"

        (project / "golden.json").write_text(golden(4.0))
        shipped = intermodal("ship", project, "--json", home=tmp_path)
        assert shipped.code == 0, shipped.err
        assert [step["room"] for step in shipped.json["steps"]] == ["inspect", "lock", "build", "check", "push"]
        assert shipped.json["push"]["reference"] == f"{registry.address}/team/doubled:1.2"
        digest = shipped.json["image"]["digest"]
        assert shipped.json["push"]["digest"] == digest
        assert digest.removeprefix("sha256:") in registry.blobs()

        again = intermodal("ship", project, "--json", home=tmp_path)
        assert again.json["push"]["unchanged"] and again.json["image"]["digest"] == digest, again.err
        told = intermodal("ship", project, home=tmp_path)
        assert told.out.startswith("nothing to do"), told.out
        assert "the registry has it" in told.out and f"{registry.address}/team/doubled@{digest}" in told.out
        assert "not built yet" not in told.err
