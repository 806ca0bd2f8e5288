import csv
import io
from pathlib import Path

import pytest
from support.wheels import make_wheel

from intermodal.errors import DuplicatePathError, PackageFileError, UnsafePathError
from intermodal.oci.entry import Entry
from intermodal.oci.inflate import verified
from intermodal.rooms.build.wheels.archive import Wheel
from intermodal.rooms.build.wheels.install import install
from intermodal.rooms.build.wheels.prune import rules
from intermodal.rooms.build.wheels.record import Promise, read_record, write_record
from intermodal.rooms.build.wheels.scheme import Scheme

SCHEME = Scheme("opt/venv", "3.11")
SITE = "opt/venv/lib/python3.11/site-packages"


def content(entry: Entry) -> bytes:
    if isinstance(entry.content, bytes):
        return entry.content
    return b"".join(verified(entry.content, entry.path))  # type: ignore[arg-type]


def laid(path: Path, *, prune: bool = False) -> dict[str, tuple[bytes, bool]]:
    with Wheel(path) as wheel:
        done = install(wheel, SCHEME, rules() if prune else None)
        return {e.path: (content(e), e.mode == 0o755) for e in [*done.spliced, *done.packed]}


def test_data_folders_go_to_their_places(tmp_path: Path) -> None:
    data = "demo-1.0.data"
    files = laid(
        make_wheel(
            tmp_path, "demo", "1.0",
            {
                "demo/__init__.py": "A = 1\n",
                f"{data}/purelib/pure.py": "B = 1\n",
                f"{data}/platlib/plat.py": "C = 1\n",
                f"{data}/scripts/run": "#!python -E\nprint(1)\n",
                f"{data}/scripts/gui": "#!pythonw\nprint(1)\n",
                f"{data}/scripts/shell": "#!/bin/sh\necho\n",
                f"{data}/data/share/demo/x.txt": "x",
                f"{data}/headers/demo.h": "int x;",
            },
        )
    )  # fmt: skip
    assert files[f"{SITE}/pure.py"] == (b"B = 1\n", False) and f"{SITE}/plat.py" in files
    assert files["opt/venv/bin/run"] == (b"#!/opt/venv/bin/python\nprint(1)\n", True)
    assert files["opt/venv/bin/gui"] == (b"#!/opt/venv/bin/python\nprint(1)\n", True)
    assert files["opt/venv/bin/shell"] == (b"#!/bin/sh\necho\n", True)
    assert files["opt/venv/share/demo/x.txt"] == (b"x", False)
    assert files["opt/venv/include/site/python3.11/demo/demo.h"] == (b"int x;", False)
    assert not any(data in path for path in files)


def test_record_lists_what_was_laid_down_and_nothing_else(tmp_path: Path) -> None:
    path = make_wheel(
        tmp_path, "demo", "1.0",
        {
            "demo/__init__.py": "A = 1\n",
            "demo/tests/test_a.py": "assert 0\n",
            "demo/with space.txt": "x",
            "demo-1.0.data/scripts/run": "#!python\n",
            "demo-1.0.dist-info/INSTALLER": "pip",
            "demo-1.0.dist-info/direct_url.json": "{}",
            "demo-1.0.dist-info/REQUESTED": "",
            "demo/__pycache__/old.cpython-311.pyc": "x",
        },
        entry_points="[console_scripts]\ndemo = demo:main\n",
    )  # fmt: skip
    files = laid(path, prune=True)
    record = files[f"{SITE}/demo-1.0.dist-info/RECORD"][0].decode()
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(record))}
    named = {SCHEME.relative(name) for name in files}
    assert set(rows) == named
    assert "demo/with space.txt" in named and "../../../bin/run" in named and "../../../bin/demo" in named
    assert rows["demo-1.0.dist-info/RECORD"] == ["", ""]
    assert files[f"{SITE}/demo-1.0.dist-info/INSTALLER"][0] == b"intermodal\n"
    assert not any(name.endswith(("direct_url.json", "REQUESTED", ".pyc", "test_a.py")) for name in files)
    assert all(
        row[0].startswith("sha256=") and row[1].isdecimal() for name, row in rows.items() if "RECORD" not in name
    )


def test_entry_points_become_scripts(tmp_path: Path) -> None:
    points = """
[console_scripts]
Demo-Tool = demo.cli : main [extra]
[gui_scripts]
window = demo:App.run
[other.group]
x = not/a/script
"""
    files = laid(make_wheel(tmp_path, "demo", "1.0", {"demo/__init__.py": ""}, entry_points=points))
    assert {name for name in files if "/bin/" in name} == {"opt/venv/bin/Demo-Tool", "opt/venv/bin/window"}
    script, executable = files["opt/venv/bin/Demo-Tool"]
    assert executable and script.startswith(b"#!/opt/venv/bin/python\n") and b"from demo.cli import main\n" in script
    window = files["opt/venv/bin/window"][0]
    assert b"from demo import App\n" in window and b"App.run()" in window
    compile(window, "window", "exec")


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".", ".hidden", "a\\b", "/abs", "a;b"])
def test_an_entry_point_cannot_name_another_place(tmp_path: Path, name: str) -> None:
    path = make_wheel(tmp_path, "demo", "1.0", {"demo.py": ""}, entry_points=f"[console_scripts]\n{name} = demo:main\n")
    with pytest.raises(UnsafePathError, match="cannot use demo"):
        laid(path)


