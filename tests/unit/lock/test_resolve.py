"""Resolution by uv against small indexes on loopback and on disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.hosts import empty_host
from support.loopback import Site, serving
from support.simple_index import publish, pure_wheels
from support.wheels import make_wheel

from intermodal.errors import IndexUnreachableError, RequirementError
from intermodal.fetch import Request, fetch_all
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.rooms.lock.platforms import fits
from intermodal.rooms.lock.resolve import Wanted, resolve
from intermodal.rooms.lock.rows import PackageRow

SECRET = ("me", "hunter2")


def wanted(folder: Path, *requirements: str, platforms: tuple[str, ...] = ("linux/amd64",)) -> Wanted:
    root = folder / "project"
    root.mkdir(exist_ok=True)
    return Wanted(requirements, platforms, "3.11.2", (2, 36), root)


def versions(rows: tuple[PackageRow, ...]) -> dict[str, str]:
    return {row.name: row.version for row in rows}


def host_for(folder: Path, index: str, **more: str) -> Host:
    return empty_host(folder, {"PIP_INDEX_URL": index, "UV_HTTP_RETRIES": "0", **more})


@pytest.fixture
def index(tmp_path: Path) -> Path:
    made = pure_wheels(
        tmp_path / "w", "top==2.0 middle>=1, leaf", "top==1.0 middle<1", "middle==1.5 leaf<3", "leaf==2.9", "leaf==3.0"
    )
    return publish(tmp_path / "index", made)


def test_rows_have_hashes_files_and_dependencies(tmp_path: Path, index: Path) -> None:
    with serving(index.parent) as site:
        rows = resolve(wanted(tmp_path, "top"), host=host_for(tmp_path, f"{site.url}/simple"))
    assert versions(rows) == {"leaf": "2.9", "middle": "1.5", "top": "2.0"}
    top = rows[2]
    assert top.dependencies == ("leaf", "middle")
    (wheel,) = top.wheels
    assert wheel.filename == "top-2.0-py3-none-any.whl"
    assert wheel.digest == Digest.of((tmp_path / "w" / wheel.filename).read_bytes())
    assert wheel.url == f"{site.url}/files/{wheel.filename}"


def test_no_requirements_ask_nobody(tmp_path: Path) -> None:
    assert resolve(wanted(tmp_path), host=host_for(tmp_path, "http://127.0.0.1:9/simple")) == ()


@pytest.mark.parametrize("how", ["file-index", "folder-of-wheels"])
def test_indexes_on_disk(tmp_path: Path, index: Path, how: str) -> None:
    if how == "file-index":
        host = empty_host(tmp_path, {"PIP_INDEX_URL": index.as_uri()})
    else:
        host = empty_host(tmp_path, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index.parent / "files")})
    rows = resolve(wanted(tmp_path, "top"), host=host)
    assert versions(rows) == {"leaf": "2.9", "middle": "1.5", "top": "2.0"}
    for row in rows:
        (wheel,) = row.wheels
        file = index.parent / "files" / wheel.filename
        assert wheel.url == file.as_uri()
        assert (wheel.digest, wheel.size_bytes) == (Digest.of(file.read_bytes()), file.stat().st_size)


# --- index configuration ---------------------------------------------------------------------------------------------


@pytest.fixture
def two_indexes(tmp_path: Path) -> tuple[Path, Path]:
    """A default index that has the older `pick`, and an extra one that has the newer."""
    older = publish(tmp_path / "one", pure_wheels(tmp_path / "w1", "pick==1.0", "only==1.0"))
    newer = publish(tmp_path / "two", pure_wheels(tmp_path / "w2", "pick==2.0 only"))
    return older, newer


@pytest.mark.parametrize("swapped", [False, True])
def test_pips_indexes_are_merged_as_pip_merges_them(
    tmp_path: Path, two_indexes: tuple[Path, Path], swapped: bool
) -> None:
    default, extra = two_indexes[::-1] if swapped else two_indexes
    variables = {"PIP_INDEX_URL": default.as_uri(), "PIP_EXTRA_INDEX_URL": extra.as_uri()}
    host = empty_host(tmp_path, variables)
    ours = versions(resolve(wanted(tmp_path, "pick"), host=host))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, "pick"], env=dict(host.environment), capture_output=True, text=True, check=True, cwd=tmp_path
    )
    pips = {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(done.stdout)["install"]}
    assert ours == pips == {"pick": "2.0", "only": "1.0"}


def test_uvs_own_configuration_keeps_uvs_own_strategy(tmp_path: Path, two_indexes: tuple[Path, Path]) -> None:
    default, extra = two_indexes[1], two_indexes[0]
    host = empty_host(tmp_path, {"UV_DEFAULT_INDEX": default.as_uri(), "UV_INDEX": extra.as_uri()})
    assert versions(resolve(wanted(tmp_path, "pick"), host=host)) == {"pick": "1.0"}, "uv: the first index that has it"


def test_pips_constraints_count(tmp_path: Path, two_indexes: tuple[Path, Path]) -> None:
    (tmp_path / "c.txt").write_text("pick<2\n")
    variables = {
        "PIP_INDEX_URL": two_indexes[0].as_uri(),
        "PIP_EXTRA_INDEX_URL": two_indexes[1].as_uri(),
        "PIP_CONSTRAINT": str(tmp_path / "c.txt"),
    }
    assert versions(resolve(wanted(tmp_path, "pick"), host=empty_host(tmp_path, variables))) == {"pick": "1.0"}


def logged_in(site: Site) -> str:
    return site.url.replace("://", "://me:hunter2@")


@pytest.mark.parametrize("how", ["pip", "uv-named", "netrc"])
def test_a_private_index_with_a_password(tmp_path: Path, index: Path, how: str) -> None:
    with serving(index.parent, SECRET) as site:
        if how == "pip":
            host = host_for(tmp_path, f"{logged_in(site)}/simple")
        elif how == "uv-named":
            variables = {
                "UV_DEFAULT_INDEX": f"corp={site.url}/simple",
                "UV_INDEX_CORP_USERNAME": "me",
                "UV_INDEX_CORP_PASSWORD": "hunter2",
            }
            host = empty_host(tmp_path, variables)
        else:
            host = host_for(tmp_path, f"{site.url}/simple")
            (host.home / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
            (host.home / ".netrc").chmod(0o600)
        rows = resolve(wanted(tmp_path, "top"), host=host)
        urls = [wheel.url for row in rows for wheel in row.wheels]
        assert all(url.startswith(f"{site.url}/files/") for url in urls), urls
        requests = [Request(w.digest, w.size_bytes, w.filename, (w.url,), r.name) for r in rows for w in r.wheels]
        assert len(fetch_all(requests, host=host)) == 3


def test_wrong_credentials_are_named_and_not_shown(tmp_path: Path, index: Path) -> None:
    with serving(index.parent, SECRET) as site:
        url = site.url.replace("://", "://me:hunter3@")
        with pytest.raises(IndexUnreachableError, match="refuses access") as caught:
            resolve(wanted(tmp_path, "top"), host=host_for(tmp_path, f"{url}/simple"))
    assert "hunter3" not in str(caught.value)
    assert "netrc" in caught.value.next[0]


def test_a_refusing_index_is_not_silently_replaced_by_another(tmp_path: Path, index: Path) -> None:
    """Dependency confusion: the private index has the package, the other index a stranger's of that name."""
    stranger = publish(tmp_path / "stranger", pure_wheels(tmp_path / "s", "top==99.0"))
    with serving(index.parent, SECRET) as site, serving(stranger.parent) as public:
        variables = {
            "PIP_INDEX_URL": f"{public.url}/simple",
            "PIP_EXTRA_INDEX_URL": f"{site.url.replace('://', '://me:hunter3@')}/simple",
        }
        with pytest.raises(IndexUnreachableError, match="refuses access") as caught:
            resolve(wanted(tmp_path, "top"), host=empty_host(tmp_path, variables))
    assert "hunter3" not in str(caught.value)


