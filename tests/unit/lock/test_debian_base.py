"""Bases from a small archive that the test signs itself, served over loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_struct
from support.debian_archive import BASE, DebianArchive, Package, inrelease, keyring, stamp, use
from support.debs import lock_of
from support.hosts import NOW_S, empty_host
from support.loopback import Handler, Site, serving

from intermodal.errors import DownloadError, IndexUnreachableError, IntermodalError, RequirementError
from intermodal.fetch import transfer
from intermodal.host import Host
from intermodal.oci.digest import Digest
from intermodal.rooms.lock.debian.base import resolve_base
from intermodal.rooms.lock.debian.suites import check_python, suite_of
from intermodal.rooms.lock.lockfile import lock_digest, lock_text, parse_lock
from intermodal.rooms.lock.rows import BaseLock


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.0)


@pytest.fixture
def archive(tmp_path: Path) -> DebianArchive:
    made = DebianArchive(tmp_path / "archive")
    made.whole()
    return made


@pytest.fixture
def site(archive: DebianArchive) -> Iterator[Site]:
    with serving(archive.root) as running:
        yield running


@pytest.fixture
def host(tmp_path: Path, site: Site) -> Host:
    made = empty_host(tmp_path)
    use(tmp_path / "etc" / "apt", site.url)
    return made


def base(host: Host, *system: str, platforms: tuple[str, ...] = ("linux/amd64",)) -> BaseLock:
    return resolve_base("deb:bookworm", platforms, system, host=host, keyring=keyring())


def names(found: BaseLock) -> list[str]:
    return [row.name for row in found.packages]


def test_the_closure_with_hashes_and_without_the_package_manager(host: Host, archive: DebianArchive) -> None:
    found = base(host)
    assert names(found) == [
        "ca-certificates", "netbase", "tzdata",
        "base-files", "libc6", "libgcc-s1", "libpython3.11-minimal", "libpython3.11-stdlib", "libstdc++6",
        "python3.11", "python3.11-minimal",
    ]  # fmt: skip
    assert (found.python, found.python_version, found.suite) == ("3.11", "3.11.2", "bookworm")
    assert found.date == stamp(archive.date_s)
    for row in found.packages:
        assert row.digest == Digest.of((archive.root / row.filename).read_bytes())
        assert row.url.endswith(row.filename)
    assert {row.name: row.source for row in found.packages}["libc6"] == "glibc"


def test_the_second_time_reads_no_index(host: Host, site: Site) -> None:
    first = base(host)
    site.seen.clear()
    assert base(host) == first
    assert all(path.endswith("/InRelease") for path in site.paths)


def test_indexes_are_asked_for_by_hash(host: Host, site: Site) -> None:
    base(host)
    assert not [path for path in site.paths if path.endswith("Packages.xz")]


def test_a_mirror_without_by_hash_folders(host: Host, site: Site, archive: DebianArchive) -> None:
    for folder in archive.root.rglob("by-hash"):
        folder.rename(folder.with_name("gone"))
    base(host)
    assert [path for path in site.paths if path.endswith("Packages.xz")]


def test_the_security_suite_wins(host: Host, archive: DebianArchive) -> None:
    archive.suite("bookworm-security", [Package("libc6", "2.36-9+deb12u14", "libgcc-s1")], valid_days=7)
    found = {row.name: row for row in base(host).packages}
    assert found["libc6"].version == "2.36-9+deb12u14"
    assert found["libgcc-s1"].version == "12.2.0-14"


def test_system_packages_bring_their_dependencies(host: Host, archive: DebianArchive) -> None:
    extra = [
        Package("libgomp1", "12", "gcc-12-base (= 12), libc6"),
        Package("gcc-12-base", "12"),
        Package("tool", "1:2.0-1", "editor (>= 2) | nothing, libgomp1", source="tools (1.0)"),
        Package("vim", "9", provides="editor (= 3)"),
        Package("ed", "1", provides="editor (= 1), editor"),
    ]
    archive.suite("bookworm", [*BASE, *extra])
    found = base(host, "tool")
    assert {"tool", "libgomp1", "gcc-12-base", "vim"} <= set(names(found))
    assert "ed" not in names(found)
    row = next(row for row in found.packages if row.name == "tool")
    assert (row.version, row.source, found.system) == ("1:2.0-1", "tools", ("tool",))


def test_system_packages_never_change_the_base_layer(host: Host, archive: DebianArchive) -> None:
    """All images share the base layer: what `system` asks for comes on top, in a layer of its own."""
    changed = [replace(p, depends="first | second") if p.name == "netbase" else p for p in BASE]
    extra = [Package("first"), Package("second", depends="libc6, mawk"), Package("tool", depends="second")]
    archive.suite("bookworm", [*changed, *extra])
    plain, more = base(host), base(host, "tool", "second", "libc6")
    assert {row.layer for row in plain.packages} == {"base"}
    assert tuple(row for row in more.packages if row.layer == "base") == plain.packages
    assert [row.name for row in more.packages if row.layer == "system"] == ["second", "tool"]


def test_a_chosen_alternative_counts_before_the_first(host: Host, archive: DebianArchive) -> None:
    extra = [Package("a", depends="x | y"), Package("x"), Package("y")]
    archive.suite("bookworm", [*BASE, *extra])
    assert "x" not in names(base(host, "y", "a"))
    assert "x" in names(base(host, "a"))


def test_what_was_asked_for_by_name_is_not_left_out(host: Host) -> None:
    assert "mawk" not in names(base(host))
    assert "mawk" in names(base(host, "mawk"))


def test_every_platform(host: Host, archive: DebianArchive) -> None:
    arm = [replace(p, architecture="arm64") if p.architecture == "amd64" else p for p in BASE]
    archive.suite("bookworm", [*BASE, *arm], architectures=("amd64", "arm64"))
    archive.suite("bookworm-updates", architectures=("amd64", "arm64"))
    archive.suite("bookworm-security", architectures=("amd64", "arm64"), valid_days=7)
    found = base(host, platforms=("linux/amd64", "linux/arm64"))
    keys = [(row.architecture, row.name) for row in found.packages]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert [a for a, name in keys if name == "libc6"] == ["amd64", "arm64"]
    assert [a for a, name in keys if name == "netbase"] == ["all"]


def test_an_unknown_system_package_names_the_near_ones(host: Host) -> None:
    with pytest.raises(RequirementError, match="no Debian package 'libgc-s1'") as caught:
        base(host, "libgc-s1")
    assert "libgcc-s1" in caught.value.found[0]


def test_a_dependency_that_nothing_provides(host: Host, archive: DebianArchive) -> None:
    archive.suite("bookworm", [*BASE, Package("broken", depends="libc6 (>= 9)")])
    with pytest.raises(RequirementError, match="broken cannot be installed") as caught:
        base(host, "broken")
    assert "libc6 (>= 9)" in caught.value.found[0]


def test_versions_that_differ_between_platforms_are_an_error(host: Host, archive: DebianArchive) -> None:
    arm = [
        replace(p, architecture="arm64", version=p.version.replace("3.11.2", "3.11.9"), depends="")
        for p in BASE
        if p.architecture == "amd64"
    ]
    archive.suite("bookworm", [*BASE, *arm], architectures=("amd64", "arm64"))
    archive.suite("bookworm-updates", architectures=("amd64", "arm64"))
    archive.suite("bookworm-security", architectures=("amd64", "arm64"), valid_days=7)
    with pytest.raises(RequirementError, match="different Python versions"):
        base(host, platforms=("linux/amd64", "linux/arm64"))


def two_architectures(archive: DebianArchive, revision: str) -> None:
    """An archive whose arm64 interpreter has another Debian revision."""
    arm = [
        replace(p, architecture="arm64", version=p.version.replace("3.11.2-6", revision), depends="")
        for p in BASE
        if p.architecture == "amd64"
    ]
    archive.suite("bookworm", [*BASE, *arm], architectures=("amd64", "arm64"))
    archive.suite("bookworm-updates", architectures=("amd64", "arm64"))
    archive.suite("bookworm-security", architectures=("amd64", "arm64"), valid_days=7)


def test_a_base_that_only_compiles(host: Host, archive: DebianArchive) -> None:
    two_architectures(archive, "3.11.2-6+b4")  # rebuilt without a change
    found = resolve_base(
        "deb:bookworm", ("linux/arm64",), ("mawk",), host=host, keyring=keyring(), compiler="linux/amd64"
    )
    layers = {(row.architecture, row.layer) for row in found.packages}
    assert layers == {("arm64", "base"), ("arm64", "system"), ("amd64", "compiler"), ("all", "base")}
    alone = base(host, "mawk", platforms=("linux/arm64",))
    assert tuple(row for row in found.packages if row.layer != "compiler") == alone.packages
    one, other = (replace_struct(lock_of(each.packages), platforms=("linux/arm64",)) for each in (found, alone))
    assert lock_digest(one) == lock_digest(other), "what only compiles is no part of what is locked"
    assert {row.layer for row in parse_lock(lock_text(one).encode()).base.packages} == {"base", "system", "compiler"}


def test_an_interpreter_of_another_revision_may_not_compile(host: Host, archive: DebianArchive) -> None:
    two_architectures(archive, "3.11.2-7")
    with pytest.raises(RequirementError, match="different Python versions") as caught:
        resolve_base("deb:bookworm", ("linux/arm64",), (), host=host, keyring=keyring(), compiler="linux/amd64")
    assert "arm64 3.11.2-7" in caught.value.found[0]


# --- hostile mirrors -------------------------------------------------------------------------------------------------


def refused(host: Host, kind: type[IntermodalError], match: str) -> IntermodalError:
    with pytest.raises(kind, match=match) as caught:
        base(host)
    assert caught.value.exit_code == 3
    assert caught.value.found
    return caught.value


def test_a_wrong_signer_is_refused_whatever_apt_trusts(host: Host, archive: DebianArchive) -> None:
    other = DebianArchive(archive.root, key="Somebody Else")
    other.suite("bookworm", BASE)
    assert "trusted=yes" in (Path(host.environment["INTERMODAL_ETC"]) / "apt" / "sources.list").read_text()
    refused(host, DownloadError, "InRelease of bookworm is not signed by Debian")


def test_the_shipped_keyring_is_what_counts_without_a_test_key(host: Host) -> None:
    with pytest.raises(DownloadError, match="is not signed by Debian"):
        resolve_base("deb:bookworm", ("linux/amd64",), (), host=host)


def test_a_changed_byte_in_the_signed_text(host: Host, archive: DebianArchive) -> None:
    path = archive.root / "dists/bookworm/InRelease"
    path.write_bytes(path.read_bytes().replace(b"Origin: Test", b"Origin: Tent"))
    refused(host, DownloadError, "is not signed by Debian")


def test_text_outside_the_signature_does_not_exist(host: Host, archive: DebianArchive) -> None:
    path = archive.root / "dists/bookworm/InRelease"
    path.write_bytes(
        b"Codename: evil\nSHA256:\n " + b"0" * 64 + b" 1 main/binary-amd64/Packages.xz\n\n" + path.read_bytes()
    )
    try:
        found = base(host)
    except DownloadError:
        return  # refusing the whole file is just as good
    assert found.packages


def test_unsigned_text(host: Host, archive: DebianArchive) -> None:
    (archive.root / "dists/bookworm/InRelease").write_text("Codename: bookworm\nSHA256:\n")
    refused(host, DownloadError, "is not signed by Debian")


def test_another_suite_under_this_name(host: Host, archive: DebianArchive) -> None:
    archive.suite("bookworm", BASE, codename="bullseye")
    refused(host, DownloadError, "is of another suite")


def test_an_expired_release(host: Host, archive: DebianArchive) -> None:
    archive.suite("bookworm-security", valid_days=7, date_s=NOW_S - 8 * 86_400)
    assert "Valid-Until" in refused(host, IndexUnreachableError, "bookworm-security has expired").found[0]


def test_a_release_from_the_future(host: Host, archive: DebianArchive) -> None:
    archive.suite("bookworm", BASE, date_s=NOW_S + 3 * 86_400)
    refused(host, DownloadError, "comes from the future")


def test_a_replayed_old_release(host: Host, archive: DebianArchive) -> None:
    base(host)
    archive.suite("bookworm", BASE, date_s=archive.date_s - 2 * 86_400)
    refused(host, IndexUnreachableError, "serves an old state of bookworm")
    archive.suite("bookworm", BASE, date_s=archive.date_s - 3600)
    assert base(host).packages, "mirrors of one network may differ by hours"


def test_an_index_that_was_not_signed(host: Host, archive: DebianArchive) -> None:
    for path in (archive.root / "dists/bookworm/main/binary-amd64").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(host, DownloadError, "not the file that Debian signed")


def test_an_index_that_does_not_end(host: Host, site: Site) -> None:
    sent = 0

    def endless(handler: Handler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        handler.close_connection = True
        try:
            while sent < 1 << 30:
                sent += handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    site.special["/dists/bookworm/InRelease"] = endless
    refused(host, DownloadError, "larger than it may be")
    assert sent < 64 << 20


def test_an_index_that_grows_beyond_measure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.rooms.lock.debian.packages.MAX_TEXT_BYTES", 500)
    refused(host, DownloadError, "grows beyond measure")
    kept = list((host.cache_dir / "indexes").glob("*.sqlite"))
    assert len(kept) <= 1, "only the empty index of the other suites may stay"


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.deb", "/etc/x.deb", "pool/x.tar"])
def test_a_package_whose_file_lies_elsewhere(host: Host, archive: DebianArchive, name: str) -> None:
    class Elsewhere(Package):
        @property
        def filename(self) -> str:
            return name if written else super().filename

    written = False
    bad = Elsewhere("libc6", "9", "libgcc-s1")
    (archive.root / Package.filename.fget(bad)).parent.mkdir(parents=True, exist_ok=True)  # type: ignore[attr-defined]

    def paragraph(package: Package) -> str:
        text = original(package)
        return text.replace(f"Filename: {package.filename}", f"Filename: {name}") if package is bad else text

    original = archive._paragraph
    archive._paragraph = paragraph  # type: ignore[method-assign]
    archive.suite("bookworm", [*BASE, bad])
    with pytest.raises(DownloadError, match="describes libc6 wrongly"):
        base(host)


def test_a_mirror_that_is_down_is_exit_3(tmp_path: Path) -> None:
    host = empty_host(tmp_path)
    use(tmp_path / "etc" / "apt", "http://127.0.0.1:9")
    refused(host, IndexUnreachableError, "cannot reach")


def test_without_a_mirror_the_snapshot_of_now_is_asked(
    tmp_path: Path, site: Site, archive: DebianArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot's Valid-Until has always gone by: it is enforced on a live resolve alone."""
    archive.suite("bookworm-security", valid_days=1, date_s=NOW_S - 9 * 86_400)
    monkeypatch.setattr("intermodal.rooms.lock.debian.sources.SNAPSHOT", f"{site.url}/snapshot")
    host = empty_host(tmp_path / "bare")
    stamp_of_now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(NOW_S))
    for name in ("debian", "debian-security"):
        (archive.root / "snapshot" / name).mkdir(parents=True)
        (archive.root / "snapshot" / name / stamp_of_now).symlink_to(archive.root)
    found = base(host)
    libc = next(row for row in found.packages if row.name == "libc6")
    assert libc.url.startswith(f"{site.url}/snapshot/debian/{stamp_of_now}/pool/")