@pytest.mark.parametrize(
    "value", ["demo", "demo:main; import os", "demo:main\\nimport os", "os.system('x')", ":x", "a b:c"]
)
def test_an_entry_point_cannot_bring_code(tmp_path: Path, value: str) -> None:
    path = make_wheel(tmp_path, "demo", "1.0", {"demo.py": ""}, entry_points=f"[console_scripts]\nx = {value}\n")
    with pytest.raises(PackageFileError):
        laid(path)


@pytest.mark.parametrize("name", ["python", "python3", "python3.11"])
def test_the_interpreter_cannot_be_replaced(tmp_path: Path, name: str) -> None:
    path = make_wheel(tmp_path, "demo", "1.0", {"demo.py": ""}, entry_points=f"[console_scripts]\n{name} = demo:main\n")
    with pytest.raises(UnsafePathError, match="replace"):
        laid(path)
    with pytest.raises(UnsafePathError, match="replace"):
        laid(make_wheel(tmp_path, "other", "1.0", {f"other-1.0.data/scripts/{name}": "#!/bin/sh"}))
    with pytest.raises(UnsafePathError, match="replace"):
        laid(make_wheel(tmp_path, "third", "1.0", {"third-1.0.data/data/pyvenv.cfg": "home = /evil"}))


def test_unknown_data_folders_and_clashes_inside_a_wheel(tmp_path: Path) -> None:
    with pytest.raises(PackageFileError):
        laid(make_wheel(tmp_path, "demo", "1.0", {"demo-1.0.data/etc/passwd": "x"}))
    with pytest.raises(DuplicatePathError, match=r"a\.py twice"):
        laid(make_wheel(tmp_path, "demo", "1.1", {"a.py": "1", "demo-1.1.data/purelib/a.py": "2"}))


def test_a_pth_may_import_but_not_leave_site_packages(tmp_path: Path) -> None:
    assert laid(make_wheel(tmp_path, "fine", "1.0", {"fine.pth": "# c\nimport os; os.getpid()\nsub/folder\n"}))
    for line in ("../../../../app", "/app", "sub/../../x", "..\\x"):
        with pytest.raises(UnsafePathError, match="outside site-packages"):
            laid(make_wheel(tmp_path, "demo", "1.0", {"demo.pth": f"sub\n{line}\n"}))
    assert laid(make_wheel(tmp_path, "deep", "1.0", {"deep/data.pth": "/not/read/by/site\n"}))


def test_executable_bits_are_kept_in_packages(tmp_path: Path) -> None:
    import stat
    import zipfile

    path = make_wheel(tmp_path, "demo", "1.0", {"demo/helper": "#!/bin/sh\n", "demo/plain": "x"})
    again = tmp_path / "again" / path.name
    again.parent.mkdir()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            mode = 0o755 if info.filename == "demo/helper" else 0o600
            info.external_attr = (stat.S_IFREG | mode) << 16
            new.writestr(info, old.read(info.filename), zipfile.ZIP_DEFLATED)
    files = laid(again)
    assert files[f"{SITE}/demo/helper"][1] and not files[f"{SITE}/demo/plain"][1]


def test_pruning_follows_its_rules(tmp_path: Path) -> None:
    drops = rules().drops
    for path in ("a/tests/x.py", "tests/x.py", "a/b/tests/data/x.csv", "a/include/x.h", "a/core.pyx", "a/lib/x.a",
                 "torch/bin/protoc", "torch/include/x", "joblib/test/test_x.py"):  # fmt: skip
        assert drops(path), path
    for path in ("numpy/testing/x.py", "numpy/testing/tests/x.py", "torch/testing/x.py", "sklearn/utils/_testing.py",
                 "a/_testing/tests/x.py", "torch/bin/torch_shm_manager", "django/test/client.py", "a/tests.py",
                 "a/test_x.py", "latests/x.py", "a/x.so", "a/x.pyi", "torch/binx"):  # fmt: skip
        assert not drops(path), path
    assert not rules().applies_to("triton") and not rules().applies_to("nvidia-cuda-runtime-cu12")
    assert rules().applies_to("numpy") and not rules().applies_to("numpy", keep=("numpy",))
    assert rules().drops_all_of("nvidia-nccl-cu12") and not rules().drops_all_of("xgboost")
    path = make_wheel(tmp_path, "demo", "1.0", {"demo/tests/t.py": "x" * 50, "demo-1.0.data/headers/x.h": "y" * 7})
    with Wheel(path) as wheel:
        assert install(wheel, SCHEME, rules()).pruned_bytes == 57
        assert install(wheel, SCHEME, None).pruned_bytes == 0


def test_names_with_commas_and_quotes_survive_record() -> None:
    promise = Promise("sha256", bytes(32), 5)
    names = ["a,b.txt", 'say "x".txt', "plain"]
    assert read_record(write_record([(n, promise) for n in names]).decode(), "x.whl") == dict.fromkeys(names, promise)
