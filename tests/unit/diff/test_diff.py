"""Two images side by side: packages, layers, sizes, settings, files and predictions, from hand-made layers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from support.cli import intermodal
from support.layered import layer, scaled_settings

from intermodal.diff import Report, diff, find
from intermodal.diff.predictions import predictions
from intermodal.errors import StoreError, UnknownImageError
from intermodal.golden.cases import GoldenCase, GoldenFile
from intermodal.oci.config import config_bytes
from intermodal.oci.descriptor import CONFIG, INDEX, LAYER_GZIP, LAYER_ZSTD, MANIFEST, Descriptor, LayerInfo
from intermodal.oci.digest import Digest
from intermodal.oci.export import export
from intermodal.oci.layout import Store
from intermodal.oci.manifest import index_bytes, manifest_bytes
from intermodal_server.contract import GOLDEN_PATH, SETTINGS_PATH

SITE = "opt/venv/lib/python3.11/site-packages"
Files = Mapping[str, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data/intermodal/store").open_or_create()


def wheel(name: str, version: str, root: str = SITE) -> dict[str, bytes]:
    return {f"{root}/{name}/code.py": version.encode(), f"{root}/{name}-{version}.dist-info/METADATA": b"Name: x\n"}


def deb(name: str, version: str) -> dict[str, bytes]:
    return {
        f"var/lib/dpkg/status.d/{name}": f"Package: {name}\nVersion: {version}\nDescription: Version: 9\n".encode(),
        f"var/lib/dpkg/status.d/{name}.md5sums": b"x",
    }


def case(name: str, x: float, *answers: float, label: str = "a", **tolerance: float) -> GoldenCase:
    request = {"id": name, "inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [x]}]}
    outputs = [
        {"name": "label", "datatype": "BYTES", "shape": [1], "data": [label]},
        {"name": "y", "datatype": "FP64", "shape": [1, len(answers)], "data": list(answers)},
    ]
    return GoldenCase(name, request, {"outputs": outputs}, **tolerance)


def app(*cases: GoldenCase, **serve: Any) -> dict[str, bytes]:
    golden = GoldenFile("training", {}, cases)
    found = {SETTINGS_PATH: scaled_settings(**serve).to_json(), "app/code.py": b"CODE = 1\n"}
    return found | ({GOLDEN_PATH: golden.to_bytes()} if cases else {})


def image(store: Store, *layers: tuple[str, Files], zstd: bool = False, **config: Any) -> Descriptor:
    infos, stored = [], []
    for title, files in layers:
        tar = layer(files)
        data = zstandard.compress(tar) if zstd else gzip.compress(tar, 6, mtime=0)
        digest, size_bytes = store.put_bytes(data)
        infos.append(LayerInfo(digest, Digest.of(tar), size_bytes, len(tar), "app", title))
        stored.append(Descriptor(LAYER_ZSTD if zstd else LAYER_GZIP, digest, size_bytes))
    document = json.loads(config_bytes(layers=infos, architecture="amd64", python="3.11", labels={"x": "1"}))
    document["config"] |= config
    described = Descriptor(CONFIG, *store.put_bytes(json.dumps(document).encode()))
    return Descriptor(MANIFEST, *store.put_bytes(manifest_bytes(described, stored)), platform="linux/amd64")


def between(store: Store, before: Descriptor, after: Descriptor) -> Report:
    store.tag("a:1", before)
    store.tag("b:1", after)
    return diff(find("a:1", store), find("b:1", store))


BASE = ("base", {"usr/bin/python3.11": b"\x7fELF", **deb("libc6", "2.36")})


def test_the_same_image_is_the_same_and_nothing_is_read(store: Store) -> None:
    one = image(store, BASE, ("application", app(case("one", 1.0, 2.0))))
    for blob in store.manifest(one)["layers"]:
        store.path(Digest.parse(blob["digest"])).write_bytes(b"damaged")
    report = between(store, one, one)
    assert report.same
    (found,) = report.images
    assert (found.packages, found.layers, found.files, found.differences) == ((), (), (), ())


def test_packages_come_go_and_change_wherever_they_lie(store: Store) -> None:
    old = image(
        store,
        BASE,
        ("bucket", {**wheel("scikit_learn", "1.9.1"), **wheel("joblib", "1.5.3")}),
        ("server", wheel("uvicorn", "0.30", "opt/intermodal/lib/python3.11/site-packages")),
        ("other", wheel("moved", "1.0")),
    )
    new = image(
        store,
        ("base", {"usr/bin/python3.11": b"\x7fELF", **deb("libc6", "2.41"), **deb("zlib1g", "1.3")}),
        ("bucket", {**wheel("scikit_learn", "1.9.2"), **wheel("moved", "1.0")}),
        ("server", wheel("uvicorn", "0.31", "opt/intermodal/lib/python3.11/site-packages")),
    )
    (found,) = between(store, old, new).images
    assert {(change.owner, change.name, change.before, change.after) for change in found.packages} == {
        ("debian", "libc6", "2.36", "2.41"),
        ("debian", "zlib1g", None, "1.3"),
        ("model", "joblib", "1.5.3", None),
        ("model", "scikit-learn", "1.9.1", "1.9.2"),
        ("server", "uvicorn", "0.30", "0.31"),
    }
    assert f"{SITE}/moved/code.py" not in {change.path for change in found.files}, "it only lies in another layer"


def test_a_status_file_of_debian_counts_what_is_installed(store: Store) -> None:
    status = "Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: deinstall ok\nVersion: 2\n"
    old = image(store, ("base", {"var/lib/dpkg/status": status.encode()}))
    new = image(store, ("base", {"var/lib/dpkg/status": status.replace("Version: ", "Version: 3.").encode()}))
    (found,) = between(store, old, new).images
    assert [(change.name, change.before, change.after) for change in found.packages] == [("a", "1", "3.1")]


def test_layers_sizes_settings_and_files(store: Store) -> None:
    weights = ("weights.bin", {"model/weights.bin": b"w" * 5000})
    old = image(store, BASE, weights, ("application", {**app(), "app/gone.py": b"", "app/same.py": b"1"}))
    new = image(
        store,
        BASE,
        ("two", {"model/two.bin": b"2"}),
        ("application", {**app(timeout_s=9.0), "app/code.py": b"CODE = 22\n", "app/same.py": b"1"}),
        User="0:0",
        Env=["LANG=C", "NEW=1"],
        Hostname="a1b2c3",
        Domainname="",
        AttachStdin=False,
        OnBuild=None,
    )
    base = Digest.parse(store.manifest(old)["layers"][0]["digest"])
    store.path(base).write_bytes(b"never read, because both have it")
    report = between(store, old, new)
    (found,) = report.images
    assert (report.same, found.platform) == (False, "linux/amd64")
    assert [change.title for change in found.layers] == ["weights.bin", "application", "two"]
    assert [(change.before_bytes is None, change.after_bytes is None) for change in found.layers] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    assert found.equal_layers == 1
    assert found.equal_bytes + found.new_bytes == found.after_bytes
    assert found.before_bytes == sum(blob["size"] for blob in store.manifest(old)["layers"])
    settings = {change.name: (change.before, change.after) for change in found.settings}
    assert settings["serve.timeout_s"] == (30.0, 9.0)
    assert settings["User"] == ("65532:65532", "0:0")
    assert settings["Env.NEW"] == (None, "1")
    assert settings["Env.LANG"] == ("C.UTF-8", "C")
    assert not settings.keys() & {"label x", "Hostname", "Domainname", "AttachStdin", "OnBuild"}
    files = {change.path: (change.before_bytes, change.after_bytes, change.fields) for change in found.files}
    assert files == {
        "app/code.py": (9, 10, ("content",)),
        "app/gone.py": (0, None, ()),
        "etc/intermodal/model.json": (len(app()[SETTINGS_PATH]), len(app(timeout_s=9.0)[SETTINGS_PATH]), ("content",)),
        "model/two.bin": (None, 1, ()),
        "model/weights.bin": (5000, None, ()),
    }
    assert any(
        str(each).startswith("layer 3 (application), entry app/code.py, field content") for each in found.differences
    )


def test_predictions_are_put_side_by_side_with_their_deviation(store: Store) -> None:
    old = app(case("kept", 1.0, 1.0, 2.0), case("moves", 2.0, 1.0, 4.0), case("gone", 3.0, 1.0, 1.0))
    new = app(
        case("kept", 1.0, 1.0, 2.0),
        case("renamed", 2.0, 1.0 + 1e-8, 4.5, label="b"),
        case("gone", 4.0, 1.0, 1.0),
        case("new", 5.0, 1.0, 1.0),
    )
    (found,) = between(store, image(store, BASE, ("app", old)), image(store, BASE, ("app", new))).images
    golden = found.golden
    assert golden is not None
    assert (golden.cases_before, golden.cases_after, golden.compared, golden.equal) == (3, 4, 2, 1)
    assert (golden.only_before, golden.only_after, golden.other_requests) == ((), ("new",), ("gone",))
    label, y = golden.outputs
    assert (label.output, label.values, label.differing, label.beyond, label.max_absolute) == ("label", 2, 1, 1, None)
    assert (y.output, y.values, y.differing, y.beyond) == ("y", 4, 2, 1)
    assert y.max_absolute == pytest.approx(0.5)
    assert y.max_relative == pytest.approx(0.125)
    assert golden.beyond == 2
    first, second, third = golden.worst
    assert (first.case, first.before, first.after, first.within) == ("moves", "a", "b", False)
    assert (second.place, second.before, second.after, second.within) == ((0, 1), 4.0, 4.5, False)
    assert (third.place, third.absolute, third.within) == ((0, 0), pytest.approx(1e-8), True)


def test_a_case_s_own_tolerance_decides_what_is_beyond() -> None:
    def one(answer: float, **tolerance: float) -> GoldenFile:
        return GoldenFile("training", {}, (case("a", 1.0, answer, **tolerance),))

    assert predictions(None, None) is None
    for golden, beyond in [(one(2.0), 1), (one(2.0, rtol=0.5), 0), (one(2.0, atol=0.2, rtol=0.0), 1)]:
        found = predictions(golden, one(2.5))
        assert found is not None
        assert found.beyond == beyond
    lonely = predictions(one(1.0), None)
    assert lonely is not None
    assert (lonely.compared, lonely.only_before) == (0, ("a",))
    zero = predictions(one(0.0), one(1.0))
    assert zero is not None
    assert zero.outputs[1].max_relative is None, "nothing is relative to 0"
    refused = predictions(
        one(1.0), GoldenFile("training", {}, (GoldenCase("a", case("a", 1.0).request, {"error": "no"}),))
    )
    assert refused is not None
    assert (refused.equal, refused.outputs[-1].differing) == (0, 1)


def test_platforms_are_compared_one_by_one(store: Store) -> None:
    amd, other = image(store, BASE, ("app", app())), image(store, BASE, ("app", app(workers=2)))
    arm = Descriptor(amd.media_type, amd.digest, amd.size_bytes, platform="linux/arm64")
    attestation = Descriptor(MANIFEST, other.digest, other.size_bytes, platform="unknown/unknown")

    def index(*inner: Descriptor) -> Descriptor:
        return Descriptor(INDEX, *store.put_bytes(index_bytes(inner)))

    report = between(store, index(amd, arm, attestation), index(other, arm))
    assert [(each.platform, each.same) for each in report.images] == [("linux/amd64", False), ("linux/arm64", True)]
    assert (report.same, report.only_before, report.only_after) == (False, (), ())
    lonely = between(store, index(amd, arm), amd)
    assert (lonely.only_before, lonely.same) == (("linux/arm64",), False)
    assert between(store, index(amd), amd).same, "an index of one platform is that image"


def test_layouts_and_other_compressions(store: Store, tmp_path: Path) -> None:
    old = image(store, BASE, ("app", {**app(), **wheel("joblib", "1.5.3")}))
    new = image(store, BASE, ("app", {**app(), **wheel("joblib", "1.5.4")}), zstd=True)
    export(store, old, f"oci:{tmp_path / 'out'}:v1", name="")
    side = find(f"oci:{tmp_path / 'out'}", store)
    assert side.digest == old.digest
    store.tag("new:1", new)
    (found,) = diff(side, find("new:1", store)).images
    assert [(each.name, each.before, each.after) for each in found.packages] == [("joblib", "1.5.3", "1.5.4")]
    export(store, new, f"oci:{tmp_path / 'out'}:team/new:2", name="")
    assert find(f"oci:{tmp_path / 'out'}:v1", store).digest == old.digest
    for tag in ("2", "team/new:2"):
        assert find(f"oci:{tmp_path / 'out'}:{tag}", store).digest == new.digest
    for reference, words in [("", "2 images"), (":v3", "no images"), ("-none", "no image layout")]:
        with pytest.raises(UnknownImageError, match=words):
            find(f"oci:{tmp_path / 'out'}{reference}", store)


def test_a_damaged_layer_is_an_error_and_a_damaged_golden_file_a_note(store: Store) -> None:
    old = image(store, BASE, ("app", app(case("a", 1.0, 1.0))))
    new = image(store, BASE, ("app", {**app(), GOLDEN_PATH: b"{not json"}))
    (found,) = between(store, old, new).images
    assert found.notes
    assert found.notes[0].startswith("after: ")
    digest = Digest.parse(store.manifest(new)["layers"][1]["digest"])
    store.path(digest).write_bytes(gzip.compress(b"\0" * 1024))
    with pytest.raises(StoreError):
        diff(find("a:1", store), find("b:1", store))


def test_the_command_says_it_on_one_screen(store: Store, tmp_path: Path) -> None:
    many = {f"app/{number:03}.py": str(number).encode() for number in range(50)}
    old = {
        **many,
        **app(case("moves", 2.0, 4.0), case("near", 5.0, 1.0), case("row\x1b[31m", 3.0, 1.0)),
        **wheel("joblib", "1.5.3"),
    }
    new = {
        **{path: data + b"!" for path, data in many.items()},
        **app(case("moves", 2.0, 4.5), case("near", 5.0, 1.00000001), case("row\x1b[31m", 3.0, 1.5), workers=2),
        **wheel("joblib", "1.5.4"),
    }
    store.tag("a:1", image(store, BASE, ("app", old)))
    store.tag("b:1", image(store, BASE, ("app", new)))
    done = intermodal("diff", "a:1", "b:1", home=tmp_path)
    assert done.code == 1, done.err
    assert len(done.out.splitlines()) <= 40
    assert max(map(len, done.out.splitlines())) <= 120
    assert "\x1b" not in done.out
    for words in (
        "joblib 1.5.3 -> 1.5.4",
        "serve.workers  1 -> 2",
        "1 equal",
        "and 44 more (--all)",
        "3 cases -> 3 cases; 3 ask the same",
        "4.5  beyond",
        "3                 2      0.5       0.5",
        "1.0  1.00000001",
    ):
        assert words in done.out, done.out
    everything = intermodal("diff", "a:1", "b:1", "--all", home=tmp_path).out
    assert "entry app/049.py, field content" in everything
    assert "more (--all)" not in everything
    document = intermodal("diff", "a:1", "b:1", "--json", home=tmp_path)
    assert document.code == 1
    (found,) = document.json["images"]
    assert (document.json["same"], found["same"]) == (False, False)
    assert found["golden"]["outputs"][1]["max_absolute"] == 0.5
    assert found["packages"] == [{"name": "joblib", "before": "1.5.3", "after": "1.5.4", "owner": "model"}]
    assert len(found["files"]) == 55
    assert {"where", "field", "before", "after"} == set(found["differences"][0])
    same = intermodal("diff", "a:1", "a:1", home=tmp_path)
    assert (same.code, same.out.splitlines()[1]) == (0, "the same image, to the last bit")
    missing = intermodal("diff", "a:1", "c:1", home=tmp_path)
    assert missing.code == 2
    assert "no image c:1" in missing.err
