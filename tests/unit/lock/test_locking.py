"""The whole room, without network: lock, obtain, refresh, drift, contradictions."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.debian_archive import BASE, Package
from support.locks import World, world

from intermodal.errors import (
    ContradictionError,
    DriftError,
    IndexUnreachableError,
    InputError,
    NotBuiltYetError,
    RequirementError,
)
from intermodal.fetch import fetch_all
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import Evidence, ModelCard
from intermodal.rooms.lock import Lock, lock
from intermodal.rooms.lock.drift import contradictions, drift, refresh
from intermodal.rooms.lock.lockfile import lock_digest, read_lock, write_lock
from intermodal.rooms.lock.obtain import obtain
from intermodal.rooms.lock.requests import requests

STAMP = {
    "scikit-learn": Evidence(
        "1.3.2", "_sklearn_version '1.3.2' in 3 estimators (Pipeline, StandardScaler, RandomForestClassifier)"
    )
}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def made(here: World, project: Project, card: ModelCard | None = None, **more: object) -> Lock:
    return lock(card or here.card(), project, host=here.host, keyring=here.keyring, **more)  # type: ignore[arg-type]


def versions(found: Lock) -> dict[str, str]:
    return {row.name: row.version for row in found.packages}


def test_everything_by_hash_and_all_of_it_can_be_fetched(here: World) -> None:
    project = here.project("scikit-learn==1.9.1")
    found = made(here, project)
    assert versions(found) == {"scikit-learn": "1.9.1", "numpy": "2.4.6", "joblib": "1.6.0"}
    assert {row.name for row in found.server.packages} == {"httptools", "uvloop", "orjson", "msgspec"}
    assert (found.python, found.base.python_version, found.name) == ("3.11", "3.11.2", "digits")
    assert [row.path for row in found.model] == ["model.joblib"]
    wanted = requests(found, "linux/amd64", host=here.host)
    assert len(fetch_all(wanted, host=here.host)) == len(found.packages) + len(found.server.packages) + len(
        found.base.packages
    )


def test_the_lock_can_be_read_back_and_stays_the_same(here: World) -> None:
    project = here.project("scikit-learn==1.9.1", system=("libc6",))
    found = made(here, project)
    write_lock(found, project.lock_path)
    text = project.lock_path.read_text()
    again = read_lock(project.lock_path)
    assert lock_digest(again) == lock_digest(found)
    assert again.environment_digest == found.environment_digest is not None
    assert replace(again, model=found.model) == found
    write_lock(again, project.lock_path)
    assert project.lock_path.read_text() == text


# --- what the artifact itself says -----------------------------------------------------------------------------------


def test_a_bare_model_is_pinned_by_its_stamp(here: World) -> None:
    evidence = {**STAMP, "numpy": Evidence("1", "module numpy.core", exact=False)}
    project = here.project()
    found = made(here, project, here.card(evidence, requires=("joblib", "numpy")))
    assert found.requirements == ("joblib", "numpy<2", "scikit-learn==1.3.2")
    assert versions(found) == {"scikit-learn": "1.3.2", "numpy": "1.26.4", "joblib": "1.6.0"}


def test_a_contradiction_in_the_words_of_the_style_guide(here: World) -> None:
    project = here.project("Scikit_Learn==1.9.1")
    with pytest.raises(ContradictionError) as caught:
        made(here, project, here.card(STAMP))
    assert str(caught.value) == (
        "model.joblib was saved by scikit-learn 1.3.2, but the lock has 1.9.1\n"
        "  found   _sklearn_version '1.3.2' in 3 estimators (Pipeline, StandardScaler, RandomForestClassifier)\n"
        '  next    pin it: requirements = ["scikit-learn==1.3.2"], or re-save the model under 1.9.1'
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("evidence", "fine"),
    [
        (Evidence("2", "", exact=False), True),
        (Evidence("2.4", "", exact=False), True),
        (Evidence("2.4.6", ""), True),
        (Evidence("2.4", ""), False),
        (Evidence("1", "", exact=False), False),
        (Evidence("24", "", exact=False), False),
    ],
)
def test_which_versions_agree(here: World, evidence: Evidence, fine: bool) -> None:
    found = made(here, here.project("numpy==2.4.6"))
    card = here.card({"numpy": evidence})
    if fine:
        contradictions(found, card)
    else:
        with pytest.raises(ContradictionError, match=f"saved by numpy {evidence.version}, but the lock has 2.4.6"):
            contradictions(found, card)


def test_a_local_version_is_no_contradiction(here: World) -> None:
    found = made(here, here.project("numpy==2.4.6"))
    packages = tuple(replace(row, version="2.4.6+cpu") for row in found.packages)
    contradictions(replace(found, packages=packages), here.card({"numpy": Evidence("2.4.6", "")}))


def test_a_distribution_that_is_not_locked_at_all(here: World) -> None:
    found = made(here, here.project("numpy"))
    with pytest.raises(ContradictionError, match="but the lock has none"):
        contradictions(found, here.card(STAMP))


@pytest.mark.parametrize("where", ["artifact", "project", "golden"])
def test_another_python_is_told_which_base_to_take(here: World, where: str) -> None:
    card, environment = None, {}
    if where == "project":
        environment = {"python": "3.13"}
    elif where == "golden":
        here.project()
        golden = {"format": 1, "recorded_in": "training", "environment": {"python": "3.13.5"}, "cases": []}
        (here.folder / "project" / "golden.json").write_text(json.dumps(golden))
    project = here.project("numpy", **environment)
    if where == "artifact":
        card = here.card(python="3.13")
    with pytest.raises(RequirementError, match=r"needs Python 3\.13, but deb:bookworm brings 3\.11") as caught:
        made(here, project, card)
    assert caught.value.next == ('base = "deb:trixie" brings Python 3.13',)


def test_golden_cases_recorded_in_the_image_say_nothing_about_python(here: World) -> None:
    here.project()
    golden = {"format": 1, "recorded_in": "locked", "environment": {"python": "3.13.5"}, "cases": []}
    (here.folder / "project" / "golden.json").write_text(json.dumps(golden))
    found = made(here, here.project("numpy"))
    assert found.python == "3.11"
    assert found.golden is not None and found.golden.path == "golden.json"


# --- keeping and upgrading -------------------------------------------------------------------------------------------


def test_versions_and_base_are_kept_until_told_otherwise(here: World) -> None:
    project = here.project("numpy")
    first = made(here, project)
    write_lock(first, project.lock_path)
    here.publish("numpy==2.9.0", "joblib==1.7.0", "orjson==3.14.0")
    here.archive.suite("bookworm-security", [Package("libc6", "2.36-9+deb12u99", "libgcc-s1")], valid_days=7)
    again = made(here, here.project("numpy", "joblib"))
    assert versions(again) == {"numpy": "2.4.6", "joblib": "1.7.0"}
    assert again.base == first.base
    assert again.server == first.server
    one = made(here, here.project("numpy", "joblib"), upgrade=("numpy",))
    assert versions(one)["numpy"] == "2.9.0"
    assert one.base == first.base
    assert made(here, project, upgrade=("libc6",)).base != first.base
    fresh = made(here, project, upgrade=())
    assert versions(fresh)["numpy"] == "2.9.0"
    assert {row.name: row.version for row in fresh.server.packages}["orjson"] == "3.14.0"
    assert {row.name: row.version for row in fresh.base.packages}["libc6"] == "2.36-9+deb12u99"


def test_upgrading_a_name_that_is_not_there_is_told(here: World) -> None:
    project = here.project("scikit-learn")
    write_lock(made(here, project), project.lock_path)
    assert made(here, project, upgrade=("Scikit_Learn",)).packages
    with pytest.raises(InputError, match="holds no package called scikit") as caught:
        made(here, project, upgrade=("scikit",))
    assert "scikit-learn" in caught.value.found[0]


def test_other_system_packages_make_the_base_anew(here: World) -> None:
    here.archive.suite("bookworm", [*BASE, Package("libgomp1")])
    project = here.project("numpy")
    write_lock(made(here, project), project.lock_path)
    found = made(here, here.project("numpy", system=("libgomp1",)))
    assert "libgomp1" in {row.name for row in found.base.packages}


def test_a_damaged_earlier_lock_is_made_anew_with_a_warning(here: World) -> None:
    from intermodal.events import Events

    class Told(Events):
        warnings: list[str] = []

        def warning(self, message: str) -> None:
            self.warnings.append(message)

    project = here.project("numpy")
    project.lock_path.write_text("<<<<<<< HEAD\n")
    told = Told()
    assert made(here, project, events=told).packages
    assert "earlier lock is ignored" in told.warnings[0]


def test_an_index_without_the_servers_packages_says_so(here: World) -> None:
    shutil.rmtree(here.folder / "index" / "simple" / "uvloop")
    with pytest.raises(
        RequirementError, match="the image's own server cannot be locked: no package is called uvloop"
    ) as caught:
        made(here, here.project("numpy"))
    assert "uvloop" in caught.value.next[0]


def test_exclude_newer_is_recorded(here: World) -> None:
    project = here.project("numpy", exclude_newer=datetime.date(2026, 11, 1))
    from intermodal.rooms.lock.inputs import exclude_newer_of

    assert exclude_newer_of(project) == "2026-11-02T00:00:00Z"


@pytest.mark.parametrize("environment", [{"accelerator": "cuda"}])
def test_what_is_not_built_yet(here: World, environment: dict[str, str]) -> None:
    with pytest.raises(NotBuiltYetError, match="not built yet"):
        made(here, here.project("numpy", **environment))


def test_building_wheels_is_not_built_yet(here: World) -> None:
    with pytest.raises(NotBuiltYetError, match="--allow-build is not built yet"):
        made(here, here.project("numpy"), allow_build=True)


# --- obtain, refresh, drift ------------------------------------------------------------------------------------------


def obtained(here: World, project: Project, card: ModelCard | None = None) -> tuple[Lock, str]:
    return obtain(card or here.card(), project, host=here.host, keyring=here.keyring)


def test_made_then_kept_then_refreshed(here: World) -> None:
    project = here.project("numpy")
    first, state = obtained(here, project)
    assert state == "made"
    assert project.lock_path.exists()
    second, state = obtained(here, project)
    assert (state, lock_digest(second)) == ("kept", lock_digest(first))
    (here.folder / "project" / "model.joblib").write_bytes(b"model two")
    third, state = obtained(here, project)
    assert state == "refreshed: model file model.joblib has changed"
    assert lock_digest(third) != lock_digest(second)
    assert third.environment_digest == second.environment_digest
    assert third.packages == second.packages
    assert obtained(here, project)[1] == "kept"


def test_kept_rows_know_where_their_files_are(here: World) -> None:
    project = here.project("numpy")
    obtained(here, project)
    found, _ = obtained(here, project)
    assert found.model[0].source == here.folder / "project" / "model.joblib"


def test_golden_cases_come_and_go(here: World) -> None:
    project = here.project("numpy")
    obtained(here, project)
    golden = {"format": 1, "recorded_in": "training", "environment": {"python": "3.11.7"}, "cases": []}
    (here.folder / "project" / "golden.json").write_text(json.dumps(golden))
    found, state = obtained(here, here.project("numpy"))
    assert state == "refreshed: golden file golden.json is new"
    assert found.golden is not None
    assert obtained(here, project)[1] == "refreshed: golden file golden.json is gone"


def test_other_requirements_are_drift_for_a_project(here: World) -> None:
    project = here.project("numpy", "joblib")
    obtained(here, project)
    with pytest.raises(DriftError, match="no longer describes the project") as caught:
        obtained(here, here.project("numpy<2", "joblib"))
    assert caught.value.exit_code == 1
    assert caught.value.found == ("requirement 'numpy<2' is new", "requirement 'numpy' is gone")
    assert caught.value.next == (f"intermodal lock {project.root}",)


def test_the_lock_of_a_bare_artifact_is_made_again(here: World) -> None:
    obtained(here, here.project("numpy", bare=True))
    found, state = obtained(here, here.project("numpy<2", bare=True))
    assert state == "made"
    assert versions(found) == {"numpy": "1.26.4"}


def test_the_lock_of_a_bare_artifact_that_a_person_keeps_is_not(here: World) -> None:
    kept = replace(here.project("numpy", bare=True), lock_path=here.folder / "mine.toml")
    obtained(here, kept)
    with pytest.raises(DriftError):
        obtained(here, replace(kept, requirements=("numpy<2",)))


def test_a_model_retrained_under_another_version_is_a_contradiction_first(here: World) -> None:
    project = here.project("scikit-learn==1.9.1")
    obtained(here, project)
    with pytest.raises(ContradictionError):
        obtained(here, project, here.card(STAMP))


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"system": ("libgomp1",)}, "system packages was none, is libgomp1"),
        ({"base": "deb:trixie"}, "base was deb:bookworm, is deb:trixie"),
        ({"bytecode": "none"}, "bytecode was all, is none"),
        ({"prune": False}, "prune was True, is False"),
        ({"exclude_newer": datetime.date(2026, 1, 1)}, "exclude_newer was none, is 2026-01-02T00:00:00Z"),
        ({"python": "3.13"}, "python was 3.11, is 3.13"),
    ],
)
def test_drift_names_what_was_asked_differently(here: World, environment: dict[str, object], line: str) -> None:
    found = made(here, here.project("numpy"))
    assert drift(found, here.card(), here.project("numpy"), host=here.host) == ()
    assert line in drift(found, here.card(), here.project("numpy", **environment), host=here.host)


def test_drift_sees_files_the_server_the_layout_and_contradictions(here: World) -> None:
    project = here.project("scikit-learn==1.9.1")
    found = made(here, project)
    (here.folder / "project" / "model.joblib").write_bytes(b"model two")
    other = replace(
        found,
        server=replace(found.server, tree=found.model[0].digest),
        policy=replace(found.policy, layout=found.policy.layout + 1),
    )
    lines = drift(other, here.card(STAMP), project, host=here.host)
    text = "\n".join(lines)
    assert "model file model.joblib has changed" in text
    assert "the server has changed" in text
    assert "the layer layout has changed" in text
    assert "was saved by scikit-learn 1.3.2" in text


def test_a_new_tag_is_a_refresh(here: World) -> None:
    project = here.project("numpy")
    found = made(here, project)
    new, changes = refresh(found, here.card(), replace(project, version="1.1.0"))
    assert changes == ("digits:1.0.0 is now digits:1.1.0",)
    assert new.environment_digest == found.environment_digest


# --- what must not matter, and what must -----------------------------------------------------------------------------


def test_the_digest_does_not_depend_on_where_or_when(here: World) -> None:
    found = made(here, here.project("scikit-learn"))
    moved = replace(
        found,
        packages=tuple(
            replace(
                row, wheels=tuple(replace(w, url="https://x.example/" + w.filename, size_bytes=0) for w in row.wheels)
            )
            for row in found.packages
        ),
        base=replace(
            found.base,
            date="Thu, 01 Jan 2026 00:00:00 UTC",
            packages=tuple(replace(row, url="") for row in found.base.packages),
        ),
        server=replace(found.server, version="9.9"),
        exclude_newer="2026-01-01T00:00:00Z",
        model=tuple(replace(row, source=Path("/elsewhere")) for row in found.model),
    )
    assert lock_digest(moved) == lock_digest(found)


def test_the_digest_depends_on_every_byte_that_enters_the_image(here: World) -> None:
    found = made(here, here.project("scikit-learn"))
    other = found.model[0].digest
    row, deb = found.packages[0], found.base.packages[0]
    variants = [
        replace(found, packages=(replace(row, wheels=(replace(row.wheels[0], digest=other),)), *found.packages[1:])),
        replace(found, base=replace(found.base, packages=(replace(deb, digest=other), *found.base.packages[1:]))),
        replace(found, base=replace(found.base, packages=(replace(deb, layer="system"), *found.base.packages[1:]))),
        replace(found, server=replace(found.server, tree=other)),
        replace(found, server=replace(found.server, packages=found.server.packages[1:])),
        replace(found, model=(replace(found.model[0], digest=found.server.tree),)),
        replace(found, model=(replace(found.model[0], executable=True),)),
        replace(found, app=found.model),
        replace(found, golden=found.model[0]),
        replace(found, policy=replace(found.policy, bytecode="none")),
        replace(found, policy=replace(found.policy, codec="other")),
        replace(found, version="2"),
    ]
    digests = {lock_digest(item) for item in (found, *variants)}
    assert len(digests) == len(variants) + 1


def test_a_mirror_that_is_down_stops_before_anything_is_written(here: World) -> None:
    project = here.project("numpy")
    (here.folder / "etc" / "apt" / "sources.list").write_text("deb http://127.0.0.1:9 bookworm main\n")
    broken = replace(here.host)
    with pytest.raises(IndexUnreachableError):
        obtain(here.card(), project, host=broken, keyring=here.keyring)
    assert not project.lock_path.exists()