@pytest.mark.parametrize("no_url", ["html", "folder"])
def test_a_wheel_without_address_is_found_by_name_and_hash(tmp_path: Path, index: Path, no_url: str) -> None:
    file = tmp_path / "w" / "top-2.0-py3-none-any.whl"
    request = Request(Digest.of(file.read_bytes()), 0, file.name, (), "top")
    with serving(index.parent, SECRET) as site:
        if no_url == "html":
            host = host_for(tmp_path, f"{logged_in(site)}/simple")
        else:
            host = empty_host(tmp_path, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "w")})
        assert fetch_all([request], host=host)[request.digest].read_bytes() == file.read_bytes()


def test_a_wheel_of_that_name_but_other_bytes_is_not_taken(tmp_path: Path, index: Path) -> None:
    request = Request(Digest.of(b"other"), 0, "top-2.0-py3-none-any.whl", (), "top")
    with serving(index.parent) as site, pytest.raises(Exception, match=r"cannot find top-2\.0") as caught:
        fetch_all([request], host=host_for(tmp_path, f"{site.url}/simple"))
    assert "no configured index offers it" in str(caught.value)


# --- what cannot be had ----------------------------------------------------------------------------------------------


def refused(folder: Path, host: Host, *requirements: str) -> RequirementError:
    with pytest.raises(RequirementError) as caught:
        resolve(wanted(folder, *requirements), host=host)
    error = caught.value
    assert error.exit_code == 2
    assert error.found
    assert error.next
    assert "hint:" not in str(error)
    assert "cause:" not in str(error)
    return error


