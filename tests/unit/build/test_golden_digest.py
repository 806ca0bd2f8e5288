"""The frozen project gives the recorded digest; when it does not, the message names layer, entry and field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from golden_digest import campaign
from golden_digest.project import FROZEN, listing
from golden_digest.recorded import RECORD, explain, parse, text

from intermodal.oci import member, tarheader
from intermodal.oci.listing import ImageListing
from intermodal.rooms.build.wheels import install

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def recorded() -> ImageListing:
    return parse(RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("cores", [1, 7])
def test_the_recorded_digest(recorded: ImageListing, tmp_path: Path, cores: int) -> None:
    if told := explain(recorded, listing(tmp_path, cores=cores)):
        pytest.fail(told)


def test_the_record_is_what_the_command_writes(recorded: ImageListing, tmp_path: Path) -> None:
    assert RECORD.read_text(encoding="utf-8") == text(recorded)
    assert {entry.kind for layer in recorded.layers for entry in layer.entries} == {
        "file",
        "directory",
        "symlink",
    }, "hard links of packages become files of their own; a new kind belongs into this test"
    titles = [layer.title for layer in recorded.layers]
    assert len(titles) == 10 and titles[0].startswith("Debian bookworm") and "golden-big 1.0" in titles


@pytest.mark.parametrize(("arguments", "said"), [((), "as recorded"), (("--runs", "3"), "3 runs, 3 gave")])
def test_the_command(arguments: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", "tests.golden_digest", *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert said in done.stdout


def test_a_run_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "CHECKOUT", Path("/"))  # where there is no such module
    (told,) = campaign.campaign(1)
    assert told.startswith("run 0 (--cores ")


def test_another_time_in_every_header(recorded: ImageListing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarheader, "_TIME", b"00000000001\0")
    told = explain(recorded, listing(tmp_path))
    assert "layer 1 (Debian bookworm, Python 3.11.2), entry bin, field mtime: 0 -> 1" in told
    assert "python -m tests.golden_digest --regenerate" in told
    assert " more\n" in told, "an explanation is for people: it ends somewhere"


def test_another_compressor(recorded: ImageListing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LEVEL", 5)
    told = explain(recorded, listing(tmp_path))
    assert "(net/weights.bin), field stored bytes of the same tar" in told
    assert ", gzip member at tar byte" in told


def test_another_generated_file(recorded: ImageListing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "INSTALLER", b"somebody\n")
    told = explain(recorded, listing(tmp_path)).splitlines()
    place = "opt/venv/lib/python3.11/site-packages/golden_big-1.0.dist-info"
    assert [line.strip() for line in told if "INSTALLER" in line and "golden_big" in line and "size" in line] == [
        f"layer 3 (golden-big 1.0), entry {place}/INSTALLER, field size: 11 -> 9"
    ]


def test_nothing_of_the_frozen_project_is_missing(recorded: ImageListing) -> None:
    kept = {path.relative_to(FROZEN).as_posix() for path in FROZEN.rglob("*") if path.is_file()}
    listed = subprocess.run(["git", "-C", str(FROZEN), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        assert kept == set(filter(None, listed.stdout.split("\0"))), "a file that git does not know"
