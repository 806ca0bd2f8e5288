"""What enters /app: import closures, trusted names, links, modes, and what a build watches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.errors import ProjectError, SecretFoundError, UnsafePathError
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.project.load import load
from intermodal.project.value import Project
from intermodal.rooms.inspect.card import FileRow, ModelCard
from intermodal.rooms.lock.app import collect_app, missing_imports, watched
from intermodal_server.contract import Signature


def card(root: Path, *imports: str, files: tuple[FileRow, ...] = ()) -> ModelCard:
    nothing = Signature((), ())
    return ModelCard(
        root, Digest.of(b""), "predictor", "", "predictor", "predictor", "named", nothing, 0, files,
        {}, (), "", imports, (), True,
    )  # fmt: skip


def project(root: Path, files: dict[str, str], *, model: str = "", requirements: str = "[]") -> Project:
    text = f'[model]\npredictor = "predictor:P"\n{model}\n[environment]\nrequirements = {requirements}\n'
    for path, content in {"predictor.py": "class P: pass\n", **files, "intermodal.toml": text}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return load(root, Host({}, root, "linux", "amd64", 1, 1000, 0.0))


def paths(tmp_path: Path, files: dict[str, str], *, model: str = "", imports: tuple[str, ...] = ()) -> list[str]:
    return [row.path for row in collect_app(project(tmp_path, files, model=model), card(tmp_path, *imports))]


ABC = ["a/__init__.py", "a/b/__init__.py", "a/b/c.py"]


@pytest.mark.parametrize(
    ("source", "files", "expected"),
    [
        ("import helper", ["helper.py", "other.py"], ["helper.py"]),
        ("import a.b.c", [*ABC, "a/d.py"], ABC),
        ("from a import b, value", ["a/__init__.py", "a/b.py", "a/c.py"], ["a/__init__.py", "a/b.py"]),
        ("from a import *", ["a/__init__.py", "a/b.py"], ["a/__init__.py"]),
        ("from a.b import f", ["a/__init__.py", "a/b.py", "a/c.py"], ["a/__init__.py", "a/b.py"]),
        ("import a.b", ["a/b.py"], ["a/b.py"]),  # a namespace package
        ("def f():\n    import lazy", ["lazy.py"], ["lazy.py"]),
        ("class C:\n    if True:\n        from late import x", ["late.py"], ["late.py"]),
        ("try:\n    import fast\nexcept ImportError:\n    import slow", ["slow.py", "fast.py"], ["fast.py", "slow.py"]),
        ("import importlib\nm = importlib.import_module('a.b.c')", ABC, ABC),
        ("m = __import__('helper')", ["helper.py"], ["helper.py"]),
        ("if TYPE_CHECKING:\n    import stubs\nelse:\n    import real", ["stubs.py", "real.py"], ["real.py"]),
        ("import a", ["a/__init__.py", "a.py"], ["a/__init__.py"]),  # the package wins, as in Python
        ("import json", ["json.py"], ["json.py"]),  # /app stands first, so this is what would run
        ("import native", ["native.abi3.so", "native2.so"], ["native.abi3.so"]),
        ("import os, numpy", [], []),
        ("import späße", ["späße.py"], ["späße.py"]),
    ],
)  # fmt: skip
def test_closure(tmp_path: Path, source: str, files: list[str], expected: list[str]) -> None:
    found = paths(tmp_path, {**dict.fromkeys(files, ""), "predictor.py": source})
    assert found == sorted([*expected, "predictor.py"])


def test_relative_imports_and_what_they_import(tmp_path: Path) -> None:
    files = {
        "predictor.py": "from pkg.sub import model\n",
        "pkg/__init__.py": "from . import version\n",
        "pkg/version.py": "",
        "pkg/common.py": "import top\n",
        "pkg/sub/__init__.py": "",
        "pkg/sub/model.py": "from ..common import f\nfrom .near import g\nfrom ... import nowhere\n",
        "pkg/sub/near.py": "from . import model\n",  # a cycle
        "pkg/unused.py": "",
        "top.py": "",
    }
    assert paths(tmp_path, files) == sorted(set(files) - {"pkg/unused.py"})


def test_a_chain_longer_than_the_stack(tmp_path: Path) -> None:
    files = {f"m{i}.py": f"import m{i + 1}\n" for i in range(1500)}
    assert len(paths(tmp_path, {**files, "m1500.py": "", "predictor.py": "import m0"})) == 1502


def test_src_layout_is_imported_without_src(tmp_path: Path) -> None:
    files = {
        "predictor.py": "import mylib.core\n",
        "src/mylib/__init__.py": "",
        "src/mylib/core.py": "",
        "src/x.py": "",
    }
    assert paths(tmp_path, files) == ["mylib/__init__.py", "mylib/core.py", "predictor.py"]


def test_the_closure_is_what_python_itself_imports(tmp_path: Path) -> None:
    """Everything that Python imports from the folder is in /app, and with only /app it runs."""
    files = {
        "predictor.py": "from pkg import a\nimport pkg.c, single\nprint(a.f() + pkg.c.g() + single.h())",
        "pkg/__init__.py": "",
        "pkg/a.py": "from .b import f",
        "pkg/b.py": "def f(): return 1",
        "pkg/c.py": "from importlib import import_module\ndef g(): return import_module('late').value",
        "single.py": "def h(): return 100",
        "late.py": "value = 10",
    }
    app = tmp_path / "app"
    for row in collect_app(project(tmp_path / "home", files), card(tmp_path)):
        (app / row.path).parent.mkdir(parents=True, exist_ok=True)
        (app / row.path).write_bytes(row.source.read_bytes())
    out = subprocess.run(
        [sys.executable, "-c", "import predictor"], cwd=app, capture_output=True, text=True, check=True
    )
    assert out.stdout == "111\n"


def test_sources_are_never_executed(tmp_path: Path) -> None:
    paths(
        tmp_path,
        {"predictor.py": f"open({str(tmp_path / 'ran')!r}, 'w')\nimport helper", "helper.py": "raise SystemExit"},
    )
    assert not (tmp_path / "ran").exists()


def test_trusted_names_bring_their_modules(tmp_path: Path) -> None:
    files = {
        "mylib/__init__.py": "",
        "mylib/transforms.py": "from mylib import base\n",
        "mylib/base.py": "",
        "sklearn.py": "",
    }
    imports = ("mylib.transforms.Log", "sklearn.pipeline.Pipeline", "other.deep.Thing")
    expected = ["mylib/__init__.py", "mylib/base.py", "mylib/transforms.py", "predictor.py"]
    assert paths(tmp_path / "1", files, model='trust = ["mylib.transforms.Log"]', imports=imports) == expected
    assert paths(tmp_path / "2", files, model='trust = ["mylib.*"]', imports=imports) == expected
    assert paths(tmp_path / "3", files, imports=imports) == ["predictor.py"]


def test_rows_by_content(tmp_path: Path) -> None:
    made = project(tmp_path, {"tool.sh": "#!/bin/sh\n", "data.txt": "x"}, model='include = ["tool.sh", "data.txt"]')
    (tmp_path / "tool.sh").chmod(0o750)
    (tmp_path / "data.txt").chmod(0o677)  # executable for others only
    rows = {row.path: row for row in collect_app(made, card(tmp_path))}
    assert rows["tool.sh"].executable and not rows["data.txt"].executable
    assert rows["data.txt"].digest == Digest.of(b"x") and rows["data.txt"].size_bytes == 1
    assert list(rows) == sorted(rows)


def test_missing_predictor_module(tmp_path: Path) -> None:
    made = project(tmp_path, {})
    (tmp_path / "predictor.py").rename(tmp_path / "predict.py")
    with pytest.raises(ProjectError, match="names a module that is not there") as caught:
        collect_app(made, card(tmp_path))
    assert "requirements" in str(caught.value)


def test_predictor_from_a_wheel(tmp_path: Path) -> None:
    made = project(tmp_path, {}, requirements='["predictor[fast]>=1"]')
    (tmp_path / "predictor.py").unlink()
    assert collect_app(made, card(tmp_path)) == ()


@pytest.mark.parametrize("source", ["def broken(:\n", "x = '\0'\n", "(" * 300])
def test_a_source_that_is_no_python(tmp_path: Path, source: str) -> None:
    made = project(tmp_path, {"predictor.py": "import broken\n", "broken.py": source})
    with pytest.raises(ProjectError, match=r"cannot read the imports of broken\.py"):
        collect_app(made, card(tmp_path))


def test_an_imported_link_out_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("")
    made = project(tmp_path / "p", {"predictor.py": "import helper\n"})
    (tmp_path / "p" / "helper.py").symlink_to("../elsewhere.py")
    with pytest.raises(UnsafePathError, match=r"helper\.py leads out of the project"):
        collect_app(made, card(tmp_path))


def test_an_ignored_module_must_be_named(tmp_path: Path) -> None:
    files = {"predictor.py": "import settings_local\n", "settings_local.py": "", ".gitignore": "*_local.py\n"}
    with pytest.raises(ProjectError, match=r"\.gitignore keeps it out") as caught:
        paths(tmp_path, files)
    assert 'include = ["settings_local.py"]' in str(caught.value)
    assert paths(tmp_path, files, model='include = ["settings_local.py"]') == ["predictor.py", "settings_local.py"]


def test_a_module_in_a_folder_of_secrets(tmp_path: Path) -> None:
    made = project(tmp_path, {"predictor.py": "import keys\n"})
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "keys.py").write_text("")
    (tmp_path / "keys.py").symlink_to(".ssh/keys.py")
    with pytest.raises(SecretFoundError):
        collect_app(made, card(tmp_path))


def test_missing_imports_are_told_with_their_place(tmp_path: Path) -> None:
    source = "import os\nimport sklearn.svm, yaml, nowhere\ntry:\n    import optional\nexcept ImportError:\n    pass\n"
    made = project(tmp_path, {"predictor.py": source})
    told = missing_imports(made, card(tmp_path), ["scikit-learn", "numpy", "PyYAML"])
    assert told == ("predictor.py line 2 imports nowhere, which no locked package is named after",)


def test_watched_holds_what_decides_and_what_is_absent(tmp_path: Path) -> None:
    row = FileRow("m.bin", 1, Digest.of(b"m"), tmp_path / "m.bin")
    files = {"predictor.py": "import helper, numpy\n", "helper.py": "", "data/x.csv": "", ".gitignore": ""}
    (tmp_path / "requirements.txt").write_text("numpy==2.0\n")
    made = project(tmp_path, files, model='include = ["data"]', requirements='"requirements.txt"')
    seen = {os.path.relpath(path, tmp_path) for path in watched(made, card(tmp_path, files=(row,)))}
    assert seen >= {"m.bin", "predictor.py", "helper.py", "data", "data/x.csv", ".gitignore", "data/.gitignore"}
    assert seen >= {"numpy.py", "numpy/__init__.py", "helper/__init__.py", "requirements.txt", "intermodal.toml", "src"}
    assert "." not in seen, "the lock is written there: watching the root would make every first build look stale"