def test_requirements_that_contradict_each_other(tmp_path: Path, index: Path) -> None:
    error = refused(tmp_path, empty_host(tmp_path, {"PIP_INDEX_URL": index.as_uri()}), "top==2.0", "leaf==3.0")
    assert error.message == "the requirements cannot be met together"
    assert "leaf" in " ".join(error.found)
    assert "Python 3.11.2, linux/amd64" in error.next[0]


def test_a_name_that_nobody_knows(tmp_path: Path, index: Path) -> None:
    error = refused(tmp_path, empty_host(tmp_path, {"PIP_INDEX_URL": index.as_uri()}), "tpo")
    assert error.message == "no package is called tpo"
    assert index.as_uri() in error.found[0]


@pytest.mark.parametrize("how", ["index", "find-links"])
def test_a_source_distribution_is_not_built(tmp_path: Path, how: str) -> None:
    source = tmp_path / "files" / "sourceonly-1.0"
    source.mkdir(parents=True)
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: sourceonly\nVersion: 1.0\n")
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    subprocess.run(["tar", "czf", "sourceonly-1.0.tar.gz", source.name], cwd=source.parent, check=True)
    shutil.rmtree(source)
    if how == "index":
        host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path, []).as_uri()})
    else:
        host = empty_host(tmp_path, {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(source.parent)})
    error = refused(tmp_path, host, "sourceonly==1.0")
    assert error.message.startswith("sourceonly")
    assert "no wheel" in error.message
    assert "pip wheel sourceonly" in " ".join(error.next)
    assert not (tmp_path / "ran").exists()


