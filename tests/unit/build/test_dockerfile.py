"""The words of the Dockerfile road, and the folder it is built in; engines build it in the e2e tests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from packaging.requirements import Requirement
from support.locks import World, world

from intermodal.errors import DownloadError, DriftError, InputError, SecretFoundError
from intermodal.events import SILENT
from intermodal.oci.config import config_bytes
from intermodal.oci.digest import Digest
from intermodal.project.value import Project
from intermodal.rooms.build.dockerfile import Context, LocalBase, context, write_context
from intermodal.rooms.build.dockerfile.text import Pin, Plan, dockerfile, requirements
from intermodal.rooms.inspect.card import FileRow
from intermodal.rooms.lock import Lock, lock
from intermodal.rooms.lock.rows import PackageRow, WheelRow

ZERO = Digest("0" * 64)
BASE = LocalBase("localhost/intermodal/base:bookworm-0", ZERO, "linux/amd64")
LABELS = {"plain": "a b", "odd": 'a "b" \\ $HOME', "json": '{"x":["a"]}'}


def plan(**changes: object) -> Plan:
    config = json.loads(config_bytes(layers=(), architecture="amd64", python="3.11", labels=LABELS))["config"]
    values = {
        "name": "digits", "version": "1", "base": BASE.name, "base_digest": ZERO, "lock_digest": ZERO,
        "python": "3.11", "pip": "pip-1-py3-none-any.whl", "config": config, "model": True, "app": True,
        "requirements": True,
    }  # fmt: skip
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def instructions(text: str) -> list[str]:
    joined = re.sub(r" \\\n +", " ", text)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def test_no_step_needs_a_shell_and_the_last_stage_holds_no_tools() -> None:
    for mounts in (True, False):
        lines = instructions(dockerfile(plan(mounts=mounts)))
        steps = [re.sub(r"^RUN( --mount=\S+)* ", "", line) for line in lines if line.startswith("RUN")]
        assert len(steps) == 5
        for step in steps:
            assert Path(json.loads(step)[0]).is_absolute()
        last = lines[lines.index("FROM ${BASE}") :]
        assert not [line for line in last if line.startswith("RUN") or "wheels" in line or "tools" in line]
        froms = [line for line in lines if line.startswith("FROM")]
        assert froms == ["FROM ${BASE} AS packages", "FROM ${BASE} AS code", "FROM ${BASE}"]
        assert ("--mount" in dockerfile(plan(mounts=mounts))) is mounts
        installs = [step for step in steps if '"install"' in step]
        assert len(installs) == 2
        assert all("--require-hashes" in step and "--no-deps" in step for step in installs)


def test_the_last_stage_says_what_our_own_config_says() -> None:
    lines = instructions(dockerfile(plan()))
    config = plan().config
    assert f"USER {config['User']}" in lines
    assert f"STOPSIGNAL {config['StopSignal']}" in lines
    assert f"ENTRYPOINT {json.dumps(config['Entrypoint'])}" in lines
    (health,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    assert health.startswith("HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD [")
    (variables,) = (line for line in lines if line.startswith("ENV PATH"))
    for variable in config["Env"]:
        name, _, value = variable.partition("=")
        assert f'{name}="{value}"' in variables
    (labels,) = (line for line in lines if line.startswith("LABEL"))
    assert r'odd="a \"b\" \\ \$HOME"' in labels
    assert lines[-1].startswith("ENTRYPOINT")
    assert lines.index("COPY --from=code /app/ /app/") > lines.index("COPY model/ /model/")


def test_what_a_model_does_not_have_is_not_copied() -> None:
    text = dockerfile(plan(model=False, app=False, requirements=False, bytecode=False))
    assert "compile" not in text.replace("--no-compile", "")
    assert text.count("--no-compile") == 1
    assert "COPY model/" not in text
    assert "COPY app/" not in text
    assert "/requirements.txt" not in text.replace("/server-requirements.txt", "")
    assert "WORKDIR /model\nWORKDIR /app" in text, "both folders are there all the same"


def test_the_base_is_never_asked_for_at_a_registry_of_strangers() -> None:
    text = dockerfile(plan())
    assert f"ARG BASE={BASE.name}\n" in text
    assert BASE.name.startswith("localhost/")


def test_requirements_are_read_by_pip_as_they_are_meant() -> None:
    pins = [Pin("torch", "2.9.0+cpu", (ZERO, Digest("1" * 64))), Pin("only", "1.0", (ZERO,), "x86_64")]
    first, second = requirements(pins, "x").splitlines()[1:]
    parsed, *hashes = first.split(" --hash=")
    assert (str(Requirement(parsed).specifier), hashes) == ("==2.9.0+cpu", [str(ZERO), f"sha256:{'1' * 64}"])
    marker = Requirement(second.split(" --hash=")[0]).marker
    assert marker is not None
    assert marker.evaluate({"platform_machine": "x86_64"})
    assert not marker.evaluate({"platform_machine": "aarch64"})


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with world(tmp_path) as made:
        made.publish("pip==25.3")
        (wheel,) = (tmp_path / "wheels").glob("pip-25.3-*.whl")
        digest, size_bytes = Digest.of_file(wheel)
        # the real one is in a real index; here it only has to be found by its name and hash
        monkeypatch.setattr(context, "PIP", replace(context.PIP, digest=digest, size_bytes=size_bytes))
        yield made


def locked(here: World, *more: str) -> tuple[Lock, Project]:
    project = here.project("scikit-learn==1.9.1", *more)
    return lock(here.card(), project, host=here.host, keyring=here.keyring), project


def write(here: World, found: Lock, project: Project, **options: bool) -> Context:
    folder = here.folder / "out"
    return write_context(found, here.card(), project, BASE, folder, host=here.host, events=SILENT, **options)


def hashes(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\S+?)==\S+ --hash=(sha256:\S+)$", path.read_text(), re.MULTILINE))


def test_every_locked_wheel_is_required_by_its_hash_and_there_when_asked_for(here: World) -> None:
    found, project = locked(here)
    made = write(here, found, project, wheels=True)
    assert hashes(made.folder / "requirements.txt") == {
        row.name: str(found.wheel_for(row, "linux/amd64").digest) for row in found.packages
    }
    assert hashes(made.folder / "server-requirements.txt").keys() == {row.name for row in found.server.packages}
    wanted = {*hashes(made.folder / "requirements.txt").values()}
    wanted |= {*hashes(made.folder / "server-requirements.txt").values()}
    wheels = {str(Digest.of_file(path)[0]) for path in (made.folder / "wheels").glob("*.whl")}
    assert wheels == wanted
    assert (made.folder / "model" / "model.joblib").read_bytes() == b"model one"
    assert (made.folder / "server" / "intermodal_server" / "contract.py").is_file()
    assert json.loads((made.folder / "metadata" / "model.json").read_bytes())["name"] == "digits"
    assert [path.name for path in (made.folder / "tools").iterdir()] == ["pip-25.3-py3-none-any.whl"]
    assert not list((write(here, found, project).folder / "wheels").glob("*.whl"))


def test_only_the_machine_that_needs_a_package_requires_it(here: World) -> None:
    found, _ = locked(here)
    arm = WheelRow("only-1.0-cp311-cp311-manylinux_2_17_aarch64.whl", 1, ZERO)
    both = replace(found, platforms=("linux/amd64", "linux/arm64"))
    (pin,) = context._pins([PackageRow("only", "1.0", (arm,))], both)
    assert (pin.machine, pin.hashes) == ("aarch64", (ZERO,))
    amd = WheelRow("only-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", 1, Digest("1" * 64))
    (pin,) = context._pins([PackageRow("only", "1.0", (arm, amd))], both)
    assert (pin.machine, set(pin.hashes)) == ("", {arm.digest, amd.digest})


def test_files_that_changed_or_look_like_secrets_stop_it(here: World) -> None:
    found, project = locked(here)
    secret = here.folder / "project" / "settings.py"
    secret.write_text("AWS_ACCESS_KEY_ID = 'AKIAIOSFODNN7REALKEY'\n")
    digest, size_bytes = Digest.of_file(secret)
    row = FileRow("settings.py", size_bytes, digest, secret)
    with pytest.raises(SecretFoundError):
        write(here, replace(found, app=(row,)), project)
    (here.folder / "project" / "model.joblib").write_bytes(b"model two")
    with pytest.raises(DriftError):
        write(here, found, project)
    with pytest.raises(DriftError, match="another version of the server"):
        write(here, replace(found, server=replace(found.server, tree=ZERO)), project)


def test_a_folder_of_somebody_else_is_left_alone(here: World) -> None:
    found, project = locked(here)
    folder = here.folder / "out"
    folder.mkdir()
    for name, data in (("Dockerfile", b"FROM scratch\n"), ("Dockerfile", b"\xff\xfe"), ("mine.txt", b"")):
        (folder / name).write_bytes(data)
        with pytest.raises(InputError, match="Dockerfile"):
            write(here, found, project)
        assert (folder / name).read_bytes() == data
        (folder / name).unlink()
    assert write(here, found, project).files > 10


def test_without_pip_there_is_an_error_that_says_what_to_do(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found, project = locked(here)
    monkeypatch.setattr(context, "PIP", replace(context.PIP, digest=ZERO))
    with pytest.raises(DownloadError) as caught:
        write(here, found, project)
    assert "pip" in str(caught.value)
