"""The room `check` against real containers: what passes, what fails, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.layered import layer, scaled_image, with_layer
from support.tiny_image import tiny_image

from intermodal.engine.interface import RunRequest
from intermodal.engine.sandbox import SandboxEngine
from intermodal.errors import InputError
from intermodal.events import Events
from intermodal.golden.cases import GoldenCase, GoldenFile, RecordedIn
from intermodal.host import Host, read
from intermodal.oci.digest import Digest
from intermodal.oci.layout import Store
from intermodal.rooms.check import CheckReport, check, find_report
from intermodal_server.contract import ENV_API_KEYS, ENV_MAX_CONCURRENT, ENV_RATE_PER_S

pytestmark = pytest.mark.sandbox


class Recorder(Events):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str) -> None:
        self.warnings.append(message)


class Bench:
    """A store, a host and an engine of this test session."""

    def __init__(self, folder: Path) -> None:
        here = read()
        self.host: Host = replace(here, home=folder, environment={"PATH": "/usr/bin:/bin"})
        self.store = Store(self.host.data_dir / "store").open_or_create()
        self.base = tiny_image(self.store)
        self.engine = SandboxEngine(self.store, self.host)
        self.events = Recorder()

    def check(self, image: Digest) -> CheckReport:
        return check(image, store=self.store, engine=self.engine, host=self.host, events=self.events)

    def image(
        self, *values: float, recorded_in: RecordedIn = "training", factor: float = 2.0, **behaviour: object
    ) -> Digest:
        return scaled_image(self.store, self.base, golden(*values, recorded_in=recorded_in), factor=factor, **behaviour)


def golden(*values: float, recorded_in: RecordedIn = "training") -> GoldenFile:
    """One case a value: y = 2 x."""

    def body(name: str, value: float) -> dict[str, object]:
        return {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}

    cases = (
        GoldenCase(f"case {value:g}", {"inputs": [body("x", value)]}, {"outputs": [body("y", 2 * value)]})
        for value in values
    )
    return GoldenFile(recorded_in, {"python": "3.11.2"}, tuple(cases))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("check"))


def test_image_that_answers_as_recorded_passes(bench: Bench) -> None:
    report = bench.check(bench.image(1.5, -4.0, 0.1))
    assert report.passed, report.explain()
    assert report.explain() == []
    document = report.as_json()
    assert document["golden"] == {"cases": 3, "recorded_in": "training", "failed": [], "differences": 0}
    assert document["engine"] == "sandbox"
    assert document["isolation"] == "full"
    assert set(document["hardening"].values()) == {True}  # type: ignore[attr-defined]
    assert document["mode"] == "auto"  # this server does not say where it runs its model
    assert report.startup_s > 0
    assert report.peak_rss_bytes > 1 << 20
    assert report.warnings == ()
    assert "3 golden cases recorded in training" in report.summary()


def test_the_mode_that_the_server_measured_is_reported_and_used_in_the_second_start(bench: Bench) -> None:
    image = bench.image(1.5, mode="inline")
    report = bench.check(image)
    assert report.passed, report.explain()
    assert report.mode == "inline"
    known = find_report(image, store=bench.store, engine=bench.engine)
    assert known is not None and known.mode == "inline"
    assert bench.check(bench.image(1.5, mode="sideways")).as_json()["mode"] == "auto"


def test_a_check_needs_no_key_and_keeps_to_no_rate(bench: Bench) -> None:
    seen: list[RunRequest] = []

    class Watching(SandboxEngine):
        def start(self, request: RunRequest) -> Any:
            seen.append(request)
            return super().start(request)

    engine = Watching(bench.store, bench.host)
    assert check(bench.image(1.5), store=bench.store, engine=engine, host=bench.host, events=bench.events).passed
    assert len(seen) == 2
    for request in seen:
        assert request.environment[ENV_API_KEYS] == "off"
        assert request.environment[ENV_RATE_PER_S] == request.environment[ENV_MAX_CONCURRENT] == "0"


def test_other_answers_fail_with_case_place_and_size(bench: Bench) -> None:
    report = bench.check(bench.image(1.5, 4.0, factor=2.5))
    assert not report.passed
    failed = report.as_json()["golden"]["failed"]  # type: ignore[index]
    assert failed == [
        {
            "case": "case 1.5",
            "output": "y",
            "place": [0],
            "expected": 3.0,
            "actual": 3.75,
            "error": 0.75,
            "kind": "value",
        },
        {"case": "case 4", "output": "y", "place": [0], "expected": 8.0, "actual": 10.0, "error": 2.0, "kind": "value"},
    ]
    lines = "\n".join(report.explain())
    assert "case 1.5" in lines
    assert "expected 3.0, got 3.75" in lines
    assert "2 answered differently" in report.summary()


def test_case_answered_with_an_error_is_a_failure_with_that_text(bench: Bench) -> None:
    report = bench.check(bench.image(1.5, 4.0, refuses=[4.0]))
    assert [d.case for d in report.differences] == ["case 4"]
    assert "cannot scale 4.0" in report.explain()[0]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("not json", "not JSON"),
        ('{"outputs": [{"name": "y", "datatype": "FP64", "shape": [1], "data": [NaN]}]}', "not JSON"),
        ('{"outputs": 5}', "no outputs"),
        ('{"outputs": [7]}', "no tensor"),
        ('{"outputs": [{"name": "y", "datatype": "FP64", "shape": [-1], "data": []}]}', "shape"),
        ("[" * 100_000, "not JSON"),
        ("{}", "no outputs"),
    ],
)
def test_nonsense_answers_are_failures_not_crashes(bench: Bench, raw: str, said: str) -> None:
    report = bench.check(bench.image(1.0, raw=raw))
    assert not report.passed
    assert said in "\n".join(report.explain())


def test_no_cases_is_never_golden_passed(bench: Bench) -> None:
    report = bench.check(scaled_image(bench.store, bench.base, None))
    assert report.passed
    assert report.cases == 0
    assert "no golden cases" in report.summary()
    assert any("no golden cases" in warning for warning in report.warnings)
    assert any("no golden cases" in warning for warning in bench.events.warnings)


def test_cases_recorded_in_the_locked_environment_say_so(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, recorded_in="locked"))
    assert report.passed
    assert any("only that the image agrees with itself" in warning for warning in report.warnings)
    assert "locked environment" in report.summary()


def test_server_that_dies_at_start_is_quoted(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, dies=True))
    assert not report.passed
    assert "ended with status 1" in report.problem[0]
    assert any("the model file is damaged" in line for line in report.explain())
    assert report.as_json()["problem"]


def test_server_that_refuses_to_serve_is_quoted(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, not_ready="failed: no such column"))
    assert not report.passed
    assert "failed: no such column" in report.problem[0]


def test_server_that_dies_while_it_is_asked_fails(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, 2.0, dies_when_asked=True))
    assert not report.passed
    assert {d.error for d in report.differences} == {"refused"}
    assert "status 9" in report.problem[0]


def test_second_start_with_the_start_check_counts(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, dies_when_checking=True))
    assert report.differences == ()
    assert not report.passed
    assert report.problem[0].startswith("with its start check on")


def test_golden_cases_that_the_label_does_not_know_are_refused(bench: Bench) -> None:
    image = scaled_image(bench.store, bench.base, golden(1.0), label=str(Digest.of(b"other")))
    report = bench.check(image)
    assert not report.passed
    assert "states other golden cases" in report.problem[0]


def test_passed_report_is_found_again_and_a_failed_one_is_not(bench: Bench) -> None:
    good, bad = bench.image(7.0), bench.image(7.0, factor=3.0)
    assert find_report(good, store=bench.store, engine=bench.engine) is None
    report = bench.check(good)
    bench.check(bad)
    found = find_report(good, store=bench.store, engine=bench.engine)
    assert found is not None
    assert found.as_json() == report.as_json()
    assert find_report(bad, store=bench.store, engine=bench.engine) is None


def test_report_under_other_isolation_is_not_taken(bench: Bench) -> None:
    image = bench.image(8.0)
    bench.check(image)
    forced = replace(bench.host, environment={"INTERMODAL_SANDBOX": "loader"})
    assert find_report(image, store=bench.store, engine=SandboxEngine(bench.store, forced)) is None


def test_image_that_is_not_ours_is_named(bench: Bench) -> None:
    with pytest.raises(InputError, match="not built by intermodal"):
        bench.check(bench.base)


def test_link_in_place_of_the_settings_is_not_followed(bench: Bench) -> None:
    def to_link(entry: object) -> None:
        entry.type, entry.linkname, entry.size = b"2", "/etc/passwd", 0  # type: ignore[attr-defined]

    image = with_layer(bench.store, bench.base, layer({"etc/intermodal/model.json": b""}, to_link))
    with pytest.raises(InputError, match="not built by intermodal"):
        bench.check(image)


def test_report_is_json(bench: Bench) -> None:
    report = bench.check(bench.image(1.0, factor=float("1e308") * 0.5))
    json.dumps(report.as_json(), allow_nan=False)