def test_no_mirror_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.rooms.lock.debian.sources.SNAPSHOT", "http://127.0.0.1:9/archive")
    error = refused(empty_host(tmp_path), IndexUnreachableError, "no Debian mirror serves bookworm")
    assert "sources.list" in error.next[0]


def test_a_mirror_on_disk(tmp_path: Path, archive: DebianArchive) -> None:
    host = empty_host(tmp_path)
    use(tmp_path / "etc" / "apt", f"file:{archive.root}")
    found = base(host)
    assert all(row.url == f"file://{archive.root}/{row.filename}" for row in found.packages)


def test_a_damaged_parsed_index_is_made_again(host: Host) -> None:
    first = base(host)
    for path in (host.cache_dir / "indexes").glob("*.sqlite"):
        path.write_bytes(b"SQLite format 3\0 but not really")
    assert base(host) == first


# --- which base ------------------------------------------------------------------------------------------------------


def test_an_unknown_release_names_the_known() -> None:
    with pytest.raises(RequirementError, match="no base is known") as caught:
        suite_of("deb:buster")
    assert "deb:trixie" in caught.value.found[0]


@pytest.mark.parametrize(("python", "advice"), [("3.13", "deb:trixie"), ("3.12", "python:3.12-slim")])
def test_another_python_is_told_which_base_has_it(python: str, advice: str) -> None:
    with pytest.raises(RequirementError, match=f"needs Python {python}, but deb:bookworm brings 3.11") as caught:
        check_python(suite_of("deb:bookworm"), python, "model.pkl was made by it")
    assert advice in caught.value.next[0]


def test_the_signed_text_helper_makes_good_signatures() -> None:
    from intermodal.rooms.lock.debian.release import verified_text

    assert verified_text(inrelease("Codename: x\n"), keyring(), "x").startswith("Codename: x")
