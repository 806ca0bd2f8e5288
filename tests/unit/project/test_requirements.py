"""Requirements from lists and files; what would change where packages come from is refused, never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.errors import IntermodalError, NotBuiltYetError, ProjectError, RequirementError, UnsafePathError
from intermodal.project.requirements import read_requirements


def lines(folder: Path, name: str, text: str) -> tuple[str, ...]:
    (folder / name).write_text(text)
    return read_requirements(name, folder)[0]


def test_requirements_txt(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.txt").write_text("numpy>=2  # arrays\n-r more.txt\n")
    (tmp_path / "sub" / "more.txt").write_text("scipy\n")
    text = "\ufeff# head\n\n-r sub/base.txt\nscikit-learn[alldeps] \\\n  ==1.9.1\npandas; python_version<'4'\nscipy\n"
    (tmp_path / "requirements.txt").write_text(text)
    found, files = read_requirements("requirements.txt", tmp_path)
    assert found == ("numpy>=2", "scipy", "scikit-learn[alldeps]    ==1.9.1", "pandas; python_version<'4'")
    assert [f.name for f in files] == ["requirements.txt", "base.txt", "more.txt"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("-c constraints.txt", "constraints"),
        ("--constraint=c.txt", "constraints"),
        ("numpy==2 --hash=sha256:00", "hashes"),
        ("numpy==2 \\\n    --hash=sha256:00", "hashes"),
        ("--index-url https://u:hunter2@pypi.example/simple", "index"),
        ("-i https://pypi.example/simple", "index"),
        ("--extra-index-url=https://x", "index"),
        ("--find-links wheels", "index"),
        ("-e .", "editable"),
        ("--pre", "options"),
        ("./wheels/x-1.0-py3-none-any.whl", "path"),
        ("/abs/x.whl", "path"),
        ("git+https://example.org/x.git", "address"),
        ("https://u:hunter2@example.org/x.whl", "address"),
        ("numpy==${VERSION}", "variables"),
        ("==2.0", "not a requirement"),
    ],
)
def test_refused_lines(line: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(RequirementError) as caught:
        lines(tmp_path, "requirements.txt", f"scipy\n{line}\n")
    assert word in caught.value.message
    assert "requirements.txt line 2" in caught.value.found[0]
    assert caught.value.next
    assert "hunter2" not in str(caught.value)


def test_the_same_rules_hold_for_a_list(tmp_path: Path) -> None:
    assert read_requirements((" numpy>=2 ", ""), tmp_path) == (("numpy>=2",), ())
    with pytest.raises(RequirementError, match="options"):
        read_requirements(("-r requirements.txt",), tmp_path)


def test_includes_stay_inside_and_end(tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError):
        lines(tmp_path, "requirements.txt", "-r ../other.txt\n")
    with pytest.raises(UnsafePathError):
        lines(tmp_path, "requirements.txt", "-r /etc/requirements.txt\n")
    with pytest.raises(RequirementError, match="includes itself"):
        lines(tmp_path, "requirements.txt", "-r requirements.txt\n")
    with pytest.raises(ProjectError, match="does not exist"):
        lines(tmp_path, "requirements.txt", "-r nowhere.txt\n")


def test_pyproject(tmp_path: Path) -> None:
    assert lines(tmp_path, "pyproject.toml", '[project]\ndependencies = ["numpy>=2", "scipy"]\n') == (
        "numpy>=2",
        "scipy",
    )
    with pytest.raises(RequirementError, match="when it is built"):
        lines(tmp_path, "pyproject.toml", '[project]\ndynamic = ["dependencies"]\n')
    with pytest.raises(RequirementError, match="lists no dependencies"):
        lines(tmp_path, "pyproject.toml", "[tool.x]\n")


def test_pylock(tmp_path: Path) -> None:
    text = (
        'lock-version = "1.0"\n[[packages]]\nname = "numpy"\nversion = "2.4.6"\n'
        '[[packages]]\nname = "colorama"\nversion = "0.4.6"\nmarker = "sys_platform == \'win32\'"\n'
    )
    expected = ("numpy==2.4.6", "colorama==0.4.6 ; sys_platform == 'win32'")
    assert lines(tmp_path, "pylock.toml", text) == expected
    assert lines(tmp_path, "pylock.prod.toml", text) == expected
    with pytest.raises(RequirementError, match="locks x by vcs"):
        lines(tmp_path, "pylock.toml", text + '[[packages]]\nname = "x"\nversion = "1"\nvcs = { type = "git" }\n')
    with pytest.raises(RequirementError, match="no packages"):
        lines(tmp_path, "pylock.toml", 'lock-version = "1.0"\n')


UV = """
version = 1
[[package]]
name = "me"
version = "0"
source = { virtual = "." }
dependencies = [
    { name = "a" },
    { name = "b", marker = "sys_platform == 'linux'" },
    { name = "c", extra = ["fast"] },
]
[package.dev-dependencies]
dev = [{ name = "only-for-tests" }]
[[package]]
name = "a"
version = "1.0"
source = { registry = "https://pypi.org/simple" }
dependencies = [{ name = "d", marker = "python_full_version < '3.12'" }]
[[package]]
name = "b"
version = "2.0"
source = { registry = "https://pypi.org/simple" }
dependencies = [{ name = "d" }, { name = "a" }]
[[package]]
name = "c"
version = "3.0"
source = { registry = "https://pypi.org/simple" }
[package.optional-dependencies]
fast = [{ name = "e" }]
[[package]]
name = "d"
version = "4.0"
source = { registry = "https://pypi.org/simple" }
dependencies = [{ name = "b" }]
[[package]]
name = "e"
version = "5.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "only-for-tests"
version = "6.0"
source = { registry = "https://pypi.org/simple" }
"""


def test_uv_lock_keeps_markers_and_leaves_development_out(tmp_path: Path) -> None:
    assert lines(tmp_path, "uv.lock", UV) == (
        "a==1.0",
        "b==2.0 ; (python_full_version < '3.12') or (sys_platform == 'linux')",
        "c[fast]==3.0",
        "d==4.0 ; (python_full_version < '3.12') or (sys_platform == 'linux')",
        "e==5.0",
    )


def test_uv_lock_refusals(tmp_path: Path) -> None:
    with pytest.raises(RequirementError, match="locks b by git"):
        lines(
            tmp_path, "uv.lock", UV.replace('version = "2.0"\nsource = { registry', 'version = "2.0"\nsource = { git')
        )
    with pytest.raises(RequirementError, match="no project"):
        lines(tmp_path, "uv.lock", UV.replace("virtual", "registry"))
    with pytest.raises(RequirementError, match="incomplete"):
        lines(tmp_path, "uv.lock", UV.replace('name = "e"\nversion', 'name = "f"\nversion'))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("environment.yml", NotBuiltYetError), ("environment.yaml", NotBuiltYetError), ("Pipfile", ProjectError)],
)
def test_other_files(name: str, kind: type[IntermodalError], tmp_path: Path) -> None:
    with pytest.raises(kind):
        lines(tmp_path, name, "x")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="does not exist"):
        read_requirements("requirements.txt", tmp_path)
    with pytest.raises(ProjectError, match="cannot read"):
        lines(tmp_path, "pylock.toml", "= broken")
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ProjectError, match="cannot read"):
        read_requirements("requirements.txt", tmp_path)