def test_only_wheels_for_other_pythons(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w", "native", "1.0", {"native.py": ""}, tag="cp39-cp39-manylinux_2_17_x86_64")
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", [wheel]).as_uri()})
    error = refused(tmp_path, host, "native")
    assert "native" in error.message
    assert "no wheel" in error.message


def test_an_index_where_nobody_listens(tmp_path: Path) -> None:
    host = host_for(tmp_path, "http://me:hunter2@127.0.0.1:9/simple")
    with pytest.raises(IndexUnreachableError, match=r"cannot reach the package index at 127\.0\.0\.1:9") as caught:
        resolve(wanted(tmp_path, "top"), host=host)
    assert caught.value.exit_code == 3
    assert "hunter2" not in str(caught.value)
    assert "refused" in caught.value.found[-1]


def test_an_index_in_trouble(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        site.special["/simple/top/"] = lambda handler: handler.answer(500, b"")
        with pytest.raises(IndexUnreachableError, match="cannot reach the package index"):
            resolve(wanted(tmp_path, "top"), host=host_for(tmp_path, f"{site.url}/simple"))


def test_a_line_that_is_no_requirement(tmp_path: Path, index: Path) -> None:
    error = refused(tmp_path, empty_host(tmp_path, {"PIP_INDEX_URL": index.as_uri()}), "top===")
    assert error.message == "cannot resolve the requirements"


# --- platforms, preferences, accelerators ----------------------------------------------------------------------------


def native(folder: Path, name: str, version: str, *platforms: str) -> list[Path]:
    return [make_wheel(folder, name, version, {f"{name}.py": ""}, tag=f"cp311-cp311-{item}") for item in platforms]


BOTH = ("linux/amd64", "linux/arm64")


def test_one_wheel_per_platform_the_best(tmp_path: Path) -> None:
    wheels = native(
        tmp_path / "w", "native", "1.0", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_aarch64",
        "manylinux_2_39_x86_64", "musllinux_1_2_x86_64", "macosx_11_0_arm64",
    )  # fmt: skip
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", wheels).as_uri()})
    (row,) = resolve(wanted(tmp_path, "native", platforms=BOTH), host=host)
    assert [wheel.filename for wheel in row.wheels] == [
        "native-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "native-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
    ]


def test_platforms_agree_on_the_older_version_or_say_why_not(tmp_path: Path) -> None:
    wheels = native(tmp_path / "w", "native", "2.0", "manylinux_2_17_x86_64")
    wheels += native(tmp_path / "w", "native", "1.0", "manylinux_2_17_x86_64", "manylinux_2_17_aarch64")
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", wheels).as_uri()})
    with pytest.raises(RequirementError, match="the platforms need different versions of native") as caught:
        resolve(wanted(tmp_path, "native", platforms=BOTH), host=host)
    assert caught.value.found == ("linux/amd64: 2.0", "linux/arm64: 1.0")
    (row,) = resolve(wanted(tmp_path, "native<2", platforms=BOTH), host=host)
    assert row.version == "1.0"


def test_markers_are_those_of_the_target(tmp_path: Path) -> None:
    wheels = pure_wheels(tmp_path / "w", "arm==1.0", "intel==1.0", "old==1.0", "mac==1.0")
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", wheels).as_uri()})
    lines = (
        "arm; platform_machine == 'aarch64'",
        "intel; platform_machine == 'x86_64'",
        "old; python_full_version < '3.11.3'",
        "mac; sys_platform == 'darwin'",
    )
    assert set(versions(resolve(wanted(tmp_path, *lines), host=host))) == {"intel", "old"}
    found = resolve(wanted(tmp_path, *lines, platforms=BOTH), host=host)
    assert {row.name: row.platforms for row in found} == {"intel": BOTH[:1], "arm": BOTH[1:], "old": ()}
    # all are wheels for any machine: the rows alone say who installs them
    for platform, names in zip(BOTH, ({"intel", "old"}, {"arm", "old"}), strict=True):
        assert {row.name for row in found if fits(row, platform, "3.11")} == names


def test_versions_of_an_earlier_lock_are_kept(tmp_path: Path, index: Path) -> None:
    host = empty_host(tmp_path, {"PIP_INDEX_URL": index.as_uri()})
    assert versions(resolve(wanted(tmp_path, "leaf"), host=host)) == {"leaf": "3.0"}
    kept = resolve(wanted(tmp_path, "leaf"), host=host, preferences={"leaf": "2.9", "gone": "1.0"})
    assert versions(kept) == {"leaf": "2.9"}
    moved = resolve(wanted(tmp_path, "leaf>2.9"), host=host, preferences={"leaf": "2.9"})
    assert versions(moved) == {"leaf": "3.0"}


def test_a_cpu_image_takes_the_cpu_build(tmp_path: Path) -> None:
    tag = "cp311-cp311-manylinux_2_28_x86_64"
    folder = tmp_path / "w"
    cuda = make_wheel(folder, "torch", "2.3", {"torch.py": ""}, tag=tag, requires=("nvidia-cublas-cu12", "sympy"))
    cpu = [
        make_wheel(folder, "torch", version, {"torch.py": ""}, tag=tag, requires=("sympy",))
        for version in ("2.1+cpu", "2.2+cpu")
    ]
    vision = make_wheel(folder, "torchvision", "0.17", {"tv.py": ""}, tag=tag, requires=("torch==2.2",))
    vision_cpu = make_wheel(folder, "torchvision", "0.17+cpu", {"tv.py": ""}, tag=tag, requires=("torch==2.2",))
    others = pure_wheels(folder, "nvidia_cublas_cu12==12.0", "sympy==1.0")
    default = publish(tmp_path / "i", [cuda, vision, *others])
    host = empty_host(tmp_path, {"PIP_INDEX_URL": default.as_uri()})
    error = refused(tmp_path, host, "torch")
    assert error.message == "a CPU image holds no CUDA, but torch 2.3 brings nvidia-cublas-cu12"
    assert "UV_INDEX=" in error.next[0]
    links = tmp_path / "links"
    links.mkdir()
    for wheel in (*cpu, vision_cpu):
        shutil.copy(wheel, links)
    found = replace(host, environment={**host.environment, "PIP_FIND_LINKS": str(links)})
    assert versions(resolve(wanted(tmp_path, "torch"), host=found)) == {"torch": "2.2+cpu", "sympy": "1.0"}
    assert versions(resolve(wanted(tmp_path, "torch<2.2"), host=found))["torch"] == "2.1+cpu"
    both = versions(resolve(wanted(tmp_path, "torch", "torchvision"), host=found))
    assert both["torchvision"] == "0.17+cpu"
    assert refused(tmp_path, found, "torch==2.3").message.startswith("a CPU image holds no CUDA")


def test_nccl_is_left_out_of_cpu_images(tmp_path: Path) -> None:
    wheels = pure_wheels(tmp_path / "w", "xgboost==3.0 nvidia-nccl-cu12", "nvidia_nccl_cu12==2.0")
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", wheels).as_uri()})
    assert versions(resolve(wanted(tmp_path, "xgboost"), host=host)) == {"xgboost": "3.0"}


def test_another_cuda_package_names_who_brings_it(tmp_path: Path) -> None:
    wheels = pure_wheels(tmp_path / "w", "wants==1.0 cupy-cuda12x", "cupy_cuda12x==13.0")
    host = empty_host(tmp_path, {"PIP_INDEX_URL": publish(tmp_path / "i", wheels).as_uri()})
    assert "wants 1.0 brings cupy-cuda12x" in refused(tmp_path, host, "wants").message


@pytest.mark.network
@pytest.mark.parametrize(
    ("requirements", "python", "glibc", "tag"),
    [
        (("scikit-learn==1.9.1",), "3.11.2", (2, 36), "cp311"),
        (("scikit-learn==1.9.1",), "3.13.5", (2, 41), "cp313"),
        (("scikit-learn==1.3.2", "numpy==1.26.4"), "3.11.2", (2, 36), "cp311"),
    ],
)
def test_real_scikit_learn(
    tmp_path: Path, requirements: tuple[str, ...], python: str, glibc: tuple[int, int], tag: str
) -> None:
    from intermodal import host as hosts

    question = Wanted(requirements, ("linux/amd64",), python, glibc, tmp_path)
    rows = {row.name: row for row in resolve(question, host=hosts.read())}
    assert {"numpy", "scipy", "joblib", "threadpoolctl"} <= set(rows)
    for name, version in (line.split("==") for line in requirements):
        assert rows[name].version == version
    for row in rows.values():
        (wheel,) = row.wheels
        assert "-any.whl" in wheel.filename or (f"-{tag}-" in wheel.filename and "x86_64" in wheel.filename)
