"""`load`: folders, files, bare models; what is filled in, what is refused, and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.machine import machine

from intermodal.errors import ArtifactError, NotBuiltYetError, ProjectError, UnsafePathError
from intermodal.oci.digest import Digest
from intermodal.project.load import load, settings_here
from intermodal.project.value import Project


def read(folder: Path, text: str, *, recording: bool = False) -> Project:
    (folder / "model.joblib").touch()
    (folder / "intermodal.toml").write_text(text)
    return load(folder, machine(folder), recording=recording)


def test_defaults_of_a_project(tmp_path: Path) -> None:
    folder = tmp_path / "My Model_2"
    folder.mkdir()
    project = read(folder, "")
    assert (project.name, project.version) == ("my-model-2", "latest")
    assert project.artifact == folder / "model.joblib"
    assert project.golden is None
    assert project.lock_path == folder / "pylock.intermodal.toml"
    assert project.platforms == ("linux/amd64",)
    assert project.file == folder / "intermodal.toml"
    assert project.files == (folder / "intermodal.toml",)
    assert project.notices == ()


def test_a_file_is_as_good_as_its_folder(tmp_path: Path) -> None:
    in_folder = read(tmp_path, '[model]\nname = "x"\n')
    assert load(tmp_path / "intermodal.toml", machine(tmp_path)) == in_folder


def test_pyproject_with_a_table(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").touch()
    text = '[project]\nname = "other"\n\n[tool.intermodal.model]\nname = "mine"\nversion = "2"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    assert (load(tmp_path, machine(tmp_path)).name, load(tmp_path, machine(tmp_path)).version) == ("mine", "2")

    (tmp_path / "pyproject.toml").write_text(text.replace("version", "verison"))
    with pytest.raises(ProjectError) as caught:
        load(tmp_path, machine(tmp_path))
    assert caught.value.found == ("pyproject.toml line 6",)
    assert caught.value.next == ('did you mean "version"?',)


def test_intermodal_toml_wins_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.intermodal.model]\nname = "mine"\n')
    project = read(tmp_path, '[model]\nname = "ours"\n')
    assert project.name == "ours"
    assert "[tool.intermodal] of pyproject.toml is not read" in project.notices[0]


def test_settings_without_the_files_that_they_name(tmp_path: Path) -> None:
    assert settings_here(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    assert settings_here(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text("[tool.intermodal.deploy]\nport = 9000\n")
    name, settings = settings_here(tmp_path) or ("", None)
    assert settings is not None and (name, settings.deploy.port) == (tmp_path.name.replace("_", "-"), 9000)
    (tmp_path / "intermodal.toml").write_text("[model]\nname = 'a'\nartifact = 'gone.onnx'\n[deploy]\nport = 9001\n")
    name, settings = settings_here(tmp_path) or ("", None)
    assert settings is not None and (name, settings.deploy.port) == ("a", 9001)


def test_a_wrong_project_file_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / "intermodal.toml").write_text("[deploy]\nprot = 9000\n")
    with pytest.raises(ProjectError, match="prot"):
        settings_here(tmp_path)


def test_pyproject_without_a_table_named_directly(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    with pytest.raises(ProjectError, match=r"has no \[tool.intermodal\]"):
        load(tmp_path / "pyproject.toml", machine(tmp_path))


class TestBare:
    """A model without a project file."""

    def test_file_in_an_otherwise_empty_folder(self, tmp_path: Path) -> None:
        model = tmp_path / "Model (final).joblib"
        model.write_bytes(b"bytes")
        host = machine(tmp_path / "home")
        project = load(model, host)
        assert (project.name, project.version, project.file) == ("model-final", "latest", None)
        assert project.artifact == model
        assert project.root == tmp_path
        assert project.requirements == ()
        assert project.lock_path == host.data_dir / "locks" / f"{Digest.of(b'bytes').hex}.toml"
        assert project.notices == ()
        assert [p.name for p in tmp_path.iterdir()] == [model.name], "loading must write nothing"

    def test_lock_belongs_to_the_bytes(self, tmp_path: Path) -> None:
        model = tmp_path / "m.onnx"
        model.write_bytes(b"one")
        before = load(model, machine(tmp_path)).lock_path
        model.write_bytes(b"two")
        assert load(model, machine(tmp_path)).lock_path != before

    def test_golden_beside_it_is_taken_and_said(self, tmp_path: Path) -> None:
        (tmp_path / "m.pkl").touch()
        (tmp_path / "golden.json").write_text("{}")
        project = load(tmp_path / "m.pkl", machine(tmp_path))
        assert project.golden == tmp_path / "golden.json"
        assert project.notices == (f"golden cases are taken from {tmp_path / 'golden.json'}",)

    def test_project_beside_it_is_not_read_and_said(self, tmp_path: Path) -> None:
        read(tmp_path, '[model]\nname = "named"\n')
        project = load(tmp_path / "model.joblib", machine(tmp_path))
        assert project.name == "model"
        assert "intermodal.toml beside model.joblib is not read" in project.notices[0]

    def test_folder_with_one_model(self, tmp_path: Path) -> None:
        (tmp_path / "net.onnx").touch()
        (tmp_path / "notes.txt").touch()
        project = load(tmp_path, machine(tmp_path))
        assert (project.name, project.artifact) == ("net", tmp_path / "net.onnx")
        assert "the only model" in project.notices[0]

    def test_folder_that_is_a_model(self, tmp_path: Path) -> None:
        folder = tmp_path / "exported"
        (folder / "variables").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        project = load(folder, machine(tmp_path))
        assert (project.name, project.artifact) == ("exported", folder)
        (folder / "variables" / "weights").write_bytes(b"w")
        assert load(folder, machine(tmp_path)).lock_path != project.lock_path

    def test_folder_with_two_models(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").touch()
        (tmp_path / "b.pkl").touch()
        with pytest.raises(ArtifactError, match="several models") as caught:
            load(tmp_path, machine(tmp_path))
        assert caught.value.found == ("a.onnx", "b.pkl")

    def test_folder_with_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="neither a project nor a model"):
            load(tmp_path, machine(tmp_path))

    def test_missing_path_names_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "model.joblib").touch()
        with pytest.raises(ProjectError, match=r"no such file or folder: modle\.joblib") as caught:
            load(tmp_path / "modle.joblib", machine(tmp_path))
        assert caught.value.next == ("did you mean model.joblib?",)
        with pytest.raises(ProjectError, match="no such file"):
            load(tmp_path / "no" / "such" / "folder", machine(tmp_path))


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('artifact = "../m.pkl"', "artifact"),
        ('artifact = "/etc/passwd"', "artifact"),
        ('artifact = ""', "artifact"),
        ('golden = "../golden.json"', "golden"),
        ('include = ["a.txt", "../../secret"]', "include"),
        ('include = ["x\\u0000"]', "include"),
    ],
)
def test_paths_stay_inside(line: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafePathError, match=f"{key} in") as caught:
        read(tmp_path, f"[model]\n{line}\n")
    assert caught.value.found
    assert caught.value.next


def test_links_may_not_lead_out_but_for_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (tmp_path / "secret").write_text("s")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafePathError, match="include") as caught:
        read(folder, '[model]\ninclude = ["link"]\n')
    assert str(tmp_path / "secret") in caught.value.found[0]
    assert read(folder, '[model]\nartifact = "link"\n').artifact == folder / "link"  # as model stores such as DVC do


def test_artifact_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"does not exist: modl\.joblib") as caught:
        read(tmp_path, '[model]\nartifact = "modl.joblib"\n')
    assert caught.value.next == ("did you mean model.joblib?",)


def test_golden_that_does_not_exist_is_no_fault_while_recording(tmp_path: Path) -> None:
    text = '[model]\ngolden = "cases.json"\n'
    with pytest.raises(ProjectError, match=r"does not exist: cases\.json") as caught:
        read(tmp_path, text)
    assert "intermodal record" in caught.value.next[0]
    assert read(tmp_path, text, recording=True).golden is None


def test_predictor_needs_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "intermodal.toml").write_text('[model]\npredictor = "predictor:P"\n')
    assert load(tmp_path, machine(tmp_path)).artifact is None
    (tmp_path / "intermodal.toml").write_text('[model]\nname = "x"\n')
    with pytest.raises(ArtifactError, match="holds no model"):
        load(tmp_path, machine(tmp_path))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[model]\napp = "service:app"', "app"),
        ('[[models]]\nartifact = "a.pkl"', "[[models]]"),
        ('[[pipeline.steps]]\nname = "a"', "[pipeline]"),
        ('[environment]\naccelerator = "cuda"', "cuda"),
        ('[environment]\ncompression = "zstd"', "zstd"),
    ],
)
def test_keys_that_would_change_the_image_are_refused(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(NotBuiltYetError, match="not built yet") as caught:
        read(tmp_path, text)
    assert named in caught.value.message
    assert caught.value.exit_code == 2
    assert len(caught.value.next) == 1


def test_several_of_them_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotBuiltYetError) as caught:
        read(tmp_path, '[environment]\naccelerator = "cuda"\ncompression = "zstd"\n')
    assert len(caught.value.found) == 2


def test_keys_of_later_rooms_are_one_notice(tmp_path: Path) -> None:
    project = read(
        tmp_path,
        '[scan]\nfail_on = "low"\n[push]\nto = "r.example/x"\n[sign]\nkey = "env:K"\n'
        '[deploy]\ntarget = "local"\n[secrets]\nA = { from = "env:A" }\n',
    )
    assert project.notices == ("not built yet, without effect: [scan], [sign]",)


def test_keys_that_promise_protection_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotBuiltYetError, match=r"\[sign\] encrypt") as caught:
        read(tmp_path, '[serve]\napi_keys = "file:/run/keys"\n[sign]\nencrypt = "age1x"\n')
    assert "as they are" in caught.value.next[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[model]\nname = "a"\n[[models]]\nname = "b"', "[model] and [[models]]"),
        ('[model]\npredictor = "a:B"\napp = "c:d"', "both predictor and app"),
        ("[model\n", "cannot read"),
        ('x = "\\ud800"', "cannot read"),
    ],
)
def test_contradictions_and_broken_files(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        read(tmp_path, text)
    assert words in caught.value.message
    assert caught.value.found


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "intermodal.toml").write_bytes(b'[model]\nname = "\xff"\n')
    with pytest.raises(ProjectError, match="cannot read"):
        load(tmp_path, machine(tmp_path))
