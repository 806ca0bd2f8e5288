"""`include` and `.gitignore`: what folders, files and wildcards bring, and what never enters."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from intermodal.errors import ProjectError, SecretFoundError, UnsafePathError
from intermodal.events import Events
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.project.load import load
from intermodal.rooms.inspect.card import ModelCard
from intermodal.rooms.lock.app import collect_app
from intermodal.rooms.lock.app_ignore import Ignore
from intermodal_server.contract import Signature


class Told(Events):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, message: str) -> None:
        self.notices.append(message)


def lay_out(root: Path, files: dict[str, str]) -> None:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)


def collect(root: Path, include: list[str], told: Events | None = None) -> list[str]:
    """Paths in /app beside predictor.py."""
    lay_out(root, {"predictor.py": "", "intermodal.toml": f'[model]\npredictor = "predictor:P"\ninclude = {include}\n'})
    project = load(root, Host({}, root, "linux", "amd64", 1, 1000, 0.0))
    nothing = Signature((), ())
    card = ModelCard(
        root, Digest.of(b""), "predictor", "", "predictor", "predictor", "named", nothing, 0, (),
        {}, (), "", (), (), True,
    )  # fmt: skip
    rows = collect_app(project, card, events=told or Events())
    return [row.path for row in rows if row.path != "predictor.py"]


TREE = {
    "labels.txt": "a",
    "data/a.csv": "",
    "data/b.json": "",
    "data/deep/c.csv": "",
    "data/deep/d.tmp": "",
    "build/out.bin": "",
    "other/e.csv": "",
}


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (["labels.txt"], ["labels.txt"]),
        (["./labels.txt"], ["labels.txt"]),
        (["data"], ["data/a.csv", "data/b.json", "data/deep/c.csv", "data/deep/d.tmp"]),
        (["data/"], ["data/a.csv", "data/b.json", "data/deep/c.csv", "data/deep/d.tmp"]),
        (["data/*.csv"], ["data/a.csv"]),
        (["**/*.csv"], ["data/a.csv", "data/deep/c.csv", "other/e.csv"]),
        (["data/*"], ["data/a.csv", "data/b.json", "data/deep/c.csv", "data/deep/d.tmp"]),
        (["data/**"], ["data/a.csv", "data/b.json", "data/deep/c.csv", "data/deep/d.tmp"]),
        (["data/a.csv", "data/*.csv"], ["data/a.csv"]),
        (["[lx]abels.tx?"], ["labels.txt"]),
        (["."], sorted(TREE)),
    ],
)
def test_files_folders_and_wildcards(tmp_path: Path, include: list[str], expected: list[str]) -> None:
    lay_out(tmp_path, TREE)
    assert collect(tmp_path, include) == expected


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (["data"], ["data/a.csv", "data/b.json", "data/deep/c.csv"]),
        (["data/deep/d.tmp"], ["data/deep/d.tmp"]),  # named: beats .gitignore
        (["build"], ["build/out.bin"]),  # the folder itself is ignored, and named
        (["build/out.bin"], ["build/out.bin"]),
        (["data/*.csv", "**/c.*", "labels.txt", "data/deep/*"], ["data/a.csv", "data/deep/c.csv", "labels.txt"]),
    ],
)
def test_gitignore_holds_unless_a_path_is_named(tmp_path: Path, include: list[str], expected: list[str]) -> None:
    lay_out(tmp_path, {**TREE, ".gitignore": "*.tmp\n/build/\n"})
    assert collect(tmp_path, include) == expected


def test_what_never_enters_is_left_out_and_secrets_are_told(tmp_path: Path) -> None:
    inside = {
        "x/keep.txt": "",
        "x/.git/config": "",
        "x/.env": "",
        "x/id_rsa": "",
        "x/.aws/credentials": "",
        "x/__pycache__/a.cpython-311.pyc": "",
        "x/env/pyvenv.cfg": "",
        "x/env/lib/site.py": "",
        "x/.venv/bin/python": "",
        "x/node_modules/a.js": "",
        "x/.DS_Store": "",
    }
    lay_out(tmp_path, inside)
    told = Told()
    assert collect(tmp_path, ["x"], told) == ["x/keep.txt"]
    assert len(told.notices) == 1
    for name in ("x/.env", "x/id_rsa", "x/.aws"):
        assert name in told.notices[0]


@pytest.mark.parametrize("path", [".env", "conf/.env", "id_ed25519", ".aws/credentials", ".git/config"])
def test_a_secret_that_is_named_is_an_error(tmp_path: Path, path: str) -> None:
    lay_out(tmp_path, {path: "A=1"})
    with pytest.raises(SecretFoundError) as caught:
        collect(tmp_path, [path])
    assert "[secrets]" in str(caught.value)


def test_project_lock_and_artifact_are_not_part_of_the_root(tmp_path: Path) -> None:
    lay_out(tmp_path, {"pylock.intermodal.toml": "", "golden.json": "{}", "a.txt": ""})
    assert collect(tmp_path, ["."]) == ["a.txt"]


@pytest.mark.parametrize("include", ["nowhere.txt", "*.nothing", "empty"])
def test_nothing_found(tmp_path: Path, include: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProjectError, match="names nothing") as caught:
        collect(tmp_path, [include])
    assert include in caught.value.message and caught.value.next


@pytest.mark.parametrize("include", ["../x", "/etc/passwd", "a/../../x", "..", "a\\\\..\\\\x", "/*"])
def test_paths_that_leave_the_project(tmp_path: Path, include: str) -> None:
    with pytest.raises((UnsafePathError, ProjectError)) as caught:
        collect(tmp_path, [include])
    assert "out of the project" in str(caught.value) or "folder" in str(caught.value)


@pytest.mark.parametrize("include", ["link", "folder", "*"])
@pytest.mark.parametrize("target", ["file.txt", "."])
def test_links_that_leave_the_project(tmp_path: Path, include: str, target: str) -> None:
    lay_out(tmp_path, {"outside/file.txt": "secret"})
    root = tmp_path / "p"
    (root / "folder").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "outside" / target)
    (root / "folder" / "link").symlink_to(tmp_path / "outside" / target)
    with pytest.raises(UnsafePathError, match=r"out of the project|leaves the project"):
        collect(root, [include])


def test_links_inside_are_followed_loops_and_dangling_ones_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"data/real.txt": "x"})
    (tmp_path / "shown").symlink_to("data")
    assert collect(tmp_path, ["shown"]) == ["shown/real.txt"]
    (tmp_path / "data" / "again").symlink_to("..")
    with pytest.raises(UnsafePathError, match="contains itself"):
        collect(tmp_path, ["data"])
    (tmp_path / "data" / "again").unlink()
    (tmp_path / "data" / "gone").symlink_to("missing")
    with pytest.raises(UnsafePathError, match="link to nothing"):
        collect(tmp_path, ["data"])


def test_a_link_to_a_secret_is_one(tmp_path: Path) -> None:
    lay_out(tmp_path, {"data/.env": "A=1"})
    (tmp_path / "data" / "settings.txt").symlink_to(".env")
    for include in ("data", "data/settings.txt"):
        with pytest.raises(SecretFoundError, match=r"settings\.txt"):
            collect(tmp_path, [include])


IGNORE_FILES = {
    ".gitignore": "# comment\n*.log\n!keep.log\n/top.txt\nfolder/\nmid/*/deep\n**/any\n"
    "space\\ name\n\\#hash\na?c\n[xy].dat\ntrail   \n",
    "sub/.gitignore": "!special.log\nlocal\n/rooted\n",
    "folder/.gitignore": "!*\n",
}
IGNORE_PATHS = [
    "x.log", "keep.log", "sub/x.log", "sub/special.log", "sub/keep.log", "top.txt", "sub/top.txt", "folder/a",
    "sub/folder/b", "mid/1/deep", "mid/1/2/deep", "q/any", "any", "space name", "#hash", "abc", "abbc", "x.dat",
    "z.dat", "trail", "sub/local", "local", "sub/rooted", "sub/q/rooted", "plain", "sub/plain", "folder/keep.log",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_gitignore_as_git_reads_it(tmp_path: Path) -> None:
    lay_out(tmp_path, {**dict.fromkeys(IGNORE_PATHS, ""), **IGNORE_FILES})
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True, env=environment)
    checked = subprocess.run(
        ["git", "check-ignore", "--stdin", "-z"],
        input="\0".join(IGNORE_PATHS),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    ignore = Ignore(tmp_path)
    assert {path for path in IGNORE_PATHS if ignore.ignored(path)} == set(checked.stdout.split("\0")) - {""}


def test_rules_above_the_project_up_to_the_repository(tmp_path: Path) -> None:
    root = tmp_path / "repo" / "models" / "digits"
    lay_out(tmp_path, {".gitignore": "outside.txt\n", "repo/.gitignore": "*.big\n", "repo/.git/HEAD": ""})
    lay_out(root, {"a.big": "", "outside.txt": "", "b.txt": ""})
    assert collect(root, ["*"]) == ["b.txt", "outside.txt"]
